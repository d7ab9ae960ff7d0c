import type { Env, EnvFile } from '../../src/io/env.js';

/** Stands for SIGKILL: from that call on nothing reaches the disk any more. */
export class Killed extends Error {}

export type Fault =
  /** The k-th mutating call does not happen, and nothing after it. */
  | { at: number; kind: 'kill' }
  /** The k-th mutating call happens (of a write, half), then nothing more. */
  | { at: number; kind: 'kill-after' }
  /** The k-th mutating call fails; with `lasting`, all after it too, as on a full disk (removals work). */
  | { at: number; kind: 'fail'; code: string; lasting?: boolean }
  /** The k-th mutating call, where it is a write, takes half of its bytes. */
  | { at: number; kind: 'short' };

/** A file system with one fault planned; `calls` counts the mutating calls so far. */
export class FaultyEnv implements Env {
  calls = 0;
  private dead = false;

  constructor(
    private readonly base: Env,
    private readonly fault: Fault | null = null,
  ) {}

  private async mutate<T>(call: () => Promise<T>, half: () => Promise<T> = call, removes = false): Promise<T> {
    if (this.dead) throw new Killed();
    const k = this.calls++;
    const { fault } = this;
    if (fault === null || k < fault.at) return call();
    if (fault.kind === 'fail' && (k === fault.at || (fault.lasting && !removes))) {
      throw Object.assign(new Error(`${fault.code}: injected`), { code: fault.code, syscall: 'injected' });
    }
    if (k !== fault.at || fault.kind === 'fail') return call();
    if (fault.kind === 'short') return half();
    this.dead = true;
    if (fault.kind === 'kill-after') {
      await half();
    }
    throw new Killed();
  }

  private wrap(file: EnvFile): EnvFile {
    return {
      write: (bytes) =>
        this.mutate(
          () => file.write(bytes),
          () => file.write(bytes.subarray(0, Math.ceil(bytes.length / 2))),
        ),
      sync: () => this.mutate(() => file.sync()),
      close: async () => {
        try {
          await this.mutate(async () => undefined);
        } finally {
          await file.close();
        }
      },
    };
  }

  makeDirectory = (path: string) => this.mutate(() => this.base.makeDirectory(path));
  create = async (path: string) => {
    let file: EnvFile | undefined;
    try {
      return this.wrap(
        await this.mutate(async () => {
          file = await this.base.create(path);
          return file;
        }),
      );
    } catch (error) {
      await file?.close();
      throw error;
    }
  };
  append = async (path: string) => this.wrap(await this.mutate(() => this.base.append(path)));
  rename = (from: string, to: string) => this.mutate(() => this.base.rename(from, to));
  link = (from: string, to: string) => this.mutate(() => this.base.link(from, to));
  remove = (path: string) => this.mutate(() => this.base.remove(path), undefined, true);
  syncDirectory = (path: string) => this.mutate(() => this.base.syncDirectory(path));
  list = (path: string) => this.base.list(path);
  read = (path: string) => this.base.read(path);
}
