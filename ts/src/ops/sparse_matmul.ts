import { defineOp } from '../autograd.js';
import { ArgumentError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { type DeviceName, empty, type Tensor, tensor } from '../tensor.js';

/** The entries of a sparse matrix by row: those of row r are offsets[r] .. offsets[r+1). Tensors int32, int32, float. */
interface Compressed {
  readonly offsets: Tensor;
  readonly indices: Tensor;
  readonly values: Tensor;
}

/** A constant sparse matrix on a device, by row for products and by column for their gradients. */
export interface SparseMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly byRow: Compressed;
  readonly byColumn: Compressed;
}

/** Entries (row, column, value) in any order; several of one place add up. */
export interface SparseEntries {
  readonly rows: number;
  readonly columns: number;
  readonly row: Int32Array;
  readonly column: Int32Array;
  readonly value: Float64Array;
}

/** Uploads a sparse matrix. ArgumentError for lists of unequal length or a place outside the matrix. */
export function sparseMatrix(
  entries: SparseEntries,
  { device = 'cpu', dtype = 'float32' }: { device?: DeviceName; dtype?: 'float32' | 'float64' } = {},
): SparseMatrix {
  const { rows, columns, row, column, value } = entries;
  if (row.length !== column.length || row.length !== value.length)
    throw new ArgumentError(
      `sparseMatrix: expected as many rows as columns and values but received ${row.length}, ${column.length} and ${value.length}`,
      { op: 'sparseMatrix', argument: 'row' },
    );
  for (const [argument, places, size] of [
    ['row', row, rows],
    ['column', column, columns],
  ] as const) {
    const bad = places.findIndex((place) => place < 0 || place >= size);
    if (bad >= 0)
      throw new ArgumentError(`sparseMatrix: expected ${argument} below ${size} but received ${places[bad]}`, {
        op: 'sparseMatrix',
        argument,
        index: bad,
      });
  }
  const compressed = (of: Int32Array, across: Int32Array, size: number): Compressed => {
    const offsets = new Int32Array(size + 1);
    for (const place of of) offsets[place + 1]!++;
    for (let r = 0; r < size; r++) offsets[r + 1]! += offsets[r]!;
    const next = offsets.slice();
    const indices = new Int32Array(of.length);
    const values = dtype === 'float64' ? new Float64Array(of.length) : new Float32Array(of.length);
    of.forEach((place, i) => {
      const to = next[place]!++;
      indices[to] = across[i]!;
      values[to] = value[i]!;
    });
    const upload = (host: Int32Array | Float32Array | Float64Array) => tensor(host, [host.length], { device });
    return { offsets: upload(offsets), indices: upload(indices), values: upload(values) };
  };
  return { rows, columns, byRow: compressed(row, column, rows), byColumn: compressed(column, row, columns) };
}

const check = shapes('sparseMatmul', { x: 'N D:wide' });

/** A product is a bag of rows of x per row of the matrix, its gradient one per column: the kernel of `embeddingBag` does both. */
function product({ offsets, indices, values }: Compressed, x: Tensor): Tensor {
  const out = empty([offsets.size - 1, x.shape[1]!], x);
  native.embedding_bag_forward(x.handle, indices.handle, offsets.handle, values.handle, out.handle, null, null, false);
  return out;
}

const op = defineOp({
  name: 'sparseMatmul',
  precision: 'float32',
  forward([x]: readonly [Tensor], { matrix }: { matrix: SparseMatrix }) {
    check({ x });
    if (x.shape[0] !== matrix.columns)
      throw new ShapeError(
        `sparseMatmul: expected x of shape (N=${matrix.columns}, D) but received (${x.shape.join(', ')})`,
        { op: 'sparseMatmul', argument: 'x' },
      );
    if (x.dtype !== matrix.byRow.values.dtype || x.device !== matrix.byRow.values.device)
      throw new ArgumentError(
        `sparseMatmul: expected x of ${matrix.byRow.values.dtype} on ${matrix.byRow.values.device} like the matrix but received ${x.dtype} on ${x.device}`,
        { op: 'sparseMatmul', argument: 'x' },
      );
    return { out: product(matrix.byRow, x), saved: [] };
  },
  flops: ([x], _, needs, { matrix }) => {
    const each = 2 * matrix.byRow.values.size * x.shape[1]!;
    return { forward: each, backward: needs[0] === true ? each : 0 };
  },
  backward(dout, _, { matrix }) {
    return [product(matrix.byColumn, dout)];
  },
});

/** matrix · x for a constant sparse matrix (M, N) and x (N, D), float32 or float64: (M, D). The same bytes for any number of threads. */
export function sparseMatmul(matrix: SparseMatrix, x: Tensor): Tensor {
  return op([x], { matrix });
}
