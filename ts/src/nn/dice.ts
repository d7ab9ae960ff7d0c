import { dice } from '../ops/dice.js';
import type { Tensor } from '../tensor.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

/** DIN's activation: p x + alpha (1 - p) x with p = sigmoid(batchNorm(x)); alpha = 0 at the start, per unit. x (B, D). */
export class Dice extends Module {
  readonly alpha: Tensor;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;

  constructor(init: Initializer, width: number) {
    super();
    this.alpha = init.constant('alpha', [width], 0);
    this.runningMean = init.buffer('runningMean', [width], 0);
    this.runningVar = init.buffer('runningVar', [width], 1);
  }

  forward(x: Tensor, { training }: ForwardContext): Tensor {
    const { runningMean, runningVar } = this;
    return dice(x, this.alpha, { runningMean, runningVar, training });
  }
}
