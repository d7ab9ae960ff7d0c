import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const check = shapes('dice', { x: 'B D:wide', alpha: 'D:wide', runningMean: 'D:wide', runningVar: 'D:wide' });

interface Attributes {
  readonly training: boolean;
  readonly momentum: number;
  readonly eps: number;
}

const op = defineOp({
  name: 'dice',
  precision: 'float32',
  forward(
    [x, alpha, runningMean, runningVar]: readonly [Tensor, Tensor, Tensor, Tensor],
    { training, momentum, eps }: Attributes,
  ) {
    const { D } = check({ x, alpha, runningMean, runningVar });
    const out = empty(x.shape, x);
    const mean = statistics([D], x);
    const rstd = statistics([D], x);
    native.dice_forward(
      x.handle,
      alpha.handle,
      runningMean.handle,
      runningVar.handle,
      out.handle,
      mean.handle,
      rstd.handle,
      training,
      momentum,
      eps,
    );
    return { out, saved: [x, alpha, mean, rstd] };
  },
  backward(dout, [x, alpha, mean, rstd], { training }, needs) {
    const dx = needs[0] ? empty(x.shape, x) : null;
    const dalpha = needs[1] ? empty(alpha.shape, x) : null;
    native.dice_backward(
      x.handle,
      alpha.handle,
      mean.handle,
      rstd.handle,
      dout.handle,
      dx?.handle ?? null,
      dalpha?.handle ?? null,
      training,
    );
    return [dx, dalpha, null, null];
  },
});

/** Options of `dice`; the running statistics are those of `batchNorm`. */
export interface DiceOptions {
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  readonly training: boolean;
  readonly momentum?: number;
  readonly eps?: number;
}

/**
 * Dice: p x + alpha (1 - p) x with p = sigmoid((x - mean) / sqrt(variance + eps)), statistics as in `batchNorm` (Zhou et al., "Deep
 * Interest Network", 2018). x (B, D), alpha (D); returns (B, D). In training the gradient flows through the batch's statistics too.
 */
export function dice(
  x: Tensor,
  alpha: Tensor,
  { runningMean, runningVar, training, momentum = 0.01, eps = 1e-9 }: DiceOptions,
): Tensor {
  return op([x, alpha, runningMean, runningVar], { training, momentum, eps });
}
