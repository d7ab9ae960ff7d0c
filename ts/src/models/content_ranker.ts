/**
 * What EM3 and LEMUR share: a ranker that sees item content beside ids, content encoded in the ranker's step, the contrasts that shape the
 * encoders, and the five training modes (models.md 4, 9). A model adds its content part and what it reads of the history.
 */
import { detach, noGrad } from '../autograd.js';
import type { Batch, Jagged, TokenBatch } from '../data/loader/batch.js';
import type { Schema } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import { sqdc } from '../losses/sqdc.js';
import { CicHeads } from '../nn/cic_heads.js';
import { type ForwardContext, Initializer, Module } from '../nn/module.js';
import { add, mul, scaleBy } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { streamOf } from '../random.js';
import type { DeviceName, Tensor } from '../tensor.js';
import { givenInputs, presence, withoutSomeIds } from './batch_inputs.js';
import { type ContentIdContrastOptions, contentIdContrast } from './content_id_contrast.js';
import { defaultDlrm } from './dlrm.js';
import type { EncoderAdapters } from './encoder_adapters.js';
import { FeatureEmbedder } from './feature_embedder.js';
import type { FrozenEncoders } from './frozen_features.js';
import { defaultLonger } from './longer.js';
import { makeRanker, type RankerName } from './make_ranker.js';
import { defaultMmoe } from './mmoe.js';
import type { ParameterGroups, StepContext, StepGraph } from './model.js';
import { parameterGroups } from './parameter_groups.js';
import { defaultRankMixer } from './rank_mixer.js';
import type { HistoryInput, Ranker, RankerInput, RankerOptions, RankerSpec } from './ranker.js';
import { defaultSim } from './sim.js';
import { taskLosses } from './task_losses.js';

export type TrainingMode = 'id_only' | 'frozen' | 'two_stage' | 'stop_gradient' | 'end_to_end';

export interface ContentRankerOptions {
  readonly ranker: RankerName;
  readonly training: TrainingMode;
  /** What cuts the item encoder off also cuts the query encoder off ('alike'), or it stays trained ('live'). */
  readonly queryEncoder: 'alike' | 'live';
  readonly twoStageEpochs: number;
  readonly content: { readonly modalities: readonly string[] };
  readonly sqdc: {
    readonly weight: number;
    /** Steps over which the weight grows linearly from 0, so that the ranking gradient shapes the encoder first [default 0]. */
    readonly warmupSteps: number;
    readonly scale: number;
    readonly columns: 'positives' | 'all';
    readonly maskSameItem: boolean;
  };
  /** Of content vectors beside id embeddings: EM3's, off in LEMUR. */
  readonly cic: ContentIdContrastOptions;
  readonly embeddingDim: number;
  /**
   * Share of training rows whose item id is replaced by the unknown one, so that the ranker learns to score from content the items
   * that no training row shows [default 0].
   */
  readonly itemIdDropout: number;
  /** Features whose ids and numbers the ranker sees; null: all. */
  readonly features: readonly string[] | null;
  readonly rankerOptions: RankerOptions;
  readonly seed: number;
  /** Where the model is made. Default cpu; the trainer moves it where it trains. */
  readonly device?: DeviceName;
}

/** How a model differs where its class does not say it. */
interface Traits {
  readonly name: 'em3' | 'lemur';
  readonly dtype?: Initializer['dtype'];
  /** Features of given vectors that are content, and nothing that the ranker sees beside it. */
  readonly given?: readonly string[];
  /** Whether latest clicks stand for missing queries beside the ranking loss too, not in the first stage alone. */
  readonly clicksAsQueries: boolean;
  /** Whether rows of one session (of clicks: of one user) are no negatives of each other. */
  readonly sessionMask: boolean;
}

