/** Multi-head attention over jagged rows, and the Transformer block made of it. */

import type { Activation } from '../native_kernels.js';
import { geluTanh, quickGelu } from '../ops/activation.js';
import { crossAttention } from '../ops/cross_attention.js';
import { dropout } from '../ops/dropout.js';
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

/** Rows of n sequences: sequence b is rows offsets[b] .. offsets[b+1]. offsets (n+1) int32. */
export interface JaggedRows {
  readonly rows: Tensor;
  readonly offsets: Tensor;
  /** (T) int32, as keys: a negative entry hides the row. Default: none is hidden. */
  readonly mask?: Tensor;
}

/** Which rows ask: all of them, or some per sequence (`index` of their rows, `offsets` of how many), as in a last layer. */
export interface Queries {
  readonly index: Tensor;
  readonly offsets: Tensor;
}

/** What `MultiHeadAttention` needs of a projection: a linear layer, or one with a low-rank update. */
export interface Projection {
  forward(x: Tensor): Tensor;
}

export interface AttentionOptions {
  readonly width: number;
  readonly heads: number;
  /** Multiplies the scores; default 1/sqrt(width / heads). */
  readonly scale?: number;
  /** Rows see no later row of their sequence. Default false. */
  readonly causal?: boolean;
}

/** out = Wo · attention(Wq x, Wk y, Wv y) + bo, heads side by side. */
export class MultiHeadAttention extends Module {
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly out: Linear;
  readonly heads: number;
  /** Multiplies the scores; undefined: 1/sqrt(width / heads). */
  readonly scale: number | undefined;
  readonly causal: boolean;

  constructor(init: Initializer, { width, heads, scale, causal = false }: AttentionOptions) {
    super();
    const make = (name: string) => new Linear(init.at(name), width, width);
    this.query = make('query');
    this.key = make('key');
    this.value = make('value');
    this.out = make('out');
    this.heads = heads;
    this.scale = scale;
    this.causal = causal;
  }

  /** Rows `from` (Tq, W) attend within their own sequence to rows `to` (T, W). Returns (Tq, W). */
  forward(
    from: JaggedRows,
    to: JaggedRows,
    projections: {
      readonly query: Projection;
      readonly key: Projection;
      readonly value: Projection;
      readonly out: Projection;
    } = this,
  ): Tensor {
    const { heads } = this;
    const split = (x: Tensor) => reshape(x, [x.shape[0]!, heads, x.shape[1]! / heads]);
    const attended = crossAttention(
      split(projections.query.forward(from.rows)),
      split(projections.key.forward(to.rows)),
      split(projections.value.forward(to.rows)),
      {
        offsets: to.offsets,
        qOffsets: from.offsets,
        scale: this.scale,
        causal: this.causal,
        ...(to.mask === undefined ? {} : { mask: to.mask }),
      },
    );
    return projections.out.forward(reshape(attended, from.rows.shape));
  }
}

/** What stands between the two layers of a feed-forward block: what a linear layer fuses, or gelu in a form of its own. */
export type FeedForwardActivation = Activation | 'quick_gelu' | 'gelu_tanh';

export interface BlockOptions extends AttentionOptions {
  readonly ffn: number;
  readonly dropout?: number;
  /** Default 'gelu'. */
  readonly activation?: FeedForwardActivation;
  /** Default 'pre'. */
  readonly norm?: 'pre' | 'post';
  /** Of both norms; default 1e-5. */
  readonly eps?: number;
}

/** W2 act(W1 x): the two layers of a feed-forward block. */
export function feedForward(x: Tensor, up: Linear, down: Linear, activation: FeedForwardActivation): Tensor {
  if (activation === 'quick_gelu') return down.forward(quickGelu(up.forward(x)));
  if (activation === 'gelu_tanh') return down.forward(geluTanh(up.forward(x)));
  return down.forward(up.forward(x, activation));
}

/**
 * Pre-norm: y = x + attention(LN(x)), then y + W2 act(W1 LN(y)). Post-norm: y = LN(x + attention(x)), then LN(y + W2 act(W1 y)).
 */
export class TransformerBlock extends Module {
  readonly attentionNorm: LayerNorm;
  readonly attention: MultiHeadAttention;
  readonly ffnNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly options: BlockOptions;

  constructor(init: Initializer, options: BlockOptions) {
    super();
    const { width, ffn, eps } = options;
    this.options = options;
    this.attentionNorm = new LayerNorm(init.at('attentionNorm'), width, { eps });
    this.attention = new MultiHeadAttention(init.at('attention'), options);
    this.ffnNorm = new LayerNorm(init.at('ffnNorm'), width, { eps });
    this.up = new Linear(init.at('up'), width, ffn);
    this.down = new Linear(init.at('down'), ffn, width);
  }

  /** x to rows of the same kind; with `only`, to those rows alone (what a last layer needs; not with `causal`, which counts rows). */
  forward(x: JaggedRows, context: ForwardContext, only?: Queries): JaggedRows {
    const { norm = 'pre', activation = 'gelu', dropout: p = 0 } = this.options;
    const drop = (y: Tensor) => (p > 0 && context.training ? dropout(y, { p }) : y);
    const read = norm === 'pre' ? this.attentionNorm.forward(x.rows) : x.rows;
    const asking = only === undefined ? read : gatherRows(read, only.index);
    const offsets = only?.offsets ?? x.offsets;
    const attended = drop(this.attention.forward({ rows: asking, offsets }, { ...x, rows: read }));
    const rest = (y: Tensor) => drop(feedForward(y, this.up, this.down, activation));
    let rows: Tensor;
    if (norm === 'pre') {
      const mixed = add(only === undefined ? x.rows : gatherRows(x.rows, only.index), attended);
      rows = add(mixed, rest(this.ffnNorm.forward(mixed)));
    } else {
      const mixed = this.attentionNorm.forward(attended, asking);
      rows = this.ffnNorm.forward(rest(mixed), mixed);
    }
    return only === undefined ? { ...x, rows } : { rows, offsets };
  }
}
