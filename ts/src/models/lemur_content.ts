/**
 * The content part of LEMUR: encoders of queries and documents, and the memory bank that stands for the documents which are not encoded
 * in a step (models.md 2.1, 5). Items are keyed by their row in the item table.
 *
 * Order of a step: `encode` chooses, encodes and stages; `history` reads, staged rows first; `commit` writes what was staged if the
 * optimizer accepted the step.
 */
import { detach, noGrad } from '../autograd.js';
import { gatherImages } from '../data/images/image_store.js';
import type { ItemBatch, TokenBatch } from '../data/loader/batch.js';
import { featuresOf, type Schema } from '../data/schema.js';
import { gatherTokens } from '../data/text/token_store.js';
import { ArgumentError, ConfigError } from '../errors.js';
import { BankRecord } from '../nn/bank_record.js';
import { ContentTable } from '../nn/content_table.js';
import { DocumentEncoder } from '../nn/document_encoder.js';
import { type BankRows, MemoryBank } from '../nn/memory_bank.js';
import { type ForwardContext, Initializer, Module } from '../nn/module.js';
import { PretrainedImageEncoder } from '../nn/pretrained_image_encoder.js';
import { PretrainedTextEncoder } from '../nn/pretrained_text_encoder.js';
import { TextEncoder } from '../nn/text_encoder.js';
import { tuneLast } from '../nn/tune_last.js';
import { cast } from '../ops/cast.js';
import { concat } from '../ops/concat.js';
import { add, mul, sub } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import { chooseItems } from './choose_items.js';
import type { ItemContent } from './content.js';
import type { EncoderLoraOptions } from './encoder_adapters.js';
import {
  type AdaptedEncoder,
  adaptEncoders,
  type EncoderAdapters,
  type EncoderName,
  setMode,
} from './encoder_adapters.js';
import { type FrozenEncoders, type FrozenFeatures, frozenEncoders } from './frozen_features.js';
import type { ServedContent, StepContext } from './model.js';
import {
  layerNames,
  type PretrainedOptions,
  pretrainedImage,
  pretrainedText,
  singleSegment,
} from './pretrained_content.js';

export interface LemurContentOptions {
  readonly modalities: readonly ('text' | 'image')[];
  /** Width of both encoders and of the stored vectors. */
  readonly width: number;
  /** Layers of the document encoder. */
  readonly layers: number;
  readonly queryLayers: number;
  readonly heads: number;
  readonly ffn: number;
  readonly dropout: number;
  readonly image: {
    readonly width: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly patch: number;
  };
  /** Published encoders of texts and pictures; their weights are filled in afterwards (`fillEncoders`). */
  readonly pretrained?: PretrainedOptions;
  readonly bank: {
    /** Percent of the items of a step that are encoded, and that are encoded with gradient. */
    readonly p: number;
    readonly q: number;
    /** Until this step every item is encoded with gradient: while the encoder changes fast. */
    readonly warmupSteps: number;
    /** Items with more training rows than this are encoded less often, by popularAt / rows; null: all alike. */
    readonly popularAt: number | null;
    /** 'inverse': the gradient of the items that pass one is divided by how likely that was, so that its mean is that of encoding all. */
    readonly qScale: 'none' | 'inverse';
    /** Steps after which a stored target is encoded again whatever p says; null: never. */
    readonly maxAge: number | null;
    /** Rows that the bank has room for; null: one and a quarter of the items. Fewer than 1.1 of the items only where p = 100. */
    readonly capacity: number | null;
    readonly dtype: 'float32' | 'bfloat16';
    /** 'joined': history rows that this step encoded with gradient pass theirs on. */
    readonly historyGrad: 'none' | 'joined';
    /** Whether an item that stands in several rows of a batch is encoded once. False is for comparisons. */
    readonly dedup: boolean;
    /** 'frozen': an evaluation reads the bank as training left it and encodes only what is missing there. 'fresh': it encodes everything. */
    readonly evaluation: 'frozen' | 'fresh';
  };
  /** Blocks of the document's text and picture encoders that train, from the top; 'all' also trains embeddings. */
  readonly tuneLayers: number | 'all';
  /** Low-rank updates of linear layers of these encoders, whose own weights are frozen then; null: none. */
  readonly encoderLora: EncoderLoraOptions | null;
  readonly seed: number;
}