/** What is asked of a content part. Items are given by their rows in the item table, steps as `now`. */
interface ItemVectors {
  readonly width: number;
  readonly query: Module | null;
  readonly adapters: EncoderAdapters;
  /** Vectors (n, width) of query texts; null where the data have none. */
  queries(text: TokenBatch, context: ForwardContext): Tensor | null;
  /** Vectors (T, width) as they are stored; zero rows where there is none, as for the key -1. */
  stored(keys: Int32Array, now: number): Tensor;
  /** Whether the host knows of a vector of `item`. */
  known(item: number, now: number): boolean;
  commit(now: number, factor: Tensor | null): void;
  frozenEncoders(stays: boolean): FrozenEncoders | null;
}

/** Vectors of the items of a step: row b of the batch shows row `index[b]` of `vectors` (n, width). */
export interface StepItems {
  readonly vectors: Tensor;
  readonly index: Int32Array;
  readonly encoded: { readonly items: number; readonly live: number };
  /** Item row to row of `vectors`, of what this step encoded: clicks on it need not be read as stored. */
  rowsByItem(): ReadonlyMap<number, number>;
}

/**
 * A subclass declares `content`, `heads` and `ranker` itself, among parts of its own: the state is in the order of declaration, and with it
 * what a checkpoint and the norm of all gradients sum up.
 */
export abstract class ContentRanker<Options extends ContentRankerOptions> extends Module {
  readonly features: FeatureEmbedder;
  abstract readonly content: ItemVectors | null;
  abstract readonly heads: CicHeads | null;
  abstract readonly ranker: Ranker;
  readonly encoderStageEpochs: number;
  readonly encodesItems: boolean;
  readonly frozenContent: boolean;
  readonly givenInputs: readonly string[];
  protected readonly init: Initializer;
  /** The main one first; the others are what rankers of several tasks learn too. */
  readonly #labels: readonly string[];
  readonly #user: string | null;
  readonly #item: string | null;

  constructor(
    schema: Schema,
    protected readonly options: Options,
    private readonly traits: Traits,
  ) {
    super();
    const { training, ranker, embeddingDim, features, seed, device } = options;
    const { name, dtype, given } = traits;
    if (schema.labels.length === 0)
      throw new ConfigError(`${name}: expected a data set with a label but received none`, { key: 'data.label' });
    this.init = new Initializer(seed, dtype, device);
    this.#labels = schema.labels;
    this.#user = schema.userId;
    this.#item = schema.itemId;
    this.features = new FeatureEmbedder(this.init.at('features'), schema, {
      embeddingDim,
      oneWidth: ranker === 'fm',
      features,
      content: given,
    });
    this.givenInputs = givenInputs(schema, this.features.spec());
    this.encoderStageEpochs = training === 'two_stage' ? options.twoStageEpochs : 0;
    this.encodesItems = training !== 'id_only';
    this.frozenContent = training === 'frozen' || training === 'two_stage';
  }

  // ---- what a model adds

  /** Encodes the items of a batch and stages them. */
  protected abstract encode(batch: Batch, context: StepContext): StepItems;

  /** Adds the widths of what `addHistories` adds; returns the histories that it returns, and which of those vectors are numbers. */
  protected abstract addHistorySpecs(vectors: Map<string, number>): Pick<RankerSpec, 'histories' | 'floats'>;

  /**
   * Adds what the history says of `target` (B, width) to `vectors`; returns the histories of content that the ranker sees. `row`: what
   * `rowVector` gave, if there is one.
   */
  protected abstract addHistories(
    batch: Batch,
    given: { readonly target: Tensor; readonly row: Tensor | null; readonly vectors: Map<string, Tensor> },
    context: StepContext,
  ): HistoryInput[];

  /** What a model reads its history with beside the target: made of `vectors` before there are products among them. */
  protected rowVector?(vectors: ReadonlyMap<string, Tensor>): Tensor;

  // ---- parts

