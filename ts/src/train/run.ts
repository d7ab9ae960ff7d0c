/**
 * One run from a configuration to its folder: data, leak check, model, training, the best checkpoint, one look at test, summary and
 * report. The library prints nothing: what a person should read comes as notes, what happens as events.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Dataset, SplitManifest } from '../data/dataset.js';
import { datasetFromShop, loadDataset } from '../data/load_dataset.js';
import { generateShopAside, type Shop } from '../data/shop/shop.js';
import { CheckpointMismatchError, CheckpointNotFoundError, ConfigError } from '../errors.js';
import { loadCheckpoint } from '../io/checkpoint.js';
import { nodeEnv, replaceFile } from '../io/env.js';
import { packageVersion } from '../io/package_root.js';
import {
  adapterOptions,
  loadEncoderAdapters,
  readEncoderAdapters,
  saveEncoderAdapters,
} from '../models/encoder_adapters.js';
import type { RecommenderModel } from '../models/model.js';
import { addon } from '../native.js';
import { type DeviceControl, type DeviceName, device } from '../tensor.js';
import { initialModel, trainSettings } from './build_model.js';
import { type Config, configDigest, type ResolvedConfig, resolveConfig, withEncoderLora } from './config.js';
import { datasetRequest } from './dataset_request.js';
import { loadEncoders } from './encoder_weights.js';
import type { OnProgress, Slices } from './evaluate.js';
import { useConfiguredFeatures } from './frozen_features.js';
import { flatMetrics } from './metric_values.js';
import { openRunFolder, type RunFolder } from './run_folder.js';
import { ceilingNote, dataNotes, tableFooter, writeRunReport } from './run_report.js';
import type { TrainEvent } from './train_events.js';
import type { TrainSettings } from './train_settings.js';
import { Trainer } from './trainer.js';

export interface TrainRunOptions {
  /** Folder of the run; without it a new one is made below `root`. */
  readonly runDir?: string | null;
  /** Where new folders go; default `runs`. */
  readonly root?: string;
  /** Continue in `runDir` from its newest whole checkpoint. */
  readonly resume?: boolean;
  /** Data that are loaded already; the run does not close them. */
  readonly data?: Dataset;
  /** Stops at a step boundary with a checkpoint. */
  readonly signal?: AbortSignal;
  /** `stepsPerEpoch` of the stage that trains. */
  readonly onEvent?: (event: TrainEvent, stepsPerEpoch: number) => void;
  readonly onNote?: (line: string) => void;
  /** Told where evaluations stand. */
  readonly onProgress?: OnProgress;
}

/** What a run came to. */
export interface RunResult {
  /** The run folder. */
  readonly path: string;
  /** True where the signal stopped it: it can be resumed, and test was not opened. */
  readonly stopped: boolean;
  readonly step: number;
  readonly bestStep: number | null;
  /** Of the best checkpoint; null where no evaluation took place. */
  readonly valid: Slices | null;
  readonly test: Slices | null;
  /** The newest checkpoint of this process. Equal digests are equal bytes. */
  readonly checkpoint: { readonly name: string; readonly digest: string } | null;
  readonly summary: Readonly<Record<string, unknown>>;
  /** Split, rows, seed and time: what a table of these metrics must say. */
  readonly footer: string;
  /** The trained model, with the best weights; the caller disposes it. */
  readonly model: RecommenderModel;
}

/** Optimizer steps of one epoch, or of one window of order 'time', about. */
export function stepsPerEpoch(
  data: Dataset,
  { batchSize, unit, order, windows }: Pick<TrainSettings, 'batchSize' | 'unit' | 'order' | 'windows'>,
): number {
  const sessions = data.columns.sessions;
  const units = unit === 'session' && sessions !== null ? sessions.offsets.length - 1 : data.sizes.train;
  return Math.ceil(units / (order === 'time' ? windows : 1) / batchSize);
}

/** The configuration that a run folder was made with, to go on with on `device` where given. Throws `ConfigError`. */
export function runConfig(path: string, device: string | null = null): ResolvedConfig {
  const overrides = device === null ? [] : [`device=${device}`];
  return resolveConfig({ files: [join(path, 'resolved_config.yaml')], overrides });
}

