/**
 * The content part of a recommender: encoders and FusionQFormer that turn an item's text and picture into a vector, the table of
 * last encoded vectors behind the history, and EM3's low-rank adaptation of the history path (models.md 2, 3, 5.1).
 */

import { detach, noGrad } from '../autograd.js';
import type { ImageBatch, ItemBatch, TokenBatch } from '../data/loader/batch.js';
import { featuresOf, type Schema } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import { native } from '../native.js';
import { ContentTable } from '../nn/content_table.js';
import { FusionQFormer, type ModalityTokens } from '../nn/fusion_q_former.js';
import { ImageEncoder } from '../nn/image_encoder.js';
import { Linear } from '../nn/linear.js';
import { LoraLinear } from '../nn/lora_linear.js';
import { type ForwardContext, type Initializer, Module } from '../nn/module.js';
import { pooledTokens, poolPatches } from '../nn/pool_patches.js';
import type { PretrainedImageEncoder } from '../nn/pretrained_image_encoder.js';
import type { PretrainedTextEncoder } from '../nn/pretrained_text_encoder.js';
import { TextEncoder } from '../nn/text_encoder.js';
import { tuneLast } from '../nn/tune_last.js';
import { concat, slice } from '../ops/concat.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import { mul } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { reshape } from '../ops/transpose.js';
import { full, type Tensor } from '../tensor.js';
import type { ContentOptions } from './content_options.js';
import {
  type AdaptedEncoder,
  adaptEncoders,
  type EncoderAdapters,
  type EncoderName,
  setMode,
} from './encoder_adapters.js';
import { type FrozenEncoders, type FrozenFeatures, frozenEncoders } from './frozen_features.js';
import type { StateUse } from './model.js';
import { layerNames, pretrainedImage, pretrainedText, singleSegment } from './pretrained_content.js';

export type { ContentOptions, LoraMode } from './content_options.js';

/** Text, picture and given vectors of n items, in one order. */
export interface ItemContent {
  readonly text: TokenBatch | null;
  readonly image: ImageBatch | null;
  readonly vectors?: ItemBatch['vectors'];
}

type Modalities = Record<string, ModalityTokens>;

/** What encoding gives: the vectors, what the table stores of them (`cached`), per item, and the tokens behind them. */
interface Encoded {
  readonly vectors: Tensor;
  readonly cached: Tensor;
  readonly modalities: Modalities;
}

export class ContentPart extends Module {
  readonly text: TextEncoder | PretrainedTextEncoder | null;
  readonly image: ImageEncoder | PretrainedImageEncoder | null;
  readonly query: TextEncoder | null;
  readonly fusion: FusionQFormer;
  /** 'lora_block': a frozen snapshot of `fusion` with low-rank updates. */
  readonly snapshot: FusionQFormer | null;
  /** 'lora_cached': a frozen snapshot of `fusion.last`, and its low-rank update. */
  readonly snapshotLast: Linear | null;
  readonly update: LoraLinear | null;
  readonly table: ContentTable;
  readonly width: number;
  readonly #options: ContentOptions;
  /** Most tokens of an item, by modality: 1 in mode 'exact'. */
  readonly #maxTokens: ReadonlyMap<string, number>;
  /** Width of the tokens of each modality, and which of them are given vectors. */
  readonly #widths: Readonly<Record<string, number>>;
  readonly #given: readonly string[];
  /** Tokens of every item that was encoded, by modality; 0 where it is missing. With tokens in the table, its last columns say the same. */
  #counts: ReadonlyMap<string, Int32Array>;
  readonly #known: Uint8Array;
  #overlay: ContentTable | null = null;
  readonly #encoders = new Map<EncoderName, AdaptedEncoder>();
  readonly #adapters: EncoderAdapters;
  #features: FrozenFeatures | null = null;

