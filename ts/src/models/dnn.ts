import { Mlp } from '../nn/linear.js';
import type { ForwardContext, Initializer } from '../nn/module.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { sideBySide } from './history.js';
import { inputWidth, Ranker, type RankerInput, type RankerOptions, type RankerSpec } from './ranker.js';

/** Everything side by side, histories pooled by plain attention, through an MLP. */
export class Dnn extends Ranker {
  readonly mlp: Mlp;

  constructor(init: Initializer, spec: RankerSpec, { mlp, dropout, batchNorm, activation }: RankerOptions) {
    super();
    this.mlp = new Mlp(init.at('mlp'), inputWidth(spec), { hidden: mlp, out: 1, dropout, batchNorm, activation });
  }

  forward({ vectors, histories }: RankerInput, context: ForwardContext): Tensor {
    const x = sideBySide(
      vectors,
      histories.map((history) => history.pooled()),
    );
    return reshape(this.mlp.forward(x, context), [x.shape[0]!]);
  }
}
