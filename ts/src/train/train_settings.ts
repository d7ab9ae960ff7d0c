/** How a model is trained, and what a run uses where nothing is said. */
import { DEFAULT_PREFETCH_BYTES } from '../data/loader/loader.js';
import type { Algorithm } from '../optim/optimizer.js';
import type { Precision } from './evaluate.js';
import type { RankingSettings } from './rank_items.js';

export interface TrainSettings {
  readonly epochs: number;
  /** Rows, or sessions where `unit` is 'session'. */
  readonly batchSize: number;
  readonly evalBatchSize: number;
  readonly unit: 'row' | 'session';
  readonly learningRates: Readonly<Record<'dense' | 'sparse' | 'encoder' | 'lora', number>>;
  /** Steps over which the learning rate of the encoders grows linearly. */
  readonly encoderWarmupSteps: number;
  readonly weightDecay: number;
  readonly sparseAlgorithm: Exclude<Algorithm, 'adamw'>;
  readonly lastEpochFactor: number;
  /** 'time': one pass in time order, in `windows` windows, each scored before it is trained on; `epochs` and `lastEpochFactor` say nothing then. */
  readonly order: 'shuffled' | 'time';
  readonly windows: number;
  readonly clipNorm: number | null;
  readonly seed: number;
  /** AUC, gAUC, QAUC or logloss over all rows of valid, or a metric of `ranking`. */
  readonly validMetric: string;
  /** A full ranking in every evaluation; null: none. */
  readonly ranking: RankingSettings | null;
  readonly earlyStopPatience: number | null;
  readonly evalEveryEpochs: number;
  readonly checkpointEveryMinutes: number | null;
  readonly keepLast: number;
  readonly prefetch: number;
  readonly prefetchBytes: number;
  /** Steps between snapshots of the LoRA path; null: one epoch. */
  readonly refreshSteps: number | null;
  /** 'bf16' needs cuda (or cuda-emu). */
  readonly precision: Precision;
}

/** What a run uses where nothing is said [default]. */
export const defaultSettings: TrainSettings = {
  epochs: 5,
  batchSize: 512,
  evalBatchSize: 4096,
  unit: 'row',
  learningRates: { dense: 1e-3, sparse: 1e-3, encoder: 3e-4, lora: 1e-3 },
  encoderWarmupSteps: 0,
  weightDecay: 0.01,
  sparseAlgorithm: 'rowwise_adam',
  lastEpochFactor: 1,
  order: 'shuffled',
  windows: 10,
  clipNorm: 10,
  seed: 7,
  validMetric: 'AUC',
  ranking: null,
  earlyStopPatience: null,
  evalEveryEpochs: 1,
  checkpointEveryMinutes: 10,
  keepLast: 3,
  prefetch: 2,
  prefetchBytes: DEFAULT_PREFETCH_BYTES,
  refreshSteps: null,
  precision: 'float32',
};
