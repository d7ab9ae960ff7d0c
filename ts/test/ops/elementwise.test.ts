import type { Binary, Unary } from '../../src/native_kernels.js';
import { abs, add, affine, div, exp, log, mul, reciprocal, sqrt, square, sub } from '../../src/ops/elementwise.js';
import { opSuite } from '../harness.js';

const binary = { add, sub, mul, div };
const unary = { exp, log, sqrt, square, abs, reciprocal };
const kinds = Object.keys(binary) as Binary[];

opSuite<{ kind: Binary }>('binary', {
  run: ({ a, b }, { kind }) => binary[kind](a!, b!),
  golden: 'elementwise',
  // The gradient of a broadcast input is a sum of products that were rounded to bfloat16; where they cancel, the roundings stay.
  bfloat16Tolerance: { out: 5e-3, gradient: 2e-2 },
  cases: kinds.flatMap((kind) => [
    { name: `${kind}: same shape`, inputs: { a: [3, 7], b: { shape: [3, 7], positive: true } }, options: { kind } },
    { name: `${kind}: row`, inputs: { a: [3, 7], b: { shape: [7], positive: true } }, options: { kind } },
    { name: `${kind}: column`, inputs: { a: [3, 7], b: { shape: [3, 1], positive: true } }, options: { kind } },
    {
      name: `${kind}: scalar on the left`,
      inputs: { a: { values: [2], shape: [] }, b: { shape: [5], positive: true } },
      options: { kind },
    },
    { name: `${kind}: outer`, inputs: { a: [2, 1, 3], b: { shape: [4, 1], positive: true } }, options: { kind } },
    { name: `${kind}: middle`, inputs: { a: [2, 3, 5], b: { shape: [2, 1, 5], positive: true } }, options: { kind } },
    {
      name: `${kind}: row, in packs`,
      inputs: { a: [3, 16], b: { shape: [16], positive: true } },
      options: { kind },
      noFiniteDifferences: true,
    },
    {
      name: `${kind}: outer, in packs`,
      inputs: { a: [2, 1, 16], b: { shape: [4, 1], positive: true } },
      options: { kind },
      noFiniteDifferences: true,
    },
    { name: `${kind}: empty`, inputs: { a: [0, 3], b: { shape: [3], positive: true } }, options: { kind } },
  ]),
  rejects: [
    {
      inputs: { a: [3, 7], b: [6] },
      options: { kind: 'add' },
      says: /add: expected shapes that broadcast but received \(3, 7\) and \(6\)/,
    },
    {
      inputs: { a: [3], b: { ints: [1, 2, 3] } },
      options: { kind: 'mul' },
      says: /expected b to be float32 or float64 but received int32/,
    },
    {
      inputs: { a: [3], b: [3] },
      float64: ['b'],
      options: { kind: 'mul' },
      says: /expected b to be float32 like a but received float64/,
    },
  ],
});

opSuite<{ kind: Unary }>('unary', {
  run: ({ x }, { kind }) => unary[kind](x!),
  cases: (Object.keys(unary) as Unary[]).flatMap((kind) => [
    { name: kind, inputs: { x: { shape: [3, 11], positive: true } }, options: { kind } },
    {
      name: `${kind}: past one chunk`,
      noFiniteDifferences: true,
      inputs: { x: { shape: [17_000], positive: true } },
      options: { kind },
    },
  ]),
  rejects: [
    { inputs: { x: { ints: [1] } }, options: { kind: 'exp' }, says: /unary: expected x to be float32 or float64/ },
  ],
});

opSuite<{ scale: number; shift: number }>('affine', {
  run: ({ x }, options) => affine(x!, options),
  cases: [
    { inputs: { x: [5, 3] }, options: { scale: -2, shift: 0.5 } },
    { inputs: { x: [0] }, options: { scale: 0, shift: 1 } },
  ],
});
