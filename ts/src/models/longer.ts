/** LONGER (Chai et al., 2025): long id histories as merged tokens, asked by global tokens and by the latest tokens. */
import { composite } from '../autograd.js';
import { ArgumentError } from '../errors.js';
import { Embedding } from '../nn/embedding.js';
import { LayerNorm } from '../nn/layer_norm.js';
import { Linear, Mlp } from '../nn/linear.js';
import { type ForwardContext, type Initializer, Module } from '../nn/module.js';
import { GAP_BUCKETS } from '../nn/time_gaps.js';
import { concat, slice } from '../ops/concat.js';
import { crossAttention } from '../ops/cross_attention.js';
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { historyField, timeGaps } from './history.js';
import {
  type HistoryInput,
  type HistorySpec,
  Ranker,
  type RankerInput,
  type RankerOptions,
  type RankerSpec,
} from './ranker.js';

export interface LongerOptions {
  /** Width of a merged token, a multiple of `merge` and of `heads` [sibling: 32 to 64; default 64]. */
  readonly width: number;
  readonly heads: number;
  /** K neighbours that become one token [sibling: 1 to 4; default 2]. */
  readonly merge: number;
  /** k: the latest merged tokens that ask beside the global ones [sibling: 20 to 50; default 20]. */
  readonly latest: number;
  /** The first attends to all merged tokens, the others among global and latest ones [sibling: 2]. */
  readonly layers: number;
  /** Hidden width of the feed-forward blocks [default 128]. */
  readonly ffn: number;
  /** Rows of the table of positions; events further back share the last one [sibling: histories of 50 to 200; default 200]. */
  readonly positions: number;
  /** Width of the vector of the time between an event and the target, by log2 of its seconds; 0: none [default 8]. */
  readonly gapDim: number;
}

export const defaultLonger: LongerOptions = {
  width: 64,
  heads: 4,
  merge: 2,
  latest: 20,
  layers: 2,
  ffn: 128,
  positions: 200,
  gapDim: 8,
};

/** Tokens of a batch: row b owns the tokens offsets[b] .. offsets[b+1], oldest first. The offsets are on the host. */
export interface JaggedTokens {
  /** (M, W). */
  readonly rows: Tensor;
  readonly offsets: Int32Array;
}

/** (B+1) from the number of entries of each row. */
function offsetsOf(rows: number, length: (b: number) => number): Int32Array {
  const offsets = new Int32Array(rows + 1);
  for (let b = 0; b < rows; b++) offsets[b + 1] = offsets[b]! + length(b);
  return offsets;
}

/** Places of the last `count` entries of every row, and their offsets. */
function latest(offsets: Int32Array, count: number): { index: Int32Array; offsets: Int32Array } {
  const rows = offsets.length - 1;
  const kept = offsetsOf(rows, (b) => Math.min(count, offsets[b + 1]! - offsets[b]!));
  const index = new Int32Array(kept[rows]!);
  for (let b = 0; b < rows; b++)
    for (let at = kept[b]!, from = offsets[b + 1]! - (kept[b + 1]! - kept[b]!); at < kept[b + 1]!; at++, from++)
      index[at] = from;
  return { index, offsets: kept };
}

/**
 * Pre-norm block in which G global tokens per row attend to all tokens of their row, and the asking tokens of the sequence to tokens of
 * the sequence up to themselves: they never see a global token, so what they become does not depend on the candidate.
 */
export class LongerBlock extends Module {
  readonly norm: LayerNorm;
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly out: Linear;
  readonly ffnNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly heads: number;

  constructor(init: Initializer, { width, heads, ffn }: Pick<LongerOptions, 'width' | 'heads' | 'ffn'>) {
    super();
    const make = (name: string): Linear => new Linear(init.at(name), width, width);
    this.norm = new LayerNorm(init.at('norm'), width);
    this.query = make('query');
    this.key = new Linear(init.at('key'), width, width, { bias: false }); // one would shift all scores of a query alike
    this.value = make('value');
    this.out = make('out');
    this.ffnNorm = new LayerNorm(init.at('ffnNorm'), width);
    this.up = new Linear(init.at('up'), width, ffn);
    this.down = new Linear(init.at('down'), ffn, width);
    this.heads = heads;
  }

