/** From the id and number features of a batch to the inputs of a ranker. */
import type { Batch, Jagged } from '../data/loader/batch.js';
import {
  type CategoricalFeature,
  type EmbeddingFeature,
  type Feature,
  featureNamed,
  type HistoryFeature,
  type NumericFeature,
  type Schema,
  type SequenceFeature,
} from '../data/schema.js';
import { ArgumentError } from '../errors.js';
import { Embedding } from '../nn/embedding.js';
import { type Initializer, Module } from '../nn/module.js';
import { concat } from '../ops/concat.js';
import { embeddingBag } from '../ops/embedding_bag.js';
import { gatherRows } from '../ops/gather_rows.js';
import { type DeviceName, type HostArray, type Tensor, tensor } from '../tensor.js';
import { makeHistory } from './history.js';
import type { HistoryInput, IdInput, RankerInput, RankerSpec } from './ranker.js';

export interface FeatureEmbedderOptions {
  /** Width of tables whose feature states none. */
  readonly embeddingDim: number;
  /** All tables get `embeddingDim`, whatever their features state: FM multiplies vectors of all of them. Default false. */
  readonly oneWidth?: boolean;
  /** Names of the features used; null: every categorical, numeric, sequence and history feature, and given vectors. */
  readonly features?: readonly string[] | null;
  /** Given vectors that are content tokens: `features: null` leaves them out. */
  readonly content?: readonly string[];
  /** Standard deviation of the initial id vectors. Default that of `Embedding`. */
  readonly std?: number;
}

/** A `RankerInput` with the id vectors by feature name, for products with content. */
export interface EmbeddedFeatures extends RankerInput {
  /** (B, D) of every categorical feature, of every sequence feature that is no history (mean), and of every feature that a history is of. */
  readonly embeddings: ReadonlyMap<string, Tensor>;
}

type TableFeature = CategoricalFeature | SequenceFeature | HistoryFeature;

/** A feature that lists earlier ids of the feature `of`. */
type PastFeature = HistoryFeature | (SequenceFeature & { readonly of: string });

/** Features that become one history: their vectors side by side, row by row. */
interface HistoryGroup {
  readonly name: string;
  readonly features: readonly PastFeature[];
  /** Made of events, which have times. */
  readonly timed: boolean;
}

/** Names that the embedder gives to vectors and histories of its own. */
const numbersName = 'numeric';
const historiesName = 'ids';
/** Names of histories that no column may bear; the second is that of content. */
const takenNames = [historiesName, 'content'];

function isPast(feature: Feature): feature is PastFeature {
  return feature.type === 'history' || (feature.type === 'sequence' && feature.of !== undefined);
}

function hasTable(feature: Feature): feature is TableFeature {
  return feature.type === 'categorical' || feature.type === 'sequence' || feature.type === 'history';
}

/**
 * Id tables, numbers in one vector, all histories of events side by side in one history named `ids`, and a history of its own for each
 * sequence that lists earlier ids.
 */
export class FeatureEmbedder extends Module {
  /** Tables by the name of the feature that owns them. */
  readonly tables: Map<string, Embedding>;
  readonly #owner: ReadonlyMap<string, string>;
  readonly #categorical: readonly CategoricalFeature[];
  /** Those that enter as their mean. */
  readonly #sequences: readonly SequenceFeature[];
  readonly #histories: readonly HistoryGroup[];
  readonly #numeric: readonly NumericFeature[];
  readonly #given: readonly EmbeddingFeature[];
  readonly #dtype: Initializer['dtype'];

