import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const check = shapes('batchNorm', {
  x: 'B D:wide',
  weight: 'D:wide?',
  bias: 'D:wide?',
  runningMean: 'D:wide',
  runningVar: 'D:wide',
});

interface Attributes {
  readonly training: boolean;
  readonly momentum: number;
  readonly eps: number;
}

const op = defineOp({
  name: 'batchNorm',
  precision: 'float32',
  forward(
    [x, weight, bias, runningMean, runningVar]: readonly [Tensor, Tensor | null, Tensor | null, Tensor, Tensor],
    { training, momentum, eps }: Attributes,
  ) {
    const { D } = check({ x, weight, bias, runningMean, runningVar });
    const out = empty(x.shape, x);
    const mean = statistics([D], x);
    const rstd = statistics([D], x);
    native.batch_norm_forward(
      x.handle,
      weight?.handle ?? null,
      bias?.handle ?? null,
      runningMean.handle,
      runningVar.handle,
      out.handle,
      mean.handle,
      rstd.handle,
      training,
      momentum,
      eps,
    );
    return { out, saved: [x, weight, mean, rstd] };
  },
  backward(dout, [x, weight, mean, rstd], { training }, needs) {
    const dx = needs[0] ? empty(x.shape, x) : null;
    const dweight = needs[1] ? empty(mean.shape, x) : null;
    const dbias = needs[2] ? empty(mean.shape, x) : null;
    native.batch_norm_backward(
      x.handle,
      weight?.handle ?? null,
      mean.handle,
      rstd.handle,
      dout.handle,
      dx?.handle ?? null,
      dweight?.handle ?? null,
      dbias?.handle ?? null,
      training,
    );
    return [dx, dweight, dbias, null, null];
  },
});

/** Options of `batchNorm`. */
export interface BatchNormOptions {
  /** (D): in training moved by `momentum` towards this batch's values, in place; else used instead of them. */
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  /** (D), default 1 and 0. */
  readonly weight?: Tensor;
  readonly bias?: Tensor;
  readonly training: boolean;
  readonly momentum?: number;
  readonly eps?: number;
}

/**
 * (x - mean) / sqrt(variance + eps) * weight + bias with mean and (biased) variance of each column over the batch, or the running ones
 * when not training. x (B, D); returns (B, D). The running variance receives the unbiased one (of a batch of one row: zero).
 */
export function batchNorm(
  x: Tensor,
  { runningMean, runningVar, weight, bias, training, momentum = 0.01, eps = 1e-5 }: BatchNormOptions,
): Tensor {
  return op([x, weight ?? null, bias ?? null, runningMean, runningVar], { training, momentum, eps });
}
