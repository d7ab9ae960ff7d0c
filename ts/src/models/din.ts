/** Deep Interest Network (Zhou et al., 2018): the target decides how much each history row counts. */
import { Mlp } from '../nn/linear.js';
import { type ForwardContext, type Initializer, Module } from '../nn/module.js';
import { concat } from '../ops/concat.js';
import { add, affine, mul, sub } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { segmentSoftmax } from '../ops/segment_softmax.js';
import { segmentSum } from '../ops/segment_sum.js';
import { reshape } from '../ops/transpose.js';
import { type Tensor, zeros } from '../tensor.js';
import { sideBySide, visibility } from './history.js';
import {
  type AttendedRows,
  inputWidth,
  Ranker,
  type RankerInput,
  type RankerOptions,
  type RankerSpec,
} from './ranker.js';

export interface TargetAttentionOptions {
  /** Hidden widths of the attention unit, with Dice between them. */
  readonly hidden: readonly number[];
  /** Weights that sum to 1 over the rows that count, instead of the raw ones of the paper. */
  readonly softmax?: boolean;
}

/** out_b = sum of w_j h_j with w_j = MLP([t; h_j; t - h_j; t ⊙ h_j]). Target t (B, D), rows h (T, D), out (B, D). */
export class TargetAttention extends Module {
  readonly unit: Mlp;
  readonly #softmax: boolean;

  constructor(init: Initializer, width: number, { hidden, softmax = false }: TargetAttentionOptions) {
    super();
    this.unit = new Mlp(init.at('unit'), 4 * width, { hidden, out: 1, activation: 'dice' });
    this.#softmax = softmax;
  }

  /**
   * Hidden rows have weight 0; a history without rows that count gives zero. In training the batch statistics of Dice are those of
   * all rows, hidden ones included.
   */
  forward(history: AttendedRows, context: ForwardContext): Tensor {
    const { target, rows: h, offsets, segments } = history;
    const T = h.shape[0]!;
    if (T === 0) return zeros(target.shape, target); // no rows, so no batch statistics either
    const t = gatherRows(target, segments);
    const pairs = concat([t, h, sub(t, h), mul(t, h)], { axis: 1 });
    const scores = reshape(this.unit.forward(pairs, context), [T]);
    return segmentSum(h, { offsets, weights: this.weights(scores, history) });
  }

  private weights(scores: Tensor, history: AttendedRows): Tensor {
    const visible = visibility(history);
    if (!this.#softmax) return visible === null ? scores : mul(scores, visible);
    if (visible === null) return segmentSoftmax(scores, { offsets: history.offsets });
    // Hidden rows get -1e30 before the softmax; the factor after it is for histories where all are hidden.
    const penalty = affine(visible, { scale: 1e30, shift: -1e30 });
    return mul(segmentSoftmax(add(scores, penalty), { offsets: history.offsets }), visible);
  }
}

/** Target attention over each history, then everything side by side through an MLP. */
export class Din extends Ranker {
  readonly attention: TargetAttention[];
  readonly mlp: Mlp;

  constructor(
    init: Initializer,
    spec: RankerSpec,
    { attentionMlp, attentionSoftmax, mlp, dropout, batchNorm, activation }: RankerOptions,
  ) {
    super();
    const unit = { hidden: attentionMlp, softmax: attentionSoftmax };
    this.attention = spec.histories.map(
      ({ name, width }) => new TargetAttention(init.at(`attention.${name}`), width, unit),
    );
    this.mlp = new Mlp(init.at('mlp'), inputWidth(spec), { hidden: mlp, out: 1, dropout, batchNorm, activation });
  }

  forward({ vectors, histories }: RankerInput, context: ForwardContext): Tensor {
    const interests = this.attention.map((attention, i) => attention.forward(histories[i]!, context));
    const x = sideBySide(vectors, interests);
    return reshape(this.mlp.forward(x, context), [x.shape[0]!]);
  }
}
