import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { ArgumentError, ShapeError } from '../../src/errors.js';
import { type CicOptions, cic } from '../../src/losses/cic.js';
import { normals } from '../../src/random.js';
import { Tensor, tensor } from '../../src/tensor.js';

const D = 8;
const vectors = (n: number, seed: number) => tensor(normals(n * D, seed, 0), [n, D]);
const same = (n: number) => tensor(new Float64Array(n * D).fill(0.3), [n, D]);
const loss = (content: Tensor, id: Tensor, options: CicOptions) => cic(content, id, options).item();
const modes = ['exact', 'ctr'] as const;

describe('cic', () => {
  it('does not change when content and id change places', async () => {
    for (const mode of modes) {
      const there = await loss(vectors(9, 1), vectors(9, 2), { mode, temperature: 0.1 });
      const back = await loss(vectors(9, 2), vectors(9, 1), { mode, temperature: 0.1 });
      expect(back).toBeCloseTo(there, 12);
      expect(there).toBeGreaterThan(0);
    }
  });

  it('one item: 0 in ctr, log 17 in exact', async () => {
    expect(await loss(vectors(1, 1), vectors(1, 2), { mode: 'ctr', temperature: 0.1 })).toBe(0);
    const exact = await loss(vectors(1, 1), vectors(1, 2), { mode: 'exact', temperature: 0.5 });
    expect(exact).toBeCloseTo(Math.log(17), 12);
  });

  it('identical vectors everywhere: log n in ctr, log 17 in exact', async () => {
    expect(await loss(same(5), same(5), { mode: 'ctr', temperature: 0.1 })).toBeCloseTo(Math.log(5), 12);
    expect(await loss(same(5), same(5), { mode: 'exact', temperature: 0.1 })).toBeCloseTo(Math.log(17), 12);
    const four = await loss(same(5), same(5), { mode: 'exact', temperature: 0.1, negatives: 4 });
    expect(four).toBeCloseTo(Math.log(5), 12);
  });

  it('no item is 0', async () => {
    for (const mode of modes) expect(await loss(vectors(0, 1), vectors(0, 2), { mode, temperature: 0.1 })).toBe(0);
  });

  it('equal ids are no negatives of each other', async () => {
    const ids = Int32Array.from([3, 3, 3, 3]);
    expect(await loss(vectors(4, 1), vectors(4, 2), { mode: 'ctr', temperature: 0.1, ids })).toBe(0);
    const distinct = await loss(vectors(4, 1), vectors(4, 2), {
      mode: 'ctr',
      temperature: 0.1,
      ids: Int32Array.from([4, 3, 2, 1]),
    });
    expect(distinct).toBe(await loss(vectors(4, 1), vectors(4, 2), { mode: 'ctr', temperature: 0.1 }));
  });

  it('draws by seed and step', async () => {
    const at = (seed: number, step: number) =>
      loss(vectors(20, 1), vectors(20, 2), { mode: 'exact', temperature: 0.5, seed, step });
    expect(await at(1, 5)).toBe(await at(1, 5));
    expect(await at(1, 5)).not.toBe(await at(1, 6));
    expect(await at(1, 5)).not.toBe(await at(2, 5));
  });

  it('gives both sides a gradient, finite at zero vectors', async () => {
    for (const mode of modes) {
      const [content, id] = [vectors(6, 1), tensor(normals(6 * D, 2, 0).fill(0, 0, D), [6, D])];
      content.requiresGrad = id.requiresGrad = true;
      backward(cic(content, id, { mode, temperature: 0.1 }));
      for (const x of [content, id]) {
        expect(x.grad).toBeInstanceOf(Tensor);
        const grad = (await (x.grad as Tensor).data()) as Float64Array;
        expect(grad.every(Number.isFinite)).toBe(true);
        expect(grad.some((value) => value !== 0)).toBe(true);
      }
    }
  });

  it('refuses shapes that differ, a temperature of 0 and no negatives', () => {
    expect(() => cic(vectors(3, 1), vectors(4, 1), { mode: 'ctr', temperature: 1 })).toThrow(ShapeError);
    expect(() => cic(vectors(3, 1), vectors(3, 1), { mode: 'ctr', temperature: 0 })).toThrow(/positive temperature/);
    expect(() => cic(vectors(3, 1), vectors(3, 1), { mode: 'exact', temperature: 1, negatives: 0 })).toThrow(
      ArgumentError,
    );
  });
});
