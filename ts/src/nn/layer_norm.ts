import { layerNorm } from '../ops/layer_norm.js';
import type { Tensor } from '../tensor.js';
import { type Initializer, Module } from './module.js';

/** LayerNorm over the last dimension, eps 1e-5 unless given. With `residual`: LayerNorm(x + residual). */
export class LayerNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly eps: number;

  constructor(init: Initializer, width: number, { eps = 1e-5 }: { eps?: number } = {}) {
    super();
    this.eps = eps;
    this.weight = init.constant('weight', [width], 1);
    this.bias = init.constant('bias', [width], 0);
  }

  forward(x: Tensor, residual?: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, { eps: this.eps, residual });
  }
}
