/** Entry of the loader's worker thread: answers `next` of any number of passes from the columns it was started with. */

import { parentPort, workerData } from 'node:worker_threads';
import { GalagoError } from '../errors.js';
import { type BatchColumns, BatchSource, batchBuffers } from './batch_source.js';
import type { Answer, ErrorAnswer, Request } from './loader.js';

const columns = workerData as BatchColumns;
const passes = new Map<number, { source: BatchSource; closed: Int32Array }>();

function describe(error: unknown): ErrorAnswer {
  if (error instanceof GalagoError) {
    return { name: error.name, code: error.code, message: error.message, fields: error.fields };
  }
  return { name: 'Error', code: '', message: error instanceof Error ? error.message : String(error), fields: {} };
}

parentPort!.on('message', (request: Request) => {
  const { pass } = request;
  if (request.type === 'open') {
    passes.set(pass, { source: new BatchSource(columns, request.options), closed: request.closed });
    return;
  }
  if (request.type === 'close') {
    passes.delete(pass);
    return;
  }
  const open = passes.get(pass);
  let answer: Answer = { pass, batch: null, error: null, negativeFallbacks: 0 };
  // A consumer that left has set the flag: what it had asked for before is not made any more.
  if (open !== undefined && Atomics.load(open.closed, 0) === 0) {
    try {
      const batch = open.source.next();
      answer = { ...answer, batch, negativeFallbacks: open.source.negativeFallbacks };
    } catch (error) {
      answer = { ...answer, error: describe(error) };
      passes.delete(pass);
    }
  }
  parentPort!.postMessage(answer, answer.batch === null ? [] : batchBuffers(answer.batch));
});