  protected makeHeads(): CicHeads | null {
    const idWidth = this.widthOf(this.#item) ?? 0;
    return this.content !== null && this.options.cic.weight > 0 && idWidth > 0
      ? new CicHeads(this.init.at('heads'), this.content.width, idWidth)
      : null;
  }

  protected makeRanker(): Ranker {
    const { ranker, rankerOptions } = this.options;
    return makeRanker(ranker, this.init.at('ranker'), { ...this.spec(), tasks: this.#labels }, rankerOptions);
  }

  private widthOf(feature: string | null): number | undefined {
    return feature === null ? undefined : this.features.tables.get(feature)?.embeddingDim;
  }

  /** Widths of what a row shows beside its history: ids and numbers, content, query, and what of the content is there. */
  protected rowSpec(): Map<string, number> {
    const vectors = new Map<string, number>(this.features.spec().vectors);
    if (this.content === null) return vectors;
    this.addWidth(vectors, 'content', this.content.width);
    this.addWidth(vectors, 'flags', this.options.content.modalities.length);
    if (this.content.query !== null) this.addWidth(vectors, 'query', this.content.width);
    return vectors;
  }

  /** Adds an input of the ranker beside the features. Errors: `ConfigError` where a feature has its name. */
  protected addWidth(vectors: Map<string, number>, name: string, width: number): void {
    if (vectors.has(name))
      throw new ConfigError(
        `${this.traits.name}: expected another name of feature ${name}: the ranker has an input ${name} beside the features`,
        { key: 'feature_cols', feature: name },
      );
    vectors.set(name, width);
  }

  /** Sizes of what `seen` gives to the ranker. */
  private spec(): RankerSpec {
    const base = this.features.spec();
    if (this.content === null) return base;
    const { width, query } = this.content;
    const vectors = this.rowSpec();
    if (query !== null) this.addWidth(vectors, 'query*content', width);
    if (this.widthOf(this.#user) === width) this.addWidth(vectors, 'user*content', width);
    const { histories, floats = [] } = this.addHistorySpecs(vectors);
    return {
      ...base,
      vectors,
      histories: [...base.histories, ...histories],
      floats: [...(base.floats ?? []), 'flags', ...floats],
    };
  }

  // ---- what the trainer asks

  graph(given: Batch, context: StepContext): StepGraph {
    const { itemIdDropout: share, seed, training, queryEncoder, rankerOptions } = this.options;
    const { weight, warmupSteps } = this.options.sqdc;
    const { name, clicksAsQueries } = this.traits;
    const dropped = { feature: this.#item, share, seed, stream: streamOf(`${name}.itemIdDropout`) };
    const batch = context.training ? withoutSomeIds(given, context.step, dropped) : given;
    const encodes = this.content !== null && (context.stage === 'encoder' || !this.frozenContent);
    const items = encodes ? this.encode(batch, context) : null;
    const target =
      items === null ? this.stored(batch, context.step) : gatherRows(items.vectors, this.place(items.index));
    const encoded = items?.encoded ?? { items: 0, live: 0 };
    if (context.stage === 'encoder') {
      if (target === null)
        throw new ConfigError(`${name}: expected content for the first stage of two_stage`, { key: 'model.training' });
      const contrast = this.contrast(batch, this.query(batch, context), target, items, context);
      const parts: Record<string, Tensor> = { sqdc: contrast };
      const loss = this.aligned(given, target, context, { loss: contrast, parts });
      return { loss, parts, logits: this.float(new Float32Array(batch.size)), encoded };
    }
    const cut = training !== 'end_to_end';
    const cutQuery = cut && queryEncoder === 'alike';
    const stillQuery = cutQuery && this.frozenContent; // no loss reaches it
    const query = stillQuery ? noGrad(() => this.query(batch, context)) : this.query(batch, context);
    const input = this.seen(
      batch,
      target === null ? null : cut ? detach(target) : target,
      cutQuery && query !== null ? detach(query) : query,
      context,
    );
    const tasks = taskLosses(this.ranker.taskLogits(input, context), {
      names: this.#labels,
      labels: (label) => this.float(batch.labels[label]!),
      weight: rankerOptions.mmoe?.taskWeight ?? 1,
    });
    const { logits } = tasks;
    let { loss } = tasks;
    const parts: Record<string, Tensor> = { ...tasks.parts };
    const learns = query === null ? clicksAsQueries && items !== null : !stillQuery;
    if (weight > 0 && target !== null && learns) {
      parts['sqdc'] = this.contrast(batch, query, target, items, context);
      const growth = warmupSteps === 0 ? 1 : Math.min(1, context.step / warmupSteps);
      loss = add(loss, scaleBy(parts['sqdc'], weight * growth));
    }
    if (target !== null) loss = this.aligned(given, target, context, { loss, parts });
    return { loss, parts, logits, encoded };
  }

  predict(batch: Batch, step: number): Tensor {
    return this.scored(batch, step, (input, context) => this.ranker.forward(input, context));
  }

  predictTasks(batch: Batch, step: number): ReadonlyMap<string, Tensor> {
    const logits = this.scored(batch, step, (input, context) => this.ranker.taskLogits(input, context));
    return new Map(logits.map((x, task) => [this.#labels[task]!, x]));
  }

  private scored<T>(batch: Batch, step: number, score: (input: RankerInput, context: StepContext) => T): T {
    return noGrad(() => {
      const context: StepContext = { training: false, step, stage: 'ranker' };
      const target = this.stored(batch, step);
      return score(this.seen(batch, target, this.query(batch, context), context), context);
    });
  }

  commit(step: number, factor: Tensor | null): void {
    this.content?.commit(step, factor);
  }

  groups(): ParameterGroups {
    return parameterGroups(this);
  }

  get adapters(): EncoderAdapters {
    return this.content?.adapters ?? new Map();
  }

  get frozenEncoders(): FrozenEncoders | null {
    return this.content?.frozenEncoders(this.frozenContent && this.encoderStageEpochs === 0) ?? null;
  }

  contentVectors(keys: Int32Array, step: number): Tensor | null {
    return this.content?.stored(keys, step) ?? null;
  }

  // ---- pieces of the graph

  private float(values: Float32Array, shape: readonly number[] = [values.length]): Tensor {
    return this.place(this.init.dtype === 'float64' ? Float64Array.from(values) : values, shape);
  }

  /** Target vectors (B, width) as they are stored. */
  private stored(batch: Batch, step: number): Tensor | null {
    if (this.content === null) return null;
    return gatherRows(this.content.stored(batch.items.rows, step), this.place(batch.items.index));
  }

  /** Query vectors (B, width). */
  private query(batch: Batch, context: StepContext): Tensor | null {
    if (this.content === null || batch.queries === null) return null;
    const vectors = this.content.queries(batch.queries.text, context);
    return vectors === null ? null : gatherRows(vectors, this.place(batch.queries.index));
  }

  /** What the ranker sees: ids and numbers, content of target and query (B, width), their products, and what the history says of them. */
  private seen(batch: Batch, target: Tensor | null, query: Tensor | null, context: StepContext): RankerInput {
    const base = this.features.forward(batch, this.device);
    if (this.content === null || target === null) return base;
    const { modalities } = this.options.content;
    const vectors = new Map(base.vectors);
    vectors.set('content', target);
    vectors.set('flags', this.float(presence(batch, modalities), [batch.size, modalities.length]));
    const zeros = (): Tensor => this.float(new Float32Array(target.size), target.shape);
    const asked = this.content.query === null ? null : (query ?? zeros());
    if (asked !== null) vectors.set('query', asked);
    const row = this.rowVector?.(vectors) ?? null;
    if (asked !== null) vectors.set('query*content', mul(asked, target));
    const user = this.#user === null ? undefined : base.embeddings.get(this.#user);
    if (user !== undefined && user.shape[1] === target.shape[1]) vectors.set('user*content', mul(user, target));
    const histories = this.addHistories(batch, { target, row, vectors }, context);
    return { vectors, histories: [...base.histories, ...histories], ids: base.ids };
  }

  /** The history (B rows of item rows). Errors: `ConfigError` where the data have none. */
  protected clicks({ history }: Batch, expected = 'batches with a history'): Jagged {
    if (history !== null) return history;
    throw new ConfigError(`${this.traits.name}: expected ${expected} but the data set has no history feature`, {
      key: 'feature_cols',
    });
  }

  /** The loss with the contrast between content and ids added, where there is one; it is noted in `parts`. */
  private aligned(
    given: Batch,
    target: Tensor,
    { step }: StepContext,
    { loss, parts }: { loss: Tensor; parts: Record<string, Tensor> },
  ): Tensor {
    if (this.heads === null) return loss;
    const { cic, seed } = this.options;
    const ids = given.categorical[this.#item!]!; // also where `itemIdDropout` hides them from the ranker
    const table = this.features.tables.get(this.#item!)!;
    parts['cic'] = contentIdContrast(this.heads, given, { target, ids, table }, { ...cic, seed, step });
    return add(loss, scaleBy(parts['cic'], cic.weight));
  }

  /** Query to item where there are queries, else latest click to the clicked target (models.md 4.1). */
  private contrast(
    batch: Batch,
    query: Tensor | null,
    target: Tensor,
    items: StepItems | null,
    context: StepContext,
  ): Tensor {
    const { scale, columns, maskSameItem } = this.options.sqdc;
    const { anchors, labels, sessions } =
      query === null
        ? { ...this.anchors(batch, items!, context), sessions: batch.user }
        : { anchors: query, labels: batch.labels[this.#labels[0]!]!, sessions: batch.session };
    return sqdc(anchors, target, {
      labels,
      sessions: this.traits.sessionMask ? sessions : new Int32Array(batch.size).fill(-1),
      scale,
      columns,
      maskSameItem,
      items: batch.items.index,
    });
  }

  /** The latest click (B, width) of each row: live if this step encoded it, else as stored. Rows without one anchor nothing. */
  private anchors(
    batch: Batch,
    items: StepItems,
    { step, stage }: StepContext,
  ): { anchors: Tensor; labels: Float32Array } {
    const needs = stage === 'encoder' ? 'queries or a history for the first stage of two_stage' : undefined;
    const { values, offsets } = this.clicks(batch, needs);
    const labels = Float32Array.from(batch.labels[this.#labels[0]!]!);
    const live = items.rowsByItem();
    const liveAt = new Int32Array(batch.size).fill(-1);
    const storedKeys = new Int32Array(batch.size).fill(-1);
    for (let b = 0; b < batch.size; b++) {
      const item = offsets[b + 1]! > offsets[b]! ? values[offsets[b + 1]! - 1]! : -1;
      const row = live.get(item);
      if (item < 0 || item === batch.items.rows[batch.items.index[b]!]) labels[b] = 0;
      else if (row !== undefined) liveAt[b] = row;
      else if (this.content!.known(item, step)) storedKeys[b] = item;
      else labels[b] = 0;
    }
    const stored = this.content!.stored(storedKeys, step);
    return { anchors: add(gatherRows(items.vectors, this.place(liveAt)), stored), labels };
  }
}

/** What both presets use where nothing is said (models.md marks which are the papers'). */
export const defaultContentRanker = {
  ranker: 'din',
  training: 'end_to_end',
  queryEncoder: 'alike',
  twoStageEpochs: 4,
  sqdc: { weight: 0, warmupSteps: 0, scale: 50, columns: 'positives', maskSameItem: false },
  cic: { mode: 'ctr', weight: 0, temperature: 0.1, negatives: 16 },
  embeddingDim: 32,
  itemIdDropout: 0,
  features: null,
  rankerOptions: {
    mlp: [256, 128],
    dropout: 0.1,
    crossLayers: 3,
    attentionMlp: [64, 32],
    rankMixer: defaultRankMixer,
    dlrm: defaultDlrm,
    longer: defaultLonger,
    sim: defaultSim,
    mmoe: defaultMmoe,
  },
  seed: 7,
} satisfies Omit<ContentRankerOptions, 'content'>;