/** Vectors of a step's items: item i of the list is row `at[i]` of `vectors` (n, width). */
export interface StepVectors {
  readonly vectors: Tensor;
  readonly at: Int32Array;
  readonly encoded: { readonly items: number; readonly live: number };
}

export class LemurContent extends Module {
  readonly document: DocumentEncoder;
  readonly query: TextEncoder | null;
  readonly bank: MemoryBank;
  readonly record: BankRecord;
  readonly width: number;
  readonly #options: LemurContentOptions;
  readonly #items: number;
  readonly #init: Initializer;
  /** (items) training rows of each item, and its decile by them; null before `prepare`. */
  #popularity: { readonly rows: Int32Array; readonly deciles: Uint8Array } | null = null;
  /** Items that the bank was found to hold; null: those that the record says. */
  #held: Set<number> | null = null;
  #overlay: ContentTable | null = null;
  /** Whether the overlay belongs to whoever gave it. */
  #overlayIsGiven = false;
  readonly #adapters: EncoderAdapters;
  #features: FrozenFeatures | null = null;

  constructor(init: Initializer, schema: Schema, options: LemurContentOptions) {
    super();
    const { modalities, width, layers, queryLayers, heads, ffn, dropout, image, bank, pretrained = {} } = options;
    const texts = featuresOf(schema, 'text');
    const itemText = texts.find(({ source }) => source === 'item');
    const queryText = texts.find(({ source }) => source === 'query');
    const picture = featuresOf(schema, 'image')[0];
    for (const modality of modalities)
      if ((modality === 'text' ? itemText : picture) === undefined)
        throw new ConfigError(
          `lemur: expected a ${modality} feature of items for modality ${modality} but the data set has none`,
          { key: 'model.modalities' },
        );
    const capacity = bank.capacity ?? Math.ceil(1.25 * schema.items);
    const least = Math.ceil(1.1 * schema.items); // a fuller table of hashes evicts a few rows before it is full
    if (capacity < least && bank.p < 100)
      throw new ConfigError(
        `lemur: expected a bank with capacity ${least} for ${schema.items} items where p < 100 (${bank.p}) but received ${capacity}: ` +
          'a target that was evicted would have no vector',
        { key: 'model.bank.capacity' },
      );
    if (bank.historyGrad === 'joined' && bank.dtype === 'bfloat16')
      throw new ConfigError('lemur: expected a bank of float32 for history_grad joined but received bfloat16', {
        key: 'model.bank.dtype',
      });
    this.width = width;
    this.#options = options;
    this.#items = schema.items;
    this.#init = init;
    const shape = { width, heads, ffn, dropout };
    const readsText = modalities.includes('text') && itemText !== undefined;
    const sizes = readsText ? itemText : { vocabularySize: 1, positions: 1, types: 1 };
    const own = init.at('document');
    const publishedText = readsText && pretrained.text ? pretrained.text : null;
    this.document = new DocumentEncoder(own, {
      text:
        publishedText !== null
          ? { encoder: pretrainedText(own.at('text'), publishedText, itemText!, dropout), out: width }
          : {
              vocabularySize: sizes.vocabularySize,
              positions: sizes.positions,
              types: sizes.types,
              layers,
              ...shape,
            },
      image:
        !modalities.includes('image') || picture === undefined
          ? null
          : pretrained.image
            ? pretrainedImage(own.at('image'), pretrained.image, picture, dropout)
            : { size: picture.size, ...image, dropout },
      readsText,
    });
    const encoders = new Map<EncoderName, AdaptedEncoder>();
    if (readsText) encoders.set('text', { module: this.document.text, nameOf: layerNames(publishedText) });
    const pictures = this.document.image;
    if (pictures !== null) {
      // A published text encoder makes the fusion a late one, of the vectors of pictures; else their tokens are read.
      const tokens = publishedText === null && pictures instanceof PretrainedImageEncoder;
      encoders.set('image', {
        module: pictures,
        nameOf: layerNames(pretrained.image),
        unused: tokens ? pictures.ofVectors : undefined,
      });
    }
    for (const { module, unused } of encoders.values()) tuneLast(module, options.tuneLayers, unused);
    this.#adapters =
      options.encoderLora === null ? new Map() : adaptEncoders(encoders, init.at('adapters'), options.encoderLora);
    this.query =
      queryText === undefined
        ? null
        : new TextEncoder(init.at('query'), {
            vocabularySize: queryText.vocabularySize,
            positions: queryText.positions,
            types: queryText.types,
            layers: queryLayers,
            absent: true,
            ...shape,
          });
    this.bank = new MemoryBank({ capacity, width, dtype: bank.dtype, device: init.device });
    this.record = new BankRecord(init.at('record'), schema.items);
  }

