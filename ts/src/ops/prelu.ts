import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('prelu', { x: '... D', alpha: 'D' });

const op = defineOp({
  name: 'prelu',
  precision: 'bf16',
  forward([x, alpha]: readonly [Tensor, Tensor]) {
    check({ x, alpha });
    const out = empty(x.shape, x);
    native.prelu_forward(x.handle, alpha.handle, out.handle);
    return { out, saved: [x, alpha] };
  },
  backward(dout, [x, alpha], _, needs) {
    const dx = needs[0] ? empty(x.shape, x) : null;
    const dalpha = needs[1] ? empty(alpha.shape, alpha) : null;
    native.prelu_backward(x.handle, alpha.handle, dout.handle, dx?.handle ?? null, dalpha?.handle ?? null);
    return [dx, dalpha];
  },
});

/** x where x > 0, else alpha x, with one slope per column. x (..., D), alpha (D). */
export function prelu(x: Tensor, alpha: Tensor): Tensor {
  return op([x, alpha], undefined);
}
