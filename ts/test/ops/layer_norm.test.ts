import { describe, expect, it } from 'vitest';
import { layerNorm } from '../../src/ops/layer_norm.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';

const row = (D: number) => ({ weight: [D], bias: [D] });
const fixedRow = (D: number) => ({ weight: { shape: [D], fixed: true }, bias: { shape: [D], fixed: true } });

opSuite<{ eps?: number }>('layerNorm', {
  run: ({ x, weight, bias, residual }, options) =>
    layerNorm(x!, weight!, bias!, { ...options, ...(residual && { residual }) }),
  golden: 'layer_norm',
  cases: [
    { name: 'odd shape', inputs: { x: [3, 5], ...row(5) } },
    // x fixed: its gradient is exactly 0, so a relative error of it has no meaning
    { name: 'one column', inputs: { x: { shape: [4, 1], fixed: true }, ...row(1) } },
    { name: 'one row, past the lanes', inputs: { x: [33], ...row(33) } },
    { name: 'no rows', inputs: { x: [0, 4], ...row(4) } },
    { name: 'three dimensions, eps', inputs: { x: [2, 2, 17], ...row(17) }, options: { eps: 0.1 } },
    { name: 'residual', inputs: { x: [3, 6], residual: [3, 6], ...row(6) } },
    { name: 'fixed residual', inputs: { x: [2, 3], residual: { shape: [2, 3], fixed: true }, ...row(3) } },
    {
      name: 'only the residual learns',
      inputs: { x: { shape: [2, 3], fixed: true }, residual: [2, 3], ...fixedRow(3) },
    },
    {
      name: 'constant and zero rows',
      inputs: { x: { values: [2, 2, 2, 0, 0, 0], shape: [2, 3], fixed: true }, ...row(3) },
    },
    { name: 'past one chunk of rows', inputs: { x: { shape: [600, 32], fixed: true }, ...row(32) } },
    { name: 'wide rows', inputs: { x: { shape: [3, 4099], fixed: true }, ...fixedRow(4099) } },
    // every way in which a GPU's threads share a row: whole packs or not, a warp or a block, in registers or not
    ...[64, 300, 392, 768, 1024, 1025, 1032, 4104, 8195, 8200].map((D) => ({
      name: `rows of ${D}`,
      noFiniteDifferences: true,
      inputs: { x: [D > 4000 ? 3 : 19, D], residual: [D > 4000 ? 3 : 19, D], ...row(D) },
    })),
  ],
  rejects: [
    {
      inputs: { x: [2, 3], weight: [4], bias: [3] },
      says: /layerNorm: expected weight of shape \(D=3\) but received \(4\)/,
    },
    { inputs: { x: [2, 3], weight: [3], bias: [2] }, says: /layerNorm: expected bias of shape \(D=3\)/ },
    {
      inputs: { x: [2, 3], residual: [1, 3], ...row(3) },
      says: /layerNorm: expected residual of shape \(2, 3\) but received \(1, 3\)/,
    },
    { inputs: { x: [2, 3], ...row(3) }, float64: ['weight'], says: /layerNorm: expected weight to be float32 like x/ },
    {
      inputs: { x: { ints: [1, 2] }, ...row(2) },
      says: /layerNorm: expected x to be float32 or float64 but received int32/,
    },
  ],
});

describe('layerNorm', () => {
  it('keeps the variance of values far from zero', async () => {
    const noise = normals(1000, 1, 1);
    const one = tensor(new Float32Array(1000).fill(1));
    const out = await layerNorm(
      tensor(
        Float32Array.from(noise, (x) => 1e4 + x),
        [1, 1000],
      ),
      one,
      one,
    ).data();
    const variance = Array.from(out as Float32Array).reduce((sum, x) => sum + (x - 1) ** 2, 0) / 1000;
    expect(Math.abs(variance - 1)).toBeLessThan(1e-4);
  });
});
