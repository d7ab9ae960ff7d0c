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
  /** Whether the file ends inside a record. */
  private isTorn = false;

  /** `renew` opens the file that goes on where this one was cut inside a record; null: it goes on itself, after a line end. */
  constructor(
    readonly path: string,
    private file: EnvFile,
    private readonly renew: (() => Promise<EnvFile>) | null = null,
  ) {}

  /** Appends one record, with one write, behind all earlier ones. Ignored, and counted, after `close`. */
  append(record: string | Uint8Array): void {
    if (this.isClosed) {
      this.failures++;
      return;
    }
    const bytes = typeof record === 'string' ? Buffer.from(record) : record;
    this.queue = this.queue.then(() => this.attempt(() => this.write(bytes)));
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

  private async write(record: Uint8Array): Promise<void> {
    if (this.isTorn && this.renew !== null) {
      const torn = this.file;
      this.file = await this.renew();
      this.isTorn = false;
      await torn.close().catch(() => undefined);
    }
    const bytes = this.isTorn ? Buffer.concat([Buffer.from('\n'), record]) : record;
    let written = 0;
    const write = async (part: Uint8Array): Promise<number> => {
      const taken = await this.file.write(part);
      written += taken;
      return taken;
    };
    try {
      await writeAll({ write }, this.path, bytes);
      this.isTorn = false;
    } catch (error) {
      this.isTorn ||= written > 0;
      throw error;
    }
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