  /** Asks the bank itself which of `keys` it holds, for the next `fill`: of a bank that evicts the host does not know. */
  async locate(keys: Int32Array, now: number): Promise<void> {
    const { capacity } = this.#options.bank;
    if (capacity === null || capacity >= 1.1 * this.#items) return;
    const age = tidy(() => noGrad(() => this.bank.read(bankKeys(keys), { now }).age));
    const ages = (await age.data()) as Int32Array;
    age.dispose();
    this.#held = new Set(keys.filter((_, i) => ages[i]! >= 0));
  }

  /** Before training: rows (items) of each item in the train part. */
  prepare(trainCount: Int32Array): void {
    this.#popularity = { rows: trainCount, deciles: popularityDeciles(trainCount) };
  }

  /** Low-rank updates of the document's encoders. */
  get adapters(): EncoderAdapters {
    return this.#adapters;
  }

  /** The document encoder, where it does not train: one row per item, its vector. `stays`: it does not, whatever requires a gradient. */
  frozenEncoders(stays: boolean): FrozenEncoders | null {
    const { modalities, width, layers, heads, ffn, image, pretrained = null } = this.#options;
    return frozenEncoders(new Map([['document', { module: this.document }]]), {
      stays,
      sizes: new Map([['document', { most: 1, width }]]),
      identity: { modalities, width, layers, heads, ffn, image, pretrained },
      encode: (content) =>
        noGrad(() => {
          const rows = this.documents(content, { training: false });
          const starts = Int32Array.from({ length: rows.shape[0]! }, (_, i) => i);
          return new Map([['document', { rows, starts, counts: new Int32Array(starts.length).fill(1) }]]);
        }),
      use: (features) => {
        this.#features = features;
      },
    });
  }

  /** Vectors (n, width) of documents in float32, as the bank may hold them: live, or the features of `keys` (n) where the encoder is frozen. */
  private documents(content: ItemContent, context: ForwardContext, keys: Int32Array | null = null): Tensor {
    if (keys !== null && this.#features !== null)
      return this.place(this.#features.gather('document', keys).values, [keys.length, this.#options.width]);
    setMode(this.#adapters, context);
    const text =
      content.text !== null && this.document.text instanceof PretrainedTextEncoder
        ? singleSegment(content.text)
        : content.text;
    return cast(this.document.vectors({ text, image: content.image }, context), 'float32');
  }

  /** Vectors of the items of a step: live, encoded without gradient, or from the bank. What is encoded is staged. */
  encode(items: ItemBatch, context: StepContext): StepVectors {
    const { bank, seed } = this.#options;
    const { step } = context;
    const { rows } = items;
    this.bank.discard(); // of a step that failed before its end
    const { live, chance, fresh, cached } = chooseItems(
      rows,
      step,
      { ...bank, seed },
      {
        lastWrite: (item) => this.record.lastWrite(item, step),
        trainRows: (item) => this.#popularity?.rows[item] ?? 0,
      },
    );
    const parts: Tensor[] = [];
    if (live.length > 0) {
      const vectors = this.documents(contentOf(items, live), context, at(rows, live));
      parts.push(
        bank.qScale === 'inverse'
          ? scaleGradients(
              vectors,
              this.place(
                chance.map((c) => 1 / c),
                [live.length, 1],
              ),
            )
          : vectors,
      );
    }
    if (fresh.length > 0) parts.push(noGrad(() => this.documents(contentOf(items, fresh), context, at(rows, fresh))));
    const order = Int32Array.from([...live, ...fresh, ...cached]);
    const encoded = { items: live.length + fresh.length, live: live.length };
    if (encoded.items > 0) {
      const keys = at(rows, order.subarray(0, encoded.items));
      const deciles = this.decilesOf(keys);
      this.bank.stage(bankKeys(keys), concat(parts, { axis: 0 }), { step, measure: true, ...deciles });
      this.record.stage(step, keys);
    }
    if (cached.length > 0) {
      const keys = cached.map((position) => rows[position]!);
      const options = { now: step, sequence: 'target', ...this.decilesOf(keys) };
      parts.push(cast(this.bank.read(bankKeys(keys), options).rows, 'float32'));
    }
    const placed = new Int32Array(rows.length);
    order.forEach((position, row) => {
      placed[position] = row;
    });
    return { vectors: concat(parts, { axis: 0 }), at: placed, encoded };
  }

  /**
   * Rows (T, width) of history items and their ages, -1 where there is none; rows that this step encoded come first. `live`: whether
   * `historyGrad` may pass gradient to them.
   */
  history(keys: Int32Array, now: number, { sequence, live }: { sequence: string; live: boolean }): BankRows {
    return this.read(keys, now, { sequence, historyGrad: live ? this.#options.bank.historyGrad : 'none' });
  }

  /** Whether `item` has a vector in step `now` for sure: the host's knowledge, two steps late. */
  known(item: number, now: number): boolean {
    return this.record.lastWrite(item, now) >= 0;
  }

  /** Vectors (T, width) as they are stored; zero rows where there is none. */
  stored(keys: Int32Array, now: number): Tensor {
    return noGrad(() => this.read(keys, now, {}).rows);
  }

  private read(
    keys: Int32Array,
    now: number,
    options: { sequence?: string; historyGrad?: 'none' | 'joined' },
  ): BankRows {
    if (this.#overlay !== null) return this.#overlay.read(keys, now);
    const deciles = options.sequence === undefined ? {} : this.decilesOf(keys);
    const { rows, age } = this.bank.read(bankKeys(keys), { now, ...options, ...deciles });
    return { rows: cast(rows, 'float32'), age };
  }

  private decilesOf(keys: Int32Array): { deciles?: Uint8Array } {
    const all = this.#popularity?.deciles;
    if (all === undefined) return {};
    const deciles = new Uint8Array(keys.length); // plain loops: a step reads some ten thousand clicks
    for (let i = 0; i < keys.length; i++) deciles[i] = all[keys[i]!]!;
    return { deciles };
  }

  /** Vectors (n, width) of query texts; null where the data have none. */
  queries(text: TokenBatch, context: ForwardContext): Tensor | null {
    return this.query?.vectors(text, context) ?? null;
  }

  commit(_now: number, factor: Tensor | null): void {
    this.bank.commit({ factor });
  }

  /**
   * Encodes `keys` (distinct item rows) without gradient in blocks of `block` items: into the bank, or for an evaluation into a table of
   * its own that `dropOverlay` releases, where what the bank holds is copied ('frozen'). One block per call of the generator.
   */
  *fill(
    target: 'table' | 'overlay',
    keys: Int32Array,
    content: (keys: Int32Array) => ItemContent,
    now: number,
    block = 256,
  ): Generator<Int32Array> {
    const copies = target === 'overlay' && this.#options.bank.evaluation === 'frozen';
    const holds = (key: number): boolean => (this.#held === null ? this.record.holds(key) : this.#held.has(key));
    const held = copies ? keys.filter(holds) : new Int32Array(0);
    const missing = copies ? keys.filter((key) => !holds(key)) : keys;
    this.#held = null;
    const overlay = target === 'overlay' ? this.makeOverlay() : null;
    this.#overlay = overlay;
    const put = (part: Int32Array, vectors: Tensor): void => {
      if (overlay === null) {
        this.bank.write(bankKeys(part), vectors, { step: now });
        this.record.stage(now, part);
        this.record.settle(now, true);
      } else {
        overlay.stage(part, vectors);
        overlay.commit(now);
      }
    };
    for (const [list, encodes] of [
      [held, false],
      [missing, true],
    ] as const)
      for (let at = 0; at < list.length; at += block) {
        const part = list.slice(at, at + block);
        yield encodes ? part : part.subarray(0, 0);
        noGrad(() => {
          const vectors = encodes
            ? this.documents(content(part), { training: false }, part)
            : cast(this.bank.read(bankKeys(part), { now }).rows, 'float32');
          put(part, vectors);
        });
      }
  }

  private makeOverlay(): ContentTable {
    this.dropOverlay();
    const init = new Initializer(this.#init.seed, 'float32', this.device);
    return new ContentTable(init.at('overlay'), this.#items, this.#options.width);
  }

  dropOverlay(): void {
    if (!this.#overlayIsGiven) this.#overlay?.dispose();
    this.#overlay = null;
    this.#overlayIsGiven = false;
  }

  /** How the model scores from vectors that an export holds, in the order of item rows. */
  get served(): Omit<ServedContent, 'histories' | 'modalities'> {
    return {
      table: () => {
        if (this.#overlay === null)
          throw new ArgumentError(
            'lemur: expected an evaluation to have encoded the items before their table is read',
            {
              op: 'lemur.served',
            },
          );
        return this.#overlay;
      },
      readFrom: (table) => {
        this.dropOverlay();
        this.#overlay = table;
        this.#overlayIsGiven = true;
      },
      ages: (keys, now) =>
        this.#options.bank.evaluation === 'frozen'
          ? noGrad(() => this.bank.read(bankKeys(keys), { now }).age)
          : this.#overlay!.read(keys, now).age,
      noteRows: () => undefined, // a row is the vector itself
      encode: (content) => noGrad(() => this.documents(content, { training: false })),
      history: (keys, now) => this.stored(keys, now),
      queries: (text) => noGrad(() => this.queries(text, { training: false })),
      use: (name) => {
        if (name.startsWith('content.bank.') || name.startsWith('content.record.')) return 'neither';
        return name.startsWith('content.document.') ? 'encode' : 'score';
      },
    };
  }

  /**
   * Rows of the bank and what became of writes; of the last step: hit rate and ages per sequence, cosine of fresh and held rows. Names that
   * end in `_d0` to `_d9` are those of one popularity decile, 9 the most popular items.
   */
  async stats(): Promise<Record<string, number>> {
    const { rows, refused, evicted, dropped, sequences, staleness } = await this.bank.stats();
    const flat: Record<string, number> = { rows, refused, evicted, dropped };
    for (const [name, { hitRate, mean, p50, p99, deciles }] of Object.entries(sequences)) {
      Object.assign(flat, {
        [`${name}.hit_rate`]: hitRate,
        [`${name}.age`]: mean,
        [`${name}.age_p50`]: p50,
        [`${name}.age_p99`]: p99,
      });
      deciles?.forEach((of, decile) => {
        if (of.keys > 0) flat[`${name}.hit_rate_d${decile}`] = of.hitRate;
        if (of.found > 0) flat[`${name}.age_d${decile}`] = of.mean;
      });
    }
    if (staleness === null) return flat;
    staleness.deciles?.forEach((of, decile) => {
      if (of.rows > 0) flat[`cosine_d${decile}`] = of.cosine;
    });
    return { ...flat, cosine: staleness.cosine };
  }

  override dispose(): void {
    this.dropOverlay();
    this.bank.dispose();
    super.dispose();
  }
}

/** (items) 0 .. 9: the tenth of the items with training rows that an item belongs to, 9 the most popular; 0 also without any. */
export function popularityDeciles(trainCount: Int32Array): Uint8Array {
  const deciles = new Uint8Array(trainCount.length);
  const order = trainCount.map((_, item) => item).filter((item) => trainCount[item]! > 0);
  order.sort((a, b) => trainCount[a]! - trainCount[b]! || a - b);
  order.forEach((item, rank) => {
    deciles[item] = Math.floor((10 * rank) / order.length);
  });
  return deciles;
}

/** The values of `x` (n, D), exactly; its gradient times `scales` (n, 1), row by row. */
function scaleGradients(x: Tensor, scales: Tensor): Tensor {
  const value = detach(x);
  return add(value, mul(sub(x, value), scales));
}

/** The rows at `positions`. */
function at(rows: Int32Array, positions: Int32Array): Int32Array {
  return positions.map((position) => rows[position]!);
}

/** Item rows (n) as 64-bit keys. */
function bankKeys(rows: Int32Array): BigInt64Array {
  const words = new Int32Array(2 * rows.length); // little-endian: low word first, the high one is 0, so that -1 is no item's key
  for (let i = 0; i < rows.length; i++) words[2 * i] = rows[i]!;
  return new BigInt64Array(words.buffer);
}

/** Text and picture of the items at `positions`; without a copy where these are all. */
function contentOf({ rows, text, image }: ItemBatch, positions: Int32Array): ItemContent {
  if (positions.length === rows.length) return { text, image };
  return { text: text && gatherTokens(text, positions), image: image && gatherImages(image, positions) };
}

/** One item per row of the batch, as if each were another. */
export function withoutDedup({ rows, index, text, image }: ItemBatch): ItemBatch {
  return {
    rows: index.map((item) => rows[item]!),
    index: Int32Array.from(index.keys()),
    text: text && gatherTokens(text, index),
    image: image && gatherImages(image, index),
  };
}
