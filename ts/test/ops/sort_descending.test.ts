import { expect, it } from 'vitest';
import { sortDescending } from '../../src/ops/sort_descending.js';
import { device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { opSuite } from '../harness.js';

opSuite('sortDescending', {
  run: ({ x, lengths }) => sortDescending(x!, lengths ? { lengths } : {}),
  golden: 'sort_descending',
  cases: [
    { name: 'all entries', inputs: { x: [3, 7] } },
    { name: 'lengths', inputs: { x: [4, 5], lengths: { ints: [0, 1, 3, 5] } } },
    { name: 'ties', inputs: { x: { values: [1, 2, 1, 2, 0, -0], shape: [1, 6] } }, noFiniteDifferences: true },
    { name: 'one column', inputs: { x: [3, 1] } },
    { name: 'no columns', inputs: { x: [3, 0] } },
    {
      name: 'past what one block sorts',
      inputs: { x: { shape: [3, 4100] }, lengths: { ints: [4100, 17, 4099] } },
      noFiniteDifferences: true,
    },
    { name: 'past one chunk', inputs: { x: { shape: [50, 401] } }, noFiniteDifferences: true },
  ],
  rejects: [
    { inputs: { x: [3] }, says: /sortDescending: expected x of shape \(B, L\) but received \(3\)/ },
    { inputs: { x: [3, 2], lengths: [3] }, says: /expected lengths to be int32 but received float32/ },
    { inputs: { x: [3, 2], lengths: { ints: [1] } }, says: /expected lengths of shape \(B=3\) but received \(1\)/ },
  ],
});

it('sortDescending: infinities, NaN first, zeros behind the length, a bad length is reported', async () => {
  const x = tensor([Number.NEGATIVE_INFINITY, 1, Number.NaN, Number.POSITIVE_INFINITY, 9], [1, 5]);
  const out = tidy(() => sortDescending(x, { lengths: tensor(Int32Array.of(4)) }));
  expect(Array.from((await out.data()) as Float32Array)).toEqual([
    Number.NaN,
    Number.POSITIVE_INFINITY,
    1,
    Number.NEGATIVE_INFINITY,
    0,
  ]);
  tidy(() => sortDescending(x, { lengths: tensor(Int32Array.of(6)) }));
  await expect(device('cpu').synchronize()).rejects.toThrow(/`lengths` in \[0, 6\) but position 0 holds 6/);
  x.dispose();
  out.dispose();
});
