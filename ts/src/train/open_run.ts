/** A run with one of its checkpoints loaded: where evaluating, exporting and looking at it begin. */
import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import type { RecommenderModel } from '../models/model.js';
import { buildModel, trainSettings } from './build_model.js';
import { configDigest, type ResolvedConfig } from './config.js';
import type { OnProgress } from './evaluate.js';
import { useConfiguredFeatures } from './frozen_features.js';
import { checkSplit, runConfig, runData, runDevice } from './run.js';
import { Trainer } from './trainer.js';

export interface OpenRunOptions {
  /** 'best' (default where there was an evaluation), 'latest' or `step-N`. */
  readonly checkpoint?: string;
  /** Where the data are now, if they moved. */
  readonly data?: string | null;
  /** Default: that of the run. */
  readonly device?: string | null;
  readonly onNote?: (line: string) => void;
  readonly onProgress?: OnProgress;
}

/** Dispose it: it holds the data, the model and the trainer. */
export interface OpenRun extends AsyncDisposable {
  readonly config: ResolvedConfig;
  readonly data: Dataset;
  readonly model: RecommenderModel;
  readonly trainer: Trainer;
  /** Name of the checkpoint. */
  readonly checkpoint: string;
  readonly step: number;
}

/**
 * Opens the run in `folder`; bad checkpoints are told. Throws `ConfigError` without a run, `CheckpointMismatchError` for data that are not split
 * as they were, and what `runDevice`, `runData` and `Trainer.load` throw.
 */
export async function openRun(folder: string, options: OpenRunOptions = {}): Promise<OpenRun> {
  const { checkpoint = 'best', onNote = () => undefined, onProgress } = options;
  const resolved = runConfig(folder, options.device ?? null);
  const { config } = resolved;
  const { name: device } = runDevice(config);
  const data = await runData(config, { path: options.data ?? null });
  const open: AsyncDisposable[] = [data];
  const close = async (): Promise<void> => {
    for (const held of open.reverse()) await held[Symbol.asyncDispose]();
  };
  try {
    await checkSplit(folder, data.splitManifest);
    const model = buildModel(config, data.schema, device, data);
    open.push({ [Symbol.asyncDispose]: async () => model.dispose() });
    const settings = trainSettings(config);
    const trainer = new Trainer({ model, data, device, settings, configDigest: configDigest(config), onProgress });
    open.push(trainer);
    const { name, step, rejected } = await trainer.load(checkpoint, join(folder, 'checkpoints'));
    for (const bad of rejected) onNote(`warning: checkpoint ${bad.name} is bad: ${bad.reason}`);
    await useConfiguredFeatures(model, data, config, { onNote });
    return { config: resolved, data, model, trainer, checkpoint: name, step, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}