/** Opens the device of a configuration. Throws `DeviceUnavailableError`, and `ConfigError` where it lacks the precision. */
export function runDevice({ device: name, train }: Pick<Config, 'device' | 'train'>): DeviceControl {
  const opened = device(name as DeviceName | 'auto');
  if (train.precision === 'bf16' && opened.name === 'cpu') {
    const why = opened.reason === null ? '' : ` (${opened.reason})`;
    throw new ConfigError(`train.precision: expected float32 on cpu, which has no bfloat16, but received bf16${why}`, {
      key: 'train.precision',
    });
  }
  return opened;
}

/** Data of a configuration; `path` says where they lie now, if they moved. `onShop` sees the generated shop behind them, if there is one. */
export async function runData(
  config: Config,
  { path, signal, onShop }: { path?: string | null; signal?: AbortSignal; onShop?: (shop: Shop) => void } = {},
): Promise<Dataset> {
  const { where, options } = datasetRequest(
    path === undefined || path === null ? config : { ...config, data: { ...config.data, path } },
  );
  const request = signal === undefined ? options : { ...options, signal };
  if (typeof where === 'string') return loadDataset(where, request);
  const shop = await generateShopAside(where.shop, signal);
  onShop?.(shop);
  return datasetFromShop(shop, request);
}

/** Trains what `resolved` says, or the rest of it. Throws `ConfigError`, `DataError`, `StorageError` and what training throws. */
export async function trainRun(given: ResolvedConfig, options: TrainRunOptions = {}): Promise<RunResult> {
  const { signal, onNote = () => undefined } = options;
  const started = performance.now();
  signal?.throwIfAborted();
  const place = runDevice(given.config); // before data are read
  const restart = options.resume === true ? await restartPoint(options.runDir ?? null, onNote) : null;
  const { resolved, adapter } = await startingAdapter(given, restart);
  const { config } = resolved;
  const data =
    options.data ??
    (await runData(config, {
      ...(signal === undefined ? {} : { signal }),
      onShop: (shop) => onNote(ceilingNote(shop)),
    }));
  try {
    if (options.data === undefined) for (const line of dataNotes(data, place)) onNote(line);
    if (restart !== null) await checkSplit(restart.path, data.splitManifest);
    const model = await initialModel(config, data.schema, place.name, data);
    try {
      if (adapter !== null) loadEncoderAdapters(model.adapters, adapter);
      return await trainModel({ resolved, options, place, model, data, restart, started });
    } catch (error) {
      model.dispose();
      throw error;
    }
  } finally {
    if (options.data === undefined) await data[Symbol.asyncDispose]();
  }
}

/**
 * The adapter that low-rank updates of the encoders start from, and the configuration with its rank, alpha and targets. A run that goes on from a
 * checkpoint has both already.
 */
async function startingAdapter(
  resolved: ResolvedConfig,
  restart: Restart | null,
): Promise<{ resolved: ResolvedConfig; adapter: Awaited<ReturnType<typeof readEncoderAdapters>> | null }> {
  const { encoder, modalities, training } = resolved.config.model;
  const resumes = restart !== null && restart.name !== null;
  if (encoder.adapter === null || training === 'id_only' || resumes) return { resolved, adapter: null };
  const encoders = (['text', 'image'] as const).filter((name) => modalities.includes(name));
  const adapter = await readEncoderAdapters(encoder.adapter, encoders);
  if (encoder.lora !== null) return { resolved, adapter };
  const { rank, alpha, targets, dropout = 0 } = adapterOptions(adapter);
  const lora = { rank, alpha, targets: typeof targets === 'string' ? targets : [...targets], dropout };
  return { resolved: withEncoderLora(resolved, lora, encoder.adapter), adapter };
}

async function trainModel(given: {
  readonly resolved: ResolvedConfig;
  readonly options: TrainRunOptions;
  readonly place: DeviceControl;
  readonly model: RecommenderModel;
  readonly data: Dataset;
  readonly restart: Restart | null;
  readonly started: number;
}): Promise<RunResult> {
  const { resolved, options, place, model, data, restart, started } = given;
  const { config } = resolved;
  const digest = configDigest(config);
  const { from } = config.train;
  const fresh = restart === null || restart.name === null;
  const encoders = fresh && from !== null ? await loadEncoders(model, data, from) : null;
  if (encoders !== null) options.onNote?.(`encoders: ${encoders.run}, ${encoders.checkpoint}`);
  await using run = await openRunFolder({
    ...(options.runDir == null ? {} : { runDir: options.runDir }),
    ...(options.root === undefined ? {} : { root: options.root }),
    ...(restart === null ? {} : { resume: { step: restart.step } }),
    resolvedConfig: resolved.toYaml(),
    configDigest: digest,
    metadata: { ...runMetadata(config, data, place), ...(encoders === null ? {} : { encoders }) },
    splitManifest: { ...data.splitManifest, leak_checks: data.leakChecks },
  });
  await using trainer = new Trainer({
    model,
    data,
    device: place.name,
    settings: trainSettings(config),
    run,
    configDigest: digest,
    encodersTrained: from !== null,
    onProgress: options.onProgress,
  });
  if (restart !== null && restart.name !== null) await trainer.load(restart.name);
  await useConfiguredFeatures(model, data, config, options);
  const outcome = await follow(trainer, data, options);
  const result = { path: run.path, ...outcome, model };
  if (outcome.stopped) return { ...result, valid: null, test: null, summary: {}, footer: '' };
  return await conclude({ ...result, trainer, run, data, config, started, restart });
}

