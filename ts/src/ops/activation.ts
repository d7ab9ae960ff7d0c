import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import type { Activation } from '../native_kernels.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';
import { affine, mul, scaleBy, square } from './elementwise.js';

const check = shapes('activation', { x: '...' });

const op = defineOp({
  name: 'activation',
  precision: 'bf16',
  forward([x]: readonly [Tensor], { kind }: { kind: Activation }) {
    check({ x });
    const out = empty(x.shape, x);
    native.activation_forward(x.handle, out.handle, kind);
    return { out, saved: [x, out] };
  },
  backward(dout, [x, out], { kind }) {
    const dx = empty(x.shape, x);
    native.activation_backward(x.handle, out.handle, dout.handle, dx.handle, kind);
    return [dx];
  },
});

/** `kind` applied to every element; any shape. gelu is the erf form. */
export function activation(x: Tensor, { kind }: { kind: Activation }): Tensor {
  return op([x], { kind });
}

export const relu = (x: Tensor): Tensor => activation(x, { kind: 'relu' });
export const gelu = (x: Tensor): Tensor => activation(x, { kind: 'gelu' });
export const silu = (x: Tensor): Tensor => activation(x, { kind: 'silu' });
export const sigmoid = (x: Tensor): Tensor => activation(x, { kind: 'sigmoid' });
export const tanh = (x: Tensor): Tensor => activation(x, { kind: 'tanh' });

/** x sigmoid(1.702 x): CLIP's `quick_gelu`. Made of other ops. */
export const quickGelu = (x: Tensor): Tensor => mul(x, sigmoid(scaleBy(x, 1.702)));

/** The tanh form of gelu, x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))), as x sigmoid(2 sqrt(2/pi) x (1 + 0.044715 x²)). Made of other ops. */
export function geluTanh(x: Tensor): Tensor {
  const slope = 2 * Math.sqrt(2 / Math.PI);
  return mul(x, sigmoid(mul(x, affine(square(x), { scale: slope * 0.044715, shift: slope }))));
}
