import { describe, expect, it } from 'vitest';
import { padJagged } from '../../src/ops/pad_jagged.js';
import { device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

opSuite<{ length: number }>('padJagged', {
  run: ({ x, offsets }, { length }) => padJagged(x!, { offsets: offsets!, length }),
  cases: [
    { name: 'vectors', inputs: { x: [6, 3], offsets: { ints: [0, 2, 2, 6] } }, options: { length: 3 } },
    { name: 'scalars', inputs: { x: [6], offsets: { ints: [0, 1, 6] } }, options: { length: 4 } },
    { name: 'entries past the last row', inputs: { x: [6, 2], offsets: { ints: [0, 3] } }, options: { length: 5 } },
    { name: 'length zero', inputs: { x: [2, 2], offsets: { ints: [0, 2] } }, options: { length: 0 } },
    { name: 'no rows', inputs: { x: [2, 2], offsets: { ints: [0] } }, options: { length: 2 } },
  ],
  rejects: [
    { inputs: { x: [2, 2, 2], offsets: { ints: [0, 2] } }, options: { length: 2 }, says: /of shape \(T\) or \(T, D\)/ },
    {
      inputs: { x: [2, 2], offsets: { ints: [0, 2] } },
      options: { length: 1.5 },
      says: /expected length to be a non-neg/,
    },
    { inputs: { x: [2, 2], offsets: [2] }, options: { length: 1 }, says: /expected offsets to be int32/ },
  ],
});

describe.each(testDevices)('padJagged on %s', (on) => {
  const x = () => tensor([1, 2, 3, 4, 5], [5], { device: on });
  const ints = (values: readonly number[]) => tensor(Int32Array.from(values), [values.length], { device: on });

  it('keeps the first entries of long rows and ends short ones in zeros', async () => {
    const out = tidy(() => padJagged(x(), { offsets: ints([0, 1, 1, 5]), length: 2 }));
    expect(Array.from((await out.data()) as Float32Array)).toEqual([1, 0, 0, 0, 2, 3]);
    out.dispose();
  });

  it.each([
    [[0, 3, 2], /position 2 holds 2/],
    [[0, 9], /`offsets` in \[0, 6\) but position 1 holds 9/],
  ])('reports offsets %j', async (offsets, says) => {
    tidy(() => padJagged(x(), { offsets: ints(offsets), length: 2 }));
    await expect(device(on).synchronize()).rejects.toThrow(says);
  });
});
