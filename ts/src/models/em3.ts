/**
 * EM3: item text and pictures are encoded in the training step of the ranker, fused by a FusionQFormer, compared with the user's
 * history, and aligned with the ids by a contrastive loss. The five training modes (models.md 9) are one switch of this model.
 */

import { noGrad } from '../autograd.js';
import type { Batch } from '../data/loader/batch.js';
import type { Schema } from '../data/schema.js';
import type { CicHeads } from '../nn/cic_heads.js';
import { ContentTable } from '../nn/content_table.js';
import { Initializer, type Module } from '../nn/module.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import { mul } from '../ops/elementwise.js';
import { padJagged } from '../ops/pad_jagged.js';
import { sortDescending } from '../ops/sort_descending.js';
import type { DeviceName, Tensor } from '../tensor.js';
import { type ContentOptions, ContentPart } from './content.js';
import { ContentRanker, type ContentRankerOptions, defaultContentRanker, type StepItems } from './content_ranker.js';
import { lastEntries, makeHistory } from './history.js';
import type { ItemContentSource, RecommenderModel, ServedContent, StepContext } from './model.js';
import { mergeOptions, type Partially } from './options.js';
import { type PretrainedEncoders, publishedOf } from './pretrained.js';
import type { HistoryInput, Ranker, RankerSpec } from './ranker.js';

export interface Em3Options extends ContentRankerOptions {
  readonly content: ContentOptions;
  /** Content history items; 0 for none. */
  readonly historyLen: number;
  readonly dtype?: 'float32' | 'float64';
}

export class Em3 extends ContentRanker<Em3Options> implements RecommenderModel {
  readonly content: ContentPart | null;
  readonly heads: CicHeads | null;
  readonly ranker: Ranker;
  #overlay: ContentTable | null = null;
  /** (items) 1 where the overlay holds the item. */
  #inOverlay = new Uint8Array(0);

  constructor(schema: Schema, options: Em3Options) {
    const { training, content, dtype } = options;
    const given = content.modalities;
    super(schema, options, { name: 'em3', dtype, given, clicksAsQueries: false, sessionMask: true });
    this.content = training === 'id_only' ? null : new ContentPart(this.init.at('content'), schema, content);
    this.heads = this.makeHeads();
    this.ranker = this.makeRanker();
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
      const init = new Initializer(this.init.seed, this.init.dtype, this.device);
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

  get pretrained(): PretrainedEncoders | null {
    return this.content === null ? null : publishedOf(this.content);
  }

  get served(): ServedContent | null {
    const part = this.content;
    if (part === null) return null;
    const { historyLen, content } = this.options;
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

  // ---- pieces of the graph

  protected encode({ items }: Batch, context: StepContext): StepItems {
    const { rows, index } = items;
    return {
      vectors: this.content!.encodeAndStage(rows, items, context),
      index,
      encoded: { items: rows.length, live: rows.length },
      rowsByItem: () => new Map(Array.from(rows, (item, row) => [item, row])),
    };
  }

  protected addHistorySpecs(vectors: Map<string, number>): Pick<RankerSpec, 'histories' | 'floats'> {
    const { historyLen } = this.options;
    const { width } = this.content!;
    if (historyLen === 0) return { histories: [] };
    this.addWidth(vectors, 'content*interest', width);
    this.addWidth(vectors, 'cosines', historyLen);
    this.addWidth(vectors, 'sortedCosines', historyLen);
    return { histories: [{ name: 'content', width, timed: true }], floats: ['cosines', 'sortedCosines'] };
  }

  /** Pooled interest times target, and cosines of the target with the latest clicks: in their order, and sorted. */
  protected addHistories(
    batch: Batch,
    { target, vectors }: { target: Tensor; vectors: Map<string, Tensor> },
    context: StepContext,
  ): HistoryInput[] {
    const { historyLen, training } = this.options;
    if (historyLen === 0) return [];
    const { values, offsets, gaps } = lastEntries(this.clicks(batch), historyLen);
    const live = training === 'end_to_end';
    const { rows, age } = this.content!.history(values, context.step, context, live);
    const history = makeHistory({ name: 'content', target, rows, offsets, mask: age, ...(gaps && { gaps }) });
    const cosines = padJagged(cosineSimilarity(target, rows, { offsets: history.offsets, mask: age }), {
      offsets: history.offsets,
      length: historyLen,
    });
    const lengths = this.place(Int32Array.from({ length: batch.size }, (_, b) => offsets[b + 1]! - offsets[b]!));
    vectors.set('content*interest', mul(target, history.pooled()));
    vectors.set('cosines', cosines);
    vectors.set('sortedCosines', sortDescending(cosines, { lengths }));
    return [history];
  }
}

/** What `em3` uses where nothing is said: the defaults of the configuration (models.md marks which are the papers'). */
export const defaultEm3Options: Em3Options = {
  ...defaultContentRanker,
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
  cic: { ...defaultContentRanker.cic, weight: 1e-3 },
  historyLen: 50,
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
