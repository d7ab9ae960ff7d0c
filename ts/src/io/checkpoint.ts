/**
 * Durable training state. A checkpoint is a folder of safetensors files with a manifest; it appears under its name by one rename, after
 * every byte was written and synced, so after a crash at any instant the newest loadable checkpoint is the old or the new one, whole.
 *
 *   checkpoints/step-400/{dense.safetensors, optimizer.safetensors, ..., MANIFEST.json}   LATEST  BEST  LOCK
 *   .tmp-*       a save under way, or what a crash left of one: removed by the next load
 *   old-<name>   what a save under the same name replaces, until the new one stands: loadable
 *   bad-<name>   failed its checks: kept for a look, never loaded
 *
 * LATEST and BEST are hints for people; loading looks at the folders and their manifests.
 */
import { createHash, randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import {
  ArgumentError,
  CheckpointAllBadError,
  CheckpointCorruptError,
  CheckpointMismatchError,
  CheckpointNotFoundError,
  StorageError,
} from '../errors.js';
import { readContent, readManifest, writeBlocks } from './checkpoint_files.js';
import { createDurably, type Env, guard, nodeEnv, replaceFile, systemCode, writeAll } from './env.js';
import { acquireLock, type FolderLock, lockHolder } from './lock.js';
import {
  encodeManifest,
  type FileRecord,
  FORMAT_VERSION,
  GROUP_NAME,
  type Json,
  MANIFEST,
  type Manifest,
} from './manifest.js';
import { encodeSafetensors, type HostTensor, type TensorList, tensorDifferences } from './safetensors.js';

export type { Json, Manifest } from './manifest.js';

const TEMPORARY = '.tmp-';
const OLD = 'old-';
const BAD = 'bad-';
const STEP_NAME = /^step-(\d+)$/;
const NAME = /^(?!old-|bad-|LATEST$|BEST$|LOCK)[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;
const KEEP_AT_LEAST = 2;

/** What to save. Equal arguments (but `dir`, `name`) give equal bytes: no clock and no host name enters a checkpoint. */
export interface SaveOptions {
  /** Folder of all checkpoints of a run. */
  readonly dir: string;
  readonly step: number;
  /** Name of the folder; default `step-<step>`. Only those of the default form are ever pruned. */
  readonly name?: string;
  /** Groups of tensors; each becomes one file. */
  readonly tensors: Readonly<Record<string, ReadonlyMap<string, HostTensor>>>;
  /** Validation metric of this step, higher is better; `which: 'best'` loads the highest. */
  readonly score?: number | null;
  /** Digests of configuration, data, split and vocabulary. */
  readonly digests?: Readonly<Record<string, string>>;
  readonly versions?: Readonly<Record<string, string>>;
  /** Where the data stand. */
  readonly cursor?: Json;
  /** Random number key, schedule, early stopping: anything else that resuming needs. */
  readonly state?: Json;
  /** Newest `step-N` checkpoints to keep; the best one and named ones stay too. Never fewer than 2, whatever is asked. Default 2. */
  readonly keepLast?: number;
  /** The lock of `dir`, where the caller holds it; without it the save takes it for itself. */
  readonly lock?: FolderLock;
  readonly env?: Env;
}

/** A save that is on disk. */
export interface SavedCheckpoint {
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  /** SHA-256 over the tensor files: equal digests, equal state. */
  readonly digest: string;
  /** Names of pruned checkpoints. */
  readonly removed: readonly string[];
  /** What failed after the checkpoint was safe: hints, pruning. */
  readonly warnings: readonly StorageError[];
}

/** A checkpoint that was found bad: where it lies now, and why. */
export interface RejectedCheckpoint {
  readonly name: string;
  /** Its `bad-` name; its old one where another process holds the lock. */
  readonly quarantinedAs: string;
  readonly reason: string;
}

/** A checkpoint, read and checked. */
export interface LoadedCheckpoint {
  readonly name: string;
  readonly path: string;
  readonly manifest: Manifest;
  readonly tensors: Readonly<Record<string, Map<string, HostTensor>>>;
  /** Newer (or better) ones that were bad: a fallback, to be told to the user. */
  readonly rejected: readonly RejectedCheckpoint[];
  /** Remains of interrupted saves that were cleared. */
  readonly cleared: readonly string[];
}

/** What a checkpoint must agree with. Only what is named is compared. */
export interface Expectation {
  readonly digests?: Readonly<Record<string, string>>;
  readonly tensors?: Readonly<Record<string, TensorList>>;
}

export interface LoadOptions {
  readonly dir: string;
  /** `latest` (default), `best`, or the name of a checkpoint. */
  readonly which?: string;
  readonly expect?: Expectation;
  readonly lock?: FolderLock;
  readonly env?: Env;
}

/** One line about a checkpoint folder, from its manifest alone; `error` where that cannot be read. */
export interface CheckpointSummary {
  readonly name: string;
  readonly manifest: Manifest | null;
  readonly error: Error | null;
}

function checkArguments(name: string, { step, tensors, score, keepLast }: SaveOptions): void {
  const fail = (argument: string, expected: string, received: unknown): never => {
    throw new ArgumentError(`saveCheckpoint: expected ${argument} to be ${expected} but received ${String(received)}`, {
      op: 'saveCheckpoint',
      argument,
    });
  };
  if (!Number.isSafeInteger(step) || step < 0) fail('step', 'an integer >= 0', step);
  if (!NAME.test(name)) fail('name', 'letters, digits, dots, dashes and underscores, and no reserved name', name);
  if (STEP_NAME.test(name) && name !== `step-${step}`) fail('name', `step-${step} or of another form`, name);
  if (score !== undefined && score !== null && !Number.isFinite(score)) fail('score', 'finite or null', score);
  if (keepLast !== undefined && (!Number.isInteger(keepLast) || keepLast < 1)) {
    fail('keepLast', 'an integer >= 1', keepLast);
  }
  for (const group of Object.keys(tensors)) {
    if (!GROUP_NAME.test(group)) fail('tensors', 'groups named in lower case, digits and underscores', group);
  }
}

/** Fills `folder` with the files and the manifest, all durable but for the folder's own name. */
async function writeContent(env: Env, folder: string, options: SaveOptions): Promise<Manifest> {
  const digest = createHash('sha256');
  const files: FileRecord[] = [];
  for (const [group, tensors] of Object.entries(options.tensors)) {
    files.push(await writeBlocks(env, folder, `${group}.safetensors`, encodeSafetensors(tensors), digest));
  }
  const manifest: Manifest = {
    formatVersion: FORMAT_VERSION,
    step: options.step,
    score: options.score ?? null,
    digest: digest.digest('hex'),
    digests: { ...options.digests },
    versions: { ...options.versions },
    cursor: options.cursor ?? null,
    state: options.state ?? null,
    files,
  };
  const path = join(folder, MANIFEST);
  await createDurably(env, path, (file) => writeAll(file, path, encodeManifest(manifest)));
  await guard('fsync', folder, () => env.syncDirectory(folder));
  return manifest;
}

async function folders(env: Env, dir: string): Promise<string[]> {
  try {
    return (await env.list(dir)).filter((entry) => entry.isDirectory).map((entry) => entry.name);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    return guard('readdir', dir, () => Promise.reject(error));
  }
}

/** Gives the finished folder its name. One that exists moves aside first and stays loadable until the new one stands. */
async function publish(env: Env, dir: string, temporary: string, name: string): Promise<void> {
  const [from, to, aside] = [join(dir, temporary), join(dir, name), join(dir, OLD + name)];
  const replaces = (await folders(env, dir)).includes(name);
  if (replaces) {
    await guard('remove', aside, () => env.remove(aside));
    await guard('rename', to, () => env.rename(to, aside));
  }
  try {
    await guard('rename', to, () => env.rename(from, to));
  } catch (error) {
    if (replaces) await env.rename(aside, to).catch(() => undefined);
    throw error;
  }
  await guard('fsync', dir, () => env.syncDirectory(dir));
}

const writeHint = (env: Env, dir: string, hint: string, name: string) =>
  replaceFile(env, join(dir, hint), Buffer.from(`${name}\n`));

async function summarise(env: Env, dir: string, name: string): Promise<CheckpointSummary> {
  try {
    return { name, manifest: await readManifest(env, join(dir, name)), error: null };
  } catch (error) {
    if (!(error instanceof CheckpointCorruptError) && !(error instanceof CheckpointMismatchError)) throw error;
    return { name, manifest: null, error };
  }
}

/** Step of a checkpoint; of one whose manifest cannot be read, what its name says; without either it counts as the newest. */
function stepOf({ name, manifest }: CheckpointSummary): number {
  if (manifest !== null) return manifest.step;
  const step = STEP_NAME.exec(name)?.[1];
  return step === undefined ? Number.POSITIVE_INFINITY : Number(step);
}

/** Newest first; of equal steps the periodic one, and what was moved aside last. */
function newestFirst(a: CheckpointSummary, b: CheckpointSummary): number {
  const rank = ({ name }: CheckpointSummary) => (name.startsWith(OLD) ? 2 : STEP_NAME.test(name) ? 0 : 1);
  const steps = [stepOf(a), stepOf(b)] as const;
  if (steps[0] !== steps[1]) return steps[0] > steps[1] ? -1 : 1;
  return rank(a) - rank(b) || (a.name < b.name ? -1 : 1);
}

/** Highest score first, of equal ones the earlier step; what cannot be read comes first, so that it is noticed. */
function bestFirst(a: CheckpointSummary, b: CheckpointSummary): number {
  const score = ({ manifest }: CheckpointSummary) =>
    manifest === null ? Number.POSITIVE_INFINITY : (manifest.score ?? 0);
  const scores = [score(a), score(b)] as const;
  if (scores[0] !== scores[1]) return scores[0] > scores[1] ? -1 : 1;
  return -newestFirst(a, b);
}

/** All checkpoints of a folder that are not quarantined, newest first, by their manifests. Throws `StorageError`. */
export async function listCheckpoints(dir: string, env: Env = nodeEnv): Promise<CheckpointSummary[]> {
  const names = (await folders(env, dir)).filter((name) => !name.startsWith('.') && !name.startsWith(BAD));
  const summaries = await Promise.all(names.map((name) => summarise(env, dir, name)));
  return summaries.sort(newestFirst);
}

/** Reads every byte of a checkpoint and checks it. Throws `CheckpointCorruptError`, `CheckpointMismatchError`, `StorageError`. */
export async function verifyCheckpoint(path: string, env: Env = nodeEnv): Promise<Manifest> {
  const manifest = await readManifest(env, path);
  await readContent(env, path, manifest);
  return manifest;
}

/** Removes all `step-N` checkpoints but the newest `keepLast` and the best, if two of those that stay are whole. */
async function prune(env: Env, dir: string, keepLast: number): Promise<string[]> {
  const all = (await listCheckpoints(dir, env)).filter(({ manifest }) => manifest !== null);
  const best = all.filter(({ manifest }) => manifest?.score !== null).sort(bestFirst)[0];
  const periodic = all.filter(({ name }) => STEP_NAME.test(name));
  const surplus = periodic.slice(keepLast).filter((checkpoint) => checkpoint !== best);
  if (surplus.length === 0) return [];
  let whole = 0;
  for (const checkpoint of all) {
    if (surplus.includes(checkpoint) || whole === KEEP_AT_LEAST) continue;
    try {
      await verifyCheckpoint(join(dir, checkpoint.name), env);
      whole++;
    } catch (error) {
      if (!(error instanceof CheckpointCorruptError)) throw error;
    }
  }
  if (whole < KEEP_AT_LEAST) return [];
  const removed: string[] = [];
  for (const { name } of surplus) {
    await discard(env, dir, name);
    removed.push(name);
  }
  return removed;
}

/** Removes a folder such that a crash half way leaves no half checkpoint under its name. */
async function discard(env: Env, dir: string, name: string): Promise<void> {
  const doomed = join(dir, `${TEMPORARY}${randomBytes(8).toString('hex')}`);
  await guard('rename', name, () => env.rename(join(dir, name), doomed));
  await guard('remove', doomed, () => env.remove(doomed));
}

/** Runs what may fail without harm to the saved checkpoint; a `StorageError` becomes a warning. */
async function attempt(warnings: StorageError[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    warnings.push(error);
  }
}

async function saveLocked(env: Env, name: string, options: SaveOptions): Promise<SavedCheckpoint> {
  const { dir, keepLast = KEEP_AT_LEAST } = options;
  const temporary = TEMPORARY + randomBytes(8).toString('hex');
  const folder = join(dir, temporary);
  let manifest: Manifest;
  try {
    await guard('mkdir', folder, () => env.makeDirectory(folder));
    await guard('fsync', dir, () => env.syncDirectory(dirname(dir)));
    manifest = await writeContent(env, folder, options);
    await publish(env, dir, temporary, name);
  } catch (error) {
    await env.remove(folder).catch(() => undefined);
    throw error;
  }
  const warnings: StorageError[] = [];
  const removed: string[] = [];
  await attempt(warnings, () => guard('remove', OLD + name, () => env.remove(join(dir, OLD + name))));
  await attempt(warnings, () => writeHint(env, dir, 'LATEST', name));
  await attempt(warnings, async () => {
    const scored = (await listCheckpoints(dir, env)).filter(
      (checkpoint) => typeof checkpoint.manifest?.score === 'number',
    );
    const best = scored.sort(bestFirst)[0];
    if (best !== undefined) await writeHint(env, dir, 'BEST', best.name);
  });
  await attempt(warnings, async () => {
    removed.push(...(await prune(env, dir, Math.max(keepLast, KEEP_AT_LEAST))));
  });
  const bytes = manifest.files.reduce((total, file) => total + file.bytes, 0);
  return { name, path: join(dir, name), bytes, digest: manifest.digest, removed, warnings };
}

/**
 * Saves a checkpoint; when this resolves, it survives a crash and loss of power. The tensors must not change meanwhile. Throws
 * `StorageError` (nothing changed, the temporary folder is removed), `CheckpointBusyError`, `ArgumentError`.
 */
export async function saveCheckpoint(options: SaveOptions): Promise<SavedCheckpoint> {
  const { dir, step, name = `step-${step}`, env = nodeEnv } = options;
  checkArguments(name, options);
  if (options.lock !== undefined) return saveLocked(env, name, options);
  const lock = await acquireLock(dir, env);
  try {
    return await saveLocked(env, name, options);
  } finally {
    await lock.release();
  }
}

function differences(manifest: Manifest, tensors: LoadedCheckpoint['tensors'], expect: Expectation): string[] {
  const diff: string[] = [];
  for (const [key, wanted] of Object.entries(expect.digests ?? {})) {
    const found = manifest.digests[key];
    if (found !== wanted) diff.push(`digest of ${key}: expected ${wanted} but received ${found ?? 'none'}`);
  }
  for (const [group, wanted] of Object.entries(expect.tensors ?? {})) {
    diff.push(...tensorDifferences(tensors[group] ?? new Map(), wanted).map((line) => `${group}: ${line}`));
  }
  return diff;
}

async function quarantine(env: Env, dir: string, name: string): Promise<string> {
  const taken = new Set(await folders(env, dir));
  let target = BAD + name;
  for (let count = 2; taken.has(target); count++) target = `${BAD}${name}-${count}`;
  await guard('rename', name, () => env.rename(join(dir, name), join(dir, target)));
  return target;
}

/** Removes remains of interrupted saves: `.tmp-*`, and `old-X` where X stands. */
async function clear(env: Env, dir: string): Promise<string[]> {
  const entries = await env.list(dir).catch(() => []);
  const names = new Set(entries.map((entry) => entry.name));
  const remains = [...names].filter(
    (name) => name.startsWith(TEMPORARY) || (name.startsWith(OLD) && names.has(name.slice(OLD.length))),
  );
  for (const name of remains) await guard('remove', name, () => env.remove(join(dir, name)));
  return remains;
}

/** The candidates for `which`, the wanted one first. Throws `CheckpointNotFoundError`, `CheckpointAllBadError`. */
async function candidates(env: Env, dir: string, which: string): Promise<CheckpointSummary[]> {
  const all = await listCheckpoints(dir, env);
  if (all.length === 0) {
    const bad = (await folders(env, dir)).filter((name) => name.startsWith(BAD));
    if (bad.length > 0) {
      throw new CheckpointAllBadError(`checkpoint: all checkpoints in ${dir} are bad: ${bad.join(', ')}`, {
        list: bad,
      });
    }
    throw new CheckpointNotFoundError(`checkpoint: there is none in ${dir}`, { directory: dir });
  }
  if (which === 'latest') return all;
  const named = all.filter(({ name }) => name === which);
  const scored = all.filter(({ manifest }) => manifest === null || manifest.score !== null).sort(bestFirst);
  const wanted = which === 'best' ? scored : named;
  if (wanted.length === 0) {
    const missing = which === 'best' ? 'none with a score' : `no ${which}`;
    const names = all.map(({ name }) => name).join(', ');
    throw new CheckpointNotFoundError(`checkpoint: there is ${missing} in ${dir}; there are ${names}`, {
      directory: dir,
    });
  }
  return wanted;
}

/**
 * Loads the newest whole checkpoint (or the best, or one by name), every byte checked. A bad one is renamed to `bad-<name>` and the next
 * taken, which `rejected` tells; one asked for by name throws instead. While another process holds the lock, nothing is renamed or cleared.
 * Throws `CheckpointNotFoundError`, `CheckpointAllBadError`, `CheckpointCorruptError`, `CheckpointMismatchError` (every difference in
 * `fields.diff`; never a partial load), `StorageError`.
 */
export async function loadCheckpoint(options: LoadOptions): Promise<LoadedCheckpoint> {
  const { dir, which = 'latest', expect = {}, env = nodeEnv } = options;
  const owner = options.lock !== undefined || (await lockHolder(dir, env)) === null;
  const cleared = owner ? await clear(env, dir) : [];
  const rejected: RejectedCheckpoint[] = [];
  for (const { name, manifest, error } of await candidates(env, dir, which)) {
    const path = join(dir, name);
    try {
      if (manifest === null) throw error;
      const tensors = await readContent(env, path, manifest);
      const diff = differences(manifest, tensors, expect);
      if (diff.length > 0) {
        throw new CheckpointMismatchError(`checkpoint: ${path} does not fit: ${diff.join('; ')}`, { diff, file: path });
      }
      return { name, path, manifest, tensors, rejected, cleared };
    } catch (failure) {
      if (!(failure instanceof CheckpointCorruptError)) throw failure;
      rejected.push({
        name,
        quarantinedAs: owner ? await quarantine(env, dir, name) : name,
        reason: failure.message,
      });
      if (which === name) throw failure;
    }
  }
  const list = rejected.map(({ name, reason }) => `${name}: ${reason}`);
  throw new CheckpointAllBadError(`checkpoint: all checkpoints in ${dir} are bad: ${list.join('; ')}`, { list });
}
