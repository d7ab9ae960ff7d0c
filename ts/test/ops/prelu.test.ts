import { prelu } from '../../src/ops/prelu.js';
import { opSuite } from '../harness.js';

opSuite('prelu', {
  run: ({ x, alpha }) => prelu(x!, alpha!),
  golden: 'prelu',
  cases: [
    { name: 'odd shape', inputs: { x: [3, 5], alpha: [5] } },
    { name: 'one column', inputs: { x: [4, 1], alpha: [1] } },
    { name: 'three dimensions', inputs: { x: [2, 2, 17], alpha: [17] } },
    { name: 'no rows', inputs: { x: [0, 4], alpha: [4] } },
    { name: 'past one chunk', inputs: { x: { shape: [700, 33], fixed: true }, alpha: [33] } },
    { name: 'packs', inputs: { x: { shape: [30, 40], fixed: true }, alpha: [40] } },
    { name: 'only x learns', inputs: { x: [2, 3], alpha: { shape: [3], fixed: true } } },
  ],
  rejects: [
    { inputs: { x: [3, 5], alpha: [1] }, says: /prelu: expected alpha of shape \(D=5\) but received \(1\)/ },
    { inputs: { x: [3, 5], alpha: [5] }, float64: ['alpha'], says: /prelu: expected alpha to be float32 like x/ },
  ],
});