  /** globals (B G, W), row by row; of the tokens the last `asking` of each row come back, changed. */
  forward(globals: Tensor, tokens: JaggedTokens, asking: number): { globals: Tensor; tokens: JaggedTokens } {
    const B = tokens.offsets.length - 1;
    const [all = 0, W = 0] = globals.shape;
    const M = tokens.rows.shape[0]!;
    const G = all / B;
    const split = (x: Tensor): Tensor => reshape(x, [x.shape[0]!, this.heads, W / this.heads]);
    const asks = latest(tokens.offsets, asking);
    const joined = offsetsOf(B, (b) => G + tokens.offsets[b + 1]! - tokens.offsets[b]!);
    const seen = new Int32Array(joined[B]!);
    for (let b = 0; b < B; b++)
      for (let at = joined[b]!, i = 0; at < joined[b + 1]!; at++, i++)
        seen[at] = i < G ? b * G + i : all + tokens.offsets[b]! + i - G;
    const askers = new Int32Array(all + asks.index.length);
    for (let i = 0; i < all; i++) askers[i] = i;
    asks.index.forEach((from, i) => {
      askers[all + i] = all + from;
    });

    const x = concat([globals, tokens.rows], { axis: 0 });
    const normed = this.norm.forward(x);
    const askIndex = this.place(askers);
    const q = split(this.query.forward(gatherRows(normed, askIndex)));
    const [k, v] = [split(this.key.forward(normed)), split(this.value.forward(normed))];
    const seenIndex = this.place(seen);
    const ofGlobals = crossAttention(slice(q, { end: all }), gatherRows(k, seenIndex), gatherRows(v, seenIndex), {
      offsets: this.place(joined),
      qOffsets: this.place(offsetsOf(B, () => G)),
    });
    const ofTokens = crossAttention(
      slice(q, { start: all }),
      slice(k, { start: all, end: all + M }),
      slice(v, { start: all, end: all + M }),
      { offsets: this.place(tokens.offsets), qOffsets: this.place(asks.offsets), causal: true },
    );
    const attended = reshape(concat([ofGlobals, ofTokens], { axis: 0 }), [askers.length, W]);
    const mixed = add(gatherRows(x, askIndex), this.out.forward(attended));
    const fed = add(mixed, this.down.forward(this.up.forward(this.ffnNorm.forward(mixed), 'gelu')));
    return {
      globals: slice(fed, { end: all }),
      tokens: { rows: slice(fed, { start: all }), offsets: asks.offsets },
    };
  }
}

/** An id history beside the other features of the row to (B, 3 W): what the global tokens (target, cls, features) become. */
export class LongerEncoder extends Module {
  /** Width of the result. */
  readonly width: number;
  readonly gaps: Embedding | null;
  readonly positions: Embedding;
  readonly event: Mlp;
  readonly target: Linear;
  readonly cls: Tensor;
  /** Null where the row has no other features. */
  readonly features: Linear | null;
  readonly blocks: LongerBlock[];
  readonly norm: LayerNorm;
  readonly options: LongerOptions;

  /** `width` of the history's rows, `featureWidth` of the other features side by side. */
  constructor(init: Initializer, { width, timed = false }: HistorySpec, featureWidth: number, options: LongerOptions) {
    super();
    const { width: W, heads, merge, layers, positions } = options;
    const gapDim = timed ? options.gapDim : 0;
    if (W % merge !== 0 || W % heads !== 0)
      throw new ArgumentError(
        `LongerEncoder: expected a width that merge ${merge} and heads ${heads} divide but received ${W} (model.longer.width)`,
        { argument: 'width' },
      );
    this.options = options;
    const eventWidth = width + gapDim;
    this.gaps = gapDim === 0 ? null : new Embedding(init.at('gaps'), GAP_BUCKETS, gapDim);
    this.positions = new Embedding(init.at('positions'), positions, eventWidth);
    this.event = new Mlp(init.at('event'), eventWidth, { hidden: [W], out: W / merge, activation: 'gelu' });
    this.target = new Linear(init.at('target'), width, W);
    this.cls = init.normal('cls', [1, W], 0.05);
    this.features = featureWidth === 0 ? null : new Linear(init.at('features'), featureWidth, W);
    this.blocks = Array.from({ length: layers }, (_, i) => new LongerBlock(init.at(`blocks.${i}`), options));
    this.norm = new LayerNorm(init.at('norm'), W);
    this.width = W * (this.features === null ? 2 : 3);
  }

  /** `features` (B, featureWidth): all other inputs side by side. */
  forward(history: HistoryInput, features: Tensor | null, context: ForwardContext): Tensor {
    const gaps = this.gapsOf(history);
    const inputs = [history.target, history.rows, features, history.offsets, gaps];
    return composite('longerEncoder', { inputs, attributes: { module: this } }, () => ({
      out: this.encoded(history, features, gaps, context),
    })).out;
  }

  private gapsOf(history: HistoryInput): Tensor | null {
    return this.gaps === null ? null : timeGaps(history);
  }

