/**
 * LEMUR: encoders of raw queries and documents trained in the step of the ranker, a session-masked contrast between them, and a memory bank
 * that gives the documents of the history, and most of the targets, without running an encoder (models.md 1, 4.1, 5, 6, 8).
 */
import type { Batch } from '../data/loader/batch.js';
import type { Schema } from '../data/schema.js';
import type { CicHeads } from '../nn/cic_heads.js';
import { HistoryDecoder } from '../nn/history_decoder.js';
import { Linear } from '../nn/linear.js';
import { type Initializer, Module } from '../nn/module.js';
import { historyCosines, SimTier } from '../nn/sim_tier.js';
import { concat } from '../ops/concat.js';
import { mul } from '../ops/elementwise.js';
import type { DeviceName, Tensor } from '../tensor.js';
import { ContentRanker, type ContentRankerOptions, defaultContentRanker, type StepItems } from './content_ranker.js';
import { lastEntries, makeHistory } from './history.js';
import { LemurContent, type LemurContentOptions, withoutDedup } from './lemur_content.js';
import type { ItemContentSource, RecommenderModel, ServedContent, StepContext } from './model.js';
import { mergeOptions, type Partially } from './options.js';
import { type PretrainedEncoders, publishedOf } from './pretrained.js';
import type { HistoryInput, Ranker, RankerSpec } from './ranker.js';

export interface LemurOptions extends ContentRankerOptions {
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
  readonly sqdc: ContentRankerOptions['sqdc'] & {
    /** False: rows of one session count as negatives of each other. */
    readonly sessionMask: boolean;
  };
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

export class Lemur extends ContentRanker<LemurOptions> implements RecommenderModel {
  readonly content: LemurContent | null;
  readonly sequences: SequencePart[];
  readonly heads: CicHeads | null;
  readonly ranker: Ranker;

  constructor(schema: Schema, options: LemurOptions) {
    const { training, content, sequences, seed, sqdc } = options;
    super(schema, options, { name: 'lemur', clicksAsQueries: true, sessionMask: sqdc.sessionMask });
    const { init } = this;
    this.content = training === 'id_only' ? null : new LemurContent(init.at('content'), schema, { ...content, seed });
    const { width } = content;
    const features = [...this.rowSpec().values()].reduce((total, columns) => total + columns, 0);
    this.sequences =
      this.content === null
        ? []
        : (['short', 'long'] as const)
            .filter((name) => sequences[name] > 0)
            .map(
              (name) =>
                new SequencePart(init.at(`sequences.${name}`), name, sequences[name], { features, width, options }),
            );
    this.heads = this.makeHeads();
    this.ranker = this.makeRanker();
  }

  prepare({ trainCount }: { readonly trainCount: Int32Array }): void {
    this.content?.prepare(trainCount);
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

  get pretrained(): PretrainedEncoders | null {
    return this.content === null ? null : publishedOf(this.content.document);
  }

  get served(): ServedContent | null {
    if (this.content === null) return null;
    const histories = this.sequences.map(({ name, length }) => ({ name, length }));
    return { ...this.content.served, histories, modalities: this.options.content.modalities };
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

  protected encode(batch: Batch, context: StepContext): StepItems {
    const { dedup } = this.options.content.bank;
    const items = dedup ? batch.items : withoutDedup(batch.items);
    const { vectors, at, encoded } = this.content!.encode(items, context);
    return {
      vectors,
      index: items.index.map((item) => at[item]!),
      encoded,
      rowsByItem: () =>
        new Map(
          dedup
            ? Array.from(items.rows, (item, i) => [item, at[i]!] as const).filter(([, row]) => row < encoded.items)
            : [],
        ),
    };
  }

  protected addHistorySpecs(vectors: Map<string, number>): Pick<RankerSpec, 'histories'> {
    const { width } = this.content!;
    for (const { name, decoder, tier, cosines } of this.sequences) {
      this.addWidth(vectors, `${name}.interest`, decoder.width);
      if (decoder.width === width) this.addWidth(vectors, `${name}.content*interest`, width);
      const similarity = tier?.width ?? cosines?.outFeatures;
      if (similarity !== undefined) this.addWidth(vectors, `${name}.similarity`, similarity);
    }
    const given = this.sequences.some(({ name }) => name === this.options.sequences.toRanker);
    return { histories: given ? [{ name: 'content', width }] : [] };
  }

  /** (B, its width): ids and numbers, document, query and flags side by side, what the decoders' queries are made of. */
  protected override rowVector(vectors: ReadonlyMap<string, Tensor>): Tensor {
    return concat([...vectors.values()], { axis: 1 });
  }

  protected addHistories(
    batch: Batch,
    { target, row, vectors }: { target: Tensor; row: Tensor | null; vectors: Map<string, Tensor> },
    context: StepContext,
  ): HistoryInput[] {
    return this.sequences
      .map((sequence) => this.addSequence(sequence, batch, row!, target, context, vectors))
      .filter((_, i) => this.sequences[i]!.name === this.options.sequences.toRanker);
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
    const live = this.options.training === 'end_to_end';
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
}

/** What `lemur` uses where nothing is said: the defaults of the configuration (models.md marks which are the papers'). */
export const defaultLemurOptions: LemurOptions = {
  ...defaultContentRanker,
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
  sqdc: { ...defaultContentRanker.sqdc, weight: 0.1, sessionMask: true },
};

/** LEMUR over a data set's schema; options say what differs from `defaultLemurOptions`. Errors: `ConfigError` where the data lack a modality. */
export function lemur(schema: Schema, options: Partially<LemurOptions> = {}): Lemur {
  return new Lemur(schema, mergeOptions(defaultLemurOptions, options) as LemurOptions);
}
