import { defineOp } from '../autograd.js';
import { ArgumentError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('segmentSum', { x: 'T D', offsets: 'B+1:int32', weights: 'T?' });

const op = defineOp({
  name: 'segmentSum',
  forward([x, offsets, weights]: readonly [Tensor, Tensor, Tensor | null], { mean }: { mean: boolean }) {
    const { B, D } = check({ x, offsets, weights });
    const out = empty([B, D], x);
    native.segment_sum_forward(x.handle, offsets.handle, weights?.handle ?? null, out.handle, mean);
    return { out, saved: [x, offsets, weights] };
  },
  backward(dout, [x, offsets, weights], { mean }, needs) {
    const dx = needs[0] ? empty(x.shape, x) : null;
    const dweights = needs[2] && weights !== null ? empty(weights.shape, weights) : null;
    native.segment_sum_backward(
      x.handle,
      offsets.handle,
      weights?.handle ?? null,
      dout.handle,
      dx?.handle ?? null,
      dweights?.handle ?? null,
      mean,
    );
    return [dx, null, dweights]; // offsets are integers
  },
});

export interface SegmentSumOptions {
  /** (B+1) int32: segment b holds rows offsets[b] .. offsets[b+1). Rows past offsets[B] belong to no segment. */
  readonly offsets: Tensor;
  /** (T), differentiable. */
  readonly weights?: Tensor;
  /** 'mean' divides by the number of rows of the segment, with or without weights. Default 'sum'. */
  readonly mode?: 'sum' | 'mean';
}

/** out_b = sum of weights_i x_i over the rows of segment b: x (T, D), out (B, D). An empty segment is a zero row. */
export function segmentSum(x: Tensor, { offsets, weights, mode = 'sum' }: SegmentSumOptions): Tensor {
  if (mode !== 'sum' && mode !== 'mean')
    throw new ArgumentError(`segmentSum: expected mode to be 'sum' or 'mean' but received ${String(mode)}`, {
      op: 'segmentSum',
      argument: 'mode',
    });
  return op([x, offsets, weights ?? null], { mean: mode === 'mean' });
}
