import { expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { IndexError } from '../../src/errors.js';
import { embedding } from '../../src/ops/embedding.js';
import { device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { denseGrad, opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

opSuite('embedding', {
  run: ({ table, indices }) => embedding(table!, indices!),
  golden: 'embedding',
  bfloat16: false, // tables are float32
  cases: [
    { name: 'repeats and padding', inputs: { table: [5, 3], indices: { ints: [4, -1, 0, 4, 4, -7], shape: [2, 3] } } },
    { name: 'one row, width one', inputs: { table: [1, 1], indices: { ints: [0] } } },
    { name: 'a scalar index', inputs: { table: [3, 2], indices: { ints: [2], shape: [] } } },
    { name: 'no lookups', inputs: { table: [3, 2], indices: { ints: [], shape: [0, 4] } } },
    { name: 'width zero', inputs: { table: [3, 0], indices: { ints: [0, 2] } } },
    {
      name: 'past one chunk',
      inputs: {
        table: { shape: [7, 33] },
        indices: { ints: Array.from({ length: 1200 }, (_, i) => (i * 5) % 7) },
      },
      noFiniteDifferences: true,
    },
  ],
  rejects: [
    {
      inputs: { table: [3], indices: { ints: [0] } },
      says: /embedding: expected table of shape \(V, D\) but received/,
    },
    { inputs: { table: [3, 2], indices: [2] }, says: /embedding: expected indices to be int32 but received float32/ },
    {
      inputs: { table: { ints: [1, 2], shape: [1, 2] }, indices: { ints: [0] } },
      says: /expected table to be float32 or/,
    },
  ],
});

it.each(testDevices)(
  'F22: embedding: an index past the table is a zero row and an IndexError at the next wait (%s)',
  async (name) => {
    const on = { device: name };
    const table = parameter(tensor([1, 2, 3, 4], [2, 2], on));
    const out = tidy(() => {
      const y = embedding(table, tensor(Int32Array.of(1, 2), [2], on));
      backward(y, tensor([1, 1, 1, 1], [2, 2], on));
      return y;
    });
    await expect(out.data()).rejects.toThrow(IndexError);
    expect(Array.from((await out.data()) as Float32Array)).toEqual([3, 4, 0, 0]);
    table.grad?.dispose();
    await device(name).synchronize();
  },
);

it('embedding: two lookups of one table join their pieces', async () => {
  const table = parameter(tensor(Float64Array.of(1, 2, 3), [3, 1]));
  tidy(() => {
    backward(embedding(table, tensor(Int32Array.of(0, 2))), tensor(Float64Array.of(1, 10), [2, 1]));
    backward(embedding(table, tensor(Int32Array.of(2))), tensor(Float64Array.of(100), [1, 1]));
  });
  expect(Array.from(await denseGrad(table))).toEqual([1, 0, 110]);
  table.grad?.dispose();
  table.dispose();
});
