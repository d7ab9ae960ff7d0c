/** What the trainer asks of a model. */
import type { Batch, TokenBatch } from '../data/loader/batch.js';
import type { ContentTable } from '../nn/content_table.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { ItemContent } from './content.js';
import type { EncoderAdapters } from './encoder_adapters.js';
import type { FrozenEncoders } from './frozen_features.js';
import type { PretrainedEncoders } from './pretrained.js';

/** Parameters that share a learning rate. */
export interface ParameterGroups {
  /** Ranker and heads. */
  readonly dense: ReadonlyMap<string, Tensor>;
  /** Id embedding tables: row-sparse gradients. */
  readonly sparse: ReadonlyMap<string, Tensor>;
  /** Content encoders. */
  readonly encoder: ReadonlyMap<string, Tensor>;
  /** Token, position and type tables of the encoders: row-sparse gradients. */
  readonly encoderSparse: ReadonlyMap<string, Tensor>;
  /** Low-rank updates. */
  readonly lora: ReadonlyMap<string, Tensor>;
}

/** The loss of one batch, its parts by name (each a scalar, unweighted), and the logits (B) of the main task. */
export interface StepGraph {
  readonly loss: Tensor;
  readonly parts: Readonly<Record<string, Tensor>>;
  readonly logits: Tensor;
  /** Items that this step encoded, and how many of them with gradient. Where it is left out: every distinct item of the batch. */
  readonly encoded?: { readonly items: number; readonly live: number };
}

export interface StepContext {
  readonly training: boolean;
  /** Global step, from 1. */
  readonly step: number;
  /** 'encoder' is the first stage of `two_stage`: the contrastive loss alone. */
  readonly stage: 'ranker' | 'encoder';
}

/** Gives texts and pictures of item rows: of those that the last advance of `encodeItems` has given. */
export type ItemContentSource = (keys: Int32Array) => ItemContent;

/** What a tensor of the state is needed for: scoring from stored item vectors, encoding items, or neither of them. */
export type StateUse = 'score' | 'encode' | 'neither';

/** How a model scores from stored item vectors, without its item encoders: what an export writes and a predictor reads. */
export interface ServedContent {
  /** The table that `predict` reads: that of an evaluation between `encodeItems` and `dropOverlay`, else one given by `readFrom`. */
  table(): ContentTable;
  /** `predict` reads this table from now on; item rows of a batch are rows of it. The caller disposes it. */
  readFrom(table: ContentTable): void;
  /** To be called for each part of such a table: `rows` (n, width) were written at `keys` (n). */
  noteRows(keys: Int32Array, rows: Float32Array): void;
  /** Steps (n) int32 since the vectors of `keys` in an evaluation's table were encoded; -1: encoded for it. */
  ages(keys: Int32Array, now: number): Tensor;
  /** What the table holds (n, width) of items with this content, without gradient. */
  encode(content: ItemContent): Tensor;
  /** Vectors (n, width) of `keys` as history items, from that table; those of targets are `contentVectors`. */
  history(keys: Int32Array, now: number): Tensor;
  /** Histories of item vectors that scores read, and how many of the latest items each holds. */
  readonly histories: readonly { readonly name: string; readonly length: number }[];
  /** Vectors (n, width) of query texts, without gradient; null where scores read none. */
  queries(text: TokenBatch): Tensor | null;
  /** What of an item may be there or not, in the order of the flags that scores read. */
  readonly modalities: readonly string[];
  use(name: string): StateUse;
}

export interface RecommenderModel extends Module {
  /** Before training: what the train part says of the items, here how many rows each has (items). */
  prepare?(items: { readonly trainCount: Int32Array }): void;
  /** What has to be computed before the first batch, and after a move to another device. Waits for the device; done once. */
  ready?(): Promise<void>;
  /** Vectors (users, D) and (items, D) whose dot products are the logits: what a full ranking multiplies. Without gradient. */
  rankingVectors?(): { readonly users: Tensor; readonly items: Tensor };
  /** Builds the graph of one batch. Runs inside `tidy`; only queues work. */
  graph(batch: Batch, context: StepContext): StepGraph;
  /** Logits (B) of one batch, without gradient. */
  predict(batch: Batch, step: number): Tensor;
  /** The same of every label that the model learns, by its name, the main one first. Absent: it learns that one. */
  predictTasks?(batch: Batch, step: number): ReadonlyMap<string, Tensor>;
  groups(): ParameterGroups;
  /** After the optimizer has run: makes staged content permanent unless `factor` (1) is 0. */
  commit(step: number, factor: Tensor | null): void;
  /** What became of a step, once the host knows: `accepted` is false where it was skipped. May come while later steps are under way. */
  settle?(step: number, accepted: boolean): void;
  /** Numbers about the content that is stored, by name, as of the last training step. Waits for the device. */
  contentStats?(): Promise<Readonly<Record<string, number>>>;
  /** Renews the snapshots of the LoRA path: called at the beginning of every epoch but the first, or every so many steps. */
  refresh(): void;
  /** True where a first stage trains the encoder alone. */
  readonly encoderStageEpochs: number;
  /** True where the model reads texts or pictures of items. */
  readonly encodesItems: boolean;
  /** True where item vectors are computed once before training. */
  readonly frozenContent: boolean;
  /** To be awaited before `encodeItems` for an evaluation of `keys`, where the model must ask the device what it holds. */
  locateItems?(keys: Int32Array, step: number): Promise<void>;
  /**
   * Encodes `keys` in blocks: into the model's own table ('table') or one for an evaluation ('overlay'); advance inside `tidy`. Every
   * advance gives the rows whose content the next one asks for.
   */
  encodeItems(
    target: 'table' | 'overlay',
    keys: Int32Array,
    content: ItemContentSource,
    step: number,
  ): Generator<Int32Array>;
  /** Ends an evaluation: reads go to the model's own table again, what the evaluation encoded is released. */
  dropOverlay(): void;
  /** Low-rank updates of the item encoders; empty where there are none. */
  readonly adapters: EncoderAdapters;
  /** The item encoders where none of them trains; null where one does, or there is none. */
  readonly frozenEncoders: FrozenEncoders | null;
  /** Names of the given vectors that scores read as they are, beside ids and numbers. Absent: none. */
  readonly givenInputs?: readonly string[];
  /** Null for a model that needs no item vectors to score. */
  readonly served: ServedContent | null;
  /** Published encoders that the model was built of, to be filled; null where it has none. */
  readonly pretrained?: PretrainedEncoders | null;
  /** Content vectors (n, width) of `keys` as of the last encoding; null for a model without content. */
  contentVectors(keys: Int32Array, step: number): Tensor | null;
}
