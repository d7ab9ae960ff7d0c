import { embedding } from '../ops/embedding.js';
import type { Tensor } from '../tensor.js';
import { type Initializer, Module } from './module.js';

/** A table of id vectors (numEmbeddings, embeddingDim); its gradient is row-sparse. Initial values N(0, std) [default std 0.05]. */
export class Embedding extends Module {
  readonly table: Tensor;

  constructor(
    init: Initializer,
    readonly numEmbeddings: number,
    readonly embeddingDim: number,
    { std = 0.05 }: { std?: number } = {},
  ) {
    super();
    this.table = init.normal('table', [numEmbeddings, embeddingDim], std);
  }

  /** indices (...) int32 to (..., D); a negative index gives a zero row. */
  forward(indices: Tensor): Tensor {
    return embedding(this.table, indices);
  }
}
