import { batchNorm } from '../ops/batch_norm.js';
import type { Tensor } from '../tensor.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

/** Batch normalisation over rows with affine parameters and running statistics. x (B, D). */
export class BatchNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;

  constructor(init: Initializer, width: number) {
    super();
    this.weight = init.constant('weight', [width], 1);
    this.bias = init.constant('bias', [width], 0);
    this.runningMean = init.buffer('runningMean', [width], 0);
    this.runningVar = init.buffer('runningVar', [width], 1);
  }

  forward(x: Tensor, { training }: ForwardContext): Tensor {
    const { weight, bias, runningMean, runningVar } = this;
    return batchNorm(x, { weight, bias, runningMean, runningVar, training, momentum: 0.1, eps: 1e-5 });
  }
}
