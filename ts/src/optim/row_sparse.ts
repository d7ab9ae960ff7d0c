/** Reduction of row-sparse gradients, once per step, on the device. */
import { native } from '../native.js';
import type { RowSparseGrad } from '../row_sparse_grad.js';
import { empty, handlesOf, type Tensor } from '../tensor.js';

/**
 * The touched rows of a table, ascending: rows (capacity) int32, their summed gradients sums (capacity, D), and how many there are,
 * count (1) int32. The rest of rows is -1; the rest of sums is not set. Capacity = lookups, or the table if that is smaller.
 */
export interface ReducedRows {
  readonly rows: Tensor;
  readonly sums: Tensor;
  readonly count: Tensor;
}

/** Sums the lookups of each row in order of (piece, position). Memory follows the lookups; nothing is read back. */
export function reduceRows(table: Tensor, { pieces }: RowSparseGrad): ReducedRows {
  const [V = 0, D = 0] = table.shape;
  const integers = { dtype: 'int32', device: table.device } as const;
  const lookups = pieces.reduce((sum, piece) => sum + piece.indices.size, 0);
  const capacity = Math.min(lookups, V);
  const rows = empty([capacity], integers);
  const sums = empty([capacity, D], table);
  const count = empty([1], integers);
  const noSource = empty([0], integers);
  const noWeights = empty([0], table);
  native.row_sparse_reduce(
    handlesOf(pieces.map((piece) => piece.indices)),
    handlesOf(pieces.map((piece) => piece.values)),
    handlesOf(pieces.map((piece) => piece.source ?? noSource)),
    handlesOf(pieces.map((piece) => piece.weights ?? noWeights)),
    rows.handle,
    sums.handle,
    count.handle,
    V,
  );
  noSource.dispose();
  noWeights.dispose();
  return { rows, sums, count };
}
