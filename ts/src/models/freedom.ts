/**
 * FREEDOM and EM3's public release (models.md 7): users and items are ids and, in the release, content vectors of a FusionQFormer, spread
 * over two graphs; a score is a dot product, the loss compares a click with one item that the user has not met. Every step computes all
 * users and all items. Training sees the given vectors of every item of the catalogue, those without clicks too.
 */
import { noGrad } from '../autograd.js';
import type { Dataset } from '../data/dataset.js';
import type { Batch, VectorBatch } from '../data/loader/batch.js';
import { featuresOf } from '../data/schema.js';
import { ArgumentError, ConfigError } from '../errors.js';
import { bpr } from '../losses/bpr.js';
import { cic } from '../losses/cic.js';
import { CicHeads } from '../nn/cic_heads.js';
import { type FusionOptions, FusionQFormer } from '../nn/fusion_q_former.js';
import { Linear } from '../nn/linear.js';
import { Initializer, Module } from '../nn/module.js';
import { concat, slice } from '../ops/concat.js';
import { add, mul, scaleBy } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { sum } from '../ops/reduce.js';
import { type SparseEntries, type SparseMatrix, sparseMatmul, sparseMatrix } from '../ops/sparse_matmul.js';
import { type DeviceName, type Tensor, zeros } from '../tensor.js';
import { keep } from '../tidy.js';
import type { EncoderAdapters } from './encoder_adapters.js';
import { distinctEdges, type Edges, itemGraph, keptEdges, nearestItems, userItemGraph } from './item_graph.js';
import type { ParameterGroups, RecommenderModel, StepContext, StepGraph } from './model.js';
import { mergeOptions, type Partially } from './options.js';
import { parameterGroups } from './parameter_groups.js';

export interface FreedomOptions {
  /** Features of given vectors, in the order in which they follow the queries of the FusionQFormer. */
  readonly modalities: readonly string[];
  /** Share of each modality in the item graph. */
  readonly modalityWeights: readonly number[];
  readonly width: number;
  /** Layers over the graph of users and items; the item graph has one. */
  readonly layers: number;
  /** Nearest items of an item, itself among them. */
  readonly neighbours: number;
  /** Share of the edges of users and items that an epoch trains on. */
  readonly keepEdges: number;
  /** Weight of the terms that compare projected vectors with the user (FREEDOM alone); 0: none. */
  readonly modalityLoss: number;
  /** EM3: content vectors beside the ids, and their contrast. Null: FREEDOM alone. */
  readonly content: {
    readonly fusion: Omit<FusionOptions, 'modalities' | 'width'>;
    readonly cic: { readonly weight: number; readonly temperature: number; readonly negatives: number };
  } | null;
  readonly seed: number;
  readonly dtype?: 'float32' | 'float64';
  readonly device?: DeviceName;
}

/** What a FREEDOM model knows of its data besides batches. */
export type FreedomData = Pick<Dataset, 'schema' | 'events' | 'split' | 'positive' | 'columns'>;

/** What stands on the device beside the parameters: given vectors and graphs. */
interface Placed {
  readonly device: DeviceName;
  readonly vectors: ReadonlyMap<string, Tensor>;
  readonly items: SparseMatrix;
  readonly all: SparseMatrix;
}

/** Vectors of all users (users, D) and items (items, D): ids, then content. */
interface Vectors {
  readonly users: Tensor;
  readonly items: Tensor;
}

export class Freedom extends Module implements RecommenderModel {
  readonly user: Tensor;
  readonly item: Tensor;
  readonly fusion: FusionQFormer | null;
  readonly heads: CicHeads | null;
  /** Projections of given vectors, for the modality terms. */
  readonly project: Map<string, Linear>;
  readonly encoderStageEpochs = 0;
  readonly encodesItems = false;
  readonly frozenContent = false;
  readonly served = null;
  readonly adapters: EncoderAdapters = new Map();
  readonly frozenEncoders = null;
  readonly #options: FreedomOptions;
  readonly #init: Initializer;
  readonly #edges: Edges;
  readonly #given: ReadonlyMap<string, VectorBatch>;
  readonly #pairs: number;
  /** Places of the nearest items by modality, found once. */
  #neighbours: readonly { places: Int32Array; weight: number }[] | null = null;
  #placed: Placed | null = null;
  #epoch: { readonly number: number; readonly graph: SparseMatrix } | null = null;
  #evaluated: Vectors | null = null;

