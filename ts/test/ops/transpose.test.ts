import { reshape, transpose } from '../../src/ops/transpose.js';
import { opSuite } from '../harness.js';

opSuite<{ axes?: number[] }>('transpose', {
  run: ({ x }, { axes }) => transpose(x!, axes),
  cases: [
    { name: 'matrix', inputs: { x: [3, 5] } },
    { name: 'cycle', inputs: { x: [2, 3, 4] }, options: { axes: [1, 2, 0] } },
    { name: 'last stays', inputs: { x: [2, 3, 4] }, options: { axes: [1, 0, 2] } },
    { name: 'four', inputs: { x: [2, 3, 1, 4] }, options: { axes: [3, 1, 0, 2] } },
    { name: 'past a tile', noFiniteDifferences: true, inputs: { x: [3, 33, 70] } },
    {
      name: 'packs that stay last',
      noFiniteDifferences: true,
      inputs: { x: [2, 5, 3, 16] },
      options: { axes: [0, 2, 1, 3] },
    },
    { name: 'planes', noFiniteDifferences: true, inputs: { x: [3, 40, 2, 34] }, options: { axes: [2, 3, 0, 1] } },
    { name: 'empty', inputs: { x: [0, 3] } },
  ],
  rejects: [
    {
      inputs: { x: [2, 3] },
      options: { axes: [0, 0] },
      says: /transpose: expected axes to be an order of 2 dimensions/,
    },
  ],
});

opSuite<{ shape: number[] }>('reshape', {
  run: ({ x }, { shape }) => reshape(x!, shape),
  cases: [
    { inputs: { x: [3, 4] }, options: { shape: [2, -1] } },
    { name: 'scalar', inputs: { x: [1, 1] }, options: { shape: [] } },
  ],
  rejects: [
    {
      inputs: { x: [3, 4] },
      options: { shape: [5, -1] },
      says: /reshape: expected a shape of 12 elements but received \(5, -1\)/,
    },
    { inputs: { x: [3] }, options: { shape: [4] }, says: /expected a shape of 3 elements/ },
  ],
});
