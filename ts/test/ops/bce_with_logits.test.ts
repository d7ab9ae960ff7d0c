import { bceWithLogits } from '../../src/ops/bce_with_logits.js';
import { opSuite } from '../harness.js';

const half = (n: number) => Array.from({ length: n }, (_, i) => i % 2);

opSuite('bceWithLogits', {
  run: ({ logits, labels, weights }) => bceWithLogits(logits!, labels!, { weights }),
  golden: 'bce_with_logits',
  bfloat16: false, // a loss: float32 only
  cases: [
    { name: 'mean', inputs: { logits: [7], labels: { values: half(7), fixed: true } } },
    { name: 'one row', inputs: { logits: [1], labels: { values: [1], fixed: true } } },
    { name: 'no rows: 0', inputs: { logits: [0], labels: { values: [], fixed: true } } },
    {
      name: 'weights that sum to 0: 0',
      inputs: { logits: [2], labels: { values: [0, 1], fixed: true }, weights: { values: [0, 0], fixed: true } },
    },
    {
      name: 'weighted',
      inputs: {
        logits: [3],
        labels: { values: [0, 1, 1], fixed: true },
        weights: { values: [0, 0.5, 2], fixed: true },
      },
    },
    {
      name: 'logits of 100',
      inputs: { logits: { values: [100, -100, 100, -100] }, labels: { values: [1, 0, 0, 1], fixed: true } },
    },
    {
      name: 'past one chunk',
      noFiniteDifferences: true,
      inputs: { logits: [20_001], labels: { values: half(20_001), fixed: true } },
    },
  ],
  rejects: [
    {
      inputs: { logits: [3], labels: [4] },
      says: /bceWithLogits: expected labels of shape \(N=3\) but received \(4\)/,
    },
    { inputs: { logits: [3, 1], labels: [3] }, says: /expected logits of shape \(N\)/ },
    {
      inputs: { logits: [3], labels: { ints: [0, 1, 1] } },
      says: /expected labels to be float32 or float64 but received int32/,
    },
    {
      inputs: { logits: [3], labels: [3] },
      float64: ['labels'],
      says: /expected labels to be float32 like logits but received float64/,
    },
  ],
});