  constructor(data: FreedomData, options: FreedomOptions) {
    super();
    const init = new Initializer(options.seed, options.dtype, options.device);
    const { modalities, modalityWeights, width, content, modalityLoss } = options;
    const { schema, columns, events } = data;
    if (modalities.length !== modalityWeights.length)
      throw new ConfigError(
        `freedom: expected a weight for each of ${modalities.length} modalities but received ${modalityWeights.length}`,
        { key: 'model.freedom.modality_weights' },
      );
    const names = featuresOf(schema, 'embedding').map(({ name }) => name);
    const given = (columns.itemVectors ?? []).filter(({ name }) => modalities.includes(name));
    for (const modality of modalities)
      if (!names.includes(modality))
        throw new ConfigError(
          `freedom: expected a feature ${modality} of type embedding but the data set has ${names.join(', ') || 'none'}`,
          { key: 'model.modalities' },
        );
    if (columns.negatives === null)
      throw new ConfigError('freedom: expected train.negatives of kind uniform or popularity but received none', {
        key: 'train.negatives.kind',
      });
    this.#options = options;
    this.#init = init;
    this.#pairs = columns.negatives.n;
    this.#given = new Map(modalities.map((name) => [name, given.find((one) => one.name === name)!]));
    const train = Int32Array.from(events.user.keys()).filter(
      (row) => data.split.part[row] === 0 && data.positive[row] === 1,
    );
    this.#edges = distinctEdges(events, train);
    const table = (name: string, rows: number): Tensor =>
      init.uniform(name, [rows, width], Math.sqrt(6 / (rows + width))); // Xavier
    this.user = table('user', schema.users);
    this.item = table('item', schema.items);
    const widths = Object.fromEntries(modalities.map((name) => [name, this.#given.get(name)!.dim]));
    this.fusion =
      content === null ? null : new FusionQFormer(init.at('fusion'), { ...content.fusion, width, modalities: widths });
    this.heads =
      content === null || content.cic.weight === 0 ? null : new CicHeads(init.at('heads'), width, width, width);
    this.project = new Map(
      modalityLoss === 0
        ? []
        : modalities.map((name) => [name, new Linear(init.at(`project.${name}`), widths[name]!, width)]),
    );
  }

  /** Finds the nearest items, once, and puts vectors and graphs where the model is. To be awaited before anything is computed. */
  async ready(): Promise<void> {
    if (this.#placed?.device === this.device) return;
    this.release();
    const vectors = new Map(
      [...this.#given].map(([name, { values, present, dim }]) => [
        name,
        keep(
          this.place(this.#init.dtype === 'float64' ? Float64Array.from(values) : Float32Array.from(values), [
            present.length,
            dim,
          ]),
        ),
      ]),
    );
    this.#neighbours ??= await Promise.all(
      this.#options.modalities.map(async (name, m) => ({
        places: await this.nearest(vectors.get(name)!, this.#given.get(name)!.present),
        weight: this.#options.modalityWeights[m]!,
      })),
    );
    const { items } = this.#edges;
    this.#placed = {
      device: this.device,
      vectors,
      items: this.upload(itemGraph(items, this.#neighbours)),
      all: this.upload(userItemGraph(this.#edges)),
    };
  }

  /** An item without a vector is near itself alone. */
  private async nearest(vectors: Tensor, present: Uint8Array): Promise<Int32Array> {
    const k = Math.min(this.#options.neighbours, present.length);
    const places = await nearestItems(vectors, k);
    return places.map((place, i) => (present[Math.floor(i / k)] === 1 ? place : Math.floor(i / k)));
  }

  private upload(entries: SparseEntries): SparseMatrix {
    const matrix = sparseMatrix(entries, { device: this.device, dtype: this.#init.dtype });
    for (const { offsets, indices, values } of [matrix.byRow, matrix.byColumn])
      [offsets, indices, values].forEach(keep);
    return matrix;
  }

  private get placed(): Placed {
    if (this.#placed?.device !== this.device)
      throw new ArgumentError('freedom: expected ready() to be awaited before the first batch', { op: 'freedom' });
    return this.#placed;
  }

  /** Edges of an epoch: a function of (seed, epoch). */
  private trainGraph(epoch: number): SparseMatrix {
    if (this.#epoch?.number !== epoch) {
      disposeMatrix(this.#epoch?.graph);
      const { keepEdges: share, seed } = this.#options;
      this.#epoch = {
        number: epoch,
        graph: this.upload(userItemGraph(keptEdges(this.#edges, { share, seed, epoch }))),
      };
    }
    return this.#epoch.graph;
  }

  /** Content vectors m (items, width) of the FusionQFormer over one token per modality. */
  private content(fusion: FusionQFormer, context: Pick<StepContext, 'training'>): Tensor {
    const tokens = [...this.placed.vectors].map(([name, rows]) => {
      const { present } = this.#given.get(name)!;
      return [name, { rows, starts: Int32Array.from(present.keys()), counts: Int32Array.from(present) }] as const;
    });
    return fusion.forward(Object.fromEntries(tokens), context);
  }

  /** Mean over layers 0 .. n of the graph of users and items, plus for items one layer of the item graph; ids and content side by side. */
  private vectors(graph: SparseMatrix, context: Pick<StepContext, 'training'>): Vectors {
    const { layers } = this.#options;
    const [U, I] = [this.user.shape[0]!, this.item.shape[0]!];
    let items = this.item;
    let users = this.user;
    if (this.fusion !== null) {
      items = concat([this.item, this.content(this.fusion, context)], { axis: 1 });
      users = concat([this.user, zeros(this.user.shape, this.user)], { axis: 1 });
    }
    let layer = concat([users, items], { axis: 0 });
    let total = layer;
    for (let l = 0; l < layers; l++) {
      layer = sparseMatmul(graph, layer);
      total = add(total, layer);
    }
    const spread = scaleBy(total, 1 / (layers + 1));
    return {
      users: slice(spread, { axis: 0, start: 0, end: U }),
      items: add(slice(spread, { axis: 0, start: U, end: U + I }), sparseMatmul(this.placed.items, items)),
    };
  }

  graph(batch: Batch, context: StepContext): StepGraph {
    const { users, items } = this.vectors(this.trainGraph(batch.epoch), context);
    const { positives, negatives, owners } = this.pairsOf(batch);
    const rowsOf = (vectors: Tensor, rows: Int32Array): Tensor => gatherRows(vectors, this.place(rows));
    const asking = rowsOf(users, owners);
    const [liked, other] = [dots(asking, rowsOf(items, positives)), dots(asking, rowsOf(items, negatives))];
    const parts: Record<string, Tensor> = { bpr: bpr(liked, other) };
    let loss = parts['bpr']!;
    const { content, modalityLoss, width, seed } = this.#options;
    if (this.heads !== null && content !== null) {
      const half = (start: number): Tensor => slice(items, { axis: 1, start, end: start + width });
      const projected = this.heads.forward(half(width), half(0));
      const { temperature, negatives: draws, weight } = content.cic;
      const drawn = { mode: 'exact', temperature, negatives: draws, seed, step: context.step } as const;
      parts['cic'] = cic(projected.content, projected.id, drawn);
      loss = add(loss, scaleBy(parts['cic'], weight));
    }
    for (const [name, linear] of this.project) {
      const projected = linear.forward(this.placed.vectors.get(name)!);
      const ids = slice(asking, { axis: 1, start: 0, end: width });
      const term = bpr(dots(ids, rowsOf(projected, positives)), dots(ids, rowsOf(projected, negatives)));
      parts[`bpr.${name}`] = term;
      loss = add(loss, scaleBy(term, modalityLoss));
    }
    const logits = dots(rowsOf(users, batch.user), rowsOf(items, itemsOf(batch)));
    return { loss, parts, logits };
  }

  /** Every click with each of its sampled negatives: a batch holds a click, then its negatives. */
  private pairsOf(batch: Batch): { positives: Int32Array; negatives: Int32Array; owners: Int32Array } {
    const each = 1 + this.#pairs;
    const items = itemsOf(batch);
    const pairs = (batch.size / each) * this.#pairs;
    if (batch.part !== 'train' || !Number.isInteger(pairs))
      throw new ArgumentError(
        `freedom: expected a train batch of clicks with ${this.#pairs} negatives each but received ${batch.size} rows of ${batch.part}`,
        { argument: 'batch' },
      );
    const [positives, negatives, owners] = [new Int32Array(pairs), new Int32Array(pairs), new Int32Array(pairs)];
    for (let p = 0; p < pairs; p++) {
      const first = Math.floor(p / this.#pairs) * each;
      positives[p] = items[first]!;
      negatives[p] = items[first + 1 + (p % this.#pairs)]!;
      owners[p] = batch.user[first]!;
    }
    return { positives, negatives, owners };
  }

  predict(batch: Batch): Tensor {
    return noGrad(() => {
      const { users, items } = this.rankingVectors();
      return dots(gatherRows(users, this.place(batch.user)), gatherRows(items, this.place(itemsOf(batch))));
    });
  }

  /** Users (users, D) and items (items, D) of an evaluation, over all edges: a score is their dot product. */
  rankingVectors(): Vectors {
    return this.#evaluated ?? noGrad(() => this.vectors(this.placed.all, { training: false }));
  }

  /** An evaluation computes all vectors once; no content is asked for. */
  *encodeItems(): Generator<Int32Array> {
    yield new Int32Array(0);
    this.dropOverlay();
    const { users, items } = this.rankingVectors();
    this.#evaluated = { users: keep(users), items: keep(items) };
  }

  dropOverlay(): void {
    this.#evaluated?.users.dispose();
    this.#evaluated?.items.dispose();
    this.#evaluated = null;
  }

  groups(): ParameterGroups {
    return parameterGroups(this);
  }

  commit(): void {}

  refresh(): void {}

  contentVectors(): null {
    return null;
  }

  /** Graphs and vectors follow with the next `ready`. */
  override async moveTo(device: DeviceName): Promise<void> {
    this.release();
    await super.moveTo(device);
  }

  private release(): void {
    this.dropOverlay();
    disposeMatrix(this.#epoch?.graph);
    this.#epoch = null;
    if (this.#placed === null) return;
    for (const x of this.#placed.vectors.values()) x.dispose();
    disposeMatrix(this.#placed.items);
    disposeMatrix(this.#placed.all);
    this.#placed = null;
  }

  override dispose(): void {
    this.release();
    super.dispose();
  }
}

/** (n) dot products of the rows of a and b, (n, D). */
function dots(a: Tensor, b: Tensor): Tensor {
  return sum(mul(a, b), { axes: [1] });
}

/** Item rows (B) of a batch. */
function itemsOf({ items }: Batch): Int32Array {
  return items.index.map((item) => items.rows[item]!);
}

function disposeMatrix(matrix: SparseMatrix | undefined): void {
  if (matrix === undefined) return;
  for (const { offsets, indices, values } of [matrix.byRow, matrix.byColumn])
    for (const x of [offsets, indices, values]) x.dispose();
}

/** FREEDOM alone, as the release that EM3's builds on has it [author-code]. */
export const defaultFreedomOptions: FreedomOptions = {
  modalities: ['image', 'text'],
  modalityWeights: [0.1, 0.9],
  width: 64,
  layers: 2,
  neighbours: 10,
  keepEdges: 0.2,
  modalityLoss: 1e-3,
  content: null,
  seed: 7,
};

/** EM3's public release: content vectors of a FusionQFormer in mode `exact` and their contrast instead of the modality terms. */
export const em3ReleaseOptions: FreedomOptions = {
  ...defaultFreedomOptions,
  modalityLoss: 0,
  content: {
    fusion: { mode: 'exact', queries: 1, layers: 1, heads: 4, dropout: 0.5 },
    cic: { weight: 1e-3, temperature: 0.5, negatives: 16 },
  },
};

/** FREEDOM over a data set with given vectors and sampled negatives; options say what differs from `defaultFreedomOptions`. */
export function freedom(data: FreedomData, options: Partially<FreedomOptions> = {}): Freedom {
  return new Freedom(data, mergeOptions(defaultFreedomOptions, options) as FreedomOptions);
}

/** EM3's public release with FREEDOM as its ranker; options say what differs from `em3ReleaseOptions`. */
export function em3Release(data: FreedomData, options: Partially<FreedomOptions> = {}): Freedom {
  return new Freedom(data, mergeOptions(em3ReleaseOptions, options) as FreedomOptions);
}
