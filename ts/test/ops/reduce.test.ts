import { expect, it } from 'vitest';
import { mean, type ReduceOptions, sum } from '../../src/ops/reduce.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';

const axes: (number[] | undefined)[] = [undefined, [0], [1], [2], [0, 1], [1, 2], [0, 2], [-1], [0, 1, 2], []];

opSuite<ReduceOptions & { mean?: boolean }>('sum and mean', {
  run: ({ x }, { mean: average, ...options }) => (average ? mean : sum)(x!, options),
  cases: [
    ...axes.flatMap((list) => [
      { name: `sum over ${String(list)}`, inputs: { x: [3, 4, 5] }, options: { axes: list } },
      {
        name: `mean over ${String(list)}, dimensions kept`,
        inputs: { x: [3, 4, 5] },
        options: { axes: list, keepDims: true, mean: true },
      },
    ]),
    { name: 'first and third of four', inputs: { x: [2, 3, 4, 5] }, options: { axes: [0, 2] } },
    { name: 'second and fourth of four', inputs: { x: [2, 3, 2, 5] }, options: { axes: [1, 3] } },
    { name: 'tall', noFiniteDifferences: true, inputs: { x: [1_003, 7] }, options: { axes: [0] } },
    {
      name: 'everything, past one chunk',
      noFiniteDifferences: true,
      inputs: { x: { shape: [40_000], positive: true } },
      options: {},
    },
    { name: 'long rows', noFiniteDifferences: true, inputs: { x: [3, 9_001] }, options: { axes: [1] } },
    { name: 'a tall middle', noFiniteDifferences: true, inputs: { x: [3, 515, 40] }, options: { axes: [1] } },
    { name: 'nothing', inputs: { x: [0, 3] }, options: { axes: [0], mean: true } },
  ],
  rejects: [
    { inputs: { x: [3, 4] }, options: { axes: [2] }, says: /sum: expected axes within \(3, 4\) but received 2/ },
    { inputs: { x: { ints: [1] } }, options: {}, says: /sum: expected x to be float32 or float64/ },
  ],
});

it('sums 1,000,003 ones without losing any', async () => {
  using x = tensor(new Float32Array(1_000_003).fill(1));
  using total = sum(x);
  expect(await total.item()).toBe(1_000_003);
});
