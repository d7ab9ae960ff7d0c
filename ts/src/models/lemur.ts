/**
 * LEMUR: encoders of raw queries and documents trained in the step of the ranker, a session-masked contrast between them, and a memory bank
 * that gives the documents of the history, and most of the targets, without running an encoder (models.md 1, 4.1, 5, 6, 8).
 */
import { detach, noGrad } from '../autograd.js';
import type { Batch, Jagged } from '../data/loader/batch.js';
import type { Schema } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import { sqdc } from '../losses/sqdc.js';
import { CicHeads } from '../nn/cic_heads.js';
import { HistoryDecoder } from '../nn/history_decoder.js';
import { Linear } from '../nn/linear.js';
import { Initializer, Module } from '../nn/module.js';
import { historyCosines, SimTier } from '../nn/sim_tier.js';
import { concat } from '../ops/concat.js';
import { add, mul, scaleBy } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { streamOf } from '../random.js';
import type { DeviceName, Tensor } from '../tensor.js';
import { givenInputs, presence, withoutSomeIds } from './batch_inputs.js';
import { type ContentIdContrastOptions, contentIdContrast } from './content_id_contrast.js';
import { defaultEm3Options, type TrainingMode } from './em3.js';
import type { EncoderAdapters } from './encoder_adapters.js';
import { FeatureEmbedder } from './feature_embedder.js';
import type { FrozenEncoders } from './frozen_features.js';
import { lastEntries, makeHistory } from './history.js';
import { LemurContent, type LemurContentOptions, type StepVectors, withoutDedup } from './lemur_content.js';
import { makeRanker, type RankerName } from './make_ranker.js';
import type {
  ItemContentSource,
  ParameterGroups,
  RecommenderModel,
  ServedContent,
  StepContext,
  StepGraph,
} from './model.js';
import { mergeOptions, type Partially } from './options.js';
import { parameterGroups } from './parameter_groups.js';
import { type PretrainedEncoders, publishedOf } from './pretrained.js';
import type { HistoryInput, Ranker, RankerInput, RankerOptions, RankerSpec } from './ranker.js';
import { taskLosses } from './task_losses.js';

export interface LemurOptions {
  readonly ranker: RankerName;
  readonly training: TrainingMode;
  /** What cuts the document encoder off also cuts the query encoder off ('alike'), or it stays trained ('live'). */
  readonly queryEncoder: 'alike' | 'live';
  readonly twoStageEpochs: number;
  readonly content: Omit<LemurContentOptions, 'seed'>;
  /** Latest clicks that each sequence holds; 0 leaves it out. */
  readonly sequences: {
    readonly short: number;
    readonly long: number;
    /** Whose rows the ranker sees too, as a history `content` beside those of ids: what DIN attends over and SIM searches. */
    readonly toRanker: 'none' | 'short' | 'long';
  };
  readonly decoder: {
    readonly layers: number;
    readonly queries: number;
    readonly heads: number;
    readonly ffn: number;
    readonly paperLiteral: boolean;
    /** Whether history rows get a learned vector by their position. */
    readonly positions: boolean;
    /** Whether they get one by the time between click and target; needs event times. */
    readonly timeGaps: boolean;
  };
  /** How alike target and history are: cosines and a sorted copy, a histogram, or nothing. */
  readonly similarity: 'cosines' | 'sim_tier' | 'none';
  readonly sqdc: {
    readonly weight: number;
    /** Steps over which the weight grows linearly from 0. */
    readonly warmupSteps: number;
    readonly scale: number;
    readonly columns: 'positives' | 'all';
    readonly maskSameItem: boolean;
    /** False: rows of one session count as negatives of each other. */
    readonly sessionMask: boolean;
  };
  /** Of document vectors beside id embeddings: the papers' comparison, off in LEMUR. */
  readonly cic: ContentIdContrastOptions;
  readonly embeddingDim: number;
  /** Share of training rows whose item id is replaced by the unknown one. */
  readonly itemIdDropout: number;
  /** Features whose ids and numbers the ranker sees; null: all. */
  readonly features: readonly string[] | null;
  readonly rankerOptions: RankerOptions;
  readonly seed: number;
  /** Where the model is made. Default cpu; the trainer moves it where it trains. */
  readonly device?: DeviceName;
}

