import type { Tensor } from '../tensor.js';
import { Linear } from './linear.js';
import { type Initializer, Module } from './module.js';

/** The two projections of content-ID contrast (EM3), one for content vectors and one for id embeddings, into a space for `cic`. */
export class CicHeads extends Module {
  readonly content: Linear;
  readonly id: Linear;

  constructor(init: Initializer, contentWidth: number, idWidth: number, width = 64) {
    super();
    this.content = new Linear(init.at('content'), contentWidth, width);
    this.id = new Linear(init.at('id'), idWidth, width);
  }

  /** content (n, contentWidth), id (n, idWidth) to two tensors (n, width), not yet of length 1. */
  forward(content: Tensor, id: Tensor): { content: Tensor; id: Tensor } {
    return { content: this.content.forward(content), id: this.id.forward(id) };
  }
}
