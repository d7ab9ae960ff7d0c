import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const check = shapes('layerNorm', { x: '... D', weight: 'D', bias: 'D', residual: '... D?' });
const checkSame = (x: Tensor, residual: Tensor): unknown =>
  shapes('layerNorm', { residual: x.shape.join(' ') })({ residual });

const op = defineOp({
  name: 'layerNorm',
  precision: 'bf16',
  forward([x, weight, bias, residual]: readonly [Tensor, Tensor, Tensor, Tensor | null], { eps }: { eps: number }) {
    check({ x, weight, bias, residual });
    if (residual !== null) checkSame(x, residual);
    const rows = x.shape.slice(0, -1);
    const sum = residual === null ? null : empty(x.shape, x);
    const out = empty(x.shape, x);
    const mean = statistics(rows, x);
    const rstd = statistics(rows, x);
    native.layer_norm_forward(
      x.handle,
      residual?.handle ?? null,
      weight.handle,
      bias.handle,
      sum?.handle ?? null,
      out.handle,
      mean.handle,
      rstd.handle,
      eps,
    );
    return { out, saved: [sum ?? x, weight, mean, rstd] };
  },
  backward(dout, [x, weight, mean, rstd], _, needs) {
    const dx = needs[0] || needs[3] ? empty(x.shape, x) : null;
    const dweight = needs[1] ? empty(weight.shape, weight) : null;
    const dbias = needs[2] ? empty(weight.shape, weight) : null;
    native.layer_norm_backward(
      x.handle,
      weight.handle,
      mean.handle,
      rstd.handle,
      dout.handle,
      dx?.handle ?? null,
      dweight?.handle ?? null,
      dbias?.handle ?? null,
    );
    return [dx, dweight, dbias, dx];
  },
});

/**
 * (s - mean) / sqrt(variance + eps) * weight + bias over the last dimension, where s = x + residual, or x.
 * x, residual (..., D); weight, bias (D); returns (..., D). The variance is the biased one.
 */
export function layerNorm(
  x: Tensor,
  weight: Tensor,
  bias: Tensor,
  { eps = 1e-5, residual }: { readonly eps?: number; readonly residual?: Tensor } = {},
): Tensor {
  return op([x, weight, bias, residual ?? null], { eps });
}