  private encoded(
    history: HistoryInput,
    features: Tensor | null,
    gaps: Tensor | null,
    context: ForwardContext,
  ): Tensor {
    const B = history.target.shape[0]!;
    let tokens = this.merged(history, context, gaps);
    const { width: W, latest: asking } = this.options;
    const cls = gatherRows(this.cls, this.place(new Int32Array(B)));
    const each = [this.target.forward(history.target), cls];
    if (this.features !== null && features !== null) each.push(this.features.forward(features));
    let globals = reshape(concat(each, { axis: 1 }), [B * each.length, W]);
    this.blocks.forEach((block, i) => {
      // what the tokens become in the last block nobody reads
      ({ globals, tokens } = block.forward(globals, tokens, i === this.blocks.length - 1 ? 0 : asking));
    });
    return reshape(this.norm.forward(globals), [B, this.width]);
  }

  /** Every K neighbouring events as one token, counted from the latest; the oldest token of a row may be partly zero. */
  merged(history: HistoryInput, context: ForwardContext, gaps: Tensor | null = this.gapsOf(history)): JaggedTokens {
    const { hostOffsets: offsets, mask, rows } = history;
    if (mask !== null)
      throw new ArgumentError(
        'LongerEncoder: expected an id history, whose rows all count, but received one with a mask',
        {
          argument: 'history',
        },
      );
    const { width: W, merge: K, positions } = this.options;
    const B = offsets.length - 1;
    const ages = new Int32Array(rows.shape[0]!);
    for (let b = 0; b < B; b++)
      for (let at = offsets[b]!; at < offsets[b + 1]!; at++)
        ages[at] = Math.min(offsets[b + 1]! - 1 - at, positions - 1);
    const events = this.gaps === null || gaps === null ? rows : concat([rows, this.gaps.forward(gaps)], { axis: 1 });
    const encoded = this.event.forward(add(events, this.positions.forward(this.place(ages))), context);
    const tokens = offsetsOf(B, (b) => Math.ceil((offsets[b + 1]! - offsets[b]!) / K));
    const places = new Int32Array(tokens[B]! * K).fill(-1);
    for (let b = 0; b < B; b++) {
      const shift = tokens[b + 1]! * K - offsets[b + 1]!;
      for (let at = offsets[b]!; at < offsets[b + 1]!; at++) places[at + shift] = at;
    }
    return { rows: reshape(gatherRows(encoded, this.place(places)), [tokens[B]!, W]), offsets: tokens };
  }
}

/** What each history gives a ranker: `LongerEncoder` for id histories where options are given, attention of the target elsewhere. */
export class Interests extends Module {
  readonly encoders: Map<string, LongerEncoder>;
  /** Widths of what `forward` returns. */
  readonly widths: ReadonlyMap<string, number>;

  constructor(init: Initializer, { vectors, histories }: RankerSpec, longer: LongerOptions | null) {
    super();
    const features = [...vectors.values()].reduce((total, width) => total + width, 0);
    const encoded = longer === null ? [] : histories.filter(({ ids }) => ids !== undefined);
    this.encoders = new Map(
      encoded.map((spec) => [spec.name, new LongerEncoder(init.at(spec.name), spec, features, longer!)]),
    );
    this.widths = new Map(
      histories.map(({ name, width }) => [historyField(name), this.encoders.get(name)?.width ?? width]),
    );
  }

  /** One vector (B, width) per history by name. */
  forward({ vectors, histories }: RankerInput, context: ForwardContext): Map<string, Tensor> {
    const all = [...vectors.values()];
    const features = this.encoders.size === 0 || all.length === 0 ? null : concat(all, { axis: 1 });
    return new Map(
      histories.map((history) => [
        historyField(history.name),
        this.encoders.get(history.name)?.forward(history, features, context) ?? history.pooled(),
      ]),
    );
  }
}

/** LONGER over each id history, attention of the target over content histories, then everything side by side through an MLP. */
export class Longer extends Ranker {
  readonly interests: Interests;
  readonly mlp: Mlp;

  constructor(
    init: Initializer,
    spec: RankerSpec,
    { longer = defaultLonger, mlp, dropout, batchNorm, activation }: RankerOptions,
  ) {
    super();
    this.interests = new Interests(init.at('interests'), spec, longer);
    const width = [...spec.vectors.values(), ...this.interests.widths.values()].reduce((total, own) => total + own, 0);
    this.mlp = new Mlp(init.at('mlp'), width, { hidden: mlp, out: 1, dropout, batchNorm, activation });
  }

  forward(input: RankerInput, context: ForwardContext): Tensor {
    const interests = this.interests.forward(input, context);
    const x = concat([...input.vectors.values(), ...interests.values()], { axis: 1 });
    return reshape(this.mlp.forward(x, context), [x.shape[0]!]);
  }
}
