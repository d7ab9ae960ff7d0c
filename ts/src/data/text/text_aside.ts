/** Tokenising off the main thread: which posts blocks of texts, at most two ahead, and gets the finished store in shared memory. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { GalagoError } from '../../errors.js';
import { type ErrorAnswer, revivedError } from '../loader/thread_error.js';
import { checkedColumns, type TextColumns, type TextPipeline, type TextStore, type TokenizeOptions } from './text.js';
import type { TokenizerRecipe } from './tokenizer.js';

/** What the thread starts with. */
export interface TextThreadData extends Pick<TextPipeline, 'fields' | 'positions' | 'layout'> {
  readonly recipe: TokenizerRecipe;
  readonly rows: number;
}

/** `columns`: the next texts of each field, in its order. */
export type TextRequest =
  | { readonly type: 'texts'; readonly columns: readonly (readonly (string | null)[])[] }
  | { readonly type: 'finish' };

/** One for each request, in order. */
export type TextAnswer =
  | { readonly type: 'done' }
  | ({ readonly type: 'store' } & TextStore)
  | { readonly type: 'error'; readonly error: ErrorAnswer };

/** Characters of a block: posting it takes the main thread well below a millisecond. */
const BLOCK = 1 << 17;
/** Blocks that are posted and not answered. */
const AHEAD = 2;
/** Fewer characters than these are tokenised where they are: a thread takes longer to start. */
const FEW = 1 << 16;

export interface TokenizeAsideOptions extends TokenizeOptions {
  /** Compiled `text_worker.js`; default: beside this file. */
  readonly workerUrl?: URL;
}

/**
 * `pipeline.tokenizeAll` in a thread of its own: the same store, statistics and errors. Few texts, a tokenizer that no thread can make
 * again (no recipe), and sources that run as they are (no compiled worker): on the calling thread.
 */
export async function tokenizeAside(
  pipeline: TextPipeline,
  columns: TextColumns,
  options: TokenizeAsideOptions = {},
): Promise<TextStore> {
  const { signal, onProgress, workerUrl = new URL('./text_worker.js', import.meta.url) } = options;
  const { tokenizer, fields, positions, layout } = pipeline;
  const table = checkedColumns(columns, fields);
  const { recipe } = tokenizer;
  if (recipe === undefined || !isMany(table) || !existsSync(fileURLToPath(workerUrl)))
    return pipeline.tokenizeAll(columns, options);
  signal?.throwIfAborted();
  const rows = table[0]!.length;
  const workerData: TextThreadData = { recipe, fields, positions, layout, rows };
  const worker = new Worker(workerUrl, { workerData, name: 'galago-text', execArgv: [] });
  const answers: { answer(value: TextAnswer): void; fail(error: unknown): void }[] = [];
  const fail = (error: unknown): void => {
    for (const { fail } of answers.splice(0)) fail(error);
  };
  const stop = (): void => fail(signal!.reason);
  worker.on('message', (answer: TextAnswer) => answers.shift()?.answer(answer));
  worker.on('error', (cause) =>
    fail(new GalagoError('TOKENIZE', `tokenize: its thread failed: ${String(cause)}`, {}, { cause })),
  );
  signal?.addEventListener('abort', stop, { once: true });
  const ask = async (request: TextRequest): Promise<TextAnswer> => {
    const answer = await new Promise<TextAnswer>((answer, fail) => {
      answers.push({ answer, fail });
      worker.postMessage(request);
    });
    if (answer.type === 'error') throw revivedError(answer.error);
    return answer;
  };
  try {
    const waiting: Promise<TextAnswer>[] = [];
    for (let from = 0; from < rows; ) {
      const to = blockEnd(table, from);
      const block = ask({ type: 'texts', columns: table.map((values) => values.slice(from, to)) });
      block.catch(() => undefined); // it is awaited below, or a later one failed first
      waiting.push(block);
      if (waiting.length >= AHEAD) await waiting.shift();
      onProgress?.(to, rows);
      signal?.throwIfAborted();
      from = to;
    }
    await Promise.all(waiting);
    const { store, statistics } = (await ask({ type: 'finish' })) as TextStore;
    return { store, statistics };
  } finally {
    signal?.removeEventListener('abort', stop);
    await worker.terminate();
  }
}

type Table = readonly (readonly (string | null)[])[];

function isMany(table: Table): boolean {
  let characters = 0;
  for (const values of table) for (const text of values) if ((characters += text?.length ?? 0) >= FEW) return true;
  return false;
}

/** Row before which the block that begins at `from` ends. */
function blockEnd(table: Table, from: number): number {
  let to = from;
  for (let characters = 0; to < table[0]!.length && characters < BLOCK && to - from < 4096; to++)
    for (const values of table) characters += values[to]?.length ?? 0;
  return to;
}
