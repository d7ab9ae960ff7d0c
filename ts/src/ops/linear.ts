import { defineOp, isRecording, productFlops } from '../autograd.js';
import { native } from '../native.js';
import type { Activation } from '../native_kernels.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('linear', { x: '... K', weight: 'N K', bias: 'N?' });

const op = defineOp({
  name: 'linear',
  precision: 'bf16',
  forward(inputs: readonly [Tensor, Tensor, Tensor | null], { activation }: { activation: Activation }) {
    const [x, weight, bias] = inputs;
    const { N } = check({ x, weight, bias });
    const out = empty([...x.shape.slice(0, -1), N], x);
    // gelu and silu have no derivative in terms of their output
    const wanted =
      (activation === 'gelu' || activation === 'silu') && isRecording() && inputs.some((t) => t?.requiresGrad);
    const preactivation = wanted ? empty(out.shape, out) : null;
    native.linear_forward(
      x.handle,
      weight.handle,
      bias?.handle ?? null,
      out.handle,
      preactivation?.handle ?? null,
      activation,
    );
    return { out, saved: [x, weight, preactivation, activation === 'none' ? null : out] as const };
  },
  flops: ([, weight], out, needs) => productFlops(out.size * weight.shape[1]!, needs.slice(0, 2)),
  backward(dout, [x, weight, preactivation, out], { activation }, needs) {
    const dz = activation === 'none' ? null : empty(dout.shape, dout);
    const dx = needs[0] ? empty(x.shape, x) : null;
    const dweight = needs[1] ? empty(weight.shape, weight) : null;
    const dbias = needs[2] ? empty(weight.shape.slice(0, 1), weight) : null;
    native.linear_backward(
      x.handle,
      weight.handle,
      preactivation?.handle ?? null,
      out?.handle ?? null,
      dout.handle,
      dz?.handle ?? null,
      dx?.handle ?? null,
      dweight?.handle ?? null,
      dbias?.handle ?? null,
      activation,
    );
    return [dx, dweight, dbias];
  },
});

/**
 * Dense layer: `activation(x Wᵀ + bias)`. x (..., K), weight (N, K), bias (N) or null; gives (..., N). All float32 or all float64.
 * Bias and activation are applied inside the product; gelu is the erf form. Only the gradients that are wanted are computed.
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  { activation = 'none' }: { activation?: Activation } = {},
): Tensor {
  return op([x, weight, bias], { activation });
}
