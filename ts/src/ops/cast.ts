import { defineOp } from '../autograd.js';
import { DtypeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = { float32: shapes('cast', { x: '...:float32' }), bfloat16: shapes('cast', { x: '...:bfloat16' }) };

/** The dtypes between which `cast` converts. */
export type CastDtype = 'float32' | 'bfloat16';

/** A tensor of `dtype` with the values of `x`, float32 or bfloat16; no tape. */
function converted(x: Tensor, dtype: CastDtype): Tensor {
  const out = empty(x.shape, { dtype, device: x.device });
  native.cast(x.handle, out.handle);
  return out;
}

const op = defineOp({
  name: 'cast',
  forward([x]: readonly [Tensor], { dtype }: { from: CastDtype; dtype: CastDtype }) {
    return { out: converted(x, dtype), saved: [] };
  },
  backward(dout, _, { from }) {
    return [converted(dout, from)];
  },
});

/**
 * x (any shape), float32 or bfloat16, in the other of these dtypes, on any device; `x` itself where it has `dtype` already. To bfloat16
 * values are rounded to nearest, ties to even, and NaN becomes 0x7fff; to float32 nothing is lost. The gradient is cast back.
 */
export function cast(x: Tensor, dtype: CastDtype): Tensor {
  for (const [argument, got] of Object.entries({ x: x.dtype, dtype }))
    if (got !== 'float32' && got !== 'bfloat16')
      throw new DtypeError(
        `cast: expected ${argument === 'x' ? 'x to be' : 'dtype'} float32 or bfloat16 but received ${String(got)}`,
        { op: 'cast', argument },
      );
  const from = x.dtype as CastDtype;
  check[from]({ x });
  return from === dtype ? x : op([x], { from, dtype });
}
