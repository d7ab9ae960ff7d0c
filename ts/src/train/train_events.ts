/** What training tells while it runs. */
import type { Slices } from './evaluate.js';

export interface StepEvent {
  readonly type: 'step';
  readonly stage: 'encoder' | 'ranker';
  readonly step: number;
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  /** Steps of this epoch so far, and in all where known. */
  readonly epochStep: number;
  readonly loss: number;
  readonly samplesPerSecond: number;
  /** Share of the time spent waiting for data, 0 to 1. */
  readonly dataWait: number;
}

export interface EvalEvent {
  readonly type: 'eval';
  readonly part: 'valid';
  readonly step: number;
  readonly epoch: number;
  readonly metrics: Slices;
  readonly best: boolean;
  /** Numbers about the stored content as of the last step, where the model keeps some (`RecommenderModel.contentStats`). */
  readonly content: Readonly<Record<string, number>>;
}

/** Order 'time': a window was scored, by weights that no row of it or of later ones has reached. */
export interface WindowEvent {
  readonly type: 'window';
  /** From 1. */
  readonly window: number;
  readonly windows: number;
  readonly step: number;
  /** Of all its rows; `cold` are those of items that no earlier window shows. */
  readonly metrics: Slices;
  /** As of `EvalEvent`. */
  readonly content: Readonly<Record<string, number>>;
}

export interface CheckpointEvent {
  readonly type: 'checkpoint';
  readonly step: number;
  readonly name: string;
  readonly digest: string;
}

/** Something that did not stop training: a checkpoint that could not be written, a skipped step. */
export interface WarningEvent {
  readonly type: 'warning';
  readonly step: number;
  readonly message: string;
  readonly error: Error | null;
}

export interface EndEvent {
  readonly type: 'end';
  readonly reason: 'epochs' | 'early_stop';
  readonly step: number;
  readonly bestStep: number | null;
}

export type TrainEvent = StepEvent | EvalEvent | WindowEvent | CheckpointEvent | WarningEvent | EndEvent;
