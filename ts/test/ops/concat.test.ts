import { expect, it } from 'vitest';
import { concat, slice, stack } from '../../src/ops/concat.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';

opSuite<{ axis: number }>('concat', {
  run: (tensors, options) => concat(Object.values(tensors), options),
  cases: [
    { name: 'last axis', inputs: { a: [3, 2], b: [3, 5], c: [3, 1] }, options: { axis: -1 } },
    { name: 'first axis', inputs: { a: [3, 2], b: [1, 2] }, options: { axis: 0 } },
    { name: 'middle axis', inputs: { a: [2, 3, 2], b: [2, 1, 2] }, options: { axis: 1 } },
    { name: 'an empty part', inputs: { a: [3, 2], b: [3, 0] }, options: { axis: 1 } },
    { name: 'packs', inputs: { a: [3, 8], b: [3, 16] }, options: { axis: 1 } },
    {
      name: 'forty tensors',
      inputs: Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`x${i}`, [2, 1 + (i % 4)]])),
      options: { axis: 1 },
    },
    { name: 'one tensor', inputs: { a: [3, 2] }, options: { axis: 1 } },
  ],
  rejects: [
    {
      inputs: { a: [3, 2], b: [4, 2] },
      options: { axis: 1 },
      says: /concat: expected tensors\[1\] of shape \(3, \*\) but received \(4, 2\)/,
    },
    {
      inputs: { a: [3, 2], b: [3, 2] },
      float64: ['b'],
      options: { axis: 1 },
      says: /expected tensors\[1\] to be float32 like the first but received float64/,
    },
    {
      inputs: { a: [3, 2] },
      options: { axis: 2 },
      says: /concat: expected an axis within 2 dimensions but received 2/,
    },
  ],
});

it('concat refuses an empty list and joins int32', async () => {
  expect(() => concat([])).toThrow(/expected at least one tensor/);
  using a = tensor(Int32Array.of(1, 2));
  using b = tensor(Int32Array.of(3));
  using joined = concat([a, b]);
  expect([...((await joined.data()) as Int32Array)]).toEqual([1, 2, 3]);
});

opSuite<{ axis?: number }>('stack', {
  run: (tensors, options) => stack(Object.values(tensors), options),
  cases: [
    { inputs: { a: [2, 3], b: [2, 3] } },
    { name: 'inside', inputs: { a: [2, 3], b: [2, 3], c: [2, 3] }, options: { axis: 1 } },
  ],
});

opSuite<{ axis?: number; start?: number; end?: number }>('slice', {
  run: ({ x }, options) => slice(x!, options),
  cases: [
    { name: 'rows', inputs: { x: [5, 3] }, options: { start: 1, end: 4 } },
    { name: 'columns', inputs: { x: [5, 3] }, options: { axis: -1, start: 2 } },
    { name: 'packs', inputs: { x: [3, 32] }, options: { axis: 1, start: 8, end: 24 } },
    { name: 'nothing', inputs: { x: [5, 3] }, options: { start: 2, end: 2 } },
    { name: 'middle', inputs: { x: [2, 5, 3] }, options: { axis: 1, start: 0, end: 1 } },
  ],
  rejects: [
    {
      inputs: { x: [5] },
      options: { start: 3, end: 6 },
      says: /slice: expected 0 <= start <= end <= 5 but received \[3, 6\)/,
    },
    { inputs: { x: [5] }, options: { axis: 1 }, says: /slice: expected an axis within 1 dimensions/ },
  ],
});
