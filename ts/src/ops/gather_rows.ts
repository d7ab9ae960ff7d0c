import { defineOp } from '../autograd.js';
import { ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('gatherRows', { x: '...', index: 'T:int32' });

const op = defineOp({
  name: 'gatherRows',
  precision: 'bf16',
  forward([x, index]: readonly [Tensor, Tensor]) {
    const { T } = check({ x, index });
    if (x.shape.length === 0)
      throw new ShapeError('gatherRows: expected x of shape (N, ...) but received ()', {
        op: 'gatherRows',
        argument: 'x',
      });
    const out = empty([T, ...x.shape.slice(1)], x);
    native.gather_rows_forward(x.handle, index.handle, out.handle);
    return { out, saved: [x, index] };
  },
  backward(dout, [x, index]) {
    const dx = empty(x.shape, x);
    native.gather_rows_backward(dout.handle, index.handle, dx.handle);
    return [dx, null]; // the index is an integer
  },
});

/**
 * Rows of a dense tensor: x (N, ...), index (T) int32, out (T, ...). A negative index gives a zero row without gradient; an index
 * of N or more too, and the next wait on the device rejects with `IndexError`. The gradient is dense: rows read more than once
 * are added in order of position.
 */
export function gatherRows(x: Tensor, index: Tensor): Tensor {
  return op([x, index], {});
}
