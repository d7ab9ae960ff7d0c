import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const checkVector = shapes('segmentSoftmax', { x: 'T', offsets: 'B+1:int32' });
const checkMatrix = shapes('segmentSoftmax', { x: 'T H', offsets: 'B+1:int32' });

const op = defineOp({
  name: 'segmentSoftmax',
  forward([x, offsets]: readonly [Tensor, Tensor]) {
    if (x.shape.length === 1) checkVector({ x, offsets });
    else checkMatrix({ x, offsets });
    const out = empty(x.shape, x);
    native.segment_softmax_forward(x.handle, offsets.handle, out.handle);
    return { out, saved: [out, offsets] };
  },
  backward(dout, [out, offsets]) {
    const dx = empty(out.shape, out);
    native.segment_softmax_backward(out.handle, offsets.handle, dout.handle, dx.handle);
    return [dx, null];
  },
});

/**
 * Softmax over the rows `offsets[b] .. offsets[b+1]` of each segment, column by column. x (T) or (T, H), offsets (B+1) int32; returns
 * the shape of x. Segments may be empty; rows of no segment become 0. Bad offsets are clamped and reported as `IndexError` by the next
 * wait on the device.
 */
export function segmentSoftmax(x: Tensor, { offsets }: { readonly offsets: Tensor }): Tensor {
  return op([x, offsets], undefined);
}
