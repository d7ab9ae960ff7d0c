import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import type { Tensor } from '../tensor.js';
import { type BlockOptions, feedForward, type JaggedRows, MultiHeadAttention } from './attention.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { type Initializer, Module } from './module.js';

/** SigLIP's pooling of patches: a learned probe attends to them, y = attention(probe, x), then y + W2 act(W1 LN(y)). */
export class AttentionPooling extends Module {
  /** (1, width). */
  readonly probe: Tensor;
  readonly attention: MultiHeadAttention;
  readonly norm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly options: BlockOptions;

  constructor(init: Initializer, options: BlockOptions) {
    super();
    const { width, ffn, eps } = options;
    this.options = options;
    this.probe = init.normal('probe', [1, width], 1 / Math.sqrt(width));
    this.attention = new MultiHeadAttention(init.at('attention'), options);
    this.norm = new LayerNorm(init.at('norm'), width, { eps });
    this.up = new Linear(init.at('up'), width, ffn);
    this.down = new Linear(init.at('down'), ffn, width);
  }

  /** n sequences of rows to (n, width). */
  forward(x: JaggedRows): Tensor {
    const n = x.offsets.shape[0]! - 1;
    const probes = gatherRows(this.probe, this.place(new Int32Array(n)));
    const offsets = this.place(Int32Array.from({ length: n + 1 }, (_, i) => i));
    const pooled = this.attention.forward({ rows: probes, offsets }, x);
    return add(pooled, feedForward(this.norm.forward(pooled), this.up, this.down, this.options.activation ?? 'gelu'));
  }
}
