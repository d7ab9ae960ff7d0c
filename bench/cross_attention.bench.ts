/**
 * Attention at the shapes of the demo and of larger models, float32. The peer computes it on padded batches with matrix products and
 * softmax; its batches are padded beforehand, which costs it nothing here.
 */
import { backward, zeroGrad } from '../ts/src/autograd.js';
import { crossAttention } from '../ts/src/ops/cross_attention.js';
import { normals, streamOf } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

interface Shape {
  readonly name: string;
  readonly items: number;
  /** Keys per item: between the two, all equally often. */
  readonly keys: readonly [number, number];
  /** Queries per item; 0: each key is a query too. */
  readonly queries: number;
  readonly H: number;
  readonly D: number;
}

const shapes: readonly Shape[] = [
  { name: 'demo text', items: 577, keys: [12, 19], queries: 0, H: 4, D: 8 },
  { name: 'demo patches', items: 577, keys: [16, 16], queries: 0, H: 4, D: 8 },
  { name: 'demo joint', items: 577, keys: [27, 33], queries: 0, H: 4, D: 8 },
  { name: 'demo joint, last layer', items: 577, keys: [27, 33], queries: 4, H: 4, D: 8 },
  { name: 'history of 50', items: 512, keys: [0, 50], queries: 1, H: 4, D: 16 },
  { name: 'titles 115', items: 32, keys: [47, 183], queries: 0, H: 4, D: 32 },
  { name: 'image 257', items: 4, keys: [257, 257], queries: 0, H: 12, D: 64 },
  { name: 'qformer 32x257', items: 16, keys: [257, 257], queries: 32, H: 12, D: 64 },
];

function random(...shape: number[]): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const x = tensor(Float32Array.from(normals(size, 1, streamOf(shape.join()))), shape);
  x.requiresGrad = true;
  return x;
}

const float = 4;
const cases: BenchCase[] = shapes.flatMap(({ name, items, keys: [least, most], queries, H, D }) => {
  const lengths = Array.from({ length: items }, (_, i) => least + ((i * 7919) % (most - least + 1)));
  const rows = [0];
  for (const length of lengths) rows.push(rows.at(-1)! + length);
  const T = rows.at(-1)!;
  const offsets = tensor(Int32Array.from(rows));
  const Tq = queries === 0 ? T : items * queries;
  const q = queries === 0 ? random(T, H, D) : random(items, queries, H, D);
  const [k, v] = [random(T, H, D), random(T, H, D)];
  const dout = random(...q.shape);
  dout.requiresGrad = false;
  const call = () => crossAttention(q, k, v, { offsets, ...(queries === 0 && { qOffsets: offsets }) });
  const pairs = lengths.reduce((sum, length) => sum + length * (queries === 0 ? length : queries), 0);
  const flops = 4 * pairs * H * D;
  const bytes = float * H * D * 2 * (Tq + T);
  const common = { op: 'crossAttention', case: `${name} ${items}x${H}x${D}`, dtype: 'float32' };
  const peer = { lengths, queries, H, D };
  return [
    {
      ...common,
      pass: 'forward',
      bytes,
      flops,
      peer,
      run: () => {
        tidy(() => {
          call();
        });
      },
    },
    {
      ...common,
      pass: 'forward backward',
      bytes: 3 * bytes,
      flops: 3.5 * flops,
      peer,
      run: () => {
        tidy(() => backward(call(), dout));
        zeroGrad([q, k, v]);
      },
    },
  ];
});

await bench(cases, { peer: 'cross_attention' });
