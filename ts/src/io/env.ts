/**
 * The small file layer below checkpoints and run folders. Tests replace it to fail, cut or kill at the k-th mutating call; nothing that must
 * survive a crash touches the file system by another way.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, link, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { StorageError } from '../errors.js';

/** A file open for writing at its end. */
export interface EnvFile {
  /** Writes and returns how many bytes were taken; like the system call, that may be fewer than given. */
  write(bytes: Uint8Array): Promise<number>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** Calls on the file system. They reject with the system's own errors; `guard` turns those into `StorageError`. */
export interface Env {
  /** Creates a folder and its parents; an existing one is fine. */
  makeDirectory(path: string): Promise<void>;
  /** Creates a file that must not exist. */
  create(path: string): Promise<EnvFile>;
  /** Opens a file to append to, creating it where absent. */
  append(path: string): Promise<EnvFile>;
  rename(from: string, to: string): Promise<void>;
  /** A second name for a file; fails where `to` exists, which makes it the atomic way to take a lock. */
  link(from: string, to: string): Promise<void>;
  /** Removes a file, or a folder with all it holds; absent is fine. */
  remove(path: string): Promise<void>;
  /** Makes creations, renames and removals inside a folder durable. */
  syncDirectory(path: string): Promise<void>;
  list(path: string): Promise<{ name: string; isDirectory: boolean }[]>;
  read(path: string): Promise<Uint8Array>;
}

const READ_CHUNK = 64 * 1024 * 1024;

function envFile(handle: FileHandle): EnvFile {
  return {
    write: async (bytes) => (await handle.write(bytes)).bytesWritten,
    sync: () => handle.sync(),
    close: () => handle.close(),
  };
}

/** The machine's file system. */
export const nodeEnv: Env = {
  makeDirectory: async (path) => {
    await mkdir(path, { recursive: true });
  },
  create: async (path) => envFile(await open(path, 'wx')),
  append: async (path) => envFile(await open(path, 'a')),
  rename,
  link,
  remove: (path) => rm(path, { recursive: true, force: true }),
  syncDirectory: async (path) => {
    const handle = await open(path, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
  list: async (path) => {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.map((entry) => ({ name: entry.name, isDirectory: entry.isDirectory() }));
  },
  read: async (path) => {
    const handle = await open(path, 'r');
    try {
      const bytes = new Uint8Array((await handle.stat()).size);
      let length = 0;
      while (length < bytes.length) {
        const { bytesRead } = await handle.read(bytes, length, Math.min(READ_CHUNK, bytes.length - length), length);
        if (bytesRead === 0) break;
        length += bytesRead;
      }
      return bytes.subarray(0, length);
    } finally {
      await handle.close();
    }
  },
};

/** The system's code of an error (`ENOSPC`, `ENOENT`, ...), or null where it is no error of the system. */
export function systemCode(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return null;
  return /^E[A-Z0-9]+$/.test(error.code) ? error.code : null;
}

/** Runs `call`; a system error becomes a `StorageError` that names call and path, anything else passes. */
export async function guard<T>(name: string, path: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw storageError(name, path, error);
  }
}

/** A system error as a `StorageError` that names call and path; anything else as it is. */
export function storageError(call: string, path: string, error: unknown): unknown {
  const code = systemCode(error);
  if (code === null || error instanceof StorageError) return error;
  const reason = error instanceof Error ? error.message : code;
  return new StorageError(code, `storage: ${call} of ${path} failed: ${reason}`, { path, call }, { cause: error });
}

/** Writes all of `bytes`, however few each call takes. Throws `StorageError`. */
export async function writeAll(file: Pick<EnvFile, 'write'>, path: string, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const taken = await guard('write', path, () => file.write(bytes.subarray(done)));
    if (taken <= 0) {
      throw new StorageError('EIO', `storage: write of ${path} took none of ${bytes.length - done} bytes`, {
        path,
        call: 'write',
      });
    }
    done += taken;
  }
}

/**
 * Creates `path`, lets `fill` write into it, syncs and closes; every result counts, that of close included. Throws `StorageError`. A file
 * that failed must not be trusted: the caller removes it.
 */
export async function createDurably(env: Env, path: string, fill: (file: EnvFile) => Promise<void>): Promise<void> {
  const file = await guard('create', path, () => env.create(path));
  try {
    await fill(file);
    await guard('fsync', path, () => file.sync());
  } catch (error) {
    await file.close().catch(() => undefined);
    throw error;
  }
  await guard('close', path, () => file.close());
}

/** Writes a file whole, out of `parts`: beside its place, then renamed over what was there. Throws `StorageError`. */
export async function replaceFile(env: Env, path: string, ...parts: readonly Uint8Array[]): Promise<void> {
  const draft = join(dirname(path), `.tmp-${basename(path)}-${randomBytes(8).toString('hex')}`);
  try {
    await createDurably(env, draft, async (file) => {
      for (const part of parts) await writeAll(file, draft, part);
    });
    await guard('rename', path, () => env.rename(draft, path));
  } catch (error) {
    await env.remove(draft).catch(() => undefined);
    throw error;
  }
}