  constructor(
    init: Initializer,
    schema: Schema,
    { embeddingDim, oneWidth = false, features = null, content = [], std }: FeatureEmbedderOptions,
  ) {
    super();
    const refuse = (name: string, expected: string, got: string): never => {
      throw new ArgumentError(`FeatureEmbedder: feature ${name}: expected ${expected} but received ${got}`, {
        argument: name,
      });
    };
    const used =
      features === null
        ? schema.features.filter(
            (feature) =>
              hasTable(feature) ||
              feature.type === 'numeric' ||
              (feature.type === 'embedding' && !content.includes(feature.name)),
          )
        : features.map((name) => featureNamed(schema, name));
    for (const feature of used) {
      if (!hasTable(feature) && feature.type !== 'numeric' && feature.type !== 'embedding')
        refuse(feature.name, 'an id, number, sequence, history or embedding feature', `type ${feature.type}`);
      if (feature.name === numbersName) refuse(feature.name, `another name than ${numbersName}`, feature.name);
    }
    this.#dtype = init.dtype;
    this.#categorical = used.filter((feature) => feature.type === 'categorical');
    this.#sequences = used.filter((feature) => feature.type === 'sequence').filter((feature) => !isPast(feature));
    const past = used.filter(isPast);
    const events = past.filter(({ type }) => type === 'history');
    this.#histories = [
      ...(events.length === 0 ? [] : [{ name: historiesName, features: events, timed: true }]),
      ...past
        .filter(({ type }) => type === 'sequence')
        .map((feature) => ({ name: feature.name, features: [feature], timed: false })),
    ];
    this.#numeric = used.filter((feature) => feature.type === 'numeric');
    this.#given = used.filter((feature) => feature.type === 'embedding');

    const ownerOf = (feature: TableFeature): TableFeature => {
      if (feature.shareEmbedding === null) return feature;
      const other = featureNamed(schema, feature.shareEmbedding);
      return hasTable(other) ? ownerOf(other) : refuse(feature.name, 'to share the table of an id feature', other.name);
    };
    this.tables = new Map();
    const owner = new Map<string, string>();
    this.#owner = owner;
    const place = (feature: TableFeature): void => {
      const { name, vocabularySize, embeddingDim: width } = ownerOf(feature);
      owner.set(feature.name, name);
      if (feature.vocabularySize > vocabularySize)
        refuse(feature.name, `ids of the ${vocabularySize} rows of ${name}`, `${feature.vocabularySize} rows`);
      if (this.tables.has(name)) return;
      const options = std === undefined ? {} : { std };
      const columns = oneWidth ? embeddingDim : (width ?? embeddingDim);
      const table = new Embedding(init.at(`tables.${name}`), vocabularySize, columns, options);
      this.tables.set(name, table);
    };
    for (const feature of used) if (hasTable(feature)) place(feature);

