import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('softmax', { x: '... D' });

const op = defineOp({
  name: 'softmax',
  forward([x]: readonly [Tensor]) {
    check({ x });
    const out = empty(x.shape, x);
    native.softmax_forward(x.handle, out.handle);
    return { out, saved: [out] };
  },
  backward(dout, [out]) {
    const dx = empty(out.shape, out);
    native.softmax_backward(out.handle, dout.handle, dx.handle);
    return [dx];
  },
});

/** e^x / sum e^x over the last dimension; x (..., D). A row of minus infinities gives zeros. */
export function softmax(x: Tensor): Tensor {
  return op([x], undefined);
}
