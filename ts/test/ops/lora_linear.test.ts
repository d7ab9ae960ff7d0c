import { describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import { linear } from '../../src/ops/linear.js';
import { loraLinear } from '../../src/ops/lora_linear.js';
import { normals, streamOf } from '../../src/random.js';
import { type Tensor, tensor, zeros } from '../../src/tensor.js';
import { keep, tidy } from '../../src/tidy.js';
import { denseGrad, expectClose, opSuite } from '../harness.js';

const frozen = (...shape: number[]) => ({ shape, fixed: true });

opSuite<{ scale: number }>('loraLinear', {
  run: ({ x, weight, a, b, bias, adapterInput }, { scale }) =>
    loraLinear(x!, weight!, a!, b!, { scale, bias: bias ?? null, adapterInput: adapterInput ?? null }),
  golden: 'lora_linear',
  cases: [
    ...[1, 4, 8].map((rank) => ({
      name: `rank ${rank}`,
      inputs: { x: [3, 5], weight: frozen(7, 5), a: [rank, 5], b: [7, rank], bias: frozen(7) },
      options: { scale: 2 },
    })),
    ...[16, 24, 64].flatMap((rank) =>
      [1, 127, 129].map((rows) => ({
        name: `rank ${rank}, ${rows} rows`,
        inputs: {
          x: frozen(rows, 40),
          weight: frozen(33, 40),
          a: { shape: [rank, 40], fixed: true },
          b: { shape: [33, rank], fixed: true },
        },
        options: { scale: 0.5 },
      })),
    ),
    ...[8, 3].map((rank) => ({
      name: `rows of whole 16-byte pieces in every dtype, rank ${rank}`,
      inputs: { x: [5, 16], weight: frozen(24, 16), a: [rank, 16], b: [24, rank], bias: frozen(24) },
      options: { scale: 0.5 },
    })),
    {
      name: 'long sums, the rank behind their last chunk',
      inputs: { x: frozen(2, 1100), weight: frozen(3, 1100), a: frozen(2, 1100), b: [3, 2] },
      options: { scale: 0.5 },
    },
    {
      name: 'adapter input of its own',
      inputs: { x: [2, 3, 4], weight: frozen(5, 4), a: [2, 4], b: [5, 2], adapterInput: [2, 3, 4] },
      options: { scale: 1 },
    },
    {
      name: 'x without gradient',
      inputs: { x: frozen(3, 4), weight: frozen(2, 4), a: [2, 4], b: [2, 2] },
      options: { scale: 1 },
    },
    {
      name: 'scale 0',
      inputs: { x: [3, 4], weight: frozen(2, 4), a: [2, 4], b: [2, 2] },
      options: { scale: 0 },
    },
    {
      name: 'no rows',
      inputs: { x: [0, 4], weight: frozen(2, 4), a: [2, 4], b: [2, 2] },
      options: { scale: 1 },
    },
  ],
  rejects: [
    {
      inputs: { x: [3, 4], weight: [2, 4], a: [2, 4], b: [2, 2] },
      options: { scale: 1 },
      says: /loraLinear: expected a frozen weight but it requires a gradient/,
    },
    {
      inputs: { x: [3, 4], weight: frozen(2, 4), bias: [2], a: [2, 4], b: [2, 2] },
      options: { scale: 1 },
      says: /loraLinear: expected a frozen bias/,
    },
    {
      inputs: { x: [3, 4], weight: frozen(2, 4), a: [3, 4], b: [2, 2] },
      options: { scale: 1 },
      says: /loraLinear: expected b of shape \(N=2, R=3\) but received \(2, 2\)/,
    },
    {
      inputs: { x: [3, 4], weight: frozen(2, 4), a: [2, 5], b: [2, 2] },
      options: { scale: 1 },
      says: /loraLinear: expected a of shape \(R, K=4\) but received \(2, 5\)/,
    },
    {
      inputs: { x: [3, 4], weight: frozen(2, 4), a: [2, 4], b: [2, 2], adapterInput: [2, 4] },
      options: { scale: 1 },
      says: /loraLinear: expected adapterInput of shape \(3, 4\) but received \(2, 4\)/,
    },
  ],
});

describe('loraLinear', () => {
  const rows = 37;
  const [K, N, R] = [24, 40, 8];
  const host = (size: number, seed: number) => Float32Array.from(normals(size, seed, streamOf('lora')));
  const make = () => ({
    x: keep(tensor(host(rows * K, 1), [rows, K])),
    weight: keep(tensor(host(N * K, 2), [N, K])),
    bias: keep(tensor(host(N, 3), [N])),
    a: keep(tensor(host(R * K, 4), [R, K])),
  });

  it('with b = 0 equals linear bit for bit; then da is exactly 0 and db is not', async () => {
    const { x, weight, bias, a } = make();
    const b = keep(zeros([N, R]));
    for (const leaf of [a, b]) leaf.requiresGrad = true;
    const out = tidy(() => {
      const y = loraLinear(x, weight, a, b, { scale: 2, bias });
      backward(y, tensor(host(rows * N, 5), [rows, N]));
      return y;
    });
    const base = tidy(() => linear(x, weight, bias));
    expect(await out.data()).toEqual(await base.data());
    expect((await denseGrad(a)).every((v) => v === 0)).toBe(true);
    expect((await denseGrad(b)).some((v) => v !== 0)).toBe(true);
    zeroGrad([a, b]);
    for (const t of [x, weight, bias, a, b, out, base]) t.dispose();
  });

  it('equals linear with the merged weight', async () => {
    const { x, weight, bias, a } = make();
    const b = keep(tensor(host(N * R, 6), [N, R]));
    const [w, down, up] = (await Promise.all([weight.data(), a.data(), b.data()])) as Float32Array[];
    const merged = Float32Array.from(w!, (v, i) => {
      const [n, k] = [Math.floor(i / K), i % K];
      let sum = v;
      for (let r = 0; r < R; r++) sum += 2 * up![n * R + r]! * down![r * K + k]!;
      return sum;
    });
    const run = (f: () => Tensor) => tidy(f);
    const out = run(() => loraLinear(x, weight, a, b, { scale: 2, bias }));
    const expected = run(() => linear(x, tensor(merged, [N, K]), bias));
    expectClose((await out.data()) as Float32Array, (await expected.data()) as Float32Array, 1e-6, 'merged weight');
    for (const t of [x, weight, bias, a, b, out, expected]) t.dispose();
  });
});
