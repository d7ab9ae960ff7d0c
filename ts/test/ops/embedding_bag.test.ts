import { expect, it } from 'vitest';
import { IndexError } from '../../src/errors.js';
import { embeddingBag } from '../../src/ops/embedding_bag.js';
import { device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { type OpCase, opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

type Options = { mode?: 'sum' | 'mean' };
const modes = ['sum', 'mean'] as const;

opSuite<Options>('embeddingBag', {
  run: ({ table, indices, offsets, weights }, options) =>
    embeddingBag(table!, indices!, { ...options, offsets: offsets!, ...(weights ? { weights } : {}) }),
  golden: 'embedding_bag',
  bfloat16: false, // tables are float32
  cases: modes.flatMap((mode): OpCase<Options>[] => [
    {
      name: `${mode}, empty bags, repeats, padding`,
      inputs: { table: [5, 3], indices: { ints: [4, 4, -1, 0, 2, 4] }, offsets: { ints: [0, 0, 3, 3, 6] } },
      options: { mode },
    },
    {
      name: `${mode}, weights`,
      inputs: { table: [4, 33], indices: { ints: [3, 3, -2, 1] }, offsets: { ints: [0, 3, 4] }, weights: [4] },
      options: { mode },
    },
    {
      name: `${mode}, zero weights`,
      inputs: { table: [2, 2], indices: { ints: [0, 1] }, offsets: { ints: [0, 2] }, weights: { values: [0, 0] } },
      options: { mode },
    },
    {
      name: `${mode}, a bag of padding only`,
      inputs: { table: [2, 2], indices: { ints: [-1, -1] }, offsets: { ints: [0, 2] } },
      options: { mode },
    },
    {
      name: `${mode}, no bags`,
      inputs: { table: [2, 2], indices: { ints: [] }, offsets: { ints: [0] } },
      options: { mode },
    },
    {
      name: `${mode}, packs`,
      inputs: {
        table: [9, 132],
        indices: { ints: Array.from({ length: 60 }, (_, i) => ((i * i) % 10) - 1) },
        offsets: { ints: [0, 1, 7, 7, 50] },
        weights: [60],
      },
      options: { mode },
      noFiniteDifferences: true,
    },
    {
      name: `${mode}, past one chunk`,
      inputs: {
        table: [11, 70],
        indices: { ints: Array.from({ length: 900 }, (_, i) => (i * i) % 11) },
        offsets: { ints: Array.from({ length: 301 }, (_, i) => 3 * i) },
        weights: [900],
      },
      options: { mode },
      noFiniteDifferences: true,
    },
  ]),
  rejects: [
    {
      inputs: { table: [2, 2], indices: { ints: [0] }, offsets: { ints: [0, 1] }, weights: [3] },
      says: /embeddingBag: expected weights of shape \(T=1\) but received \(3\)/,
    },
    {
      inputs: { table: [2, 2], indices: { ints: [0] }, offsets: [2] },
      says: /expected offsets to be int32 but received float32/,
    },
    {
      inputs: { table: [2, 2], indices: { ints: [0] }, offsets: { ints: [] } },
      says: /expected offsets of shape \(B\+1\) but received \(0\)/,
    },
    {
      inputs: { table: [2, 2], indices: { ints: [0] }, offsets: { ints: [0, 1] }, weights: [1] },
      float64: ['weights'],
      says: /expected weights to be float32 like table but received float64/,
    },
    {
      inputs: { table: [2, 2], indices: { ints: [0] }, offsets: { ints: [0, 1] } },
      options: { mode: 'max' as 'sum' },
      says: /expected mode to be 'sum' or 'mean' but received max/,
    },
  ],
});

it.each(testDevices)(
  'an index past the table counts as padding, with an IndexError at the next wait (%s)',
  async (name) => {
    const on = { device: name };
    const out = tidy(() =>
      embeddingBag(tensor([1, 2, 3, 4], [2, 2], on), tensor(Int32Array.of(1, 2, 0), [3], on), {
        offsets: tensor(Int32Array.of(0, 2, 3), [3], on),
        mode: 'mean',
      }),
    );
    await expect(out.data()).rejects.toThrow(IndexError);
    expect([...((await out.data()) as Float32Array)]).toEqual([3, 4, 1, 2]);
    await device(name).synchronize();
    out.dispose();
  },
);