/** One sequence of clicks with its own decoder and its own view of how alike target and clicks are. */
class SequencePart extends Module {
  readonly decoder: HistoryDecoder;
  readonly tier: SimTier | null;
  /** Cosines and their sorted copy to one token. */
  readonly cosines: Linear | null;

  constructor(
    init: Initializer,
    readonly name: string,
    readonly length: number,
    { features, width, options }: { features: number; width: number; options: LemurOptions },
  ) {
    super();
    const { positions, ...decoder } = options.decoder;
    this.decoder = new HistoryDecoder(init.at('decoder'), {
      ...decoder,
      width,
      features,
      positions: positions ? length : 0,
    });
    this.tier = options.similarity === 'sim_tier' ? new SimTier(init.at('tier')) : null;
    this.cosines = options.similarity === 'cosines' ? new Linear(init.at('cosines'), 2 * length, width) : null;
  }
}

export class Lemur extends Module implements RecommenderModel {
  readonly features: FeatureEmbedder;
  readonly content: LemurContent | null;
  readonly sequences: SequencePart[];
  readonly heads: CicHeads | null;
  readonly ranker: Ranker;
  readonly encoderStageEpochs: number;
  readonly encodesItems: boolean;
  readonly frozenContent: boolean;
  readonly givenInputs: readonly string[];
  readonly #options: LemurOptions;
  readonly #label: string;
  /** The main one first; the others are what rankers of several tasks learn too. */
  readonly #labels: readonly string[];
  readonly #user: string | null;
  readonly #item: string | null;

  constructor(schema: Schema, options: LemurOptions) {
    super();
    const init = new Initializer(options.seed, 'float32', options.device);
    const { training, content, ranker, rankerOptions, embeddingDim, sequences, seed } = options;
    const label = schema.labels[0];
    if (label === undefined)
      throw new ConfigError('lemur: expected a data set with a label but received none', { key: 'data.label' });
    this.#options = options;
    this.#label = label;
    this.#labels = schema.labels;
    this.#user = schema.userId;
    this.#item = schema.itemId;
    this.features = new FeatureEmbedder(init.at('features'), schema, {
      embeddingDim,
      oneWidth: ranker === 'fm',
      features: options.features,
    });
    this.givenInputs = givenInputs(schema, this.features.spec());
    this.content = training === 'id_only' ? null : new LemurContent(init.at('content'), schema, { ...content, seed });
    const { width } = content;
    const features = [...this.contextSpec().values()].reduce((total, columns) => total + columns, 0);
    this.sequences =
      this.content === null
        ? []
        : (['short', 'long'] as const)
            .filter((name) => sequences[name] > 0)
            .map(
              (name) =>
                new SequencePart(init.at(`sequences.${name}`), name, sequences[name], { features, width, options }),
            );
    const idWidth = schema.itemId === null ? 0 : (this.features.tables.get(schema.itemId)?.embeddingDim ?? 0);
    this.heads =
      this.content !== null && options.cic.weight > 0 && idWidth > 0
        ? new CicHeads(init.at('heads'), width, idWidth)
        : null;
    this.ranker = makeRanker(ranker, init.at('ranker'), { ...this.spec(), tasks: schema.labels }, rankerOptions);
    this.encoderStageEpochs = training === 'two_stage' ? options.twoStageEpochs : 0;
    this.encodesItems = this.content !== null;
    this.frozenContent = training === 'frozen' || training === 'two_stage';
  }

  /** Widths of what a row shows beside its history: ids and numbers, document, query, and what of them is there. */
  private contextSpec(): Map<string, number> {
    const vectors = new Map<string, number>(this.features.spec().vectors);
    if (this.content === null) return vectors;
    const { width, modalities } = this.#options.content;
    vectors.set('content', width);
    vectors.set('flags', modalities.length);
    if (this.content.query !== null) vectors.set('query', width);
    return vectors;
  }

