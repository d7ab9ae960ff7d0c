import { describe, expect, it } from 'vitest';
import { ArgumentError } from '../../src/errors.js';
import { type SparseEntries, sparseMatmul, sparseMatrix } from '../../src/ops/sparse_matmul.js';
import { type DType, tensor } from '../../src/tensor.js';
import { type OpCase, opSuite } from '../harness.js';

type Options = { entries: SparseEntries };

function entries(rows: number, columns: number, list: readonly (readonly [number, number, number])[]): SparseEntries {
  return {
    rows,
    columns,
    row: Int32Array.from(list, ([row]) => row),
    column: Int32Array.from(list, ([, column]) => column),
    value: Float64Array.from(list, ([, , value]) => value),
  };
}

const small = entries(3, 4, [
  [2, 1, -1.5],
  [0, 3, 2],
  [0, 0, 0.5],
  [2, 3, 1],
  [0, 3, 0.25],
]);
const large = entries(
  120,
  90,
  Array.from({ length: 700 }, (_, i) => [(7 * i) % 120, (11 * i + (i >> 3)) % 90, Math.cos(i)] as const),
);

opSuite<Options>('sparseMatmul', {
  run: ({ x }, options) =>
    sparseMatmul(sparseMatrix(options.entries, { device: x!.device, dtype: x!.dtype as 'float32' | 'float64' }), x!),
  // float32 only, like the bag of rows that it is
  bfloat16: false,
  cases: [
    { name: 'an empty row, a place named twice', inputs: { x: [4, 3] }, options: { entries: small } },
    { name: 'one column of x', inputs: { x: [4, 1] }, options: { entries: small } },
    { name: 'no entries', inputs: { x: [2, 2] }, options: { entries: entries(3, 2, []) } },
    { name: 'no rows', inputs: { x: [2, 2] }, options: { entries: entries(0, 2, []) } },
    { name: 'past one block', inputs: { x: [90, 65] }, options: { entries: large }, noFiniteDifferences: true },
  ] satisfies OpCase<Options>[],
  rejects: [
    {
      inputs: { x: [3, 2] },
      options: { entries: small },
      says: /expected x of shape \(N=4, D\) but received \(3, 2\)/,
    },
    { inputs: { x: [4] }, options: { entries: small }, says: /expected x of shape \(N, D\) but received \(4\)/ },
  ],
});

describe('sparseMatrix', () => {
  it('gives the product of the dense matrix', async () => {
    const x = tensor(
      Float64Array.from({ length: 8 }, (_, i) => i + 1),
      [4, 2],
    );
    const out = await sparseMatmul(sparseMatrix(small, { dtype: 'float64' }), x).data();
    expect([...out]).toEqual([0.5 * 1 + 2.25 * 7, 0.5 * 2 + 2.25 * 8, 0, 0, -1.5 * 3 + 7, -1.5 * 4 + 8]);
  });

  it('refuses places outside, unequal lists and another dtype', () => {
    const dtypeOf = (dtype: DType) => () =>
      sparseMatmul(sparseMatrix(small), tensor(dtype === 'float64' ? new Float64Array(4) : new Int32Array(4), [4, 1]));
    expect(() => sparseMatrix(entries(3, 4, [[3, 0, 1]]))).toThrow('sparseMatrix: expected row below 3 but received 3');
    expect(() => sparseMatrix(entries(3, 4, [[0, -1, 1]]))).toThrow('expected column below 4 but received -1');
    expect(() => sparseMatrix({ ...small, row: new Int32Array(1) })).toThrow(ArgumentError);
    expect(dtypeOf('float64')).toThrow('expected x of float32 on cpu like the matrix but received float64 on cpu');
    expect(dtypeOf('int32')).toThrow(/sparseMatmul: expected x/);
  });
});
