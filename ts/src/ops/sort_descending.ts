import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('sortDescending', { x: 'B L', lengths: 'B:int32?' });

const op = defineOp({
  name: 'sortDescending',
  forward([x, lengths]: readonly [Tensor, Tensor | null]) {
    check({ x, lengths });
    const out = empty(x.shape, x);
    const order = empty(x.shape, { dtype: 'int32', device: x.device });
    native.sort_descending_forward(x.handle, lengths?.handle ?? null, out.handle, order.handle);
    return { out, saved: [order] };
  },
  backward(dout, [order]) {
    const dx = empty(dout.shape, dout);
    native.sort_descending_backward(dout.handle, order.handle, dx.handle);
    return [dx, null]; // lengths are integers
  },
});

/**
 * Each row of x (B, L) sorted, largest first, ties by position, NaN first. With `lengths` (B) int32, only the first lengths[b]
 * entries of a row take part; the row ends in zeros, which have no gradient.
 */
export function sortDescending(x: Tensor, { lengths }: { lengths?: Tensor } = {}): Tensor {
  return op([x, lengths ?? null], {});
}