  /** Sizes of what `seen` gives to the ranker. */
  private spec(): RankerSpec {
    const base = this.features.spec();
    const vectors = this.contextSpec();
    if (this.content === null) return base;
    const { width } = this.#options.content;
    if (this.content.query !== null) vectors.set('query*content', width);
    const userWidth = this.#user === null ? null : (this.features.tables.get(this.#user)?.embeddingDim ?? null);
    if (userWidth === width) vectors.set('user*content', width);
    for (const { name, decoder, tier, cosines } of this.sequences) {
      vectors.set(`${name}.interest`, decoder.width);
      if (decoder.width === width) vectors.set(`${name}.content*interest`, width);
      const similarity = tier?.width ?? cosines?.outFeatures;
      if (similarity !== undefined) vectors.set(`${name}.similarity`, similarity);
    }
    const given = this.sequences.some(({ name }) => name === this.#options.sequences.toRanker);
    const histories = given ? [...base.histories, { name: 'content', width }] : base.histories;
    return { ...base, vectors, histories, floats: [...(base.floats ?? []), 'flags'] };
  }

  graph(given: Batch, context: StepContext): StepGraph {
    const { itemIdDropout: share, seed, training } = this.#options;
    const dropped = { feature: this.#item, share, seed, stream: streamOf('lemur.itemIdDropout') };
    const batch = context.training ? withoutSomeIds(given, context.step, dropped) : given;
    const encodes = this.content !== null && (context.stage === 'encoder' || !this.frozenContent);
    const items = this.#options.content.bank.dedup ? batch.items : withoutDedup(batch.items);
    const step = encodes ? this.content!.encode(items, context) : null;
    const target =
      step === null
        ? this.storedTargets(batch, context.step)
        : gatherRows(step.vectors, this.place(items.index.map((item) => step.at[item]!)));
    const encoded = step?.encoded ?? { items: 0, live: 0 };
    if (context.stage === 'encoder') {
      if (target === null)
        throw new ConfigError('lemur: expected content for the first stage of two_stage', { key: 'model.training' });
      const parts: Record<string, Tensor> = {};
      parts['sqdc'] = this.contrast(batch, this.query(batch, context), target, step, context);
      const loss = this.aligned(given, target, context, { loss: parts['sqdc'], parts });
      return { loss, parts, logits: this.place(new Float32Array(batch.size)), encoded };
    }
    const cut = training !== 'end_to_end';
    const cutQuery = cut && this.#options.queryEncoder === 'alike';
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
      labels: (name) => this.place(batch.labels[name]!),
      weight: this.#options.rankerOptions.mmoe?.taskWeight ?? 1,
    });
    const { logits } = tasks;
    let { loss } = tasks;
    const parts: Record<string, Tensor> = { ...tasks.parts };
    const { weight, warmupSteps } = this.#options.sqdc;
    const learns = query === null ? !this.frozenContent : !stillQuery;
    if (weight > 0 && target !== null && learns) {
      parts['sqdc'] = this.contrast(batch, query, target, step, context);
      const growth = warmupSteps === 0 ? 1 : Math.min(1, context.step / warmupSteps);
      loss = add(loss, scaleBy(parts['sqdc'], weight * growth));
    }
    if (target !== null) loss = this.aligned(given, target, context, { loss, parts });
    return { loss, parts, logits, encoded };
  }

  /** The loss with the contrast between content and ids added, where there is one; it is noted in `parts`. */
  private aligned(
    given: Batch,
    target: Tensor,
    { step }: StepContext,
    { loss, parts }: { loss: Tensor; parts: Record<string, Tensor> },
  ): Tensor {
    if (this.heads === null) return loss;
    const { cic, seed } = this.#options;
    const ids = given.categorical[this.#item!]!; // also where `itemIdDropout` hides them from the ranker
    const table = this.features.tables.get(this.#item!)!;
    parts['cic'] = contentIdContrast(this.heads, given, { target, ids, table }, { ...cic, seed, step });
    return add(loss, scaleBy(parts['cic'], cic.weight));
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
      const target = this.storedTargets(batch, step);
      return score(this.seen(batch, target, this.query(batch, context), context), context);
    });
  }

  groups(): ParameterGroups {
    return parameterGroups(this);
  }

  prepare({ trainCount }: { readonly trainCount: Int32Array }): void {
    this.content?.prepare(trainCount);
  }

  commit(_step: number, factor: Tensor | null): void {
    this.content?.commit(factor);
  }

  settle(step: number, accepted: boolean): void {
    this.content?.record.settle(step, accepted);
  }

  async contentStats(): Promise<Readonly<Record<string, number>>> {
    return (await this.content?.stats()) ?? {};
  }

  refresh(): void {
    // no snapshots
  }

  async locateItems(keys: Int32Array, step: number): Promise<void> {
    await this.content?.locate(keys, step);
  }

  encodeItems(
    target: 'table' | 'overlay',
    keys: Int32Array,
    content: ItemContentSource,
    step: number,
  ): Generator<Int32Array> {
    return this.content?.fill(target, keys, content, step) ?? (function* (): Generator<Int32Array> {})();
  }

