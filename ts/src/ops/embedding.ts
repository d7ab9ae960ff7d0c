import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { RowSparseGrad } from '../row_sparse_grad.js';
import { shapes } from '../shape.js';
import { alias, empty, type Tensor } from '../tensor.js';

const check = shapes('embedding', { table: 'V D:wide', indices: '...:int32' });

const op = defineOp({
  name: 'embedding',
  precision: 'float32',
  forward([table, indices]: readonly [Tensor, Tensor]) {
    const { D } = check({ table, indices });
    const out = empty([...indices.shape, D], table);
    native.embedding_forward(table.handle, indices.handle, out.handle);
    return { out, saved: [table, indices] };
  },
  backward(dout, [table, indices]) {
    const [, D] = table.shape;
    const piece = {
      indices: alias(indices, [indices.size]),
      values: alias(dout, [indices.size, D!]),
      source: null,
      weights: null,
    };
    return [new RowSparseGrad(table.shape, [piece]), null]; // indices are integers
  },
});

/**
 * Rows of `table` (V, D) at `indices` (...) int32: (..., D). A negative index is padding: a zero row without gradient. An index
 * of V or more is a zero row too, and the next wait on the device rejects with `IndexError`. The table's gradient is a
 * `RowSparseGrad`.
 */
export function embedding(table: Tensor, indices: Tensor): Tensor {
  return op([table, indices], {});
}
