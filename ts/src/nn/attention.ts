/** Multi-head attention over jagged rows, and the pre-norm Transformer block made of it. */

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
}

/** out = Wo · attention(Wq x, Wk y, Wv y) + bo, heads side by side. */
export class MultiHeadAttention extends Module {
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly out: Linear;
  readonly #heads: number;
  readonly #scale: number | undefined;

  constructor(init: Initializer, { width, heads, scale }: AttentionOptions) {
    super();
    const make = (name: string) => new Linear(init.at(name), width, width);
    this.query = make('query');
    this.key = make('key');
    this.value = make('value');
    this.out = make('out');
    this.#heads = heads;
    this.#scale = scale;
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
    const heads = this.#heads;
    const split = (x: Tensor) => reshape(x, [x.shape[0]!, heads, x.shape[1]! / heads]);
    const attended = crossAttention(
      split(projections.query.forward(from.rows)),
      split(projections.key.forward(to.rows)),
      split(projections.value.forward(to.rows)),
      {
        offsets: to.offsets,
        qOffsets: from.offsets,
        scale: this.#scale,
        ...(to.mask === undefined ? {} : { mask: to.mask }),
      },
    );
    return projections.out.forward(reshape(attended, from.rows.shape));
  }
}

export interface BlockOptions extends AttentionOptions {
  readonly ffn: number;
  readonly dropout?: number;
}

/** x + attention(LN(x)), then x + W2 gelu(W1 LN(x)): pre-norm. */
export class TransformerBlock extends Module {
  readonly attentionNorm: LayerNorm;
  readonly attention: MultiHeadAttention;
  readonly ffnNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly #dropout: number;

  constructor(init: Initializer, options: BlockOptions) {
    super();
    const { width, ffn } = options;
    this.attentionNorm = new LayerNorm(init.at('attentionNorm'), width);
    this.attention = new MultiHeadAttention(init.at('attention'), options);
    this.ffnNorm = new LayerNorm(init.at('ffnNorm'), width);
    this.up = new Linear(init.at('up'), width, ffn);
    this.down = new Linear(init.at('down'), ffn, width);
    this.#dropout = options.dropout ?? 0;
  }

  /** x to rows of the same kind; with `only`, to those rows alone (what a last layer needs). */
  forward(x: JaggedRows, context: ForwardContext, only?: Queries): JaggedRows {
    const normed = this.attentionNorm.forward(x.rows);
    const asking = only === undefined ? normed : gatherRows(normed, only.index);
    const residual = only === undefined ? x.rows : gatherRows(x.rows, only.index);
    const offsets = only?.offsets ?? x.offsets;
    const drop = (y: Tensor) => (this.#dropout > 0 && context.training ? dropout(y, { p: this.#dropout }) : y);
    const mixed = add(residual, drop(this.attention.forward({ rows: asking, offsets }, { ...x, rows: normed })));
    const fed = this.down.forward(this.up.forward(this.ffnNorm.forward(mixed), 'gelu'));
    const rows = add(mixed, drop(fed));
    return only === undefined ? { ...x, rows } : { rows, offsets };
  }
}
