import { rmsNorm } from '../../src/ops/rms_norm.js';
import { opSuite } from '../harness.js';

opSuite<{ eps?: number }>('rmsNorm', {
  run: ({ x, weight }, options) => rmsNorm(x!, weight!, options),
  golden: 'rms_norm',
  cases: [
    { name: 'odd shape', inputs: { x: [3, 5], weight: [5] } },
    { name: 'one row, past the lanes', inputs: { x: [33], weight: [33] } },
    { name: 'no rows', inputs: { x: [0, 4], weight: [4] } },
    { name: 'three dimensions, eps', inputs: { x: [2, 2, 7], weight: [7] }, options: { eps: 0.1 } },
    { name: 'a zero row', inputs: { x: { values: [0, 0, 0, 1, 2, 3], shape: [2, 3], fixed: true }, weight: [3] } },
    { name: 'past one chunk of rows', inputs: { x: { shape: [600, 32], fixed: true }, weight: [32] } },
    // every way in which a GPU's threads share a row: whole packs or not, a warp or a block, in registers or not
    ...[64, 300, 392, 768, 1024, 1025, 1032, 4104, 8195, 8200].map((D) => ({
      name: `rows of ${D}`,
      noFiniteDifferences: true,
      inputs: { x: [D > 4000 ? 3 : 19, D], weight: [D] },
    })),
  ],
  rejects: [
    { inputs: { x: [2, 3], weight: [4] }, says: /rmsNorm: expected weight of shape \(D=3\) but received \(4\)/ },
    { inputs: { x: [2, 3], weight: [3] }, float64: ['x'], says: /rmsNorm: expected weight to be float64 like x/ },
    {
      inputs: { x: { ints: [1] }, weight: [1] },
      says: /rmsNorm: expected x to be float32 or float64 but received int32/,
    },
  ],
});
