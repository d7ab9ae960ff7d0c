/**
 * The folder of a run: configuration, metadata, split, metrics, log, TensorBoard events, summary and checkpoints, under one lock.
 */
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { ConfigError, type StorageError } from '../errors.js';
import { type AppendFile, openAppendFile } from '../io/append_file.js';
import { type Env, guard, nodeEnv, replaceFile, systemCode } from '../io/env.js';
import { type EventWriter, openEventFile } from '../io/event_file.js';
import { acquireLock, type FolderLock } from '../io/lock.js';

const METRICS = 'metrics.jsonl';

export interface RunFolderOptions {
  /** The folder itself. Without it a new one is made in `root`. */
  readonly runDir?: string;
  /** Where new folders go; default `runs`. */
  readonly root?: string;
  /** Continue in `runDir`, from this step. The files of the first start stay as they are. */
  readonly resume?: { readonly step: number };
  /** Text of `resolved_config.yaml`. */
  readonly resolvedConfig: string;
  /** Hexadecimal digest of the configuration; its first 8 digits go into the folder's name. */
  readonly configDigest: string;
  /** Versions, device, threads, input digests: `run_metadata.json`. */
  readonly metadata: object;
  /** Rule of the split, sizes, digests, leak check: `split_manifest.json`. */
  readonly splitManifest: object;
  /** Milliseconds since 1970; default the clock. */
  readonly now?: () => number;
  readonly env?: Env;
}

/** One line of `metrics.jsonl`; `time` is put in front of it. */
export interface MetricsRecord {
  readonly step: number;
  readonly epoch?: number;
  /** `train`, `window`, `valid`, `test`; absent for lines that are `event`s. */
  readonly part?: string;
  readonly event?: string;
  readonly [key: string]: unknown;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** JSON of `value` in one line, with each number that is not finite as null and its path listed under `nonfinite`. */
export function metricsLine(value: Readonly<Record<string, unknown>>): string {
  const nonfinite: string[] = [];
  const clean = (member: unknown, path: string): unknown => {
    if (typeof member === 'number' && !Number.isFinite(member)) {
      nonfinite.push(path);
      return null;
    }
    if (typeof member === 'bigint') return member.toString();
    if (Array.isArray(member)) return member.map((item, index) => clean(item, `${path}.${index}`));
    if (typeof member !== 'object' || member === null) return member;
    return Object.fromEntries(
      Object.entries(member).map(([key, item]) => [key, clean(item, path ? `${path}.${key}` : key)]),
    );
  };
  const cleaned = clean(value, '') as Record<string, unknown>;
  return `${JSON.stringify(nonfinite.length > 0 ? { ...cleaned, nonfinite } : cleaned)}\n`;
}

/**
 * Records of the text of a `metrics.jsonl`. Torn lines (one per crash) are skipped and counted; after a `resume`, earlier lines with larger
 * steps are dropped, because those steps were run again.
 */
export function parseMetrics(text: string): { records: MetricsRecord[]; torn: number } {
  let records: MetricsRecord[] = [];
  let torn = 0;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    let record: unknown;
    try {
      record = JSON.parse(line);
    } catch {
      record = null;
    }
    if (typeof record !== 'object' || record === null || !('step' in record) || typeof record.step !== 'number') {
      torn++;
      continue;
    }
    const { step } = record;
    if ('event' in record && record.event === 'resume') records = records.filter((earlier) => earlier.step <= step);
    records.push(record as MetricsRecord);
  }
  return { records, torn };
}

/** `parseMetrics` of the file in a run folder. Throws `StorageError`. */
export async function readMetrics(
  runDir: string,
  env: Env = nodeEnv,
): Promise<{ records: MetricsRecord[]; torn: number }> {
  const path = join(runDir, METRICS);
  return parseMetrics(Buffer.from(await guard('read', path, () => env.read(path))).toString('utf8'));
}

/** An open run folder. What appends never throws and never waits; failures are counted. */
export class RunFolder implements AsyncDisposable {
  readonly checkpointDir: string;

  constructor(
    readonly path: string,
    /** Held until `close`; for `saveCheckpoint`. */
    readonly lock: FolderLock,
    private readonly files: { metrics: AppendFile; log: AppendFile; events: EventWriter },
    private readonly now: () => number,
    private readonly env: Env,
  ) {
    this.checkpointDir = join(path, 'checkpoints');
  }

  private time(): string {
    return new Date(this.now()).toISOString();
  }

  /** Writes one line of metrics, and its numbers to TensorBoard under `<part>/<name>`. */
  metrics(record: MetricsRecord): void {
    this.files.metrics.append(metricsLine({ time: this.time(), ...record }));
    if (record.part === undefined) return;
    const scalars: Record<string, number> = {};
    for (const [name, value] of Object.entries(record)) {
      if (typeof value === 'number' && name !== 'step') scalars[`${record.part}/${name}`] = value;
    }
    this.files.events.scalars(record.step, scalars);
  }