/** Where a resumed run goes on; without a checkpoint (`name` null) at its beginning. */
export interface Restart {
  readonly path: string;
  readonly name: string | null;
  readonly step: number;
}

interface Outcome {
  readonly stopped: boolean;
  readonly step: number;
  readonly bestStep: number | null;
  readonly valid: Slices | null;
  readonly checkpoint: { readonly name: string; readonly digest: string } | null;
}

/** Trains to the end or to the signal, passing events on. */
async function follow(trainer: Trainer, data: Dataset, { signal, onEvent, onNote }: TrainRunOptions): Promise<Outcome> {
  const steps = stepsPerEpoch(data, trainer.settings);
  let bestStep: number | null = null;
  let valid: Slices | null = null;
  let checkpoint: Outcome['checkpoint'] = null;
  try {
    for await (const event of trainer.run(signal === undefined ? {} : { signal })) {
      onEvent?.(event, steps);
      if (event.type === 'eval' && event.best) valid = event.metrics;
      else if (event.type === 'checkpoint') checkpoint = { name: event.name, digest: event.digest };
      else if (event.type === 'warning') onNote?.(`warning: ${event.message}`);
      else if (event.type === 'end') bestStep = event.bestStep;
    }
    return { stopped: false, step: trainer.step, bestStep, valid, checkpoint };
  } catch (error) {
    if (signal?.aborted !== true || error !== signal.reason) throw error;
    return { stopped: true, step: trainer.step, bestStep, valid, checkpoint };
  }
}

interface Concluding extends Outcome {
  readonly path: string;
  readonly model: RecommenderModel;
  readonly trainer: Trainer;
  readonly run: RunFolder;
  readonly data: Dataset;
  readonly config: Config;
  readonly started: number;
  readonly restart: Restart | null;
}

/** The best weights, one look at test, summary and report. */
async function conclude({ trainer, run, data, config, started, restart, ...outcome }: Concluding): Promise<RunResult> {
  const { bestStep, checkpoint, path, model, step } = outcome;
  let { valid } = outcome;
  const bank = (await model.contentStats?.()) ?? {};
  const calls = trainer.encoderCalls; // of the whole run, also where the best weights are loaded
  if (bestStep !== null && !trainer.restoreBest()) {
    // The best evaluation came before the restart: its weights are on disk alone.
    await trainer.load('best');
    valid = await trainer.evaluate('valid');
  }
  const opening = (await testOpenings(path)) + 1;
  const test = data.sizes.test > 0 ? await trainer.evaluate('test') : null;
  const saved = (left: number, asked: number): number | null => (asked === 0 ? null : 1 - left / asked);
  const summary = {
    model: config.model.name,
    ranker: config.model.ranker,
    training: config.model.training,
    encoders_from: config.train.from,
    modalities: config.model.training === 'id_only' ? [] : config.model.modalities,
    seeds: { train: config.train.seed, split: data.splitManifest.seed, shop: config.data.shop?.seed ?? null },
    split: data.splitManifest.rule,
    label: config.data.label,
    rows: { ...data.splitManifest.sizes, new_items: data.splitManifest.newItemEvents },
    steps: step,
    best: bestStep === null ? null : { step: bestStep, metric: config.train.valid_metric },
    valid: valid === null ? null : flatMetrics(valid),
    test: test === null ? null : { openings: opening, ...flatMetrics(test) },
    encoder_calls: {
      ...calls,
      saved: saved(calls.items, calls.rows),
      saved_by_dedup: saved(calls.distinct, calls.slots),
      saved_by_bank: saved(calls.items, calls.distinct),
    },
    ...(Object.keys(bank).length === 0 ? {} : { bank }),
    checkpoint,
    resumed_at: restart?.step ?? null,
    wall_s: (performance.now() - started) / 1000,
    ...versions(config, trainer.device),
  };
  if (model.adapters.size > 0) await saveEncoderAdapters(model.adapters, join(path, 'adapter'));
  await run.writeSummary(summary);
  await run.flush();
  const footer =
    test === null ? '' : tableFooter(data, test, { seeds: `seed ${config.train.seed}`, seconds: summary.wall_s });
  await writeRunReport({ run, data, config, model, step, test, footer });
  const { count, last } = run.failures;
  if (count > 0) run.log('warn', `${count} records were not written: ${last?.message ?? ''}`);
  return { ...outcome, valid, test, summary, footer };
}

