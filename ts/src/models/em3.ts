/**
 * EM3: item text and pictures are encoded in the training step of the ranker, fused by a FusionQFormer, compared with the user's
 * history, and aligned with the ids by a contrastive loss. The five training modes (models.md 9) are one switch of this model.
 */

import { detach, noGrad } from '../autograd.js';
import type { Batch } from '../data/loader/batch.js';
import type { Schema } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import { sqdc } from '../losses/sqdc.js';
import { CicHeads } from '../nn/cic_heads.js';
import { ContentTable } from '../nn/content_table.js';
import { Initializer, Module } from '../nn/module.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import { add, mul, scaleBy } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { padJagged } from '../ops/pad_jagged.js';
import { sortDescending } from '../ops/sort_descending.js';
import { streamOf } from '../random.js';
import type { DeviceName, Tensor } from '../tensor.js';
import { givenInputs, presence, withoutSomeIds } from './batch_inputs.js';
import { type ContentOptions, ContentPart } from './content.js';
import { type ContentIdContrastOptions, contentIdContrast } from './content_id_contrast.js';
import { defaultDlrm } from './dlrm.js';
import type { EncoderAdapters } from './encoder_adapters.js';
import { FeatureEmbedder } from './feature_embedder.js';
import type { FrozenEncoders } from './frozen_features.js';
import { lastEntries, makeHistory } from './history.js';
import { defaultLonger } from './longer.js';
import { makeRanker, type RankerName } from './make_ranker.js';
import { defaultMmoe } from './mmoe.js';
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
import { defaultRankMixer } from './rank_mixer.js';
import type { HistoryInput, Ranker, RankerInput, RankerOptions, RankerSpec } from './ranker.js';
import { defaultSim } from './sim.js';
import { taskLosses } from './task_losses.js';

export type TrainingMode = 'id_only' | 'frozen' | 'two_stage' | 'stop_gradient' | 'end_to_end';

export interface Em3Options {
  readonly ranker: RankerName;
  readonly training: TrainingMode;
  /** What cuts the item encoder off also cuts the query encoder off ('alike'), or it stays trained ('live'). */
  readonly queryEncoder: 'alike' | 'live';
  readonly twoStageEpochs: number;
  readonly content: ContentOptions;
  readonly sqdc: {
    /** Steps over which the weight grows linearly from 0, so that the ranking gradient shapes the encoder first [default 0]. */
    readonly warmupSteps: number;
    readonly weight: number;
    readonly scale: number;
    readonly columns: 'positives' | 'all';
    readonly maskSameItem: boolean;
  };
  readonly cic: ContentIdContrastOptions;
  /** Content history items; 0 for none. */
  readonly historyLen: number;
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
  readonly dtype?: 'float32' | 'float64';
  /** Where the model is made. Default cpu; the trainer moves it where it trains. */
  readonly device?: DeviceName;
}

export class Em3 extends Module implements RecommenderModel {
  readonly features: FeatureEmbedder;
  readonly content: ContentPart | null;
  readonly heads: CicHeads | null;
  readonly ranker: Ranker;
  readonly encoderStageEpochs: number;
  readonly encodesItems: boolean;
  readonly frozenContent: boolean;
  readonly givenInputs: readonly string[];
  readonly #options: Em3Options;
  readonly #label: string;
  /** The main one first; the others are what rankers of several tasks learn too. */
  readonly #labels: readonly string[];
  readonly #user: string | null;
  readonly #item: string | null;
  readonly #init: Initializer;
  #overlay: ContentTable | null = null;
  /** (items) 1 where the overlay holds the item. */
  #inOverlay = new Uint8Array(0);

