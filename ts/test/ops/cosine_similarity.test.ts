import { describe, expect, it } from 'vitest';
import { IndexError } from '../../src/errors.js';
import { addon } from '../../src/native.js';
import { cosineSimilarity } from '../../src/ops/cosine_similarity.js';
import { full, tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

const offsets = { ints: [0, 3, 3, 5] };

opSuite<{ eps?: number }>('cosineSimilarity', {
  run: ({ d, h, offsets, mask }, options) =>
    cosineSimilarity(d!, h!, { offsets: offsets!, ...(mask && { mask }), ...options }),
  golden: 'cosine_similarity',
  cases: [
    { name: 'an item without history', inputs: { d: [3, 4], h: [5, 4], offsets } },
    { name: 'masked', inputs: { d: [3, 4], h: [5, 4], offsets, mask: { ints: [0, -1, 7, -3, 0] } } },
    { name: 'past the lanes', inputs: { d: [1, 33], h: [2, 33], offsets: { ints: [0, 2] } } },
    { name: 'rows outside', inputs: { d: [1, 3], h: [4, 3], offsets: { ints: [1, 3] } } },
    { name: 'no items', inputs: { d: [0, 3], h: [2, 3], offsets: { ints: [0] } } },
    { name: 'no rows', inputs: { d: [2, 3], h: [0, 3], offsets: { ints: [0, 0, 0] } } },
    { name: 'shorter than eps', inputs: { d: [3, 4], h: [5, 4], offsets }, options: { eps: 100 } },
    {
      name: 'zero vectors',
      inputs: {
        d: { shape: [1, 2], values: [0, 0], fixed: true },
        h: { shape: [2, 2], values: [0, 0, 1, 2], fixed: true },
        offsets: { ints: [0, 2] },
      },
    },
    { name: 'only the history learns', inputs: { d: { shape: [3, 4], fixed: true }, h: [5, 4], offsets } },
    {
      name: 'past one chunk',
      inputs: {
        d: { shape: [300, 16], fixed: true },
        h: { shape: [3000, 16], fixed: true },
        offsets: { ints: Array.from({ length: 301 }, (_, i) => 10 * i) },
      },
    },
  ],
  rejects: [
    {
      inputs: { d: [3, 4], h: [5, 3], offsets },
      says: /cosineSimilarity: expected h of shape \(T, D=4\) but received \(5, 3\)/,
    },
    {
      inputs: { d: [2, 4], h: [5, 4], offsets },
      says: /cosineSimilarity: expected offsets of shape \(B\+1=3\) but received \(4\)/,
    },
    {
      inputs: { d: [3, 4], h: [5, 4], offsets, mask: { ints: [1] } },
      says: /cosineSimilarity: expected mask of shape \(T=5\)/,
    },
    { inputs: { d: [3, 4], h: [5, 4], offsets, mask: [5] }, says: /cosineSimilarity: expected mask to be int32/ },
    {
      inputs: { d: [3, 4], h: [5, 4], offsets },
      float64: ['h'],
      says: /cosineSimilarity: expected h to be float32 like d/,
    },
  ],
});

describe.each(testDevices)('cosineSimilarity on %s', (device) => {
  it('reports offsets out of range and carries on', async () => {
    const offsets = tensor(Int32Array.of(0, 9), [2], { device });
    const out = cosineSimilarity(full([1, 2], 1, { device }), full([3, 2], 1, { device }), { offsets });
    await expect(addon.synchronize(device)).rejects.toThrow(IndexError);
    expect(((await out.data()) as Float32Array).every(Number.isFinite)).toBe(true);
  });
});
