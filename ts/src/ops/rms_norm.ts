import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const check = shapes('rmsNorm', { x: '... D', weight: 'D' });

const op = defineOp({
  name: 'rmsNorm',
  precision: 'bf16',
  forward([x, weight]: readonly [Tensor, Tensor], { eps }: { eps: number }) {
    check({ x, weight });
    const out = empty(x.shape, x);
    const rstd = statistics(x.shape.slice(0, -1), x);
    native.rms_norm_forward(x.handle, weight.handle, out.handle, rstd.handle, eps);
    return { out, saved: [x, weight, rstd] };
  },
  backward(dout, [x, weight, rstd], _, needs) {
    const dx = needs[0] ? empty(x.shape, x) : null;
    const dweight = needs[1] ? empty(weight.shape, weight) : null;
    native.rms_norm_backward(
      x.handle,
      weight.handle,
      rstd.handle,
      dout.handle,
      dx?.handle ?? null,
      dweight?.handle ?? null,
    );
    return [dx, dweight];
  },
});

/** x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, 2019). x (..., D), weight (D). */
export function rmsNorm(x: Tensor, weight: Tensor, { eps = 1e-6 }: { readonly eps?: number } = {}): Tensor {
  return op([x, weight], { eps });
}
