import { describe, expect, it } from 'vitest';
import { softmax } from '../../src/ops/softmax.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';

opSuite('softmax', {
  run: ({ x }) => softmax(x!),
  golden: 'softmax',
  cases: [
    { name: 'odd shape', inputs: { x: [3, 5] } },
    { name: 'one column', inputs: { x: [4, 1] } },
    { name: 'past the lanes', inputs: { x: [2, 2, 19] } },
    { name: 'no rows', inputs: { x: [0, 4] } },
    { name: 'no columns', inputs: { x: [3, 0] } },
    { name: 'far values', inputs: { x: { values: [-1000, 0, 1000, 1000, -100, 100], shape: [2, 3] } } },
    { name: 'long rows', inputs: { x: { shape: [3, 5000], fixed: true } } },
    { name: 'past one chunk', inputs: { x: { shape: [1100, 17], fixed: true } } },
  ],
  rejects: [{ inputs: { x: { ints: [1] } }, says: /softmax: expected x to be float32 or float64 but received int32/ }],
});

describe('softmax', () => {
  it('gives zeros for a row of minus infinities', async () => {
    const low = Number.NEGATIVE_INFINITY;
    expect(Array.from((await softmax(tensor([low, low, 0, low], [2, 2])).data()) as Float32Array)).toEqual([
      0, 0, 1, 0,
    ]);
  });
});