    for (const history of past) {
      const of = featureNamed(schema, history.of);
      if (of.type !== 'categorical') return refuse(history.name, 'a history of an id feature', `type ${of.type}`);
      place(of);
      const [target, own] = [history.of, history.name].map((name) => this.tableOf(name).embeddingDim);
      const stated = history.type === 'sequence' && !oneWidth ? (history.embeddingDim ?? own) : own;
      if (stated !== target) refuse(history.name, `vectors of the width ${target} of ${history.of}`, `${stated}`);
      if (history.type === 'sequence' && takenNames.includes(history.name))
        refuse(history.name, `another name than ${takenNames.join(', ')}`, history.name);
    }
    for (const { name, maxLen } of events)
      if (maxLen !== events[0]!.maxLen)
        refuse(name, `the length ${events[0]!.maxLen} of the other histories`, `${maxLen}`);
  }

  private tableOf(feature: string): Embedding {
    return this.tables.get(this.#owner.get(feature)!)!;
  }

  /** Sizes of what `forward` returns. */
  spec(): RankerSpec {
    const vectors = new Map<string, number>();
    const ids = new Map<string, number>();
    for (const { name } of [...this.#categorical, ...this.#sequences]) {
      vectors.set(name, this.tableOf(name).embeddingDim);
      ids.set(name, this.tableOf(name).numEmbeddings);
    }
    const histories = this.#histories.map(({ name, features, timed }) => {
      for (const feature of features) ids.set(feature.name, this.tableOf(feature.name).numEmbeddings);
      const width = features.reduce((total, feature) => total + this.tableOf(feature.name).embeddingDim, 0);
      return { name, width, ids: features.map((feature) => feature.name), timed };
    });
    if (this.#numeric.length > 0) vectors.set(numbersName, this.#numeric.length);
    for (const { name, dim } of this.#given) vectors.set(name, dim);
    return { vectors, ids, histories, floats: this.#numeric.length > 0 ? [numbersName] : [] };
  }

  /** Uploads the ids and numbers of the batch to `device` and looks the ids up. */
  forward(batch: Batch, device: DeviceName = this.device): EmbeddedFeatures {
    const upload = (values: HostArray): Tensor => tensor(values, [values.length], { device });
    const vectors = new Map<string, Tensor>();
    const embeddings = new Map<string, Tensor>();
    const ids = new Map<string, IdInput>();
    const lookUp = (name: string): Tensor => {
      const before = embeddings.get(name);
      if (before !== undefined) return before;
      const rows = upload(valueOf(batch.categorical, name));
      if (this.#categorical.some((feature) => feature.name === name)) ids.set(name, { rows, offsets: null });
      const found = this.tableOf(name).forward(rows);
      embeddings.set(name, found);
      return found;
    };
    for (const { name } of this.#categorical) vectors.set(name, lookUp(name));
    for (const { name } of this.#sequences) {
      const { values, offsets } = valueOf(batch.sequences, name);
      const input = { rows: upload(values), offsets: upload(offsets) };
      const bag = embeddingBag(this.tableOf(name).table, input.rows, { offsets: input.offsets, mode: 'mean' });
      ids.set(name, input);
      vectors.set(name, bag);
      embeddings.set(name, bag);
    }
    if (this.#numeric.length > 0) vectors.set(numbersName, this.numbers(batch, device));
    for (const { name } of this.#given) vectors.set(name, this.given(batch, name, device));
    return {
      vectors,
      ids,
      embeddings,
      histories: this.#histories.map((group) => this.history(group, batch, ids, lookUp)),
    };
  }

  /** The numbers of each batch row side by side, (B, n). */
  private numbers({ size, numeric }: Batch, device: DeviceName): Tensor {
    const n = this.#numeric.length;
    const host = this.#dtype === 'float64' ? new Float64Array(size * n) : new Float32Array(size * n);
    this.#numeric.forEach(({ name }, column) => {
      const values = valueOf(numeric, name);
      for (let b = 0; b < size; b++) host[b * n + column] = values[b]!;
    });
    return tensor(host, [size, n], { device });
  }

  /** Given vectors (B, dim) of the items of the rows; zeros where an item has none. */
  private given({ items }: Batch, name: string, device: DeviceName): Tensor {
    const { values, present, dim } = valueOf(items.vectors ?? {}, name);
    const host = this.#dtype === 'float64' ? Float64Array.from(values) : values;
    const unique = tensor(host, [present.length, dim], { device });
    return gatherRows(unique, tensor(items.index, [items.index.length], { device }));
  }

  private history(
    { name, features }: HistoryGroup,
    batch: Batch,
    ids: Map<string, IdInput>,
    lookUp: (name: string) => Tensor,
  ): HistoryInput {
    const { offsets, gaps } = valueOf(batch.sequences, features[0]!.name);
    const rows = features.map(({ name }) => {
      const history: Jagged = valueOf(batch.sequences, name);
      const indices = this.place(history.values);
      ids.set(name, { rows: indices, offsets: this.place(history.offsets) });
      return this.tableOf(name).forward(indices);
    });
    const target = concat(
      features.map(({ of }) => lookUp(of)),
      { axis: 1 },
    );
    const same = (name: string): Tensor => this.sameAsTarget(batch, features.find((feature) => feature.name === name)!);
    const known = gaps === undefined ? { same } : { same, gaps };
    return makeHistory({ name, target, rows: concat(rows, { axis: 1 }), offsets, ...known });
  }

  /** (T) 1 where the id of the feature is the target's, else 0: of ids that are unknown (row 0) nobody knows whether they are the same. */
  private sameAsTarget(batch: Batch, { name, of }: PastFeature): Tensor {
    const { values, offsets } = valueOf(batch.sequences, name);
    const target = valueOf(batch.categorical, of);
    const host = this.#dtype === 'float64' ? new Float64Array(values.length) : new Float32Array(values.length);
    target.forEach((id, b) => {
      for (let at = offsets[b]!; at < offsets[b + 1]!; at++) host[at] = id !== 0 && values[at] === id ? 1 : 0;
    });
    return this.place(host);
  }
}

function valueOf<T>(values: Readonly<Record<string, T>>, name: string): T {
  const found = values[name];
  if (found === undefined)
    throw new ArgumentError(
      `FeatureEmbedder: expected a batch with feature ${name} but received ${Object.keys(values).join(', ') || 'none of its kind'}`,
      { argument: name },
    );
  return found;
}
