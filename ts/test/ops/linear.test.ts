import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/native.js';
import type { Activation } from '../../src/native_kernels.js';
import { linear } from '../../src/ops/linear.js';
import { normals, streamOf } from '../../src/random.js';
import { assign, type Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { opSuite } from '../harness.js';

const kinds: Activation[] = ['none', 'relu', 'gelu', 'silu', 'sigmoid', 'tanh'];

opSuite<{ activation?: Activation }>('linear', {
  run: ({ x, weight, bias }, options) => linear(x!, weight!, bias ?? null, options),
  golden: 'linear',
  cases: [
    ...kinds.map((activation) => ({
      name: `${activation}, odd sizes`,
      inputs: { x: [3, 7], weight: [5, 7], bias: [5] },
      options: { activation },
    })),
    { name: 'no bias', inputs: { x: [2, 3, 4], weight: [33, 4] } },
    { name: 'no bias, gelu', inputs: { x: [2, 4], weight: [3, 4] }, options: { activation: 'gelu' } },
    { name: 'size 1', inputs: { x: [1, 1], weight: [1, 1], bias: [1] } },
    { name: 'one vector', inputs: { x: [6], weight: [2, 6], bias: [2] }, options: { activation: 'silu' } },
    { name: 'no rows', inputs: { x: [0, 4], weight: [3, 4], bias: [3] }, options: { activation: 'gelu' } },
    { name: 'no input columns', inputs: { x: [2, 0], weight: [3, 0], bias: [3] }, options: { activation: 'tanh' } },
    { name: 'no output columns', inputs: { x: [2, 3], weight: [0, 3] } },
    {
      name: 'past one block, with a long sum for the weights',
      inputs: { x: { shape: [1100, 37], fixed: true }, weight: { shape: [19, 37], fixed: true }, bias: [19] },
      options: { activation: 'gelu' },
    },
    {
      name: 'few rows through a wide layer, several blocks of K',
      inputs: { x: { shape: [5, 900], fixed: true }, weight: { shape: [131, 900], fixed: true }, bias: [131] },
    },
    ...[
      [300, 5, 7],
      [1100, 16, 8],
      [1030, 3, 9],
    ].map(([rows, N, K]) => ({
      name: `weight gradient over ${rows} rows, (${N}, ${K})`,
      inputs: { x: { shape: [rows!, K!], fixed: true }, weight: [N!, K!], bias: [N!] },
      options: { activation: 'silu' as const },
    })),
    {
      name: 'rows of whole 16-byte pieces in every dtype',
      inputs: { x: [9, 16], weight: [24, 16], bias: [24] },
      options: { activation: 'gelu' },
    },
    { name: 'weight alone', inputs: { x: { shape: [4, 3], fixed: true }, weight: [2, 3] } },
    { name: 'input alone', inputs: { x: [4, 3], weight: { shape: [2, 3], fixed: true } } },
  ],
  rejects: [
    {
      inputs: { x: [3, 4], weight: [5, 3] },
      says: /linear: expected weight of shape \(N, K=4\) but received \(5, 3\)/,
    },
    {
      inputs: { x: [3, 4], weight: [5, 4], bias: [4] },
      says: /linear: expected bias of shape \(N=5\) but received \(4\)/,
    },
    { inputs: { x: { values: [1], shape: [] }, weight: [5, 4] }, says: /linear: expected x of shape \(\.\.\., K\)/ },
    {
      inputs: { x: { ints: [1, 2], shape: [1, 2] }, weight: [5, 2] },
      says: /linear: expected x to be float32 or float64 but received int32/,
    },
    {
      inputs: { x: [3, 4], weight: [5, 4] },
      float64: ['weight'],
      says: /linear: expected weight to be float32 like x but received float64/,
    },
    {
      inputs: { x: [3, 4], weight: [5, 4] },
      options: { activation: 'swish' as Activation },
      says: /expected `kind` to be one of none, relu/,
    },
  ],
});

describe('linear with packed weights', () => {
  beforeAll(() => addon.testPoison(true));
  afterAll(() => addon.testPoison(false));

  it.each([
    [4, 96, 200],
    [70, 520, 40],
    [130, 33, 1100],
  ])(
    'keeps every bit from the first use on, and forgets them when the weight changes (%i, %i, %i)',
    async (M, N, K) => {
      const host = (size: number, seed: number) => Float32Array.from(normals(size, seed, streamOf('packed')));
      const x = tensor(host(M * K, 1), [M, K]);
      const weight = tensor(host(N * K, 2), [N, K]);
      const run = async (w: Tensor): Promise<string> => {
        const out = tidy(() => linear(x, w));
        const bits = Buffer.from((await out.data()).buffer).toString('base64');
        out.dispose();
        return bits;
      };
      const first = await run(weight);
      expect(await run(weight)).toBe(first);
      expect(await run(weight)).toBe(first);

      assign(weight, host(N * K, 3));
      const fresh = tensor(host(N * K, 3), [N, K]);
      const changed = await run(fresh);
      expect(changed).not.toBe(first);
      for (let use = 0; use < 3; use++) expect(await run(weight)).toBe(changed);
      for (const t of [x, weight, fresh]) t.dispose();
    },
  );
});