  /** Writes one line of `run.log`. Raw ids, texts and tokens do not belong there. */
  log(level: LogLevel, msg: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.files.log.append(metricsLine({ level, time: this.time(), msg, ...fields }));
  }

  /** Writes `summary.json`, replacing an earlier one whole. Throws `StorageError`. */
  async writeSummary(summary: object): Promise<void> {
    await this.writeJson('summary.json', summary);
  }

  /** Writes a JSON file into the folder, replacing an earlier one whole. Throws `StorageError`. */
  async writeJson(name: string, value: object): Promise<void> {
    await replaceFile(this.env, join(this.path, name), Buffer.from(`${JSON.stringify(value, null, 2)}\n`));
  }

  /** Records that did not reach metrics, log or events, and why the last one did not. */
  get failures(): { count: number; last: StorageError | null } {
    const files = [this.files.metrics, this.files.log, this.files.events.file];
    return {
      count: files.reduce((total, file) => total + file.failures, 0),
      last: files.map((file) => file.lastFailure).find((failure) => failure !== null) ?? null,
    };
  }

  async flush(): Promise<void> {
    await Promise.all([this.files.metrics.flush(), this.files.log.flush(), this.files.events.flush()]);
  }

  /** Flushes, closes and gives the lock back. A second call does nothing. */
  async close(): Promise<void> {
    await Promise.all([this.files.metrics.close(), this.files.log.close(), this.files.events.close()]);
    await this.lock.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Name of a new run: `<time>-<first 8 digits of the configuration's digest>-<random>`. */
function runName(milliseconds: number, configDigest: string): string {
  const time = new Date(milliseconds).toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-');
  return `${time}-${configDigest.slice(0, 8)}-${randomBytes(3).toString('hex')}`;
}

async function isEmpty(env: Env, path: string): Promise<boolean> {
  try {
    return (await env.list(path)).length === 0;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return true;
    if (systemCode(error) === 'ENOTDIR') return false;
    return guard('readdir', path, () => Promise.reject(error));
  }
}

/** Whether a file ends inside a line, as after a crash. */
async function isTorn(env: Env, path: string): Promise<boolean> {
  try {
    const bytes = await env.read(path);
    return bytes.length > 0 && bytes.at(-1) !== 0x0a;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    return guard('read', path, () => Promise.reject(error));
  }
}

async function openLines(env: Env, path: string): Promise<AppendFile> {
  const torn = await isTorn(env, path);
  const file = await openAppendFile(path, env);
  if (torn) file.append('\n');
  return file;
}

/**
 * Creates the folder of a run, or opens it to resume. Throws `ConfigError` where `runDir` holds something and `resume` is not given (or holds
 * nothing and it is), `CheckpointBusyError` while another process writes there, `StorageError`.
 */
export async function openRunFolder(options: RunFolderOptions): Promise<RunFolder> {
  const { root = 'runs', resume, now = Date.now, env = nodeEnv } = options;
  const start = now();
  const path = options.runDir ?? join(root, runName(start, options.configDigest));
  const empty = await isEmpty(env, path);
  if (!empty && resume === undefined) {
    throw new ConfigError(
      `run: expected a new or empty folder but ${path} holds files; --resume ${path} continues that run`,
      {
        key: 'run_dir',
        path,
      },
    );
  }
  if (empty && resume !== undefined) {
    throw new ConfigError(`run: expected the folder of an earlier run to resume but ${path} is empty or missing`, {
      key: 'resume',
      path,
    });
  }
  const lock = await acquireLock(join(path, 'checkpoints'), env);
  try {
    // A checkpoint is as durable as the names of all folders above it.
    await guard('fsync', dirname(path), () => env.syncDirectory(dirname(path)));
    const metrics = await openLines(env, join(path, METRICS));
    const log = await openLines(env, join(path, 'run.log'));
    const events = await openEventFile(path, { now, env, resumedAt: resume?.step });
    const run = new RunFolder(path, lock, { metrics, log, events }, now, env);
    if (resume === undefined) {
      await replaceFile(env, join(path, 'resolved_config.yaml'), Buffer.from(options.resolvedConfig));
      await run.writeJson('run_metadata.json', { ...options.metadata, config_digest: options.configDigest });
      await run.writeJson('split_manifest.json', options.splitManifest);
      run.log('info', 'start', { config_digest: options.configDigest });
    } else {
      run.metrics({ event: 'resume', step: resume.step });
      run.log('info', 'resume', { step: resume.step, config_digest: options.configDigest, ...options.metadata });
    }
    return run;
  } catch (error) {
    await lock.release();
    throw error;
  }
}