  constructor(init: Initializer, schema: Schema, options: ContentOptions) {
    super();
    const { modalities, text, image, fusion, lora, queryLayers, pretrained = {} } = options;
    const itemText = featuresOf(schema, 'text').find((feature) => feature.source === 'item');
    const queryText = featuresOf(schema, 'text').find((feature) => feature.source === 'query');
    const picture = featuresOf(schema, 'image')[0];
    const widths: Record<string, number> = {};
    const vectorFeatures = featuresOf(schema, 'embedding');
    const given = modalities.flatMap((modality) => vectorFeatures.filter(({ name }) => name === modality));
    const isGiven = (modality: string): boolean => given.some(({ name }) => name === modality);
    for (const modality of modalities) {
      const raw = modality === 'text' ? itemText : modality === 'image' ? picture : undefined;
      if (!isGiven(modality) && raw === undefined)
        throw new ConfigError(
          `model: expected a ${modality} feature of items for modality ${modality} but the data set has none`,
          { key: 'model.modalities' },
        );
    }
    const useText = modalities.includes('text') && itemText !== undefined && !isGiven('text');
    const useImage = modalities.includes('image') && picture !== undefined && !isGiven('image');
    if (useImage) widths['image'] = pretrained.image?.options.width ?? image.width;
    if (useText) widths['text'] = pretrained.text?.options.width ?? text.width;
    for (const { name, dim } of given) widths[name] = dim;
    this.#widths = widths;
    this.#given = given.map(({ name }) => name);
    const { width: textWidth, heads, ffn, dropout, layers } = text;
    this.#options = options;
    this.width = fusion.width;
    this.text = !useText
      ? null
      : pretrained.text
        ? pretrainedText(init.at('text'), pretrained.text, itemText, dropout)
        : new TextEncoder(init.at('text'), {
            vocabularySize: itemText.vocabularySize,
            positions: itemText.positions,
            types: itemText.types,
            width: textWidth,
            layers,
            heads,
            ffn,
            dropout,
          });
    this.image = !useImage
      ? null
      : pretrained.image
        ? pretrainedImage(init.at('image'), pretrained.image, picture, dropout)
        : new ImageEncoder(init.at('image'), { size: picture.size, ...image });
    this.query =
      queryText === undefined
        ? null
        : new TextEncoder(init.at('query'), {
            vocabularySize: queryText.vocabularySize,
            positions: queryText.positions,
            types: queryText.types,
            width: textWidth,
            layers: queryLayers,
            heads,
            ffn,
            dropout,
            out: fusion.width,
          });
    this.fusion = new FusionQFormer(init.at('fusion'), { ...fusion, modalities: widths });
    this.snapshot =
      lora.mode === 'lora_block'
        ? frozen(new FusionQFormer(init.at('snapshot'), { ...fusion, modalities: widths, lora }))
        : null;
    const flat = fusion.queries * fusion.width;
    this.snapshotLast =
      lora.mode === 'lora_cached' ? frozen(new Linear(init.at('snapshotLast'), flat, fusion.width)) : null;
    this.update = this.snapshotLast === null ? null : new LoraLinear(init.at('update'), this.snapshotLast, lora);
    const exact = fusion.mode === 'exact';
    this.#maxTokens = new Map<string, number>([
      ...(useText ? [['text', exact ? 1 : itemText.maxTokens] as const] : []),
      ...(this.image === null ? [] : [['image', exact ? 1 : this.imageTokens(this.image.tokenCount)] as const]),
      ...this.#given.map((name) => [name, 1] as const),
    ]);
    this.#known = new Uint8Array(schema.items);
    this.#counts = new Map([...this.#maxTokens.keys()].map((modality) => [modality, new Int32Array(schema.items)]));
    let tokens = this.#counts.size;
    for (const [modality, most] of this.#maxTokens) tokens += most * widths[modality]!;
    this.table = new ContentTable(
      init.at('table'),
      schema.items,
      { none: fusion.width, lora_cached: flat, lora_block: tokens, shared: tokens }[lora.mode],
    );
    const encoders = this.#encoders;
    if (this.text !== null) encoders.set('text', { module: this.text, nameOf: layerNames(pretrained.text) });
    if (this.image !== null) {
      const unused = exact || this.image instanceof ImageEncoder ? undefined : this.image.ofVectors;
      encoders.set('image', { module: this.image, nameOf: layerNames(pretrained.image), unused });
    }
    for (const { module, unused } of encoders.values()) tuneLast(module, options.tuneLayers, unused);
    this.#adapters =
      options.encoderLora === null ? new Map() : adaptEncoders(encoders, init.at('adapters'), options.encoderLora);
    this.refresh();
  }

  /** Low-rank updates of the item encoders. */
  get adapters(): EncoderAdapters {
    return this.#adapters;
  }

  /** Names of the modalities that are given vectors. */
  get given(): readonly string[] {
    return this.#given;
  }

  /** Whether an item's tokens are one per modality. */
  get exact(): boolean {
    return this.#options.fusion.mode === 'exact';
  }

  /** The table that reads go to: the model's own, or another one that was given. */
  get reading(): ContentTable {
    return this.#overlay ?? this.table;
  }

  /** Copies the live weights into the frozen snapshots of the LoRA path; 'reset' also sets B = 0. */
  refresh(): void {
    const copies: [Module, Module][] = [];
    if (this.snapshot !== null) copies.push([this.fusion, this.snapshot]);
    if (this.snapshotLast !== null) copies.push([this.fusion.last, this.snapshotLast]);
    for (const [live, frozenCopy] of copies) {
      const target = frozenCopy.state();
      for (const [name, x] of live.state()) native.copy(x.handle, target.get(name)!.handle);
    }
    if (this.#options.lora.onRefresh === 'keep') return;
    for (const [name, x] of this.state())
      if (/(^update|lora(Query|Value|Project).*)\.b$/.test(name)) native.fill(x.handle, 0);
  }

  /** Tokens that the patches of a picture are pooled to; null: they are not, as in mode 'exact', which takes their mean. */
  get cacheTokens(): number | null {
    return this.exact ? null : this.#options.cacheTokens;
  }

  /** Tokens of a picture of so many patches. */
  imageTokens(patches: number): number {
    return this.cacheTokens === null ? patches : pooledTokens(patches, this.cacheTokens);
  }

  /** The item encoders, where none of them trains; `stays`: none does, whatever requires a gradient. */
  frozenEncoders(stays: boolean): FrozenEncoders | null {
    const { text, image, fusion, cacheTokens, pretrained = null } = this.#options;
    const sizeOf = (name: string) => ({ most: this.#maxTokens.get(name)!, width: this.#widths[name]! });
    return frozenEncoders(this.#encoders, {
      stays,
      sizes: new Map([...this.#encoders.keys()].map((name) => [name, sizeOf(name)])),
      identity: { text, image, fusion: fusion.mode, cacheTokens, pretrained },
      encode: (content) => noGrad(() => new Map(Object.entries(this.encodedTokens(content, { training: false })))),
      use: (features) => {
        this.#features = features;
      },
    });
  }

  /** Tokens of n items for the FusionQFormer: given vectors, and what the encoders make of texts and pictures, or made of those of `keys`. */
  private tokens(content: ItemContent, context: ForwardContext, keys: Int32Array | null): Modalities {
    const modalities: Modalities = {};
    const { vectors } = content;
    for (const name of this.#given) {
      const batch = vectors?.[name];
      if (batch === undefined)
        throw new ConfigError(`model: expected given vectors ${name} of every item but received none`, {
          key: 'model.modalities',
        });
      const { values, present, dim } = batch;
      const rows = this.place(this.fusion.query.dtype === 'float64' ? Float64Array.from(values) : values, [
        present.length,
        dim,
      ]);
      modalities[name] = { rows, starts: numbered(present.length), counts: Int32Array.from(present) };
    }
    const features = keys === null ? null : this.#features;
    if (features === null) return Object.assign(modalities, this.encodedTokens(content, context));
    for (const [name, { width }] of features.sizes) {
      const { values, starts, counts } = features.gather(name, keys!);
      const wide = this.fusion.query.dtype === 'float64' ? Float64Array.from(values) : values;
      modalities[name] = { rows: this.place(wide, [values.length / width, width]), starts, counts };
    }
    return modalities;
  }

  /**
   * What the encoders make of n items. Mode 'exact' takes one token per modality: `cls` of the text, the mean over patches, or what a published
   * encoder says stands for the whole.
   */
  private encodedTokens({ text, image }: ItemContent, context: ForwardContext): Modalities {
    setMode(this.#adapters, context);
    const modalities: Modalities = {};
    const { cacheTokens, fusion } = this.#options;
    const exact = fusion.mode === 'exact';
    if (this.text !== null && text !== null) {
      const { offsets } = text;
      const read = this.text instanceof TextEncoder ? text : singleSegment(text);
      const lengths = Int32Array.from({ length: offsets.length - 1 }, (_, i) => offsets[i + 1]! - offsets[i]!);
      modalities['text'] = exact
        ? { rows: this.text.vectors(read, context), starts: numbered(lengths.length), counts: lengths.map(Math.sign) }
        : { rows: this.text.tokens(read, context).rows, starts: offsets.slice(0, -1), counts: lengths };
    }
    if (this.image !== null && image !== null) {
      const { tokenCount } = this.image;
      const n = image.present.length;
      const each = exact ? 1 : this.imageTokens(tokenCount);
      let rows = exact ? this.image.vectors(image, context) : this.image.tokens(image, context).rows;
      if (!exact && cacheTokens !== null) rows = poolPatches(rows, { tokens: tokenCount, pooled: cacheTokens });
      modalities['image'] = {
        rows,
        starts: numbered(n).map((i) => i * each),
        counts: Int32Array.from(image.present, (there) => (there ? each : 0)),
      };
    }
    return modalities;
  }

  /** Vectors (n, width) of n items and what the table keeps of them: live, or from the features of `keys` (n) where the encoders are frozen. */
  encode(content: ItemContent, context: ForwardContext, keys: Int32Array | null = null): Encoded {
    const modalities = this.tokens(content, context, keys);
    const flattened = this.fusion.flattened(modalities, context);
    const vectors = this.fusion.last.forward(flattened);
    const { mode } = this.#options.lora;
    if (mode === 'none') return { vectors, cached: vectors, modalities };
    if (mode === 'lora_cached') return { vectors, cached: flattened, modalities };
    return { vectors, cached: noGrad(() => this.packed(modalities)), modalities };
  }

  /** One table row per item: its tokens, modality after modality, padded with zeros, then the number of tokens of each modality. */
  private packed(modalities: Modalities): Tensor {
    const parts: Tensor[] = [];
    for (const [modality, length] of this.#maxTokens) {
      const { rows, starts, counts } = modalities[modality]!;
      const index = new Int32Array(starts.length * length).fill(-1);
      starts.forEach((start, i) => {
        for (let t = 0; t < counts[i]!; t++) index[i * length + t] = start + t;
      });
      parts.push(reshape(gatherRows(detach(rows), this.place(index)), [starts.length, length * rows.shape[1]!]));
    }
    for (const modality of this.#maxTokens.keys()) {
      const { rows, counts } = modalities[modality]!;
      const column = rows.dtype === 'float64' ? Float64Array.from(counts) : Float32Array.from(counts);
      parts.push(this.place(column, [counts.length, 1]));
    }
    return concat(parts, { axis: 1 });
  }

  /** Encodes items and stages them: reads of this step see them, the table from `commit` on. `keys` (n) ascending item rows. */
  encodeAndStage(keys: Int32Array, content: ItemContent, context: ForwardContext): Tensor {
    const { vectors, cached, modalities } = this.encode(content, context, keys);
    this.note(keys, modalities);
    this.reading.stage(keys, cached);
    return vectors;
  }

  /** Whether an item has a vector in the table, or in what this step staged: what the host knows. */
  known(item: number): boolean {
    return this.#known[item] === 1;
  }

  private note(keys: Int32Array, modalities: Modalities): void {
    if (this.#overlay === null) for (const key of keys) this.#known[key] = 1;
    for (const [modality, counts] of this.#counts) {
      const given = modalities[modality]!.counts;
      keys.forEach((key, i) => {
        counts[key] = given[i]!;
      });
    }
  }

  /** After a load: token counts of the items, and which have a vector, from `rows` and `steps`, the values of the table. */
  restore(rows: ArrayLike<number | bigint>, steps: ArrayLike<number | bigint>): void {
    this.noteRows(numbered(this.table.items), rows);
    this.#known.forEach((_, item) => {
      this.#known[item] = Number(steps[item]) >= 0 ? 1 : 0;
    });
  }

  /** Token counts of `keys` from what the table holds of them, (n, width). */
  noteRows(keys: Int32Array, rows: ArrayLike<number | bigint>): void {
    const { mode } = this.#options.lora;
    if (mode === 'none' || mode === 'lora_cached') return;
    const { width } = this.table;
    [...this.#counts.values()].forEach((counts, m) => {
      keys.forEach((key, i) => {
        counts[key] = Number(rows[(i + 1) * width - this.#counts.size + m]);
      });
    });
  }

  /** Reads go to `table`, whatever its length. */
  serveFrom(table: ContentTable): void {
    this.useOverlay(table);
    this.#counts = new Map([...this.#counts.keys()].map((modality) => [modality, new Int32Array(table.items)]));
  }

  /** What a tensor of the state is needed for. Query encoder and low-rank updates score; targets and history need more by mode. */
  use(name: string): StateUse {
    const { mode } = this.#options.lora;
    if (name.startsWith('table.')) return 'neither';
    if (name.startsWith('text.') || name.startsWith('image.')) return 'encode';
    if (!name.startsWith('fusion.') || mode === 'lora_block' || mode === 'shared') return 'score';
    return mode === 'lora_cached' && name.startsWith('fusion.last.') ? 'score' : 'encode';
  }

  /**
   * Vectors (T, width) of history items `keys` (T item rows) and their ages; age -1 where an item was never encoded. `live`: whether
   * 'shared' passes gradient to the FusionQFormer.
   */
  history(keys: Int32Array, now: number, context: ForwardContext, live: boolean): { rows: Tensor; age: Tensor } {
    const { mode } = this.#options.lora;
    if (mode === 'none' || mode === 'lora_cached') {
      const { rows, age } = this.reading.read(keys, now);
      return { rows: this.update?.forward(rows) ?? rows, age };
    }
    // One run of the FusionQFormer per distinct item.
    const distinct = Int32Array.from(new Set(keys)).sort();
    const place = new Map(Array.from(distinct, (key, i) => [key, i]));
    const { rows } = this.reading.read(distinct, now);
    const fused = this.fuse(this.snapshot ?? this.fusion, distinct, rows, context);
    const { age } = this.reading.read(keys, now);
    const found = gatherRows(fused, this.place(Int32Array.from(keys, (key) => place.get(key)!)));
    return { rows: mode === 'shared' && !live ? detach(found) : found, age };
  }

  /** `fusion` over cached tokens (n, tokens) of `keys`. */
  private fuse(fusion: FusionQFormer, keys: Int32Array, rows: Tensor, context: ForwardContext): Tensor {
    const modalities: Modalities = {};
    const n = keys.length;
    let column = 0;
    for (const [modality, length] of this.#maxTokens) {
      const width = this.#widths[modality]!;
      const part = slice(rows, { axis: 1, start: column, end: column + length * width });
      column += length * width;
      modalities[modality] = {
        rows: reshape(part, [n * length, width]),
        starts: numbered(n).map((i) => i * length),
        counts: keys.map((key) => this.#counts.get(modality)![key] ?? 0),
      };
    }
    return fusion.forward(modalities, context);
  }

  /** Vectors (T, width) straight from what is stored, as targets: without the low-rank update. Zero rows where nothing is stored. */
  stored(keys: Int32Array, now: number): Tensor {
    const { mode } = this.#options.lora;
    return noGrad(() => {
      const { rows, age } = this.reading.read(keys, now);
      if (mode === 'none') return rows;
      const vectors =
        mode === 'lora_cached'
          ? this.fusion.last.forward(rows)
          : this.fuse(this.fusion, keys, rows, { training: false });
      // 1 where there is a row, 0 where there is none: the cosine of a number with itself, masked by age.
      const one = full([keys.length, 1], 1, rows);
      const there = cosineSimilarity(one, one, { offsets: this.place(numbered(keys.length + 1)), mask: age });
      return mul(vectors, reshape(there, [keys.length, 1]));
    });
  }

  /** Vectors (n, width) of n query texts. */
  queries(text: TokenBatch, context: ForwardContext): Tensor | null {
    return this.query?.vectors(text, context) ?? null;
  }

  commit(now: number, factor: Tensor | null): void {
    this.reading.commit(now, factor);
  }

  /**
   * Encodes `keys` (ascending item rows) without gradient into `table`, in blocks of `block` items; call inside `tidy`-sized steps:
   * each block is one call of the returned generator, which has given the rows whose content the next call reads.
   */
  *fill(
    table: ContentTable,
    keys: Int32Array,
    content: (keys: Int32Array) => ItemContent,
    now: number,
    block = 256,
  ): Generator<Int32Array> {
    for (let at = 0; at < keys.length; at += block) {
      const part = keys.subarray(at, at + block);
      yield part;
      const items = content(part);
      noGrad(() => {
        const { cached, modalities } = this.encode(items, { training: false }, part);
        this.note(part, modalities);
        table.stage(Int32Array.from(part), cached);
        table.commit(now);
      });
    }
  }

  /** Reads go to `table` until `null` is given: an evaluation that writes nothing. */
  useOverlay(table: ContentTable | null): void {
    this.#overlay = table;
  }
}

/** 0 .. count-1. */
function numbered(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => i);
}

/** Takes every parameter but low-rank updates out of training. */
function frozen<T extends Module>(module: T): T {
  for (const [name, x] of module.parameters())
    if (!/lora(Query|Value|Project).*\.(a|b)$/.test(name)) x.requiresGrad = false;
  return module;
}