function versions(
  { train }: Config,
  { name, reason }: DeviceControl,
): {
  device: string;
  device_reason: string | null;
  precision: string;
  threads: number;
  versions: Record<string, string>;
} {
  const { isa, threads, compiler } = addon.info();
  return {
    device: name,
    device_reason: reason,
    precision: train.precision,
    threads,
    versions: { galago: packageVersion(), node: process.version, kernels: isa, compiler },
  };
}

/** What `run_metadata.json` says of versions, device and data. */
export function runMetadata(config: Config, data: Dataset, place: DeviceControl): Record<string, unknown> {
  return {
    ...versions(config, place),
    data: { name: data.name, digest: data.digest, files: data.splitManifest.files, counters: data.counters },
    seeds: { train: config.train.seed, split: data.splitManifest.seed },
  };
}

// ---- what a run folder says about itself

/** The newest whole checkpoint of a run; bad ones are told. A run that was stopped before its first checkpoint starts again. */
export async function restartPoint(path: string | null, onNote: (line: string) => void): Promise<Restart> {
  if (path === null)
    throw new ConfigError('run: expected the folder of the run to resume but received none', { key: 'resume' });
  try {
    const { name, manifest, rejected } = await loadCheckpoint({ dir: join(path, 'checkpoints') });
    for (const bad of rejected)
      onNote(`warning: checkpoint ${bad.name} is bad, kept as ${bad.quarantinedAs}: ${bad.reason}`);
    onNote(`resume: ${name}`);
    return { path, name, step: manifest.step };
  } catch (error) {
    if (!(error instanceof CheckpointNotFoundError)) throw error;
    onNote('resume: the run has no checkpoint yet, it starts again');
    return { path, name: null, step: 0 };
  }
}

async function readJson(path: string): Promise<Record<string, unknown> | null> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** How often test was opened according to `summary.json`. */
export async function testOpenings(path: string): Promise<number> {
  const test = (await readJson(join(path, 'summary.json')))?.['test'];
  const openings = typeof test === 'object' && test !== null && 'openings' in test ? test.openings : 0;
  return typeof openings === 'number' ? openings : 0;
}

/** Counts one more opening of test in `summary.json`; returns the new count. Throws `StorageError`. */
export async function countTestOpening(path: string): Promise<number> {
  const openings = (await testOpenings(path)) + 1;
  const summary = (await readJson(join(path, 'summary.json'))) ?? {};
  const counted = { ...summary, test: { ...(summary['test'] as object | undefined), openings } };
  await replaceFile(nodeEnv, join(path, 'summary.json'), Buffer.from(`${JSON.stringify(counted, null, 2)}\n`));
  return openings;
}

/** Rule L9: the data must be split as they were. Throws `CheckpointMismatchError`, `ConfigError` without a run. */
export async function checkSplit(path: string, manifest: SplitManifest): Promise<void> {
  const saved = await readJson(join(path, 'split_manifest.json'));
  if (saved === null)
    throw new ConfigError(`run: expected the folder of an earlier run but ${path} has no split_manifest.json`, {
      key: 'resume',
      path,
    });
  const diff: string[] = [];
  for (const key of ['rule', 'seed', 'sizes', 'newItemEvents', 'parts', 'files'] as const) {
    const [was, is] = [JSON.stringify(saved[key]), JSON.stringify(manifest[key])];
    if (was !== is) diff.push(`${key}: expected ${was ?? 'nothing'} but received ${is}`);
  }
  if (diff.length > 0)
    throw new CheckpointMismatchError(`run: the data of ${path} are not split as they were: ${diff.join('; ')}`, {
      diff,
    });
}
