/**
 * What a ranker reads of a batch, on the host and by name: the inputs of an exported graph. Lists of rows are jagged here; a graph gets them
 * padded, each row's entries first (oldest first), and `<list>.present` says which places hold one.
 */
import type { Batch } from '../data/loader/batch.js';
import { featuresOf, type Schema } from '../data/schema.js';
import { ArgumentError, OnnxExportError } from '../errors.js';
import type { RuntimeTensor } from '../io/onnx_runtime.js';
import { presence } from '../models/batch_inputs.js';
import { lastEntries } from '../models/history.js';
import type { RecommenderModel } from '../models/model.js';
import { gapBuckets } from '../nn/time_gaps.js';

/** One value, or one vector of `width`, per row of the batch (dense) or per entry of a list. */
export interface ViewColumn {
  readonly values: Int32Array | Float32Array;
  /** null: a value without a dimension of its own. */
  readonly width: number | null;
}

/** A list per row of the batch: entries offsets[b] .. offsets[b+1] of its columns belong to row b. */
export interface ViewList {
  /** Places that a graph has for the entries of a row. */
  readonly length: number;
  readonly offsets: Int32Array;
  readonly columns: ReadonlyMap<string, ViewColumn>;
  /** Columns that follow from others: 1 where the entry of `list` equals the dense `target`, else 0. */
  readonly same: ReadonlyMap<string, { readonly values: Int32Array; readonly target: Int32Array }>;
}

export interface RankerView {
  readonly size: number;
  readonly dense: ReadonlyMap<string, ViewColumn>;
  readonly lists: ReadonlyMap<string, ViewList>;
}

/** Vectors of every item, by item row: as targets and as entries of a history; zero rows where there is none. */
export interface ItemVectors {
  readonly width: number;
  readonly targets: Float32Array;
  readonly history: Float32Array;
  /** (items) 1 where the item has a vector. */
  readonly found: Uint8Array;
}

/** Where views come from. */
export interface ViewSource {
  readonly model: RecommenderModel;
  readonly schema: Schema;
  /** null for a model of ids alone. */
  readonly vectors: ItemVectors | null;
}

/** Name of the found flags of a history of item vectors; in a view 0 where found and -1 where not. */
export const foundColumn = 'found';

function gathered(rows: Float32Array, width: number, keys: Int32Array): Float32Array {
  const values = new Float32Array(keys.length * width);
  keys.forEach((key, i) => {
    if (key >= 0) values.set(rows.subarray(key * width, (key + 1) * width), i * width);
  });
  return values;
}

/** For a feature whose name is that of something else in a graph. */
export function nameTaken(name: string): OnnxExportError {
  return new OnnxExportError(
    `export: --to onnx: feature ${name}: expected another name, graphs have an input or output ${name} of their own`,
    { feature: name, key: 'feature_cols' },
  );
}

