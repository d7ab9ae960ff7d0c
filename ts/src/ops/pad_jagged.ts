import { defineOp } from '../autograd.js';
import { ArgumentError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('padJagged', { x: '...', offsets: 'B+1:int32' });

const op = defineOp({
  name: 'padJagged',
  forward([x, offsets]: readonly [Tensor, Tensor], { length }: { length: number }) {
    const { B } = check({ x, offsets });
    if (x.shape.length !== 1 && x.shape.length !== 2)
      throw new ShapeError(`padJagged: expected x of shape (T) or (T, D) but received (${x.shape.join(', ')})`, {
        op: 'padJagged',
        argument: 'x',
      });
    const out = empty([B, length, ...x.shape.slice(1)], x);
    native.pad_jagged_forward(x.handle, offsets.handle, out.handle);
    return { out, saved: [x, offsets] };
  },
  backward(dout, [x, offsets]) {
    const dx = empty(x.shape, x);
    native.pad_jagged_backward(dout.handle, offsets.handle, dx.handle);
    return [dx, null]; // offsets are integers
  },
});

/**
 * Jagged rows as a rectangle: x (T) or (T, D), row b at offsets[b] .. offsets[b+1) (int32), out (B, length) or (B, length, D).
 * Shorter rows end in zeros; of longer rows the first `length` entries are kept, the others get a zero gradient.
 */
export function padJagged(x: Tensor, { offsets, length }: { offsets: Tensor; length: number }): Tensor {
  if (!Number.isInteger(length) || length < 0)
    throw new ArgumentError(`padJagged: expected length to be a non-negative integer but received ${length}`, {
      op: 'padJagged',
      argument: 'length',
    });
  return op([x, offsets], { length });
}
