/**
 * The loader: batches of one pass as an async iterable, made ahead of the consumer in a worker thread. The consumer pulls: at most
 * `prefetch` batches are asked for and not yet taken, so a slow consumer stops the producer. Order is that of the requests.
 */

import { existsSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { ArgumentError, DataError, type DataErrorCode, GalagoError } from '../errors.js';
import type { Batch } from './batch.js';
import { type BatchColumns, BatchSource, type PassOptions } from './batch_source.js';

/** Messages to the worker thread. `closed` is one shared int32 that becomes 1 when the consumer leaves. */
export type Request =
  | { readonly type: 'open'; readonly pass: number; readonly options: PassOptions; readonly closed: Int32Array }
  | { readonly type: 'next'; readonly pass: number }
  | { readonly type: 'close'; readonly pass: number };

/** An error, as plain data. */
export interface ErrorAnswer {
  readonly name: string;
  readonly code: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Answer to `next`: a batch, or null at the end. */
export interface Answer {
  readonly pass: number;
  readonly batch: Batch | null;
  readonly error: ErrorAnswer | null;
  readonly negativeFallbacks: number;
}

/** What makes the batches of a pass. `next` may be called before the last one was answered; answers keep the order of the calls. */
interface Pass {
  next(): Promise<Batch | null>;
  close(): void;
  negativeFallbacks: number;
}

interface Waiting {
  readonly calls: { answer(batch: Answer): void; fail(error: Error): void }[];
  closed: boolean;
}

export interface BatchMakerOptions {
  /** 1 (default): a worker thread. 0: on the calling thread, one batch per turn of the event loop; for tests and tiny data. */
  readonly workers?: 0 | 1;
  /** Compiled `loader_worker.js`; default: beside this file. */
  readonly workerUrl?: URL;
}

/** Makes batches from columns for any number of passes, on one worker thread (or none). Starts with the first pass. */
export class BatchMaker implements AsyncDisposable {
  /** How batches are made: 1 in a worker thread, 0 on this thread. It is 0 also where no compiled worker lies (sources run as they are). */
  readonly workers: 0 | 1;
  private readonly workerUrl: URL;
  private worker: Worker | null = null;
  private failure: Error | null = null;
  private disposed = false;
  private passes = 0;
  /** Unanswered calls by pass, oldest first; a pass leaves the map when it is closed and all its calls are answered. */
  private readonly waiting = new Map<number, Waiting>();

  constructor(
    readonly columns: BatchColumns,
    { workers = 1, workerUrl = new URL('./loader_worker.js', import.meta.url) }: BatchMakerOptions = {},
  ) {
    this.workerUrl = workerUrl;
    this.workers = workers === 1 && existsSync(fileURLToPath(workerUrl)) ? 1 : 0;
  }

  /** Starts a pass. Throws ArgumentError for options that do not fit the data, or after disposal. */
  open(options: PassOptions): Pass {
    if (this.disposed) throw new ArgumentError('loader: expected an open data set but it was disposed');
    const source = new BatchSource(this.columns, options); // checks the options here, where the caller sees the error
    return this.workers === 1 ? this.openInWorker(options) : openHere(source);
  }

  private openInWorker(options: PassOptions): Pass {
    const number = this.passes++;
    const closed = new Int32Array(new SharedArrayBuffer(4));
    const waiting: Waiting = { calls: [], closed: false };
    this.waiting.set(number, waiting);
    this.post({ type: 'open', pass: number, options, closed });
    const pass: Pass = {
      negativeFallbacks: 0,
      next: async () => {
        const answer = await new Promise<Answer>((answer, fail) => {
          if (this.failure !== null) return fail(this.failure);
          waiting.calls.push({ answer, fail });
          this.worker!.ref();
          this.post({ type: 'next', pass: number });
        });
        pass.negativeFallbacks = Math.max(pass.negativeFallbacks, answer.negativeFallbacks);
        if (answer.error !== null) throw revived(answer.error);
        return answer.batch;
      },
      close: () => {
        Atomics.store(closed, 0, 1);
        waiting.closed = true;
        if (waiting.calls.length === 0) this.waiting.delete(number);
        if (this.failure === null) this.post({ type: 'close', pass: number });
      },
    };
    return pass;
  }

  private post(request: Request): void {
    if (this.worker === null) {
      this.worker = new Worker(this.workerUrl, { workerData: this.columns, name: 'galago-loader', execArgv: [] });
      this.worker.on('message', (answer: Answer) => {
        const waiting = this.waiting.get(answer.pass)!;
        waiting.calls.shift()!.answer(answer);
        if (waiting.closed && waiting.calls.length === 0) this.waiting.delete(answer.pass);
        // An idle worker does not keep the process alive.
        if ([...this.waiting.values()].every(({ calls }) => calls.length === 0)) this.worker?.unref();
      });
      this.worker.on('error', (cause) =>
        this.fail(new GalagoError('LOADER', `loader: its thread failed: ${String(cause)}`, {}, { cause })),
      );
      this.worker.on('exit', (code) =>
        this.fail(new GalagoError('LOADER', `loader: its thread ended (${code})`, { code })),
      );
      this.worker.unref();
    }
    this.worker.postMessage(request);
  }

  private fail(error: Error): void {
    this.failure ??= error;
    for (const { calls } of this.waiting.values()) for (const call of calls.splice(0)) call.fail(this.failure);
  }

  /** Ends the worker thread; batches that were asked for and not answered reject. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.disposed = true;
    await this.worker?.terminate();
    this.worker = null;
  }
}

function openHere(source: BatchSource): Pass {
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;
  const pass: Pass = {
    negativeFallbacks: 0,
    next: () => {
      const made = last.then(async () => {
        await setImmediate();
        if (closed) return null;
        const batch = source.next();
        pass.negativeFallbacks = source.negativeFallbacks;
        return batch;
      });
      last = made;
      return made;
    },
    close: () => {
      closed = true;
    },
  };
  return pass;
}

function revived({ name, code, message, fields }: ErrorAnswer): Error {
  if (name === 'ArgumentError') return new ArgumentError(message, fields);
  if (name === 'DataError') return new DataError(code as DataErrorCode, message, fields);
  return code === '' ? new Error(message) : new GalagoError(code, message, fields);
}

export interface LoaderOptions extends PassOptions {
  /** Batches made ahead. Default 2. */
  readonly prefetch?: number;
}

/**
 * Batches of one (part, epoch, position). Iterating twice gives the same batches twice. Leaving early (`break`, `return`) lets go of
 * what was made ahead. Errors arrive in their place: after all batches before them.
 */
export class Loader implements AsyncIterable<Batch> {
  /** Seconds that consumers have waited for batches. */
  waitSeconds = 0;
  /** Sampled negatives that took the next free item after 100 redraws. */
  negativeFallbacks = 0;
  /** Samples of the pass, those before `position` included. */
  readonly samples: number;

  /** Throws ArgumentError for options that do not fit the data. */
  constructor(
    private readonly maker: BatchMaker,
    readonly options: LoaderOptions,
  ) {
    const { prefetch = 2 } = options;
    if (!Number.isInteger(prefetch) || prefetch < 1) {
      throw new ArgumentError(`loader: expected prefetch of at least 1 but received ${prefetch}`, {
        argument: 'prefetch',
      });
    }
    this.samples = new BatchSource(maker.columns, options).samples;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void, undefined> {
    const pass = this.maker.open(this.options);
    const ahead: Promise<Batch | null>[] = [];
    const ask = (): void => {
      const batch = pass.next();
      batch.catch(() => {}); // it is awaited below, or left behind when the consumer leaves
      ahead.push(batch);
    };
    try {
      for (let i = 0; i < (this.options.prefetch ?? 2); i++) ask();
      while (true) {
        const start = performance.now();
        const batch = await ahead.shift()!;
        this.waitSeconds += (performance.now() - start) / 1000;
        this.negativeFallbacks = Math.max(this.negativeFallbacks, pass.negativeFallbacks);
        if (batch === null) return;
        ask();
        yield batch;
      }
    } finally {
      pass.close();
      await Promise.allSettled(ahead);
    }
  }
}