  constructor(schema: Schema, options: Em3Options) {
    super();
    const init = new Initializer(options.seed, options.dtype, options.device);
    const { training, content, ranker, rankerOptions, embeddingDim } = options;
    const label = schema.labels[0];
    if (label === undefined)
      throw new ConfigError('em3: expected a data set with a label but received none', { key: 'data.label' });
    this.#init = init;
    this.#options = options;
    this.#label = label;
    this.#labels = schema.labels;
    this.#user = schema.userId;
    this.#item = schema.itemId;
    this.features = new FeatureEmbedder(init.at('features'), schema, {
      embeddingDim,
      oneWidth: ranker === 'fm',
      features: options.features,
      content: content.modalities,
    });
    this.givenInputs = givenInputs(schema, this.features.spec());
    this.content = training === 'id_only' ? null : new ContentPart(init.at('content'), schema, content);
    const idWidth = schema.itemId === null ? 0 : (this.features.tables.get(schema.itemId)?.embeddingDim ?? 0);
    this.heads =
      this.content !== null && options.cic.weight > 0 && idWidth > 0
        ? new CicHeads(init.at('heads'), this.content.width, idWidth)
        : null;
    this.ranker = makeRanker(ranker, init.at('ranker'), { ...this.spec(), tasks: schema.labels }, rankerOptions);
    this.encoderStageEpochs = training === 'two_stage' ? options.twoStageEpochs : 0;
    this.encodesItems = this.content !== null;
    this.frozenContent = training === 'frozen' || training === 'two_stage';
  }

  /** Sizes of what `input` gives to the ranker. */
  private spec(): RankerSpec {
    const base = this.features.spec();
    if (this.content === null) return base;
    const { width } = this.content;
    const vectors = new Map<string, number>(base.vectors);
    const histories = [...base.histories];
    const floats = [...(base.floats ?? []), 'flags'];
    vectors.set('content', width);
    vectors.set('flags', this.#options.content.modalities.length);
    const withQuery = this.content.query !== null;
    const userWidth = this.#user === null ? null : (this.features.tables.get(this.#user)?.embeddingDim ?? null);
    if (withQuery) {
      vectors.set('query', width);
      vectors.set('query*content', width);
    }
    if (userWidth === width) vectors.set('user*content', width);
    if (this.#options.historyLen > 0) {
      vectors.set('content*interest', width);
      vectors.set('cosines', this.#options.historyLen);
      vectors.set('sortedCosines', this.#options.historyLen);
      floats.push('cosines', 'sortedCosines');
      histories.push({ name: 'content', width, timed: true });
    }
    return { vectors, histories, ids: base.ids, floats };
  }

  graph(given: Batch, context: StepContext): StepGraph {
    const { itemIdDropout: share, seed } = this.#options;
    const dropped = { feature: this.#item, share, seed, stream: streamOf('em3.itemIdDropout') };
    const batch = context.training ? withoutSomeIds(given, context.step, dropped) : given;
    const live = context.stage === 'encoder' || !this.frozenContent;
    const encoded =
      this.content === null || !live ? null : this.content.encodeAndStage(batch.items.rows, batch.items, context);
    if (context.stage === 'encoder') return this.encoderStage(given, encoded, context);
    const target = this.target(batch, encoded, context);
    const { training } = this.#options;
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
      labels: (name) => this.float(batch.labels[name]!),
      weight: this.#options.rankerOptions.mmoe?.taskWeight ?? 1,
    });
    const { logits } = tasks;
    let { loss } = tasks;
    const parts: Record<string, Tensor> = { ...tasks.parts };
    const { sqdc: contrast } = this.#options;
    if (contrast.weight > 0 && query !== null && target !== null && !stillQuery) {
      parts['sqdc'] = this.contrast(batch, query, target);
      const growth = contrast.warmupSteps === 0 ? 1 : Math.min(1, context.step / contrast.warmupSteps);
      loss = add(loss, scaleBy(parts['sqdc'], contrast.weight * growth));
    }
    if (target !== null) loss = this.aligned(given, target, context, { loss, parts });
    return { loss, parts, logits };
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
      const target = this.target(batch, null, context);
      return score(this.seen(batch, target, this.query(batch, context), context), context);
    });
  }

  groups(): ParameterGroups {
    return parameterGroups(this);
  }

  commit(step: number, factor: Tensor | null): void {
    this.content?.commit(step, factor);
  }

  refresh(): void {
    this.content?.refresh();
    this.forgetOverlay();
  }

