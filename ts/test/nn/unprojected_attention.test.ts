import { describe, expect, it } from 'vitest';
import { backward, parameter, zeroGrad } from '../../src/autograd.js';
import { MultiHeadAttention } from '../../src/nn/attention.js';
import { Initializer } from '../../src/nn/module.js';
import { unprojectedAttention } from '../../src/nn/unprojected_attention.js';
import { mul } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { normals } from '../../src/random.js';
import { type Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { valuesOf, worstDifference } from '../values.js';

const width = 12;
const random = (name: number, rows: number): Tensor => parameter(tensor(normals(rows * width, 9, name), [rows, width]));

describe('unprojectedAttention', () => {
  it.each([
    { asking: 1, heads: 3 },
    { asking: 2, heads: 4 },
    { asking: 1, heads: 1 },
  ])('is the projected one, and so are its gradients: %j', async ({ asking, heads }) => {
    using attention = new MultiHeadAttention(new Initializer(3, 'float64'), { width, heads });
    const from = random(1, 4 * asking);
    const rows = random(2, 9);
    // Items of 4, 0 and 3 rows, and one of 2 that are hidden.
    const offsets = tensor(Int32Array.of(0, 4, 4, 7, 9));
    const mask = tensor(Int32Array.of(0, -1, 0, 5, 0, 0, 1, -1, -1));
    const to = { rows, offsets, mask };
    const askOffsets = tensor(Int32Array.from({ length: 5 }, (_, b) => b * asking));
    const parameters = new Map([...attention.parameters(), ['from', from], ['rows', rows]] as const);
    const weights = tensor(normals(from.size, 1, 1), from.shape);
    const run = async (forward: () => Tensor): Promise<Map<string, Float64Array>> => {
      zeroGrad(parameters.values());
      const out = tidy(() => {
        const y = forward();
        backward(sum(mul(y, weights)));
        return y;
      });
      const seen = new Map([['out', (await valuesOf(out)) as Float64Array]]);
      for (const [name, { grad }] of parameters)
        if (grad !== null) seen.set(name, (await valuesOf(grad as Tensor)) as Float64Array);
      return seen;
    };
    const plain = await run(() => attention.forward({ rows: from, offsets: askOffsets }, to));
    const moved = await run(() => unprojectedAttention(attention, from, to));
    for (const [name, values] of plain) {
      if (name === 'key.bias') expect(values.every((value) => Math.abs(value) < 1e-12)).toBe(true);
      else expect(worstDifference(values, moved.get(name)!), name).toBeLessThan(1e-12);
    }
    expect(moved.has('key.bias')).toBe(false);
  });
});
