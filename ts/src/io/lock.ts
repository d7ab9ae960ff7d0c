/**
 * One writer per folder. The file `LOCK` names its holder by process id, start time of that process and boot of that host, so a dead holder
 * is recognised even when its id was given to another process.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { CheckpointBusyError } from '../errors.js';
import { createDurably, type Env, guard, nodeEnv, systemCode, writeAll } from './env.js';

const LOCK = 'LOCK';

/** A process, such that two processes with the same id differ; `start` and `boot` are empty where the system does not tell. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly start: string;
  readonly boot: string;
  readonly host: string;
}

interface Holder extends ProcessIdentity {
  readonly since: string;
  readonly nonce: string;
}

/** Stands for the writer of a lock that cannot be read: no process has this id. */
const NOBODY: Holder = { pid: -1, start: '', boot: '', host: hostname(), since: '', nonce: 'unreadable' };

/** A lock that this process holds. */
export interface FolderLock {
  readonly directory: string;
  /** Gives the lock back; a second call does nothing. */
  release(): Promise<void>;
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Who process `pid` is now. */
export function processIdentity(pid: number): ProcessIdentity {
  // The name in parentheses may hold spaces; start time, in ticks since boot, is field 22 and so the 20th behind it.
  const stat = readOrEmpty(`/proc/${pid}/stat`);
  const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  return { pid, start, boot: readOrEmpty('/proc/sys/kernel/random/boot_id').trim(), host: hostname() };
}

function isAlive(holder: Holder): boolean {
  if (holder === NOBODY) return false;
  const now = processIdentity(holder.pid);
  // Another machine's processes cannot be seen from here: believe the lock.
  if (holder.host !== now.host) return true;
  if (holder.boot !== now.boot) return false;
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if (systemCode(error) === 'ESRCH') return false;
  }
  return holder.start === now.start;
}

function parseHolder(bytes: Uint8Array): Holder | null {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
    if (typeof value !== 'object' || value === null) return null;
    const { pid, start, boot, host, since, nonce } = value as Record<string, unknown>;
    if (typeof pid !== 'number' || typeof nonce !== 'string' || !/^[0-9a-z]+$/.test(nonce)) return null;
    return { pid, start: String(start), boot: String(boot), host: String(host), since: String(since), nonce };
  } catch {
    return null;
  }
}

/** The holder that a lock file names; null where there is no file. One that cannot be read names nobody alive. */
async function readHolder(env: Env, path: string): Promise<Holder | null> {
  try {
    return parseHolder(await env.read(path)) ?? NOBODY;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    return guard('read', path, () => Promise.reject(error));
  }
}

/** Links `draft` to `path`; false where that exists. */
async function linkNew(env: Env, draft: string, path: string): Promise<boolean> {
  try {
    await env.link(draft, path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    return guard('link', path, () => Promise.reject(error));
  }
}

/** Where the one successor of a dead holder writes its claim. */
const claimPath = (lock: string, { nonce }: Holder) => `${lock}.after-${nonce}`;

/** The living process that holds the lock of `directory`, or null. Throws `StorageError`. */
export async function lockHolder(directory: string, env: Env = nodeEnv): Promise<ProcessIdentity | null> {
  const lock = join(directory, LOCK);
  for (
    let holder = await readHolder(env, lock);
    holder !== null;
    holder = await readHolder(env, claimPath(lock, holder))
  ) {
    if (isAlive(holder)) return holder;
  }
  return null;
}

/**
 * Takes the lock over from a dead holder; false where the lock changed meanwhile, so that the caller tries again. Only one process can ever
 * link the claim that names the dead one. It replaces the lock by a rename *before* it removes its claim; so whoever links a claim and still
 * finds the dead holder's lock knows that nobody was there before. A claim whose owner died is itself followed by a claim.
 */
async function takeOver(env: Env, lock: string, draft: string): Promise<boolean> {
  const dead = await readHolder(env, lock);
  if (dead === null) return false;
  const claims: string[] = [];
  for (let holder = dead; ; ) {
    if (isAlive(holder)) {
      throw new CheckpointBusyError(
        `checkpoint: expected ${lock} to be free but process ${holder.pid} on ${holder.host} holds it since ` +
          `${holder.since}; if that process is gone, remove the file`,
        { path: lock, pid: holder.pid, since: holder.since },
      );
    }
    const claim = claimPath(lock, holder);
    claims.push(claim);
    if (await linkNew(env, draft, claim)) break;
    const next = await readHolder(env, claim);
    if (next === null) return false;
    holder = next;
  }
  const unchanged = (await readHolder(env, lock))?.nonce === dead.nonce;
  if (unchanged) await guard('rename', lock, () => env.rename(draft, lock));
  for (const claim of unchanged ? claims : claims.slice(-1)) await guard('remove', claim, () => env.remove(claim));
  return unchanged;
}

/**
 * Takes the lock of `directory`, creating the folder. Throws `CheckpointBusyError` (pid, since) while a living process, this one included,
 * holds it; a dead holder's lock is replaced.
 */
export async function acquireLock(directory: string, env: Env = nodeEnv): Promise<FolderLock> {
  const lock = join(directory, LOCK);
  const nonce = randomBytes(8).toString('hex');
  const own: Holder = { ...processIdentity(process.pid), since: new Date().toISOString(), nonce };
  // The content is complete before the name exists, so nobody ever reads half a lock.
  const draft = join(directory, `.tmp-lock-${nonce}`);
  await guard('mkdir', directory, () => env.makeDirectory(directory));
  try {
    await createDurably(env, draft, (file) => writeAll(file, draft, Buffer.from(`${JSON.stringify(own)}\n`)));
    while (!(await linkNew(env, draft, lock)) && !(await takeOver(env, lock, draft)));
  } finally {
    await env.remove(draft).catch(() => undefined);
  }
  return {
    directory,
    release: async () => {
      if ((await readHolder(env, lock))?.nonce === nonce) await guard('remove', lock, () => env.remove(lock));
    },
  };
}
