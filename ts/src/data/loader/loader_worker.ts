/** Entry of a loader's worker thread: answers `next` of any number of passes from the columns it was started with. */

import { parentPort, workerData } from 'node:worker_threads';
import { BatchArena } from './batch_memory.js';
import { type BatchColumns, BatchSource, batchBuffers } from './batch_source.js';
import type { Answer, Request } from './loader.js';
import { plainError } from './thread_error.js';

/** A pass, as far as this thread makes its batches. */
interface OpenPass {
  readonly source: BatchSource;
  readonly arena: BatchArena;
  readonly closed: Int32Array;
  /** Number of the batch that `source` makes next. */
  ticket: number;
}

const columns = workerData as BatchColumns;
const passes = new Map<number, OpenPass>();

function make(pass: OpenPass, ticket: number): Answer {
  const { source, arena } = pass;
  const before = source.negativeFallbacks;
  source.skip(ticket - pass.ticket); // those are made by other threads
  pass.ticket = ticket + 1;
  arena.begin();
  const batch = source.next();
  return { batch, error: null, negativeFallbacks: source.negativeFallbacks - before };
}

function answer(number: number, ticket: number): Answer {
  const pass = passes.get(number);
  const nothing: Answer = { batch: null, error: null, negativeFallbacks: 0 };
  // A consumer that left has set the flag: what it had asked for before is not made any more.
  if (pass === undefined || Atomics.load(pass.closed, 0) === 1) return nothing;
  try {
    return make(pass, ticket);
  } catch (error) {
    passes.delete(number);
    return { ...nothing, error: plainError(error) };
  }
}

parentPort!.on('message', (request: Request) => {
  const { pass } = request;
  switch (request.type) {
    case 'open': {
      const arena = new BatchArena();
      const source = new BatchSource(columns, request.options, arena);
      passes.set(pass, { source, arena, closed: request.closed, ticket: 0 });
      return;
    }
    case 'next': {
      const { batch, ...rest } = answer(pass, request.ticket);
      parentPort!.postMessage({ batch, ...rest }, batch === null ? [] : batchBuffers(batch));
      return;
    }
    case 'recycle':
      for (const buffer of request.buffers) passes.get(pass)?.arena.giveBack(buffer);
      return;
    case 'close':
      passes.delete(pass);
  }
});
