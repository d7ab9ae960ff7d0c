/** Training as an async iterator of events: steps, evaluations, checkpoints. The library prints nothing. */

import { basename, join } from 'node:path';
import { stringify } from 'yaml';
import { backward } from '../autograd.js';
import type { Dataset, PartLoaderOptions } from '../data/dataset.js';
import type { Batch } from '../data/loader/batch.js';
import type { Loader } from '../data/loader/loader.js';
import { type TimeWindow, timeWindows } from '../data/time_windows.js';
import { ArgumentError, CheckpointMismatchError, NonFiniteError, StorageError } from '../errors.js';
import { listCheckpoints, loadCheckpoint, saveCheckpoint } from '../io/checkpoint.js';
import type { HostTensor } from '../io/safetensors.js';
import type { SliceMetrics } from '../metrics/slices.js';
import type { RecommenderModel, StepGraph } from '../models/model.js';
import { Optimizer, type ParameterGroup } from '../optim/optimizer.js';
import { randomScope } from '../random.js';
import { clone, type DeviceControl, type DeviceName, device, type HostArray, type Tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import { callCounter, type EncoderCalls, noCalls } from './encoder_calls.js';
import { encoderInputs } from './encoder_weights.js';
import {
  encodeItems,
  inPrecision,
  metricsOf,
  type OnProgress,
  type Predictions,
  predict,
  type Slices,
} from './evaluate.js';
import { flatMetrics, metricValue } from './metric_values.js';
import { type RankingSettings, rankPart } from './rank_items.js';
import { openRunFolder, type RunFolder } from './run_folder.js';
import { fromHost, readTensors } from './state.js';
import type { CheckpointEvent, StepEvent, TrainEvent, WarningEvent } from './train_events.js';
import { defaultSettings, type TrainSettings } from './train_settings.js';

export interface TrainerOptions {
  readonly model: RecommenderModel;
  readonly data: Dataset;
  /** Where to train; the model is moved there when the first work begins. Default auto: CUDA where it works, else the CPU. */
  readonly device?: DeviceName | 'auto';
  readonly seed?: number;
  readonly settings?: Partial<TrainSettings>;
  /** A new or empty folder for metrics and checkpoints; the trainer opens it with the first `run` or `save` and closes it on disposal. */
  readonly runDir?: string;
  /** An open run folder instead; stays open. Without either everything stays in memory. */
  readonly run?: RunFolder | null;
  /** Continue the run in `runDir` from its newest checkpoint. */
  readonly resume?: boolean;
  /** The encoders are trained already: `two_stage` begins with its second stage. */
  readonly encodersTrained?: boolean;
  /** Digest of the configuration: a checkpoint of another one is refused. */
  readonly configDigest?: string;
  /** Told where evaluations stand, and the encoding of items before them. */
  readonly onProgress?: OnProgress | undefined;
}

/** Where training stands: what a checkpoint stores besides tensors. */
interface Cursor {
  stage: 'encoder' | 'ranker';
  epoch: number;
  position: number;
  /** Order 'time': windows that were scored. */
  windows: number;
  step: number;
  bestScore: number | null;
  bestStep: number | null;
  worse: number;
  /** Whether the static item vectors of `frozenContent` stand in the table. */
  tableFilled: boolean;
  calls: EncoderCalls;
}

/** What a step leaves to be read: its loss, and the optimizer's clip factor, NaN where it was skipped. */
interface QueuedStep {
  readonly loss: Tensor;
  readonly clipFactor: Tensor;
  readonly encoded: StepGraph['encoded'];
}

/** The rows of a part, unsealed where it is test, and the loaders that read it. */
interface OpenPart {
  readonly rows: Int32Array;
  loader(options: Omit<PartLoaderOptions<'test'>, 'part'>): Loader;
}

const stopAfterSkipped = 10;

export class Trainer implements AsyncDisposable {
  readonly settings: TrainSettings;
  readonly device: DeviceControl;
  readonly #model: RecommenderModel;
  readonly #data: Dataset;
  #run: RunFolder | null;
  readonly #runDir: string | null;
  readonly #resume: boolean;
  #ownsRun = false;
  readonly #configDigest: string;
  readonly #onProgress: OnProgress | undefined;
  #optimizer: Optimizer | null = null;
  readonly #counted: ReturnType<typeof callCounter>;
  #cursor: Cursor;
  #best: Map<string, HostTensor> | null = null;
  #saving: Promise<CheckpointEvent | WarningEvent> | null = null;
  #savedAt = performance.now();
  /** Steps that were skipped, in a row. */
  #skipped = 0;

  constructor({
    model,
    data,
    device: name = 'auto',
    seed,
    settings,
    run = null,
    runDir,
    resume = false,
    configDigest = '',
    encodersTrained = false,
    onProgress,
  }: TrainerOptions) {
    this.settings = { ...defaultSettings, ...settings, ...(seed === undefined ? {} : { seed }) };
    this.device = device(name);
    if (this.settings.precision === 'bf16' && this.device.name === 'cpu')
      throw new ArgumentError(
        "trainer: expected precision 'float32' on cpu, which has no bfloat16, but received 'bf16'",
        {
          argument: 'precision',
        },
      );
    if (this.settings.order === 'time' && (model.encoderStageEpochs > 0 || data.columns.negatives !== null))
      throw new ArgumentError(
        `trainer: expected one stage and the rows as they are with order 'time' but received ${
          data.columns.negatives === null ? 'a model of two stages' : 'data with sampled negatives'
        }`,
        { argument: 'order' },
      );
    this.#model = model;
    model.prepare?.(data.items);
    this.#counted = callCounter(data.schema.items);
    this.#data = data;
    this.#run = run;
    this.#runDir = run === null ? (runDir ?? null) : null;
    this.#resume = resume;
    this.#configDigest = configDigest;
    this.#onProgress = onProgress;
    this.#cursor = {
      stage: model.encoderStageEpochs > 0 && !encodersTrained ? 'encoder' : 'ranker',
      epoch: 0,
      position: 0,
      windows: 0,
      step: 0,
      bestScore: null,
      bestStep: null,
      worse: 0,
      tableFilled: false,
      calls: noCalls,
    };
    if (model.device === this.device.name) this.#optimizer = this.makeOptimizer();
  }

  get step(): number {
    return this.#cursor.step;
  }

  /** Since the start of training, across resumes. Zero where no item is encoded in the step. */
  get encoderCalls(): EncoderCalls {
    return this.#cursor.calls;
  }

  /** Made when the parameters are where it keeps its state. */
  private get optimizer(): Optimizer {
    this.#optimizer ??= this.makeOptimizer();
    return this.#optimizer;
  }

  private makeOptimizer(): Optimizer {
    const {
      learningRates: rate,
      encoderWarmupSteps: warmupSteps,
      weightDecay,
      sparseAlgorithm,
      clipNorm,
    } = this.settings;
    const groups = this.#model.groups();
    const rowSparse = { algorithm: sparseAlgorithm } as const;
    const dense = { algorithm: 'adamw', weightDecay } as const;
    const list: ParameterGroup[] = [
      { name: 'dense', params: groups.dense, learningRate: rate.dense, ...dense },
      { name: 'sparse', params: groups.sparse, learningRate: rate.sparse, ...rowSparse },
      { name: 'encoder', params: groups.encoder, learningRate: rate.encoder, warmupSteps, ...dense },
      { name: 'encoder_sparse', params: groups.encoderSparse, learningRate: rate.encoder, warmupSteps, ...rowSparse },
      { name: 'lora', params: groups.lora, learningRate: rate.lora, algorithm: 'adamw', weightDecay: 0 },
    ];
    return new Optimizer(list, clipNorm === null ? {} : { clipNorm });
  }

  /**
   * Trains from where it stands until `epochs` epochs are done, or validation stops improving. `break` or `signal` stop at a step
   * boundary; with a run folder an aborted run saves a checkpoint there first, from which it resumes to the same bytes.
   */
  async *run({
    epochs = this.settings.epochs,
    signal,
  }: {
    epochs?: number;
    signal?: AbortSignal;
  } = {}): AsyncGenerator<TrainEvent, void> {
    signal?.throwIfAborted();
    await this.open();
    const model = this.#model;
    if (this.#cursor.stage === 'encoder') {
      yield* this.encoderStage(signal);
      this.beginRanker();
    }
    if (model.frozenContent && !this.#cursor.tableFilled) await this.fillTable();
    const byTime = this.settings.order === 'time';
    const passes = byTime ? 1 : epochs;
    const { earlyStopPatience } = this.settings;
    const stopsEarly = (): boolean => earlyStopPatience !== null && this.#cursor.worse >= earlyStopPatience;
    // A resumed run may have stopped early before it was interrupted.
    while (this.#cursor.epoch < passes && !stopsEarly()) {
      yield* byTime ? this.stream(signal) : this.epoch(epochs, signal);
      const { epoch } = this.#cursor;
      if (epoch % this.settings.evalEveryEpochs === 0 || epoch === passes) {
        yield* this.validate();
        if (this.#run !== null) yield* this.checkpoint();
      }
    }
    yield* this.finish();
    const { step, bestStep } = this.#cursor;
    yield { type: 'end', reason: stopsEarly() ? 'early_stop' : 'epochs', step, bestStep };
  }

  /**
   * Trains the encoders alone, the first stage of `two_stage`, to its end, where it saves a checkpoint; stops like `run`. Throws
   * `ArgumentError` for a trainer that does not stand in that stage, `StorageError` where the checkpoint cannot be written.
   */
  async *pretrain({ signal }: { signal?: AbortSignal } = {}): AsyncGenerator<TrainEvent, void> {
    signal?.throwIfAborted();
    await this.open();
    if (this.#cursor.stage !== 'encoder')
      throw new ArgumentError(
        `trainer: expected a model in its first stage but this one trains the ${this.#cursor.stage}`,
        {
          argument: 'model',
        },
      );
    yield* this.encoderStage(signal);
    yield* this.finish();
    if (this.#run !== null) yield await this.write(await this.copyState(), undefined);
    yield { type: 'end', reason: 'epochs', step: this.#cursor.step, bestStep: null };
  }

  private async *encoderStage(signal: AbortSignal | undefined): AsyncGenerator<TrainEvent, void> {
    const { encoderStageEpochs: epochs } = this.#model;
    while (this.#cursor.epoch < epochs) yield* this.epoch(epochs, signal);
  }

  /** The second stage starts with a fresh optimizer: the encoder no longer trains. */
  private beginRanker(): void {
    this.#cursor = { ...this.#cursor, stage: 'ranker', epoch: 0, position: 0 };
    this.#model.refresh();
    this.#optimizer?.dispose();
    this.#optimizer = null;
  }

  /** Static item vectors of the train part, for modes that compute them once. */
  private async fillTable(): Promise<void> {
    const { trainCount } = this.#data.items;
    const keys = Int32Array.from([...trainCount.keys()].filter((item) => trainCount[item]! > 0));
    await encodeItems(this.#model, this.#data, 'table', keys, this.#cursor.step, this.passSettings);
    this.#cursor.tableFilled = true;
  }

  /** The one pass of order 'time': every window is scored, then trained on. Goes on where the cursor stands, also inside a window. */
  private async *stream(signal: AbortSignal | undefined): AsyncGenerator<TrainEvent, void> {
    const cursor = this.#cursor;
    const { columns } = this.#data;
    const windows = timeWindows(columns, this.settings.unit, this.settings.windows);
    /** By item: the first window that shows it. */
    const firstWindow = new Int32Array(columns.items).fill(windows.length);
    for (const { index, rows } of [...windows].reverse())
      for (const event of rows) firstWindow[columns.item[event]!] = index;
    for (const window of windows) {
      if (cursor.position >= window.end) continue;
      if (cursor.windows <= window.index) {
        const content = cursor.step > 0 ? await this.contentStats() : {};
        const metrics = await this.scoreWindow(window, firstWindow);
        cursor.windows = window.index + 1;
        const { step, windows: number } = cursor;
        this.#run?.metrics({ step, part: 'window', window: number, windows: windows.length, ...flatMetrics(metrics) });
        yield { type: 'window', window: number, windows: windows.length, step, metrics, content };
      }
      yield* this.epoch(windows.length, signal, window);
      if (this.#run !== null && cursor.position < windows.at(-1)!.end) yield* this.checkpoint();
    }
    cursor.epoch = 1;
    cursor.position = 0;
  }

  /** Metrics of a window with the weights as they are. Items that only later windows show are not looked at. */
  private async scoreWindow(window: TimeWindow, firstWindow: Int32Array): Promise<Slices> {
    const { unit, evalBatchSize, prefetch, prefetchBytes, seed } = this.settings;
    const { start: position, end, rows, units, index } = window;
    const batchSize = Math.max(1, Math.floor((evalBatchSize * units) / rows.length));
    const ahead = { prefetch, prefetchBytes };
    const loader = this.#data.loader({ part: 'train', byTime: true, position, end, batchSize, unit, seed, ...ahead });
    const items = Int32Array.from([...firstWindow.keys()].filter((item) => firstWindow[item]! <= index));
    const pass = { ...this.passSettings, items };
    const predictions = await predict(this.#model, this.#data, loader, rows, this.#cursor.step, pass);
    const cold = Uint8Array.from(predictions.events, (event) =>
      firstWindow[this.#data.columns.item[event]!] === index ? 1 : 0,
    );
    return metricsOf({ ...predictions, cold });
  }

  /** The rest of an epoch, or of a window of order 'time', which is told as an epoch. */
  private async *epoch(
    epochs: number,
    signal: AbortSignal | undefined,
    window: TimeWindow | null = null,
  ): AsyncGenerator<TrainEvent, void> {
    const { batchSize, unit, prefetch, prefetchBytes, seed } = this.settings;
    const { refreshSteps, lastEpochFactor, checkpointEveryMinutes } = this.settings;
    const cursor = this.#cursor;
    // Between two epochs, after the evaluation: what is evaluated is what was trained.
    const number = window?.index ?? cursor.epoch;
    if (refreshSteps === null && number > 0 && cursor.position === (window?.start ?? 0)) this.refresh();
    const loader = this.#data.loader({
      part: 'train',
      epoch: cursor.epoch + (cursor.stage === 'encoder' ? 1_000_000 : 0),
      position: cursor.position,
      batchSize,
      unit,
      prefetch,
      prefetchBytes,
      seed,
      augment: true,
      ...(window === null ? {} : { byTime: true, end: window.end }),
    });
    const encodes = this.#model.encodesItems && (cursor.stage === 'encoder' || !this.#model.frozenContent);
    const isLast = window === null && cursor.stage === 'ranker' && cursor.epoch === epochs - 1;
    const factor = isLast ? lastEpochFactor : 1;
    const inFlight: (QueuedStep & { step: number; epochStep: number; size: number })[] = [];
    const started = performance.now();
    let samples = 0;
    let epochStep = 0;
    const settle = async (): Promise<StepEvent> => {
      const { loss, clipFactor, step, epochStep: at, size } = inFlight.shift()!;
      const [value, factor] = await Promise.all([loss.item(), clipFactor.item()]).finally(() => {
        loss.dispose();
        clipFactor.dispose();
      });
      this.#model.settle?.(step, factor > 0);
      samples += size;
      this.#skipped = Number.isFinite(value) && factor > 0 ? 0 : this.#skipped + 1;
      const seconds = (performance.now() - started) / 1000;
      return {
        type: 'step',
        stage: cursor.stage,
        step,
        epoch: number + 1,
        epochs,
        epochStep: at,
        loss: value,
        samplesPerSecond: samples / seconds,
        dataWait: loader.waitSeconds / seconds,
      };
    };
    const settled = async (): Promise<(StepEvent | WarningEvent)[]> => {
      const event = await settle();
      const { step } = event;
      this.#run?.metrics({
        step: event.step,
        epoch: event.epoch,
        part: 'train',
        loss: event.loss,
        samples_per_s: Math.round(event.samplesPerSecond),
        data_wait: Number(event.dataWait.toFixed(4)),
      });
      if (this.#skipped >= stopAfterSkipped)
        throw new NonFiniteError(
          `trainer: loss or gradients were not finite in ${this.#skipped} steps in a row, the last at step ${step}`,
          { step },
        );
      if (this.#skipped === 0) return [event];
      const message = `step ${step} was skipped: its loss or a gradient is not finite`;
      return [event, { type: 'warning', step, message, error: null }];
    };
    try {
      for await (const batch of loader) {
        if (signal?.aborted) break;
        cursor.step++;
        epochStep++;
        this.device.setStep(cursor.step);
        const queued = this.trainStep(batch, factor);
        inFlight.push({ ...queued, step: cursor.step, epochStep, size: batch.size });
        cursor.position = batch.end;
        if (encodes) cursor.calls = this.#counted(cursor.calls, batch, queued.encoded);
        loader.recycle(batch); // all of it was copied when the step was queued
        if (refreshSteps !== null && cursor.step % refreshSteps === 0) this.refresh();
        if (inFlight.length >= 2) yield* await settled();
        if (
          this.#run !== null &&
          checkpointEveryMinutes !== null &&
          performance.now() - this.#savedAt > checkpointEveryMinutes * 60_000
        ) {
          while (inFlight.length > 0) yield* await settled();
          yield* this.checkpoint();
        }
      }
      while (inFlight.length > 0) yield* await settled();
    } finally {
      // Also after a break or an error: what was committed on the device is known to the host.
      while (inFlight.length > 0) await settled().catch(() => undefined);
    }
    if (signal?.aborted) {
      if (this.#run !== null) {
        yield* this.checkpoint();
        yield* this.finish();
      }
      signal.throwIfAborted();
    }
    if (window !== null) return;
    cursor.epoch++;
    cursor.position = 0;
  }

  /** Snapshots follow the encoder while it trains. */
  private refresh(): void {
    if (this.#cursor.stage === 'encoder' || !this.#model.frozenContent) this.#model.refresh();
  }

  /** Queues one whole step. Nothing is read back here. */
  private trainStep(batch: Batch, learningRateFactor: number): QueuedStep {
    const { step, stage } = this.#cursor;
    return randomScope({ seed: this.settings.seed, step }, () =>
      tidy(() => {
        const context = { training: true, step, stage } as const;
        const { loss, encoded } = inPrecision(this.settings.precision, () => this.#model.graph(batch, context));
        backward(loss);
        this.optimizer.step({ learningRateFactor, step, loss });
        this.optimizer.zeroGrad();
        this.#model.commit(step, this.optimizer.clipFactor);
        return { loss, clipFactor: clone(this.optimizer.clipFactor), encoded };
      }),
    );
  }

  /** Numbers about the stored content, and the share of different items that no encoder ran for so far; also as a line of metrics. */
  private async contentStats(): Promise<Readonly<Record<string, number>>> {
    const of = (await this.#model.contentStats?.()) ?? {};
    const { step, epoch, calls } = this.#cursor;
    if (Object.keys(of).length === 0) return of;
    const stats = { ...of, ...(calls.distinct > 0 ? { calls_saved: 1 - calls.items / calls.distinct } : {}) };
    this.#run?.metrics({ step, epoch, part: 'bank', ...stats });
    return stats;
  }

  /** Metrics of valid; returns whether they are the best so far. */
  private async *validate(): AsyncGenerator<TrainEvent, boolean> {
    const cursor = this.#cursor;
    const content = await this.contentStats();
    const metrics = await this.metrics('valid');
    const value = metricValue(metrics.all, this.settings.validMetric);
    const score = value === null ? null : this.settings.validMetric === 'logloss' ? -value : value;
    // A metric that no group or class allows (null) never improves.
    const best = score !== null && (cursor.bestScore === null || score > cursor.bestScore);
    if (best) {
      cursor.bestScore = score;
      cursor.bestStep = cursor.step;
      cursor.worse = 0;
      this.#best = await readTensors(this.#model.state());
    } else cursor.worse++;
    this.#run?.metrics({
      step: cursor.step,
      epoch: cursor.epoch,
      part: 'valid',
      split: this.#data.splitManifest.rule,
      ...flatMetrics(metrics),
    });
    yield { type: 'eval', part: 'valid', step: cursor.step, epoch: cursor.epoch, metrics, best, content };
    return best;
  }

  /** Scores of every row of a part, with the weights as they are. Opening `test` is counted by the data set. */
  async predict(part: 'valid' | 'test'): Promise<Predictions> {
    return this.predictPart(this.openPart(part));
  }

  private async predictPart({ rows, loader }: OpenPart): Promise<Predictions> {
    await this.moveModel();
    const { evalBatchSize: batchSize, prefetch, prefetchBytes } = this.settings;
    const read = loader({ batchSize, prefetch, prefetchBytes });
    return predict(this.#model, this.#data, read, rows, this.#cursor.step, this.passSettings);
  }

  private get passSettings() {
    return { precision: this.settings.precision, onProgress: this.#onProgress };
  }

  private openPart(part: 'valid' | 'test'): OpenPart {
    if (part === 'test') return this.#data.openTest();
    return { rows: this.#data.columns.parts.valid, loader: (options) => this.#data.loader({ ...options, part }) };
  }

  /** Click metrics of a part, and those of a full ranking where the settings ask for one. */
  private async metrics(part: 'valid' | 'test'): Promise<Slices> {
    const opened = this.openPart(part);
    const metrics = await metricsOf(await this.predictPart(opened));
    const { ranking } = this.settings;
    if (ranking === null) return metrics;
    return { ...metrics, all: { ...metrics.all, ranking: await this.rank(part, opened, ranking) } };
  }

  private async rank(
    part: 'valid' | 'test',
    { rows, loader }: OpenPart,
    ranking: RankingSettings,
  ): Promise<NonNullable<SliceMetrics['ranking']>> {
    const model = this.#model;
    const data = this.#data;
    const { evalBatchSize: batchSize, prefetch, prefetchBytes, precision } = this.settings;
    const { step } = this.#cursor;
    const items = data.schema.items;
    try {
      const keys = Int32Array.from({ length: items }, (_, i) => i);
      await encodeItems(model, data, 'overlay', keys, step, this.passSettings);
      return await rankPart(model, data, part, rows, ranking, {
        load: (candidates) => loader({ batchSize, prefetch, prefetchBytes, candidates }),
        run: (batch) => inPrecision(precision, () => model.predict(batch, step)),
        onProgress: this.#onProgress,
      });
    } finally {
      model.dropOverlay();
    }
  }

  /** Metrics of a part and its slices. */
  async evaluate(part: 'valid' | 'test'): Promise<Slices> {
    const metrics = await this.metrics(part);
    this.#run?.metrics({
      step: this.#cursor.step,
      part,
      split: this.#data.splitManifest.rule,
      ...flatMetrics(metrics),
    });
    return metrics;
  }

  /** Puts the weights of the best validation back; false where none was taken. */
  restoreBest(): boolean {
    if (this.#best === null) return false;
    this.#model.load(fromHost(this.#best));
    return true;
  }

  // ---- checkpoints

  private get checkpointDir(): string {
    if (this.#run === null)
      throw new ArgumentError('trainer: expected a run folder but this trainer has none', { argument: 'run' });
    return this.#run.checkpointDir;
  }

  private digests(): Record<string, string> {
    const { digest, splitManifest } = this.#data;
    return { config: this.#configDigest, data: digest, split: splitManifest.parts.train };
  }

  /** Starts a save: the state is copied now, written while training goes on. Yields what became of the one before. */
  private async *checkpoint(): AsyncGenerator<TrainEvent, void> {
    yield* this.finish();
    this.#savedAt = performance.now();
    const copy = await this.copyState();
    const { step } = this.#cursor;
    this.#saving = this.write(copy, undefined).catch((error: unknown): WarningEvent => {
      if (!(error instanceof StorageError)) throw error;
      return { type: 'warning', step, message: `checkpoint at step ${step} was not written: ${error.message}`, error };
    });
    this.#saving.catch(() => undefined); // told by `finish`
  }

  private async *finish(): AsyncGenerator<TrainEvent, void> {
    const saving = this.#saving;
    this.#saving = null;
    if (saving !== null) yield await saving;
  }

  private async copyState(): Promise<{
    dense: Map<string, HostTensor>;
    optimizer: Map<string, HostTensor>;
    cursor: Cursor;
  }> {
    const [dense, optimizer] = await Promise.all([
      readTensors(this.#model.state()),
      readTensors(this.optimizer.state()),
    ]);
    return { dense, optimizer, cursor: { ...this.#cursor } };
  }

  private async write(
    copy: Awaited<ReturnType<Trainer['copyState']>>,
    name: string | undefined,
  ): Promise<CheckpointEvent> {
    const { dense, optimizer, cursor } = copy;
    const best = cursor.bestStep === cursor.step ? cursor.bestScore : null;
    const saved = await saveCheckpoint({
      dir: this.checkpointDir,
      step: cursor.step,
      ...(name === undefined ? {} : { name }),
      tensors: { dense, optimizer },
      score: best,
      digests: this.digests(),
      state: { inputs: encoderInputs(this.#data) },
      cursor: { ...cursor, calls: { ...cursor.calls } },
      keepLast: this.settings.keepLast,
      ...(this.#run === null ? {} : { lock: this.#run.lock }),
    });
    return { type: 'checkpoint', step: cursor.step, name: saved.name, digest: saved.digest };
  }

  /** Saves a checkpoint under `name` (default `step-N`; of a path the last part counts); resolves when it is durable. Rejects with `StorageError`. */
  async save(name?: string): Promise<CheckpointEvent> {
    await this.open();
    if (this.#saving !== null) await this.#saving;
    return this.write(await this.copyState(), name === undefined ? undefined : basename(name));
  }

  /** Restores weights, optimizer and cursor: 'latest', 'best' or a checkpoint's name, from the run folder or from `dir`. */
  async load(
    which = 'latest',
    dir: string = this.checkpointDir,
  ): Promise<{ name: string; step: number; rejected: readonly { name: string; reason: string }[] }> {
    await this.moveModel();
    const loaded = await loadCheckpoint({
      dir,
      which,
      expect: { digests: this.digests() },
      ...(this.#run === null ? {} : { lock: this.#run.lock }),
    });
    const { dense, optimizer } = loaded.tensors;
    if (dense === undefined || optimizer === undefined)
      throw new CheckpointMismatchError(
        `trainer: expected tensors dense and optimizer in ${loaded.name} but received ${Object.keys(loaded.tensors).join(', ')}`,
        {},
      );
    const cursor = loaded.manifest.cursor as unknown as Cursor;
    this.#cursor = { ...cursor, windows: cursor.windows ?? 0 };
    this.#model.load(fromHost(dense));
    this.optimizer.load(new Map([...fromHost(optimizer)].map(([name, { data }]): [string, HostArray] => [name, data])));
    return { name: loaded.name, step: cursor.step, rejected: loaded.rejected };
  }

  /** Checkpoints know nothing of devices: what was saved on one is loaded wherever this trainer trains. */
  private async moveModel(): Promise<void> {
    if (this.#model.device !== this.device.name) await this.#model.moveTo(this.device.name);
    await this.#model.ready?.();
  }

  /** Moves the model and opens `runDir` once, for a new run or to continue its newest checkpoint. */
  private async open(): Promise<void> {
    await this.moveModel();
    if (this.#runDir === null || this.#run !== null) return;
    const runDir = this.#runDir;
    const newest = this.#resume
      ? Math.max(...(await listCheckpoints(join(runDir, 'checkpoints'))).map(({ manifest }) => manifest?.step ?? 0), 0)
      : 0;
    this.#run = await openRunFolder({
      runDir,
      ...(this.#resume ? { resume: { step: newest } } : {}),
      resolvedConfig: stringify({ train: this.settings }),
      configDigest: this.#configDigest,
      metadata: { node: process.version, device: this.device.name, data: this.#data.digest },
      splitManifest: { ...this.#data.splitManifest, leak_checks: this.#data.leakChecks },
    });
    this.#ownsRun = true;
    if (this.#resume) await this.load('latest');
  }

  /** Ends a save that is under way, closes the run folder that this trainer opened, and releases the optimizer's state. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#saving?.catch(() => undefined);
    if (this.#ownsRun) await this.#run?.close();
    this.#optimizer?.dispose();
  }
}