  encodeItems(
    target: 'table' | 'overlay',
    keys: Int32Array,
    content: ItemContentSource,
    step: number,
  ): Generator<Int32Array> {
    const part = this.content;
    if (part === null) return (function* (): Generator<Int32Array> {})();
    if (target === 'table') return part.fill(part.table, keys, content, step);
    if (this.#overlay === null) {
      const init = new Initializer(this.#init.seed, this.#init.dtype, this.device);
      this.#overlay = new ContentTable(init.at('overlay'), part.table.items, part.table.width);
      this.#inOverlay = new Uint8Array(part.table.items);
    }
    // A frozen encoder's overlay stays: what it holds has not changed since the last evaluation.
    const missing = keys.filter((key) => this.#inOverlay[key] === 0);
    part.useOverlay(this.#overlay);
    return this.fillOverlay(part.fill(this.#overlay, missing, content, step), missing);
  }

  private *fillOverlay(blocks: Generator<Int32Array>, keys: Int32Array): Generator<Int32Array> {
    yield* blocks;
    for (const key of keys) this.#inOverlay[key] = 1;
  }

  dropOverlay(): void {
    this.content?.useOverlay(null);
    if (!this.frozenContent) this.forgetOverlay();
  }

  private forgetOverlay(): void {
    this.#overlay?.dispose();
    this.#overlay = null;
  }

  get adapters(): EncoderAdapters {
    return this.content?.adapters ?? new Map();
  }

  get pretrained(): PretrainedEncoders | null {
    return this.content === null ? null : publishedOf(this.content);
  }

  get frozenEncoders(): FrozenEncoders | null {
    return this.content?.frozenEncoders(this.frozenContent && this.encoderStageEpochs === 0) ?? null;
  }

  get served(): ServedContent | null {
    const part = this.content;
    if (part === null) return null;
    const { historyLen, content } = this.#options;
    return {
      table: () => part.reading,
      readFrom: (table) => part.serveFrom(table),
      ages: (keys, now) => part.reading.read(keys, now).age,
      noteRows: (keys, rows) => part.noteRows(keys, rows),
      encode: (content) => noGrad(() => part.encode(content, { training: false }).cached),
      history: (keys, now) => noGrad(() => part.history(keys, now, { training: false }, false).rows),
      histories: historyLen === 0 ? [] : [{ name: 'content', length: historyLen }],
      queries: (text) => noGrad(() => part.queries(text, { training: false })),
      modalities: content.modalities,
      use: (name) => {
        if (name.startsWith('heads.')) return 'neither';
        return name.startsWith('content.') ? part.use(name.slice('content.'.length)) : 'score';
      },
    };
  }

  override load(values: Parameters<Module['load']>[0]): void {
    super.load(values);
    const [rows, steps] = ['rows', 'steps'].map((name) => values.get(`content.table.${name}`)?.data);
    if (rows !== undefined && steps !== undefined) this.content?.restore(rows, steps);
    this.forgetOverlay();
  }

  override async moveTo(device: DeviceName): Promise<void> {
    this.forgetOverlay();
    await super.moveTo(device);
  }

  override dispose(): void {
    this.forgetOverlay();
    super.dispose();
  }

  contentVectors(keys: Int32Array, step: number): Tensor | null {
    return this.content?.stored(keys, step) ?? null;
  }

  // ---- pieces of the graph

  private float(values: Float32Array, shape: readonly number[] = [values.length]): Tensor {
    return this.place(this.#init.dtype === 'float64' ? Float64Array.from(values) : values, shape);
  }

  /** Target vectors (B, W): encoded in this step, or as stored. */
  private target(batch: Batch, encoded: Tensor | null, context: StepContext): Tensor | null {
    if (this.content === null) return null;
    const vectors = encoded ?? this.content.stored(batch.items.rows, context.step);
    return gatherRows(vectors, this.place(batch.items.index));
  }

  private query(batch: Batch, context: StepContext): Tensor | null {
    if (this.content === null || batch.queries === null) return null;
    const vectors = this.content.queries(batch.queries.text, context);
    return vectors === null ? null : gatherRows(vectors, this.place(batch.queries.index));
  }

  /** What the ranker sees: ids and numbers, content vectors, their products, cosines with the history. */
  private seen(batch: Batch, target: Tensor | null, query: Tensor | null, context: StepContext): RankerInput {
    const base = this.features.forward(batch, this.device);
    if (this.content === null || target === null) return base;
    const vectors = new Map(base.vectors);
    const histories = [...base.histories];
    vectors.set('content', target);
    vectors.set('flags', this.flags(batch));
    if (this.content.query !== null) {
      const asked = query ?? this.float(new Float32Array(target.size), target.shape);
      vectors.set('query', asked);
      vectors.set('query*content', mul(asked, target));
    }
    const user = this.#user === null ? undefined : base.embeddings.get(this.#user);
    if (user !== undefined && user.shape[1] === target.shape[1]) vectors.set('user*content', mul(user, target));
    if (this.#options.historyLen > 0) this.addHistory(batch, target, context, vectors, histories);
    return { vectors, histories, ids: base.ids };
  }

  private addHistory(
    batch: Batch,
    target: Tensor,
    context: StepContext,
    vectors: Map<string, Tensor>,
    histories: HistoryInput[],
  ): void {
    const { historyLen } = this.#options;
    if (batch.history === null || this.content === null)
      throw new ConfigError('em3: expected batches with a history but the data set has no history feature', {
        key: 'feature_cols',
      });
    const { values, offsets, gaps } = lastEntries(batch.history, historyLen);
    const live = this.#options.training === 'end_to_end';
    const { rows, age } = this.content.history(values, context.step, context, live);
    const history = makeHistory({ name: 'content', target, rows, offsets, mask: age, ...(gaps && { gaps }) });
    const cosines = padJagged(cosineSimilarity(target, rows, { offsets: history.offsets, mask: age }), {
      offsets: history.offsets,
      length: historyLen,
    });
    const lengths = this.place(Int32Array.from({ length: batch.size }, (_, b) => offsets[b + 1]! - offsets[b]!));
    vectors.set('content*interest', mul(target, history.pooled()));
    vectors.set('cosines', cosines);
    vectors.set('sortedCosines', sortDescending(cosines, { lengths }));
    histories.push(history);
  }

  private flags(batch: Batch): Tensor {
    const { modalities } = this.#options.content;
    return this.float(presence(batch, modalities), [batch.size, modalities.length]);
  }

  private contrast(batch: Batch, query: Tensor, target: Tensor): Tensor {
    const { scale, columns, maskSameItem } = this.#options.sqdc;
    return sqdc(query, target, {
      labels: batch.labels[this.#label]!,
      sessions: batch.session,
      scale,
      columns,
      maskSameItem,
      items: batch.items.index,
    });
  }

  /** The loss with the contrast between content and ids added, where there is one; it is noted in `parts`. */
  private aligned(
    given: Batch,
    target: Tensor,
    { step }: StepContext,
    { loss, parts }: { loss: Tensor; parts: Record<string, Tensor> },
  ): Tensor {
    const { cic, seed } = this.#options;
    if (this.heads === null || cic.weight === 0) return loss;
    const ids = given.categorical[this.#item!]!; // also where `itemIdDropout` hides them from the ranker
    const table = this.features.tables.get(this.#item!)!;
    parts['cic'] = contentIdContrast(this.heads, given, { target, ids, table }, { ...cic, seed, step });
    return add(loss, scaleBy(parts['cic'], cic.weight));
  }

  /**
   * First stage of `two_stage`: query to item where there are queries, else latest clicked item to the clicked target (models.md 4.1);
   * beside it content to id, where that has a weight.
   */
  private encoderStage(batch: Batch, encoded: Tensor | null, context: StepContext): StepGraph {
    if (encoded === null || this.content === null)
      throw new ConfigError('em3: expected content for the first stage of two_stage', { key: 'model.training' });
    const target = gatherRows(encoded, this.place(batch.items.index));
    const query = this.query(batch, context);
    const parts: Record<string, Tensor> = {};
    parts['sqdc'] =
      query === null ? this.contrastItems(batch, encoded, target, context) : this.contrast(batch, query, target);
    const loss = this.aligned(batch, target, context, { loss: parts['sqdc'], parts });
    return { loss, parts, logits: this.float(new Float32Array(batch.size)) };
  }

  /** The latest clicked item against the clicked target; rows of one user are no negatives of each other. */
  private contrastItems(batch: Batch, encoded: Tensor, target: Tensor, context: StepContext): Tensor {
    const { anchors, labels } = this.anchors(batch, encoded, context);
    const { scale, columns, maskSameItem } = this.#options.sqdc;
    return sqdc(anchors, target, {
      labels,
      sessions: batch.user,
      scale,
      columns,
      maskSameItem,
      items: batch.items.index,
    });
  }

  /** The latest history item of each row: live where it was encoded in this step, else as stored. Rows without one anchor nothing. */
  private anchors(batch: Batch, encoded: Tensor, context: StepContext): { anchors: Tensor; labels: Float32Array } {
    if (batch.history === null)
      throw new ConfigError('em3: expected queries or a history for the first stage of two_stage', {
        key: 'feature_cols',
      });
    const labels = Float32Array.from(batch.labels[this.#label]!);
    const liveAt = new Int32Array(batch.size).fill(-1);
    const storedAt = new Int32Array(batch.size).fill(-1);
    const place = new Map(Array.from(batch.items.rows, (row, i) => [row, i]));
    for (let b = 0; b < batch.size; b++) {
      const [begin, end] = [batch.history.offsets[b]!, batch.history.offsets[b + 1]!];
      const latest = end > begin ? batch.history.values[end - 1]! : -1;
      const live = place.get(latest);
      if (latest < 0 || latest === batch.items.rows[batch.items.index[b]!]) labels[b] = 0;
      else if (live !== undefined) liveAt[b] = live;
      else if (this.content!.known(latest)) storedAt[b] = latest;
      else labels[b] = 0;
    }
    return {
      anchors: add(gatherRows(encoded, this.place(liveAt)), this.content!.stored(storedAt, context.step)),
      labels,
    };
  }
}

/** What `em3` uses where nothing is said: the defaults of the configuration (models.md marks which are the papers'). */
export const defaultEm3Options: Em3Options = {
  ranker: 'din',
  training: 'end_to_end',
  queryEncoder: 'alike',
  twoStageEpochs: 4,
  content: {
    modalities: ['text', 'image'],
    text: { width: 128, layers: 4, heads: 4, ffn: 512, dropout: 0 },
    image: { width: 32, layers: 1, heads: 4, ffn: 64, patch: 8 },
    queryLayers: 2,
    fusion: { mode: 'ctr', attention: 'joint', queries: 4, layers: 2, heads: 8, width: 128, ffn: 0, dropout: 0.1 },
    lora: { mode: 'lora_cached', rank: 8, alpha: 16, onRefresh: 'reset' },
    tuneLayers: 'all',
    cacheTokens: null,
    encoderLora: null,
  },
  sqdc: { weight: 0, warmupSteps: 0, scale: 50, columns: 'positives', maskSameItem: false },
  cic: { mode: 'ctr', weight: 1e-3, temperature: 0.1, negatives: 16 },
  historyLen: 50,
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
};

/** EM3 over a data set's schema; options say what differs from `defaultEm3Options`. Errors: `ConfigError` where the data lack a modality. */
export function em3(schema: Schema, options: Partially<Em3Options> = {}): Em3 {
  const present = defaultEm3Options.content.modalities.filter((modality) =>
    schema.features.some(
      ({ type, name, source }) =>
        source === 'item' && (type === modality || (type === 'embedding' && name === modality)),
    ),
  );
  const base =
    present.length === 0 ? defaultEm3Options : mergeOptions(defaultEm3Options, { content: { modalities: present } });
  return new Em3(schema, mergeOptions(base, options) as Em3Options);
}
