import { matmul } from '../../src/ops/matmul.js';
import { opSuite } from '../harness.js';

const transposes = [false, true].flatMap((transposeA) =>
  [false, true].map((transposeB) => ({ transposeA, transposeB })),
);
const shapesOf = ({ transposeA, transposeB }: (typeof transposes)[number], m: number, n: number, k: number) => ({
  a: transposeA ? [k, m] : [m, k],
  b: transposeB ? [n, k] : [k, n],
});

opSuite<{ transposeA?: boolean; transposeB?: boolean }>('matmul', {
  run: ({ a, b }, options) => matmul(a!, b!, options),
  golden: 'matmul',
  cases: transposes.flatMap((options) => {
    const name = `${options.transposeA ? 'T' : 'N'}${options.transposeB ? 'T' : 'N'}`;
    const small = shapesOf(options, 3, 5, 4);
    const large = shapesOf(options, 129, 65, 300);
    const fixed = (shape: number[]) => ({ shape, fixed: true });
    return [
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
