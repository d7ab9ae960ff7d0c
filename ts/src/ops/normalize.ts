import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const check = shapes('normalize', { x: '... D' });

const op = defineOp({
  name: 'normalize',
  precision: 'bf16',
  forward([x]: readonly [Tensor], { eps }: { eps: number }) {
    check({ x });
    const out = empty(x.shape, x);
    const norm = statistics(x.shape.slice(0, -1), x);
    native.normalize_forward(x.handle, out.handle, norm.handle, eps);
    return { out, saved: [out, norm] };
  },
  backward(dout, [out, norm], { eps }) {
    const dx = empty(out.shape, out);
    native.normalize_backward(out.handle, norm.handle, dout.handle, dx.handle, eps);
    return [dx];
  },
});

/** Rows of length 1: x / max(|x|, eps) over the last dimension; x (..., D). A zero row stays zero. */
export function normalize(x: Tensor, { eps = 1e-8 }: { readonly eps?: number } = {}): Tensor {
  return op([x], { eps });
}
