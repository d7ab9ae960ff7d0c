import { matmul } from '../../src/ops/matmul.js';
import { opSuite } from '../harness.js';

const transposes = [false, true].flatMap((transposeA) =>
  [false, true].map((transposeB) => ({ transposeA, transposeB })),
);
const shapesOf = ({ transposeA, transposeB }: (typeof transposes)[number], m: number, n: number, k: number) => ({
  a: transposeA ? [k, m] : [m, k],
  b: transposeB ? [n, k] : [k, n],
});

/** M, N, K around the tiles of every backend; the last three have rows of whole 16-byte pieces in bfloat16 too. */
const tileCrossings = [
  [127, 31, 65],
  [65, 129, 7],
  [1, 127, 129],
  [129, 1, 31],
  [7, 64, 1],
  [64, 72, 128],
  [136, 8, 64],
  [8, 64, 1032],
];

opSuite<{ transposeA?: boolean; transposeB?: boolean }>('matmul', {
  run: ({ a, b }, options) => matmul(a!, b!, options),
  golden: 'matmul',
  cases: transposes.flatMap((options) => {
    const name = `${options.transposeA ? 'T' : 'N'}${options.transposeB ? 'T' : 'N'}`;
    const small = shapesOf(options, 3, 5, 4);
    const large = shapesOf(options, 129, 65, 300);
    const fixed = (shape: number[]) => ({ shape, fixed: true });
    const fixedShapes = (m: number, n: number, k: number, ...batch: number[]) => {
      const { a, b } = shapesOf(options, m, n, k);
      return { a: fixed([...batch, ...a]), b: fixed([...batch, ...b]) };
    };
    return [
      ...tileCrossings.map(([m, n, k]) => ({
        name: `${name}, ${m} x ${n} x ${k}`,
        inputs: fixedShapes(m!, n!, k!),
        options,
      })),
      // the two layouts in which both operands lie along K, and in which neither does
      ...(options.transposeA === options.transposeB
        ? []
        : [{ name: `${name}, enough for large tiles`, inputs: fixedShapes(72, 136, 40, 65), options }]),
      { name: `${name}, odd`, inputs: small, options },
      { name: `${name}, size 1`, inputs: shapesOf(options, 1, 1, 1), options },
      { name: `${name}, batched`, inputs: { a: [2, 1, ...small.a], b: [2, 1, ...small.b] }, options },
      { name: `${name}, many matrices`, inputs: { a: fixed([70, ...small.a]), b: fixed([70, ...small.b]) }, options },
      { name: `${name}, no matrix`, inputs: { a: [0, ...small.a], b: [0, ...small.b] }, options },
      { name: `${name}, no rows`, inputs: shapesOf(options, 0, 2, 3), options },
      { name: `${name}, empty sum`, inputs: shapesOf(options, 2, 3, 0), options },
      { name: `${name}, past one tile`, inputs: { a: fixed(large.a), b: fixed(large.b) }, options },
      {
        name: `${name}, long sum`,
        inputs: Object.fromEntries(Object.entries(shapesOf(options, 9, 17, 1500)).map(([k, v]) => [k, fixed(v)])),
        options,
      },
    ];
  }),
  rejects: [
    { inputs: { a: [3, 4], b: [5, 2] }, says: /matmul: expected b of shape \(K=4, N\) but received \(5, 2\)/ },
    {
      inputs: { a: [3, 4], b: [4, 2] },
      options: { transposeB: true },
      says: /matmul: expected b of shape \(N, K=4\) but received \(4, 2\)/,
    },
    {
      inputs: { a: [3, 4], b: [4, 2] },
      options: { transposeA: true },
      says: /matmul: expected b of shape \(K=3, N\) but received \(4, 2\)/,
    },
    { inputs: { a: [2, 3, 4], b: [4, 2] }, says: /matmul: expected b of shape \(2, K=4, N\) but received \(4, 2\)/ },
    { inputs: { a: [4], b: [4, 2] }, says: /matmul: expected a of shape \(\.\.\., Ra, Ca\) but received \(4\)/ },
    {
      inputs: { a: [3, 4], b: [4, 2] },
      float64: ['b'],
      says: /matmul: expected b to be float32 like a but received float64/,
    },
    { inputs: { a: { ints: [1], shape: [1, 1] }, b: [1, 1] }, says: /expected a to be float32 or float64/ },
  ],
});
