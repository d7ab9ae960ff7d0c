/**
 * Rows by index, segments, padding, sorting and distinct keys at the sizes of a ranking batch: 2,048 rows, histories of 100.
 * Covers: gather_rows, segment_sum, pad_jagged, sort_descending, top_k, unique
 */
import { backward, parameter } from '../ts/src/autograd.js';
import { gatherRows } from '../ts/src/ops/gather_rows.js';
import { padJagged } from '../ts/src/ops/pad_jagged.js';
import { segmentSum } from '../ts/src/ops/segment_sum.js';
import { sortDescending } from '../ts/src/ops/sort_descending.js';
import { topK } from '../ts/src/ops/top_k.js';
import { unique } from '../ts/src/ops/unique.js';
import { normals, uniforms } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

const B = 2048;
const L = 100;
const T = B * L;
const D = 32;
const N = 50_000;
const random = (shape: number[], stream: number) =>
  tensor(
    Float32Array.from(
      normals(
        shape.reduce((a, b) => a * b, 1),
        1,
        stream,
      ),
    ),
    shape,
  );
const rows = parameter(random([N, D], 1));
const jagged = parameter(random([T, D], 2));
const scores = parameter(random([B, L], 3));
const ids = Float64Array.from(uniforms(T, 1, 4), (u) => Math.floor(u * u * N)); // some rows are popular
const index = tensor(Int32Array.from(ids));
const keys = tensor(BigInt64Array.from(ids, (id) => BigInt(id) * 1_000_003n));
const offsets = tensor(Int32Array.from({ length: B + 1 }, (_, b) => b * L));
const plain = tensor(Float32Array.from(normals(B * 1000, 1, 5)), [B, 1000]);

function both(op: string, name: string, x: Tensor, bytes: number, run: () => Tensor): BenchCase[] {
  const common = { op, case: name, dtype: 'float32', flops: 0 };
  const dout = tidy(() => random([...run().shape], 9)); // lives as long as the program
  return [
    {
      ...common,
      pass: 'forward',
      bytes,
      run: () => {
        tidy(() => {
          run();
        });
      },
    },
    {
      ...common,
      pass: 'forward_backward',
      bytes: 2 * bytes,
      run: () => {
        tidy(() => {
          backward(run(), dout);
          x.grad?.dispose();
          x.grad = null;
        });
      },
    },
  ];
}

await bench([
  ...both('gather_rows', `${N}x${D}_${T}`, rows, 8 * T * D, () => gatherRows(rows, index)),
  ...both('segment_sum', `${B}x${L}x${D}`, jagged, 4 * (T + B) * D, () => segmentSum(jagged, { offsets })),
  ...both('pad_jagged', `${B}x${L}x${D}`, jagged, 8 * T * D, () => padJagged(jagged, { offsets, length: L })),
  ...both('sort_descending', `${B}x${L}`, scores, 12 * T, () => sortDescending(scores)),
  {
    op: 'top_k',
    pass: 'forward',
    case: `${B}x1000_k50`,
    dtype: 'float32',
    bytes: 4 * B * 1100,
    flops: 0,
    run: () => {
      tidy(() => {
        topK(plain, { k: 50 });
      });
    },
  },
  {
    op: 'unique',
    pass: 'forward',
    case: `${T}`,
    dtype: 'int64',
    bytes: 20 * T,
    flops: 0,
    run: () => {
      tidy(() => {
        unique(keys);
      });
    },
  },
]);
