import { segmentSum } from '../../src/ops/segment_sum.js';
import { type OpCase, opSuite } from '../harness.js';

type Options = { mode?: 'sum' | 'mean' };
const modes = ['sum', 'mean'] as const;

opSuite<Options>('segmentSum', {
  run: ({ x, offsets, weights }, options) =>
    segmentSum(x!, { ...options, offsets: offsets!, ...(weights ? { weights } : {}) }),
  golden: 'segment_sum',
  cases: modes.flatMap((mode): OpCase<Options>[] => [
    { name: `${mode}, an empty segment`, inputs: { x: [5, 3], offsets: { ints: [0, 2, 2, 5] } }, options: { mode } },
    {
      name: `${mode}, weights`,
      inputs: { x: [5, 33], offsets: { ints: [0, 1, 5] }, weights: [5] },
      options: { mode },
    },
    {
      name: `${mode}, rows past the last segment`,
      inputs: { x: [5, 2], offsets: { ints: [0, 2] }, weights: [5] },
      options: { mode },
    },
    { name: `${mode}, no segments`, inputs: { x: [2, 2], offsets: { ints: [0] } }, options: { mode } },
    {
      name: `${mode}, past one chunk`,
      inputs: {
        x: [700, 65],
        offsets: { ints: Array.from({ length: 101 }, (_, i) => 7 * i) },
        weights: [700],
      },
      options: { mode },
      noFiniteDifferences: true,
    },
  ]),
  rejects: [
    {
      inputs: { x: [5], offsets: { ints: [0, 5] } },
      says: /segmentSum: expected x of shape \(T, D\) but received \(5\)/,
    },
    {
      inputs: { x: [5, 2], offsets: { ints: [0, 5] }, weights: [4] },
      says: /expected weights of shape \(T=5\) but received \(4\)/,
    },
    { inputs: { x: [5, 2], offsets: [2] }, says: /expected offsets to be int32 but received float32/ },
    {
      inputs: { x: [5, 2], offsets: { ints: [0, 5] } },
      options: { mode: 'max' as 'sum' },
      says: /segmentSum: expected mode to be 'sum' or 'mean' but received max/,
    },
  ],
});
