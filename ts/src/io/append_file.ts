/**
 * A file that only grows: metrics, logs, event files. Appending never waits and never throws, because no failure of these files may stop
 * a training; failures are counted and the last one kept, and `flush` says when all is written.
 */
import { StorageError } from '../errors.js';
import { type Env, type EnvFile, guard, nodeEnv, writeAll } from './env.js';

/** Opened by `openAppendFile`. */
export class AppendFile {
  /** Records that did not reach the file. */
  failures = 0;
  /** Why the last of them did not. */
  lastFailure: StorageError | null = null;
  private queue: Promise<void> = Promise.resolve();
  private isClosed = false;

  constructor(
    readonly path: string,
    private readonly file: EnvFile,
  ) {}

  /** Appends one record, with one write, behind all earlier ones. Ignored, and counted, after `close`. */
  append(record: string | Uint8Array): void {
    if (this.isClosed) {
      this.failures++;
      return;
    }
    const bytes = typeof record === 'string' ? Buffer.from(record) : record;
    this.queue = this.queue.then(() => this.attempt(() => writeAll(this.file, this.path, bytes)));
  }

  /** Resolves when everything appended so far is written, or counted as failed. */
  flush(): Promise<void> {
    return this.queue;
  }

  /** Flushes, syncs and closes; a second call does nothing. */
  async close(): Promise<void> {
    if (this.isClosed) return this.queue;
    this.isClosed = true;
    this.queue = this.queue
      .then(() => this.attempt(() => guard('fsync', this.path, () => this.file.sync())))
      .then(() => this.attempt(() => guard('close', this.path, () => this.file.close())));
    return this.queue;
  }

  private async attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.failures++;
      this.lastFailure = error as StorageError;
    }
  }
}

/** Opens `path` for appending, creating it where absent. Throws `StorageError`. */
export async function openAppendFile(path: string, env: Env = nodeEnv): Promise<AppendFile> {
  return new AppendFile(path, await guard('open', path, () => env.append(path)));
}

/** The same for a file that must not exist. Null where it does. */
export async function createAppendFile(path: string, env: Env = nodeEnv): Promise<AppendFile | null> {
  try {
    return new AppendFile(path, await guard('create', path, () => env.create(path)));
  } catch (error) {
    if (error instanceof StorageError && error.code === 'EEXIST') return null;
    throw error;
  }
}