/** The view of one batch. `queries` (B, width): vectors of the query of each row, where the model reads them. */
export function rankerView(
  { model, schema, vectors }: ViewSource,
  batch: Batch,
  queries: Float32Array | null,
): RankerView {
  const { size } = batch;
  const dense = new Map<string, ViewColumn>();
  const lists = new Map<string, ViewList>();
  const put = (name: string, column: ViewColumn): void => {
    if (dense.has(name)) throw nameTaken(name);
    dense.set(name, column);
  };
  for (const { name } of featuresOf(schema, 'categorical'))
    put(name, { values: batch.categorical[name]!, width: null });
  const numbers = featuresOf(schema, 'numeric');
  if (numbers.length > 0) {
    const values = new Float32Array(size * numbers.length);
    numbers.forEach(({ name }, column) => {
      for (let b = 0; b < size; b++) values[b * numbers.length + column] = batch.numeric[name]![b]!;
    });
    put('numeric', { values, width: numbers.length });
  }
  for (const { name, dim } of featuresOf(schema, 'embedding')) {
    const given = batch.items.vectors?.[name];
    if (given !== undefined) put(name, { values: gathered(given.values, dim, batch.items.index), width: dim });
  }
  for (const { name, of, maxLen } of featuresOf(schema, 'sequence'))
    lists.set(name, idList(batch, of === undefined ? [{ name }] : [{ name, of }], maxLen));
  const events = featuresOf(schema, 'history');
  const past = lists.has('history') ? 'history_events' : 'history';
  if (events.length > 0) lists.set(past, idList(batch, events, events[0]!.maxLen));
  const { served } = model;
  if (served === null || vectors === null) return { size, dense, lists };
  const { width, targets } = vectors;
  const items = batch.items.index.map((item) => batch.items.rows[item]!);
  put('item_vector', { values: gathered(targets, width, items), width });
  const { modalities } = served;
  put('flags', { values: presence(batch, modalities), width: modalities.length });
  if (queries !== null) put('query_vector', { values: queries, width });
  for (const { name, length } of served.histories) {
    if (batch.history === null)
      throw new ArgumentError(`export: expected batches with histories for ${name} but received none`, {
        argument: 'batch',
      });
    const { values, offsets, gaps } = lastEntries(batch.history, length);
    const columns = new Map<string, ViewColumn>([
      ['vectors', { values: gathered(vectors.history, width, values), width }],
      [foundColumn, { values: values.map((item) => (item >= 0 && vectors.found[item] === 1 ? 0 : -1)), width: null }],
    ]);
    if (gaps !== undefined) columns.set('gap_buckets', { values: gapBuckets(gaps), width: null });
    lists.set(`${name}_items`, { length, offsets, columns, same: new Map() });
  }
  return { size, dense, lists };
}

/** Id lists that share their offsets, one column each. `of`: the feature whose earlier ids a list holds. */
function idList(
  { sequences, categorical }: Batch,
  features: readonly { readonly name: string; readonly of?: string }[],
  length: number,
): ViewList {
  const { offsets, gaps } = sequences[features[0]!.name]!;
  const columns = new Map<string, ViewColumn>();
  const same = new Map<string, { values: Int32Array; target: Int32Array }>();
  for (const { name, of } of features) {
    const { values } = sequences[name]!;
    columns.set(name, { values, width: null });
    if (of !== undefined) same.set(name, { values, target: categorical[of]! });
  }
  if (gaps !== undefined) columns.set('gap_buckets', { values: gapBuckets(gaps), width: null });
  return { length, offsets, columns, same };
}

/** The inputs of a graph by name: dense columns as they are, lists padded with zeros, with `<list>.present`. */
export function rankerFeeds({ size, dense, lists }: RankerView): Map<string, RuntimeTensor> {
  const feeds = new Map<string, RuntimeTensor>();
  for (const [name, { values, width }] of dense) {
    const shape = width === null ? [size] : [size, width];
    feeds.set(
      name,
      values instanceof Int32Array
        ? { dtype: 'int64', shape, data: BigInt64Array.from(values, BigInt) }
        : { dtype: 'float32', shape, data: values },
    );
  }
  for (const [list, { length, offsets, columns }] of lists) {
    const places = (fill: (place: number, entry: number) => void): void => {
      for (let b = 0; b < size; b++)
        for (let l = 0; l < Math.min(length, offsets[b + 1]! - offsets[b]!); l++) fill(b * length + l, offsets[b]! + l);
    };
    const present = new Uint8Array(size * length);
    places((place) => {
      present[place] = 1;
    });
    feeds.set(`${list}.present`, { dtype: 'bool', shape: [size, length], data: present });
    for (const [column, { values, width }] of columns) {
      const name = `${list}.${column}`;
      if (values instanceof Float32Array) {
        const w = width ?? 1;
        const data = new Float32Array(size * length * w);
        places((place, entry) => data.set(values.subarray(entry * w, (entry + 1) * w), place * w));
        feeds.set(name, { dtype: 'float32', shape: width === null ? [size, length] : [size, length, w], data });
      } else if (column === foundColumn) {
        const data = new Uint8Array(size * length);
        places((place, entry) => {
          data[place] = values[entry]! >= 0 ? 1 : 0;
        });
        feeds.set(name, { dtype: 'bool', shape: [size, length], data });
      } else {
        const data = new BigInt64Array(size * length);
        places((place, entry) => {
          data[place] = BigInt(values[entry]!);
        });
        feeds.set(name, { dtype: 'int64', shape: [size, length], data });
      }
    }
  }
  return feeds;
}
