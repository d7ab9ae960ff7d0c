import { detach, noGrad } from '../autograd.js';
import { dropout } from '../ops/dropout.js';
import { add, scaleBy } from '../ops/elementwise.js';
import { loraLinear } from '../ops/lora_linear.js';
import { matmul } from '../ops/matmul.js';
import type { Tensor } from '../tensor.js';
import type { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

export interface LoraOptions {
  readonly rank: number;
  readonly alpha: number;
  /** Of the input of A, where `context` says that this is training. Default 0. */
  readonly dropout?: number;
  /** Read at every forward, because a linear layer is not told. Default: no training. */
  readonly context?: ForwardContext;
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
  readonly #dropout: number;
  readonly #context: ForwardContext;

  constructor(
    init: Initializer,
    base: Linear,
    { rank, alpha, dropout = 0, context = { training: false } }: LoraOptions,
  ) {
    super();
    this.#base = base;
    this.#scale = alpha / rank;
    this.#dropout = dropout;
    this.#context = context;
    this.a = init.normal('a', [rank, base.inFeatures], 0.02);
    this.b = init.constant('b', [base.outFeatures, rank], 0);
  }

  /** The frozen layer, whose weights are not this module's state. */
  get base(): Linear {
    return this.#base;
  }

  /** alpha / r. */
  get scale(): number {
    return this.#scale;
  }

  forward(x: Tensor): Tensor {
    const { weight, bias } = this.#base;
    const drops = this.#dropout > 0 && this.#context.training;
    return loraLinear(x, detach(weight), this.a, this.b, {
      bias: bias === null ? null : detach(bias),
      scale: this.#scale,
      adapterInput: drops ? dropout(x, { p: this.#dropout }) : null,
    });
  }

  /** W0 + (alpha / r) B A, (out, in), without gradient. */
  merged(): Tensor {
    return noGrad(() => add(this.#base.weight, scaleBy(matmul(this.b, this.a), this.#scale)));
  }
}
