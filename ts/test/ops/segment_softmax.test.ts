import { describe, expect, it } from 'vitest';
import { IndexError } from '../../src/errors.js';
import { addon } from '../../src/native.js';
import { segmentSoftmax } from '../../src/ops/segment_softmax.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

opSuite('segmentSoftmax', {
  run: ({ x, offsets }) => segmentSoftmax(x!, { offsets: offsets! }),
  golden: 'segment_softmax',
  cases: [
    { name: 'vector, an empty segment', inputs: { x: [8], offsets: { ints: [0, 3, 3, 8] } } },
    { name: 'columns', inputs: { x: [8, 3], offsets: { ints: [0, 3, 3, 8] } } },
    { name: 'past the lanes', inputs: { x: [5, 19], offsets: { ints: [0, 2, 5] } } },
    { name: 'rows outside', inputs: { x: [8, 2], offsets: { ints: [1, 3, 6] } } },
    { name: 'no segments', inputs: { x: [3], offsets: { ints: [0] } } },
    { name: 'no rows', inputs: { x: [0, 2], offsets: { ints: [0, 0, 0] } } },
    { name: 'far values', inputs: { x: { values: [-1000, 1000, 0, 100] }, offsets: { ints: [0, 2, 4] } } },
    {
      name: 'many segments',
      inputs: {
        x: { shape: [9000, 4], fixed: true },
        offsets: { ints: Array.from({ length: 1001 }, (_, i) => 9 * i) },
      },
    },
  ],
  rejects: [
    { inputs: { x: [3, 2, 2], offsets: { ints: [0] } }, says: /segmentSoftmax: expected x of shape \(T, H\)/ },
    { inputs: { x: [3], offsets: [2] }, says: /segmentSoftmax: expected offsets to be int32 but received float32/ },
    { inputs: { x: [3], offsets: { ints: [] } }, says: /segmentSoftmax: expected offsets of shape \(B\+1\)/ },
    {
      inputs: { x: { ints: [1] }, offsets: { ints: [0, 1] } },
      says: /segmentSoftmax: expected x to be float32 or float64/,
    },
  ],
});

describe.each(testDevices)('segmentSoftmax on %s', (device) => {
  it('reports falling offsets and carries on', async () => {
    const offsets = tensor(Int32Array.of(0, 2, 1, 3), [4], { device });
    const out = segmentSoftmax(tensor([1, 2, 3], [3], { device }), { offsets });
    await expect(addon.synchronize(device)).rejects.toThrow(IndexError);
    expect(((await out.data()) as Float32Array).every(Number.isFinite)).toBe(true);
  });
});
