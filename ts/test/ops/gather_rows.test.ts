import { expect, it } from 'vitest';
import { IndexError } from '../../src/errors.js';
import { gatherRows } from '../../src/ops/gather_rows.js';
import { device, tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

opSuite('gatherRows', {
  run: ({ x, index }) => gatherRows(x!, index!),
  golden: 'gather_rows',
  cases: [
    { name: 'repeats and padding', inputs: { x: [4, 3], index: { ints: [3, 0, -1, 3, 3] } } },
    { name: 'rank one', inputs: { x: [4], index: { ints: [2, 2, 1] } } },
    { name: 'rank four', inputs: { x: [3, 2, 1, 2], index: { ints: [1, 0, 1] } } },
    { name: 'nothing gathered', inputs: { x: [3, 2], index: { ints: [] } } },
    { name: 'no rows, padding only', inputs: { x: [0, 2], index: { ints: [-1, -1] } } },
    {
      name: 'rows in several chunks, in packs',
      inputs: { x: [40, 16], index: { ints: Array.from({ length: 1500 }, (_, i) => (i % 3 ? (i * i) % 42 : 7) - 1) } },
      noFiniteDifferences: true,
    },
    {
      name: 'one row in several chunks',
      inputs: { x: [3, 5], index: { ints: Array.from({ length: 1500 }, (_, i) => (i % 7 ? 1 : 2)) } },
      noFiniteDifferences: true,
    },
  ],
  rejects: [
    {
      inputs: { x: { values: [1], shape: [] }, index: { ints: [0] } },
      says: /gatherRows: expected x of shape \(N, \.\.\.\)/,
    },
    { inputs: { x: [2, 2], index: [2] }, says: /gatherRows: expected index to be int32 but received float32/ },
    {
      inputs: { x: [2, 2], index: { ints: [0, 1], shape: [1, 2] } },
      says: /expected index of shape \(T\) but received/,
    },
  ],
});

it.each(testDevices)('an index past the rows is a zero row and an IndexError at the next wait (%s)', async (name) => {
  const on = { device: name };
  const [x, index] = [tensor([1, 2, 3, 4], [2, 2], on), tensor(Int32Array.of(1, 2), [2], on)];
  const out = gatherRows(x, index);
  await expect(out.data()).rejects.toThrow(IndexError);
  expect([...((await out.data()) as Float32Array)]).toEqual([3, 4, 0, 0]);
  await device(name).synchronize();
  for (const tensor of [x, index, out]) tensor.dispose();
});
