import { detach } from '../autograd.js';
import { loraLinear } from '../ops/lora_linear.js';
import type { Tensor } from '../tensor.js';
import type { Linear } from './linear.js';
import { type Initializer, Module } from './module.js';

export interface LoraOptions {
  readonly rank: number;
  readonly alpha: number;
}

/**
 * A frozen linear layer with a trained low-rank update: y = W0 x + b0 + (alpha / r) B (A x). A ~ N(0, 0.02), B = 0.
 * W0 and b0 belong to `base` and get no gradient here. A (r, in), B (out, r).
 */
export class LoraLinear extends Module {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly #base: Linear;
  readonly #scale: number;

  constructor(init: Initializer, base: Linear, { rank, alpha }: LoraOptions) {
    super();
    this.#base = base;
    this.#scale = alpha / rank;
    this.a = init.normal('a', [rank, base.inFeatures], 0.02);
    this.b = init.constant('b', [base.outFeatures, rank], 0);
  }

  forward(x: Tensor): Tensor {
    const { weight, bias } = this.#base;
    return loraLinear(x, detach(weight), this.a, this.b, {
      bias: bias === null ? null : detach(bias),
      scale: this.#scale,
    });
  }
}
