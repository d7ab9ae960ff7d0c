/** Multi-gate mixture of experts (Ma et al., 2018): several labels share experts, each weighs them by a gate of its own. */
import { Linear, Mlp } from '../nn/linear.js';
import type { ForwardContext, Initializer } from '../nn/module.js';
import { stack } from '../ops/concat.js';
import { matmul } from '../ops/matmul.js';
import { softmax } from '../ops/softmax.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { sideBySide } from './history.js';
import { inputWidth, Ranker, type RankerInput, type RankerOptions, type RankerSpec } from './ranker.js';

export interface MmoeOptions {
  /** E [default 4]. One expert is a shared bottom. */
  readonly experts: number;
  /** Widths of each expert [default 128]. */
  readonly expertMlp: readonly number[];
  /** Hidden widths of each task's tower [default 64]. */
  readonly towerMlp: readonly number[];
  /** Weight in the loss of every task but the main one [default 1]. */
  readonly taskWeight: number;
}

export const defaultMmoe: MmoeOptions = { experts: 4, expertMlp: [128], towerMlp: [64], taskWeight: 1 };

/** logit_k = tower_k(Σ_e softmax(G_k x)_e expert_e(x)) for every task k, x all vectors and pooled histories side by side. */
export class Mmoe extends Ranker {
  readonly experts: Mlp[];
  readonly gates: Linear[];
  readonly towers: Mlp[];

  constructor(
    init: Initializer,
    spec: RankerSpec,
    { mmoe = defaultMmoe, dropout, batchNorm, activation }: RankerOptions,
  ) {
    super();
    const { experts, expertMlp, towerMlp } = mmoe;
    const width = inputWidth(spec);
    const tasks = spec.tasks ?? ['main'];
    const perceptron = { dropout, batchNorm, activation };
    this.experts = Array.from(
      { length: experts },
      (_, e) => new Mlp(init.at(`experts.${e}`), width, { hidden: expertMlp, ...perceptron }),
    );
    const shared = this.experts[0]!.width;
    this.gates = tasks.map((_, k) => new Linear(init.at(`gates.${k}`), width, experts, { bias: false }));
    this.towers = tasks.map(
      (_, k) => new Mlp(init.at(`towers.${k}`), shared, { hidden: towerMlp, out: 1, ...perceptron }),
    );
  }

  forward(input: RankerInput, context: ForwardContext): Tensor {
    return this.logits(input, context, 1)[0]!;
  }

  override taskLogits(input: RankerInput, context: ForwardContext): readonly Tensor[] {
    return this.logits(input, context, this.towers.length);
  }

  private logits({ vectors, histories }: RankerInput, context: ForwardContext, tasks: number): Tensor[] {
    const x = sideBySide(
      vectors,
      histories.map((history) => history.pooled()),
    );
    const B = x.shape[0]!;
    const experts = stack(
      this.experts.map((expert) => expert.forward(x, context)),
      { axis: 1 },
    );
    const [, E = 0, H = 0] = experts.shape;
    return this.towers.slice(0, tasks).map((tower, k) => {
      const weights = reshape(softmax(this.gates[k]!.forward(x)), [B, 1, E]);
      return reshape(tower.forward(reshape(matmul(weights, experts), [B, H]), context), [B]);
    });
  }
}
