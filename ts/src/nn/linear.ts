import type { Activation } from '../native_kernels.js';
import { activation as applyActivation } from '../ops/activation.js';
import { dropout } from '../ops/dropout.js';
import { linear } from '../ops/linear.js';
import type { Tensor } from '../tensor.js';
import { BatchNorm } from './batch_norm.js';
import { Dice } from './dice.js';
import type { LoraLinear } from './lora_linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

export interface LinearOptions {
  readonly bias?: boolean;
  /** Standard deviation of the initial weights; 'fan_in': uniform within 1/sqrt(in), also the bias; 'xavier': uniform. Default 'fan_in'. */
  readonly init?: number | 'fan_in' | 'xavier';
}

/** y = act(x Wᵀ + b). weight (out, in), bias (out). */
export class Linear extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  /** A low-rank update on top, which leaves weight and bias without gradient: see `injectLora`. */
  lora: LoraLinear | null = null;

  constructor(
    init: Initializer,
    readonly inFeatures: number,
    readonly outFeatures: number,
    options: LinearOptions = {},
  ) {
    super();
    const { bias = true, init: kind = 'fan_in' } = options;
    const shape = [outFeatures, inFeatures];
    const bound =
      kind === 'xavier' ? Math.sqrt(6 / (inFeatures + outFeatures)) : 1 / Math.sqrt(Math.max(inFeatures, 1));
    this.weight = typeof kind === 'number' ? init.normal('weight', shape, kind) : init.uniform('weight', shape, bound);
    if (!bias) this.bias = null;
    else if (typeof kind === 'number') this.bias = init.constant('bias', [outFeatures], 0);
    else this.bias = init.uniform('bias', [outFeatures], 1 / Math.sqrt(Math.max(inFeatures, 1)));
  }

  /** x (..., in) to (..., out). */
  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    if (this.lora === null) return linear(x, this.weight, this.bias, { activation });
    const y = this.lora.forward(x);
    return activation === 'none' ? y : applyActivation(y, { kind: activation });
  }
}

export interface MlpOptions {
  readonly hidden: readonly number[];
  /** Width of the last linear layer, without activation; none if left out. */
  readonly out?: number;
  readonly activation?: Activation | 'dice';
  readonly dropout?: number;
  readonly batchNorm?: boolean;
}

/** Linear layers with activation, optional batch norm before it and dropout after it. */
export class Mlp extends Module {
  readonly layers: Linear[];
  readonly norms: BatchNorm[];
  readonly dices: Dice[];
  readonly last: Linear | null;
  readonly width: number;
  readonly #options: Required<Omit<MlpOptions, 'out'>>;

  constructor(
    init: Initializer,
    inFeatures: number,
    { hidden, out, activation = 'relu', dropout: p = 0, batchNorm = false }: MlpOptions,
  ) {
    super();
    this.#options = { hidden, activation, dropout: p, batchNorm };
    const widths = [inFeatures, ...hidden];
    this.layers = hidden.map((width, i) => new Linear(init.at(`layers.${i}`), widths[i]!, width));
    this.norms = batchNorm ? hidden.map((width, i) => new BatchNorm(init.at(`norms.${i}`), width)) : [];
    this.dices = activation === 'dice' ? hidden.map((width, i) => new Dice(init.at(`dices.${i}`), width)) : [];
    this.last = out === undefined ? null : new Linear(init.at('last'), widths.at(-1)!, out);
    this.width = out ?? widths.at(-1)!;
  }

  /** x (B, in) to (B, width). */
  forward(x: Tensor, context: ForwardContext): Tensor {
    const { activation, batchNorm, dropout: p } = this.#options;
    let y = x;
    this.layers.forEach((layer, i) => {
      const fused = activation !== 'dice' && !batchNorm;
      y = layer.forward(y, fused ? activation : 'none');
      if (batchNorm) y = this.norms[i]!.forward(y, context);
      if (activation === 'dice') y = this.dices[i]!.forward(y, context);
      else if (!fused) y = applyActivation(y, { kind: activation });
      if (p > 0 && context.training) y = dropout(y, { p });
    });
    return this.last?.forward(y) ?? y;
  }
}
