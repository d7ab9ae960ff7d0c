/** The first stage of `two_stage` as a run of its own: encoders alone, by contrast, for any training mode to begin with. */
import { ConfigError } from '../errors.js';
import { buildModel, trainSettings } from './build_model.js';
import { configDigest, type ResolvedConfig } from './config.js';
import {
  checkSplit,
  restartPoint,
  runData,
  runDevice,
  runMetadata,
  stepsPerEpoch,
  type TrainRunOptions,
} from './run.js';
import { openRunFolder } from './run_folder.js';
import { dataNotes } from './run_report.js';
import { Trainer } from './trainer.js';

/** What pretraining came to. */
export interface PretrainResult {
  /** The run folder: what `train.from` takes. */
  readonly path: string;
  /** True where the signal stopped it: it can be resumed. */
  readonly stopped: boolean;
  readonly step: number;
  /** Mean loss of each epoch that this process trained, the last one up to where it was stopped. */
  readonly losses: readonly number[];
  readonly checkpoint: { readonly name: string; readonly digest: string } | null;
}

/**
 * Trains the encoders of `resolved` alone for `model.two_stage_epochs` epochs: queries against items where there are queries, else each
 * user's latest click against the next, and content against ids where `model.cic` has a weight. Neither valid nor test is looked at.
 * Throws `ConfigError` where the mode is not two_stage, and what `trainRun` throws.
 */
export async function pretrainRun(resolved: ResolvedConfig, options: TrainRunOptions = {}): Promise<PretrainResult> {
  const { config } = resolved;
  const { training } = config.model;
  if (training !== 'two_stage')
    throw new ConfigError(`pretrain: expected model.training two_stage but received ${training}`, {
      key: 'model.training',
    });
  if (config.train.from !== null)
    throw new ConfigError(`pretrain: expected train.from null but received ${config.train.from}`, {
      key: 'train.from',
    });
  const { signal, onEvent, onNote = () => undefined } = options;
  const started = performance.now();
  signal?.throwIfAborted();
  const place = runDevice(config);
  const restart = options.resume === true ? await restartPoint(options.runDir ?? null, onNote) : null;
  const data = options.data ?? (await runData(config, signal === undefined ? {} : { signal }));
  try {
    if (options.data === undefined) for (const line of dataNotes(data, place)) onNote(line);
    if (restart !== null) await checkSplit(restart.path, data.splitManifest);
    using model = buildModel(config, data.schema, place.name);
    const digest = configDigest(config);
    await using run = await openRunFolder({
      ...(options.runDir == null ? {} : { runDir: options.runDir }),
      ...(options.root === undefined ? {} : { root: options.root }),
      ...(restart === null ? {} : { resume: { step: restart.step } }),
      resolvedConfig: resolved.toYaml(),
      configDigest: digest,
      metadata: { ...runMetadata(config, data, place), stage: 'encoder' },
      splitManifest: { ...data.splitManifest, leak_checks: data.leakChecks },
    });
    const settings = trainSettings(config);
    await using trainer = new Trainer({ model, data, device: place.name, settings, run, configDigest: digest });
    if (restart !== null && restart.name !== null) await trainer.load(restart.name);
    const steps = stepsPerEpoch(data, trainer.settings);
    const sums = new Map<number, { loss: number; steps: number }>();
    let checkpoint: PretrainResult['checkpoint'] = null;
    let stopped = false;
    try {
      for await (const event of trainer.pretrain(signal === undefined ? {} : { signal })) {
        onEvent?.(event, steps);
        if (event.type === 'checkpoint') checkpoint = { name: event.name, digest: event.digest };
        else if (event.type === 'warning') onNote(`warning: ${event.message}`);
        else if (event.type === 'step') {
          const sum = sums.get(event.epoch) ?? { loss: 0, steps: 0 };
          sums.set(event.epoch, { loss: sum.loss + event.loss, steps: sum.steps + 1 });
        }
      }
    } catch (error) {
      if (signal?.aborted !== true || error !== signal.reason) throw error;
      stopped = true;
    }
    const losses = [...sums.values()].map((sum) => sum.loss / sum.steps);
    const result = { path: run.path, stopped, step: trainer.step, losses, checkpoint };
    if (!stopped)
      await run.writeSummary({
        stage: 'encoder',
        model: config.model.name,
        modalities: config.model.modalities,
        epochs: config.model.two_stage_epochs,
        steps: trainer.step,
        losses,
        checkpoint,
        split: data.splitManifest.rule,
        seeds: { train: config.train.seed, split: data.splitManifest.seed },
        resumed_at: restart?.step ?? null,
        wall_s: (performance.now() - started) / 1000,
      });
    return result;
  } finally {
    if (options.data === undefined) await data[Symbol.asyncDispose]();
  }
}
