/** Deep and Cross Network v2 (Wang et al., 2021): explicit products of features beside, or before, an MLP. */
import { Linear, Mlp } from '../nn/linear.js';
import { type ForwardContext, type Initializer, Module } from '../nn/module.js';
import { concat } from '../ops/concat.js';
import { add, mul } from '../ops/elementwise.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { sideBySide } from './history.js';
import { inputWidth, Ranker, type RankerInput, type RankerOptions, type RankerSpec } from './ranker.js';

/** x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, with W_l = U_l V_l of rank `rank` if one is given. x (B, width). */
export class CrossNetwork extends Module {
  readonly layers: Linear[];
  /** The V of low-rank layers, (rank, width). */
  readonly reduce: Linear[];

  constructor(init: Initializer, width: number, { layers, rank }: { layers: number; rank?: number | undefined }) {
    super();
    const indices = Array.from({ length: layers }, (_, i) => i);
    this.reduce =
      rank === undefined ? [] : indices.map((i) => new Linear(init.at(`reduce.${i}`), width, rank, { bias: false }));
    this.layers = indices.map((i) => new Linear(init.at(`layers.${i}`), rank ?? width, width));
  }

  forward(x0: Tensor): Tensor {
    let x = x0;
    this.layers.forEach((layer, i) => {
      x = add(mul(x0, layer.forward(this.reduce[i]?.forward(x) ?? x)), x);
    });
    return x;
  }
}

/** Parallel: a linear layer on [cross(x); mlp(x)]. Stacked: mlp(cross(x)). */
export class DcnV2 extends Ranker {
  readonly cross: CrossNetwork;
  readonly mlp: Mlp;
  readonly last: Linear;
  readonly #stacked: boolean;

  constructor(
    init: Initializer,
    spec: RankerSpec,
    { crossLayers, crossRank, crossStructure = 'parallel', mlp, dropout, batchNorm, activation }: RankerOptions,
  ) {
    super();
    const width = inputWidth(spec);
    this.#stacked = crossStructure === 'stacked';
    this.cross = new CrossNetwork(init.at('cross'), width, { layers: crossLayers, rank: crossRank });
    this.mlp = new Mlp(init.at('mlp'), width, { hidden: mlp, dropout, batchNorm, activation });
    this.last = new Linear(init.at('last'), this.mlp.width + (this.#stacked ? 0 : width), 1);
  }

  forward({ vectors, histories }: RankerInput, context: ForwardContext): Tensor {
    const x = sideBySide(
      vectors,
      histories.map((history) => history.pooled()),
    );
    const crossed = this.cross.forward(x);
    const y = this.#stacked
      ? this.mlp.forward(crossed, context)
      : concat([crossed, this.mlp.forward(x, context)], { axis: 1 });
    return reshape(this.last.forward(y), [x.shape[0]!]);
  }
}
