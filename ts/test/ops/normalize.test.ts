import { normalize } from '../../src/ops/normalize.js';
import { opSuite } from '../harness.js';

opSuite<{ eps?: number }>('normalize', {
  run: ({ x }, options) => normalize(x!, options),
  golden: 'normalize',
  cases: [
    { name: 'odd shape', inputs: { x: [3, 5] } },
    // x fixed: its gradient is exactly 0, so a relative error of it has no meaning
    { name: 'one column', inputs: { x: { shape: [4, 1], fixed: true } } },
    { name: 'past the lanes', inputs: { x: [2, 2, 33] } },
    { name: 'no rows', inputs: { x: [0, 4] } },
    { name: 'a zero row stays zero', inputs: { x: { values: [0, 0, 0, 3, 0, 4], shape: [2, 3], fixed: true } } },
    { name: 'shorter than eps', inputs: { x: [2, 3] }, options: { eps: 100 } },
    { name: 'past one chunk', inputs: { x: { shape: [600, 32], fixed: true } } },
  ],
  rejects: [
    { inputs: { x: { ints: [1] } }, says: /normalize: expected x to be float32 or float64 but received int32/ },
  ],
});
