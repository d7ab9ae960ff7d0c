/** A small schema with every kind of feature that rankers read, and batches of it. */
import type { Batch, Jagged } from '../../src/data/loader/batch.js';
import type { CategoricalFeature, Feature, HistoryFeature, Schema, SequenceFeature } from '../../src/data/schema.js';
import { streamOf, uniforms } from '../../src/random.js';

function categorical(name: string, vocabularySize: number): CategoricalFeature {
  const source = name === 'user' ? 'user' : 'item';
  return { type: 'categorical', name, source, vocabularySize, embeddingDim: null, shareEmbedding: null };
}

function history(of: string, vocabularySize: number): HistoryFeature {
  const own = { name: `${of}_history`, of, vocabularySize, shareEmbedding: of };
  return { type: 'history', source: 'inter', embeddingDim: null, maxLen: 9, ...own };
}

export function schemaOf(features: readonly Feature[]): Schema {
  return { features, userId: 'user', itemId: 'item', labels: ['label'], users: 5, items: 7, queries: 0 };
}

export const smallSchema = schemaOf([
  categorical('user', 5),
  categorical('item', 7),
  categorical('category', 4),
  { type: 'numeric', name: 'price', source: 'item', transform: 'none', mean: 0, deviation: 1 },
  { type: 'numeric', name: 'age', source: 'user', transform: 'none', mean: 0, deviation: 1 },
  {
    ...{ type: 'sequence', name: 'tags', source: 'item', vocabularySize: 6, embeddingDim: null, maxLen: 3 },
    shareEmbedding: null,
  },
  history('item', 7),
  history('category', 4),
  { type: 'meta', name: 'title', source: 'item' },
]);

function earlierIds(name: string, of: string, vocabularySize: number): SequenceFeature {
  const own = { name, of, vocabularySize, shareEmbedding: of, keep: 'last' as const };
  return { type: 'sequence', source: 'inter', embeddingDim: null, maxLen: 9, ...own };
}

/** Histories that stand in columns of the data: earlier items, and categories of all of them but the oldest. */
export const columnSchema = schemaOf([
  ...smallSchema.features.filter(({ type }) => type !== 'history'),
  earlierIds('clicks', 'item', 7),
  earlierIds('clicked_categories', 'category', 4),
]);

/** The id fields and histories of the AmazonElectronics recipe: 63,806 rows in two tables of one width. */
export const amazonSchema = schemaOf([
  categorical('item', 63_003),
  categorical('category', 803),
  history('item', 63_003),
  history('category', 803),
]);

/** A batch row as plain data, so that tests can reorder rows. */
export interface Row {
  readonly user: number;
  readonly item: number;
  readonly category: number;
  readonly price: number;
  readonly age: number;
  readonly tags: readonly number[];
  readonly items: readonly number[];
  readonly categories: readonly number[];
}

/** Rows with histories of these lengths. */
export function rowsWith(lengths: readonly number[], seed = 1): Row[] {
  return lengths.map((length, b) => {
    const u = uniforms(64, seed, streamOf(`row ${b}`));
    const pick = (at: number, below: number): number => Math.floor(u[at]! * below);
    return {
      user: pick(0, 5),
      item: pick(1, 7),
      category: pick(2, 4),
      price: u[3]! - 0.5,
      age: u[4]! - 0.5,
      tags: Array.from({ length: pick(5, 4) }, (_, i) => pick(6 + i, 6)),
      items: Array.from({ length }, (_, i) => pick(10 + i, 7)),
      categories: Array.from({ length }, (_, i) => pick(30 + i, 4)),
    };
  });
}

export function jagged(lists: readonly (readonly number[])[]): Jagged {
  const offsets = new Int32Array(lists.length + 1);
  lists.forEach((list, b) => {
    offsets[b + 1] = offsets[b]! + list.length;
  });
  return { values: Int32Array.from(lists.flat()), offsets };
}

/** The latest event one second before the target, the one before it three, and so on. */
function withGaps(history: Jagged): Jagged {
  const gaps = new Float32Array(history.values.length);
  for (let b = 0; b + 1 < history.offsets.length; b++)
    for (let at = history.offsets[b]!; at < history.offsets[b + 1]!; at++)
      gaps[at] = 2 ** (history.offsets[b + 1]! - at) - 1;
  return { ...history, gaps };
}

export function batchOf(rows: readonly Row[]): Batch {
  const ints = (pick: (row: Row) => number): Int32Array => Int32Array.from(rows, pick);
  const floats = (pick: (row: Row) => number): Float32Array => Float32Array.from(rows, pick);
  return {
    part: 'train',
    epoch: 0,
    position: 0,
    end: rows.length,
    size: rows.length,
    events: Int32Array.from(rows.keys()),
    user: ints((row) => row.user),
    session: ints(() => -1),
    labels: { label: floats((row) => row.user % 2) },
    categorical: {
      user: ints((row) => row.user),
      item: ints((row) => row.item),
      category: ints((row) => row.category),
    },
    numeric: { price: floats((row) => row.price), age: floats((row) => row.age) },
    sequences: {
      tags: jagged(rows.map((row) => row.tags)),
      clicks: jagged(rows.map((row) => row.items)),
      clicked_categories: jagged(rows.map((row) => row.categories.slice(1))),
      item_history: withGaps(jagged(rows.map((row) => row.items))),
      category_history: withGaps(jagged(rows.map((row) => row.categories))),
    },
    items: { rows: ints((row) => row.item), index: Int32Array.from(rows.keys()), text: null, image: null },
    queries: null,
    history: null,
  };
}
