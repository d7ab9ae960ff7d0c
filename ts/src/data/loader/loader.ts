/**
 * The loader: batches of one pass as an async iterable, made ahead of the consumer in worker threads. The consumer pulls: at most so many
 * batches (and bytes) are asked for and not yet taken, so a slow consumer stops the producers. Order is that of the requests, whatever
 * the number of threads: a request carries the number of its batch, and which samples that batch has is a function of the number.
 */

import { existsSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { ArgumentError, GalagoError } from '../../errors.js';
import type { Batch } from './batch.js';
import { maxBatchBytes } from './batch_bytes.js';
import { BatchArena } from './batch_memory.js';
import { type BatchColumns, BatchSource, batchBuffers, type PassOptions } from './batch_source.js';
import { type ErrorAnswer, revivedError } from './thread_error.js';

/**
 * Messages to a worker thread. `closed` is one shared int32 that becomes 1 when the consumer leaves. `ticket` is the number of the batch in
 * the pass, from 0; a thread gets some of them, ascending. `recycle` brings the memory of a batch back.
 */
export type Request =
  | { readonly type: 'open'; readonly pass: number; readonly options: PassOptions; readonly closed: Int32Array }
  | { readonly type: 'next'; readonly pass: number; readonly ticket: number }
  | { readonly type: 'recycle'; readonly pass: number; readonly buffers: readonly ArrayBuffer[] }
  | { readonly type: 'close'; readonly pass: number };

/** Answer to `next`: a batch, or null at the end. Negatives are those of this batch. */
export interface Answer {
  readonly batch: Batch | null;
  readonly error: ErrorAnswer | null;
  readonly negativeFallbacks: number;
}

/** What makes the batches of a pass. `next` may be called before the last one was answered; calls get batches in their order. */
interface Pass {
  next(): Promise<Batch | null>;
  /** Takes the memory of a batch of this pass, whose arrays are empty then. A second time does nothing. */
  recycle(batch: Batch): void;
  close(): void;
  negativeFallbacks: number;
}

export interface BatchMakerOptions {
  /** Worker threads, 1 by default. 0: on the calling thread, one batch per turn of the event loop; for tests and tiny data. */
  readonly workers?: number;
  /** Compiled `loader_worker.js`; default: beside this file. */
  readonly workerUrl?: URL;
}

/** One worker thread and its unanswered calls, oldest first. It answers in their order. */
class LoaderThread {
  private readonly worker: Worker;
  private readonly calls: { answer(batch: Answer): void; fail(error: Error): void }[] = [];

  constructor(url: URL, columns: BatchColumns, onFailure: (error: Error) => void) {
    this.worker = new Worker(url, { workerData: columns, name: 'galago-loader', execArgv: [] });
    this.worker.on('message', (answer: Answer) => {
      this.calls.shift()!.answer(answer);
      if (this.calls.length === 0) this.worker.unref(); // an idle worker does not keep the process alive
    });
    this.worker.on('error', (cause) =>
      onFailure(new GalagoError('LOADER', `loader: its thread failed: ${String(cause)}`, {}, { cause })),
    );
    this.worker.on('exit', (code) =>
      onFailure(new GalagoError('LOADER', `loader: its thread ended (${code})`, { code })),
    );
    this.worker.unref();
  }

  get waiting(): number {
    return this.calls.length;
  }

  post(request: Request, transfer: readonly ArrayBuffer[] = []): void {
    this.worker.postMessage(request, transfer);
  }

  ask(pass: number, ticket: number): Promise<Answer> {
    return new Promise((answer, fail) => {
      this.calls.push({ answer, fail });
      this.worker.ref();
      this.post({ type: 'next', pass, ticket });
    });
  }

  fail(error: Error): void {
    for (const call of this.calls.splice(0)) call.fail(error);
  }

  async terminate(): Promise<void> {
    await this.worker.terminate();
  }
}

/** Makes batches from columns for any number of passes, on worker threads (or none). They start with the first pass. */
export class BatchMaker implements AsyncDisposable {
  /** Threads that make batches; 0 on this thread, also where no compiled worker lies (sources run as they are). */
  readonly workers: number;
  private readonly workerUrl: URL;
  private threads: LoaderThread[] = [];
  private failure: Error | null = null;
  private disposed = false;
  private passes = 0;

  /** Throws ArgumentError for a number of workers that is none. */
  constructor(
    readonly columns: BatchColumns,
    { workers = 1, workerUrl = new URL('./loader_worker.js', import.meta.url) }: BatchMakerOptions = {},
  ) {
    if (!Number.isInteger(workers) || workers < 0) {
      throw new ArgumentError(`loader: expected workers of at least 0 but received ${workers}`, {
        argument: 'workers',
      });
    }
    this.workerUrl = workerUrl;
    this.workers = existsSync(fileURLToPath(workerUrl)) ? workers : 0;
  }

  /** Starts a pass. Throws ArgumentError for options that do not fit the data, or after disposal. */
  open(options: PassOptions): Pass {
    if (this.disposed) throw new ArgumentError('loader: expected an open data set but it was disposed');
    if (this.workers === 0) return openHere(this.columns, options);
    new BatchSource(this.columns, options); // checks the options here, where the caller sees the error
    return this.openInWorkers(options);
  }

  private openInWorkers(options: PassOptions): Pass {
    const number = this.passes++;
    const closed = new Int32Array(new SharedArrayBuffer(4));
    if (this.threads.length === 0 && this.failure === null) {
      this.threads = Array.from(
        { length: this.workers },
        () => new LoaderThread(this.workerUrl, this.columns, (error) => this.fail(error)),
      );
    }
    const { threads } = this;
    const tell = (request: Request): void => {
      if (this.failure === null) for (const thread of threads) thread.post(request);
    };
    tell({ type: 'open', pass: number, options, closed });
    const madeBy = new WeakMap<Batch, LoaderThread>();
    let ticket = 0;
    const pass: Pass = {
      negativeFallbacks: 0,
      next: async () => {
        if (this.failure !== null) throw this.failure;
        const thread = threads.reduce((least, other) => (other.waiting < least.waiting ? other : least));
        const { batch, error, negativeFallbacks } = await thread.ask(number, ticket++);
        pass.negativeFallbacks += negativeFallbacks;
        if (error !== null) throw revivedError(error);
        if (batch !== null) madeBy.set(batch, thread);
        return batch;
      },
      recycle: (batch) => {
        const thread = madeBy.get(batch);
        if (!madeBy.delete(batch) || this.failure !== null) return;
        const buffers = batchBuffers(batch);
        thread!.post({ type: 'recycle', pass: number, buffers }, buffers);
      },
      close: () => {
        Atomics.store(closed, 0, 1);
        tell({ type: 'close', pass: number });
      },
    };
    return pass;
  }

  private fail(error: Error): void {
    this.failure ??= error;
    for (const thread of this.threads) thread.fail(this.failure);
  }

  /** Ends the worker threads; batches that were asked for and not answered reject. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.disposed = true;
    await Promise.all(this.threads.map((thread) => thread.terminate()));
  }
}

function openHere(columns: BatchColumns, options: PassOptions): Pass {
  const arena = new BatchArena();
  const source = new BatchSource(columns, options, arena);
  const made = new WeakSet<Batch>();
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;
  const pass: Pass = {
    negativeFallbacks: 0,
    next: () => {
      const next = last.then(async () => {
        await setImmediate();
        if (closed) return null;
        arena.begin();
        const batch = source.next();
        pass.negativeFallbacks = source.negativeFallbacks;
        if (batch !== null) made.add(batch);
        return batch;
      });
      last = next;
      return next;
    },
    recycle: (batch) => {
      if (!made.delete(batch)) return;
      // Handed over as to a thread: whoever still reads the batch finds it empty, never another one.
      const buffers = batchBuffers(batch);
      for (const buffer of structuredClone(buffers, { transfer: buffers })) arena.giveBack(buffer);
    },
    close: () => {
      closed = true;
    },
  };
  return pass;
}

export interface LoaderOptions extends PassOptions {
  /** Batches made ahead; at least one per worker thread, as far as `prefetchBytes` allows. Default 2. */
  readonly prefetch?: number;
  /** Bytes that batches made ahead may take together; one is made whatever it takes. Default 256 MiB. */
  readonly prefetchBytes?: number;
}

/** Bytes of batches made ahead where nothing is said [default]. */
export const DEFAULT_PREFETCH_BYTES = 256 * 1024 * 1024;

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
  /** Batches made ahead, and the bytes that they take at most. */
  readonly ahead: number;
  readonly aheadBytes: number;
  private readonly passOf = new WeakMap<Batch, Pass>();

  /** Throws ArgumentError for options that do not fit the data. */
  constructor(
    private readonly maker: BatchMaker,
    readonly options: LoaderOptions,
    /** Writes into a batch what its makers do not have: the pixels of paged pictures. */
    private readonly complete: ((batch: Batch) => Promise<void>) | null = null,
  ) {
    const { prefetch = 2, prefetchBytes = DEFAULT_PREFETCH_BYTES } = options;
    for (const [argument, value] of Object.entries({ prefetch, prefetchBytes })) {
      if (Number.isInteger(value) && value >= 1) continue;
      throw new ArgumentError(`loader: expected ${argument} of at least 1 but received ${value}`, { argument });
    }
    this.samples = new BatchSource(maker.columns, options).samples;
    const each = maxBatchBytes(maker.columns, options);
    this.ahead = Math.max(1, Math.min(Math.max(prefetch, maker.workers), Math.floor(prefetchBytes / each)));
    this.aheadBytes = this.ahead * each;
  }

  /**
   * Gives the memory of a batch back once nothing reads it any more; a later batch is made in it. Its arrays are empty from then on. A
   * batch that is not given back stays as it is for good.
   */
  recycle(batch: Batch): void {
    this.passOf.get(batch)?.recycle(batch);
  }

  private async completed(made: Promise<Batch | null>): Promise<Batch | null> {
    const batch = await made;
    if (batch !== null) await this.complete?.(batch);
    return batch;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void, undefined> {
    const pass = this.maker.open(this.options);
    const ahead: Promise<Batch | null>[] = [];
    const ask = (): void => {
      const batch = this.completed(pass.next());
      batch.catch(() => {}); // it is awaited below, or left behind when the consumer leaves
      ahead.push(batch);
    };
    try {
      for (let i = 0; i < this.ahead; i++) ask();
      while (true) {
        const start = performance.now();
        const batch = await ahead.shift()!;
        this.waitSeconds += (performance.now() - start) / 1000;
        this.negativeFallbacks = Math.max(this.negativeFallbacks, pass.negativeFallbacks);
        if (batch === null) return;
        this.passOf.set(batch, pass);
        ask();
        yield batch;
      }
    } finally {
      pass.close();
      await Promise.allSettled(ahead);
    }
  }
}
