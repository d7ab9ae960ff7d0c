import { describe, expect, it } from 'vitest';
import { noGrad, parameter } from '../../src/autograd.js';
import { topK } from '../../src/ops/top_k.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { testDevices } from '../test_devices.js';

describe.each(testDevices)('topK on %s', (device) => {
  it.each([
    [1, 1, 1],
    [3, 17, 5],
    [70, 301, 50],
    [3, 4097, 6],
    [2, 8, 8],
    [2, 8, 0],
    [0, 4, 2],
  ])('%i rows of %i, k = %i, against a full sort', async (B, L, k) => {
    const x = normals(B * L, 1, 1).map((value) => Math.round(value * 4)); // many ties
    const { values, indices } = tidy(() => topK(tensor(Float32Array.from(x), [B, L], { device }), { k }));
    const from = (await indices.data()) as Int32Array;
    const found = (await values.data()) as Float32Array;
    for (let b = 0; b < B; b++) {
      const row = Array.from(x.subarray(b * L, (b + 1) * L));
      const order = row.map((_, i) => i).sort((i, j) => row[j]! - row[i]! || i - j);
      expect(Array.from(from.subarray(b * k, (b + 1) * k))).toEqual(order.slice(0, k));
      expect(Array.from(found.subarray(b * k, (b + 1) * k))).toEqual(order.slice(0, k).map((i) => row[i]! + 0));
    }
    values.dispose();
    indices.dispose();
  });
});

describe('topK', () => {
  it('refuses k out of range, other shapes, and a tensor that requires a gradient', () => {
    tidy(() => {
      const x = parameter(tensor([1, 2], [1, 2]));
      expect(() => topK(x, { k: 3 })).toThrow(/topK: expected k to be an integer in \[0, 2\] but received 3/);
      expect(() => topK(tensor([1, 2]), { k: 1 })).toThrow(/expected x of shape \(B, L\)/);
      expect(() => topK(x, { k: 1 })).toThrow(/topK: has no gradient/);
      expect(noGrad(() => topK(x, { k: 1 })).indices.shape).toEqual([1, 1]);
      x.dispose();
    });
  });
});
