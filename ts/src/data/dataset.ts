/** The data set: schema, parts, tables and statistics behind the batches, and the loaders that make them. */

import type { Entity } from './entity.js';
import type { Events, PartName } from './events.js';
import type { HistoryParts } from './history.js';
import type { Vocabulary } from './ids.js';
import type { ImageReader } from './images/image_reader.js';
import { gatherImages } from './images/image_store.js';
import type { LeakCheck } from './leak_check.js';
import type { Batch, ImageBatch, ItemBatch, TokenBatch } from './loader/batch.js';
import { type BatchColumns, imageDraw, vectorsOf } from './loader/batch_source.js';
import { BatchMaker, type BatchMakerOptions, Loader, type LoaderOptions } from './loader/loader.js';
import type { Schema } from './schema.js';
import type { Split } from './split.js';
import type { TextPipeline, TextStatistics } from './text/text.js';
import { gatherTokens } from './text/token_store.js';

/** Rule L9: what a checkpoint keeps, and what must be equal when it is evaluated. Digests are SHA-256 (hex). */
export interface SplitManifest {
  readonly rule: string;
  readonly seed: number;
  /** Digests of the input files by name; empty for generated data. */
  readonly files: Readonly<Record<string, string>>;
  readonly sizes: Readonly<Record<PartName, number>>;
  /** Events of new items (they are test). */
  readonly newItemEvents: number;
  /** Digest of each part's event numbers. */
  readonly parts: Readonly<Record<PartName, string>>;
}

/** The items, by item row: every item of the item table, then those that only interactions name. */
export interface ItemTable {
  readonly ids: readonly string[];
  /** Item fields as they were read, by column name. */
  readonly fields: Entity;
  /** (items) events of the train part. */
  readonly trainCount: Int32Array;
  /** (items) 1 for new items (slice *cold*). */
  readonly cold: Uint8Array;
}

/** A pass as a data set makes it: the seed is the data set's own unless given. */
export type PartLoaderOptions<Part extends PartName = 'train' | 'valid'> = Omit<
  LoaderOptions,
  'part' | 'seed' | 'epoch'
> & {
  readonly part: Part;
  readonly epoch?: number;
  readonly seed?: number;
};

/** The unsealed test part (rule L8). */
export interface TestPart {
  /** How often it has been opened, this time included. */
  readonly opening: number;
  /** Event numbers, ascending. */
  readonly rows: Int32Array;
  loader(options: Omit<PartLoaderOptions<'test'>, 'part'>): Loader;
}

/** What a data set is made of, all of it computed by `buildDataset`. */
export interface DatasetParts {
  readonly name: string;
  /** Keys split, shuffle and negatives. */
  readonly seed: number;
  readonly schema: Schema;
  readonly events: Events;
  readonly split: Split;
  readonly columns: BatchColumns;
  readonly historyParts: HistoryParts;
  /** (n) 1 for events whose main label is 1. */
  readonly positive: Uint8Array;
  /** Columns that labels come from: never features. */
  readonly labelColumns: readonly string[];
  readonly allowDuplicates: boolean;
  readonly items: ItemTable;
  /** By dense user number. */
  readonly userIds: readonly string[];
  /** Id vocabularies by feature name. */
  readonly vocabularies: ReadonlyMap<string, Vocabulary>;
  /** How texts become tokens: for serving and for checkpoints. */
  readonly text: { readonly item: TextPipeline | null; readonly query: TextPipeline | null };
  readonly textStatistics: { readonly item: TextStatistics | null; readonly query: TextStatistics | null };
  /** Reads pictures that are not in memory; null where all are. */
  readonly imageReader: ImageReader | null;
  /** What was dropped, filled, truncated or never seen before, by name. */
  readonly counters: Readonly<Record<string, number>>;
  /** SHA-256 (hex) of all columns and the schema. */
  readonly digest: string;
  readonly splitManifest: SplitManifest;
  readonly leakChecks: readonly LeakCheck[];
}

/** Made by `loadDataset`, `datasetFromShop` or `buildDataset`; ends its loader thread on disposal. */
export interface Dataset extends DatasetParts, AsyncDisposable {
  /** Samples per part. */
  readonly sizes: Readonly<Record<PartName, number>>;
  /** Threads that make batches; 0 where they are made on the calling thread. */
  readonly workers: number;
  /** How often the test part was opened; reports show it beside every test metric. */
  readonly testOpenings: number;
  /** Batches of train or valid. Throws ArgumentError for options that do not fit. */
  loader(options: PartLoaderOptions): Loader;
  /** Unseals the test part, which the choice of a model must not see (rule L8). Every call counts. */
  openTest(): TestPart;
  /** Texts, pictures and given vectors of item rows, in their order: to encode a catalogue. ArgumentError for a row outside the table. */
  itemContent(rows: ArrayLike<number>): Promise<{
    text: TokenBatch | null;
    image: ImageBatch | null;
    vectors?: ItemBatch['vectors'];
  }>;
}

/** Puts loaders on top of finished parts. */
export function openDataset(parts: DatasetParts, options: BatchMakerOptions = {}): Dataset {
  const { columns, seed, imageReader } = parts;
  const maker = new BatchMaker(columns, options);
  let openings = 0;
  const loader = (given: PartLoaderOptions<PartName>): Loader => {
    const options = { seed, epoch: 0, ...given };
    const fill = ({ items: { image, rows }, position }: Batch, reader: ImageReader): Promise<void> =>
      reader.fill(image!, rows, imageDraw(options, position));
    return new Loader(maker, options, imageReader && ((batch) => fill(batch, imageReader)));
  };
  return {
    ...parts,
    sizes: {
      train: columns.parts.train.length,
      valid: columns.parts.valid.length,
      test: columns.parts.test.length,
    },
    workers: maker.workers,
    get testOpenings() {
      return openings;
    },
    loader,
    openTest() {
      openings++;
      return {
        opening: openings,
        rows: columns.parts.test,
        loader: (options) => loader({ ...options, part: 'test' }),
      };
    },
    itemContent: async (rows) => ({
      text: columns.itemText && gatherTokens(columns.itemText, rows),
      image: columns.itemImage && (await (imageReader?.gather(rows) ?? gatherImages(columns.itemImage, rows))),
      ...vectorsOf(columns.itemVectors, rows),
    }),
    [Symbol.asyncDispose]: async () => {
      await maker[Symbol.asyncDispose]();
      await imageReader?.[Symbol.asyncDispose]();
    },
  };
}