  dropOverlay(): void {
    this.content?.dropOverlay();
  }

  get adapters(): EncoderAdapters {
    return this.content?.adapters ?? new Map();
  }

  get pretrained(): PretrainedEncoders | null {
    return this.content === null ? null : publishedOf(this.content.document);
  }

  get frozenEncoders(): FrozenEncoders | null {
    return this.content?.frozenEncoders(this.frozenContent && this.encoderStageEpochs === 0) ?? null;
  }

  get served(): ServedContent | null {
    if (this.content === null) return null;
    const histories = this.sequences.map(({ name, length }) => ({ name, length }));
    return { ...this.content.served, histories, modalities: this.#options.content.modalities };
  }

  contentVectors(keys: Int32Array, step: number): Tensor | null {
    return this.content?.stored(keys, step) ?? null;
  }

  override load(values: Parameters<Module['load']>[0]): void {
    super.load(values);
    const [last, before] = ['last', 'before'].map((name) => values.get(`content.record.${name}`)?.data);
    if (last !== undefined && before !== undefined) this.content?.record.restore(last, before);
    this.content?.bank.discard();
    this.dropOverlay();
  }

  override async moveTo(device: DeviceName): Promise<void> {
    this.dropOverlay();
    await super.moveTo(device);
  }

  override dispose(): void {
    this.content?.dispose();
    super.dispose();
  }

  // ---- pieces of the graph

  private storedTargets(batch: Batch, step: number): Tensor | null {
    if (this.content === null) return null;
    return gatherRows(this.content.stored(batch.items.rows, step), this.place(batch.items.index));
  }

  private query(batch: Batch, context: StepContext): Tensor | null {
    if (this.content === null || batch.queries === null) return null;
    const vectors = this.content.queries(batch.queries.text, context);
    return vectors === null ? null : gatherRows(vectors, this.place(batch.queries.index));
  }

  /** What the ranker sees: ids and numbers, document, query and their product, and what each sequence says about them. */
  private seen(batch: Batch, target: Tensor | null, query: Tensor | null, context: StepContext): RankerInput {
    const base = this.features.forward(batch, this.device);
    if (this.content === null || target === null) return base;
    const { modalities } = this.#options.content;
    const vectors = new Map(base.vectors);
    vectors.set('content', target);
    vectors.set('flags', this.place(presence(batch, modalities), [batch.size, modalities.length]));
    const asked =
      this.content.query === null ? null : (query ?? this.place(new Float32Array(target.size), target.shape));
    if (asked !== null) vectors.set('query', asked);
    const features = concat([...vectors.values()], { axis: 1 });
    if (asked !== null) vectors.set('query*content', mul(asked, target));
    const user = this.#user === null ? undefined : base.embeddings.get(this.#user);
    if (user !== undefined && user.shape[1] === target.shape[1]) vectors.set('user*content', mul(user, target));
    const histories = [...base.histories];
    for (const sequence of this.sequences) {
      const history = this.addSequence(sequence, batch, features, target, context, vectors);
      if (sequence.name === this.#options.sequences.toRanker) histories.push(history);
    }
    return { vectors, histories, ids: base.ids };
  }

  /** Adds what a sequence says to `vectors`; returns its rows as a ranker takes them. */
  private addSequence(
    { name, length, decoder, tier, cosines }: SequencePart,
    batch: Batch,
    features: Tensor,
    target: Tensor,
    { step }: StepContext,
    vectors: Map<string, Tensor>,
  ): HistoryInput {
    const { values, offsets, gaps } = lastEntries(this.clicks(batch), length);
    const live = this.#options.training === 'end_to_end';
    const { rows, age } = this.content!.history(values, step, { sequence: name, live });
    const interest = decoder.forward(features, { rows, offsets, mask: age, gaps });
    vectors.set(`${name}.interest`, interest);
    if (interest.shape[1] === target.shape[1]) vectors.set(`${name}.content*interest`, mul(target, interest));
    const compared = { rows, age, offsets: this.place(offsets) };
    if (tier !== null) vectors.set(`${name}.similarity`, tier.forward(target, compared));
    if (cosines !== null) {
      const alike = historyCosines(target, compared, length);
      vectors.set(`${name}.similarity`, cosines.forward(concat([alike.cosines, alike.sorted], { axis: 1 })));
    }
    return makeHistory({ name: 'content', target, rows, offsets, mask: age });
  }

  private clicks(batch: Batch): Jagged {
    if (batch.history !== null) return batch.history;
    throw new ConfigError('lemur: expected batches with a history but the data set has no history feature', {
      key: 'feature_cols',
    });
  }

  /** Query to document where there are queries, else latest clicked item to the clicked target (models.md 4.1). */
  private contrast(
    batch: Batch,
    query: Tensor | null,
    target: Tensor,
    step: StepVectors | null,
    context: StepContext,
  ): Tensor {
    const { scale, columns, maskSameItem, sessionMask } = this.#options.sqdc;
    const none = new Int32Array(batch.size).fill(-1);
    const options = { scale, columns, maskSameItem, items: batch.items.index };
    if (query !== null)
      return sqdc(query, target, {
        ...options,
        labels: batch.labels[this.#label]!,
        sessions: sessionMask ? batch.session : none,
      });
    const { anchors, labels } = this.anchors(batch, step, context.step);
    return sqdc(anchors, target, { ...options, labels, sessions: sessionMask ? batch.user : none });
  }

  /** The latest click of each row: live if this step encoded it, else as stored. Rows without one anchor nothing. */
  private anchors(batch: Batch, step: StepVectors | null, now: number): { anchors: Tensor; labels: Float32Array } {
    const { values, offsets } = this.clicks(batch);
    const labels = Float32Array.from(batch.labels[this.#label]!);
    const live = new Map<number, number>();
    if (step !== null && this.#options.content.bank.dedup)
      step.at.forEach((row, i) => {
        if (row < step.encoded.items) live.set(batch.items.rows[i]!, row);
      });
    const liveAt = new Int32Array(batch.size).fill(-1);
    const storedAt = new Int32Array(batch.size).fill(-1);
    const stored: number[] = [];
    for (let b = 0; b < batch.size; b++) {
      const item = offsets[b + 1]! > offsets[b]! ? values[offsets[b + 1]! - 1]! : -1;
      const row = live.get(item);
      if (item < 0 || item === batch.items.rows[batch.items.index[b]!]) labels[b] = 0;
      else if (row !== undefined) liveAt[b] = row;
      else if (this.content!.known(item, now)) storedAt[b] = stored.push(item) - 1;
      else labels[b] = 0;
    }
    const held = gatherRows(this.content!.stored(Int32Array.from(stored), now), this.place(storedAt));
    return { anchors: step === null ? held : add(gatherRows(step.vectors, this.place(liveAt)), held), labels };
  }
}

/** What `lemur` uses where nothing is said: the defaults of the configuration (models.md marks which are the papers'). */
export const defaultLemurOptions: LemurOptions = {
  ranker: 'din',
  training: 'end_to_end',
  queryEncoder: 'alike',
  twoStageEpochs: 4,
  content: {
    modalities: ['text'],
    width: 128,
    layers: 4,
    queryLayers: 2,
    heads: 4,
    ffn: 512,
    dropout: 0,
    tuneLayers: 'all',
    encoderLora: null,
    image: { width: 32, layers: 1, heads: 4, ffn: 64, patch: 8 },
    bank: {
      p: 20,
      q: 20,
      warmupSteps: 0,
      popularAt: null,
      qScale: 'none',
      maxAge: null,
      capacity: null,
      dtype: 'float32',
      historyGrad: 'none',
      dedup: true,
      evaluation: 'frozen',
    },
  },
  sequences: { short: 50, long: 1000, toRanker: 'none' },
  decoder: { layers: 2, queries: 1, heads: 4, ffn: 512, paperLiteral: false, positions: true, timeGaps: false },
  similarity: 'cosines',
  sqdc: { weight: 0.1, warmupSteps: 0, scale: 50, columns: 'positives', maskSameItem: false, sessionMask: true },
  cic: { ...defaultEm3Options.cic, weight: 0 },
  embeddingDim: 32,
  itemIdDropout: 0,
  features: null,
  rankerOptions: defaultEm3Options.rankerOptions,
  seed: 7,
};

/** LEMUR over a data set's schema; options say what differs from `defaultLemurOptions`. Errors: `ConfigError` where the data lack a modality. */
export function lemur(schema: Schema, options: Partially<LemurOptions> = {}): Lemur {
  return new Lemur(schema, mergeOptions(defaultLemurOptions, options) as LemurOptions);
}
