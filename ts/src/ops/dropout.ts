import { defineOp } from '../autograd.js';
import { ArgumentError } from '../errors.js';
import { native } from '../native.js';
import { nextRandomKey, type RandomKey } from '../random.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('dropout', { x: '...' });

const op = defineOp({
  name: 'dropout',
  precision: 'bf16',
  forward([x]: readonly [Tensor], { p, seed, step, call }: RandomKey & { p: number }) {
    check({ x });
    const out = empty(x.shape, x);
    native.dropout(x.handle, out.handle, p, seed, step, call);
    return { out, saved: [] };
  },
  backward(dout, _, { p, seed, step, call }) {
    const dx = empty(dout.shape, dout);
    native.dropout(dout.handle, dx.handle, p, seed, step, call);
    return [dx];
  },
});

/**
 * Sets each element to 0 with probability `p` and divides the others by 1 - p; any shape. 1 - p is rounded to a multiple of 1/65536.
 * The mask is a function of (seed, step) of the enclosing `randomScope`, of this call's place in it, and of the element's position.
 * With p = 0 the result is `x` itself. Whether to drop at all (training or not) is the caller's decision.
 */
export function dropout(x: Tensor, { p }: { readonly p: number }): Tensor {
  if (!(p >= 0 && p < 1))
    throw new ArgumentError(`dropout: expected p to be in [0, 1) but received ${p}`, { op: 'dropout', argument: 'p' });
  // The key is taken even when nothing is dropped: the masks of later calls do not depend on p.
  const key = nextRandomKey();
  return p === 0 ? x : op([x], { p, ...key });
}
