/**
 * A table of 1M x 64 with 5,120 lookups: forward, and a step of embedding, reduction, norm and update (goal: 5,000 us on two cores).
 * Covers: embedding, embedding_bag
 */
import { backward, parameter } from '../ts/src/autograd.js';
import { addon } from '../ts/src/native.js';
import { embedding } from '../ts/src/ops/embedding.js';
import { embeddingBag } from '../ts/src/ops/embedding_bag.js';
import { Optimizer } from '../ts/src/optim/optimizer.js';
import { normals, uniforms } from '../ts/src/random.js';
import { device, tensor, zeros } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

const V = 1_000_000;
const D = 64;
const T = 5120;
const bags = 256;
const sets = 16; // other lookups in every call, so that rows come from memory and not from the cache
const table = parameter(zeros([V, D]));
const indices = Array.from({ length: sets }, (_, i) =>
  tensor(Int32Array.from(uniforms(T, 1, i), (u) => Math.floor(u * V))),
);
const offsets = tensor(Int32Array.from({ length: bags + 1 }, (_, b) => (b * T) / bags));
const dout = tensor(Float32Array.from(normals(T * D, 1, 99)), [T, D]);
const row = 4 * D;
let call = 0;
const peer = { V, D, T, bags };
const lookups = () => indices[call++ % sets]!;

const cases: BenchCase[] = [
  {
    op: 'embedding',
    pass: 'forward',
    case: '1Mx64_5120',
    dtype: 'float32',
    bytes: 2 * T * row,
    flops: 0,
    calls: 4 * sets,
    peer,
    run: () => {
      tidy(() => {
        embedding(table, lookups());
      });
    },
  },
  {
    op: 'embedding_bag',
    pass: 'forward',
    case: '1Mx64_256x20',
    dtype: 'float32',
    bytes: (T + bags) * row,
    flops: 2 * T * D,
    calls: 4 * sets,
    peer,
    run: () => {
      tidy(() => {
        embeddingBag(table, lookups(), { offsets });
      });
    },
  },
];
await bench(cases, { peer: 'embedding' });

for (const algorithm of ['rowwise_adagrad', 'rowwise_adam', 'lazy_adam'] as const) {
  const params = new Map([['table', table]]);
  const optimizer = new Optimizer([{ name: 'sparse', params, algorithm, learningRate: 1e-3 }], { clipNorm: 1 });
  // forward 2, reduction 2, norm 1, update 1 and the weights 2; each moment is read and written
  const moments = { rowwise_adagrad: 0, rowwise_adam: 1, lazy_adam: 2 }[algorithm];
  // gradient and optimizer hold what was touched: memory in use at its highest, beyond table and moments
  const cpu = device('cpu');
  await cpu.synchronize();
  addon.resetPeak('cpu');
  const before = cpu.memory().live;
  const step = () =>
    tidy(() => {
      backward(embedding(table, lookups()), dout);
      optimizer.step();
      optimizer.zeroGrad();
    });
  for (let i = 0; i < sets; i++) step(); // every set of lookups once: fresh memory is slow
  await cpu.synchronize();
  const touched = cpu.memory().peak - before;
  console.log(
    JSON.stringify({
      op: algorithm,
      case: '1Mx64_5120',
      bytes_of_a_step: touched,
      bytes_of_touched_rows: T * row,
      table_bytes: V * row,
    }),
  );
  await bench(
    [
      {
        op: algorithm,
        pass: 'forward_reduce_norm_update',
        case: '1Mx64_5120',
        dtype: 'float32',
        bytes: T * row * (8 + 2 * moments),
        flops: 0,
        calls: sets,
        peer,
        run: step,
      },
    ],
    { peer: 'embedding' },
  );
  optimizer.dispose();
}
