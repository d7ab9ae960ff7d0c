import { describe, expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { Initializer } from '../../src/nn/module.js';
import { historyCosines, SimTier, tierCounts } from '../../src/nn/sim_tier.js';
import { sum } from '../../src/ops/reduce.js';
import { normals, philox, uniform } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { denseGrad } from '../harness.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

const width = 3;
const lengths = [5, 0, 3];
const bounds = [0, 5, 5, 8];
const values = normals(8 * width, 7, 1);
const ages = [0, 4, -1, 2, 9, -1, -1, -1];
const targets = normals(3 * width, 7, 2);

/** The history with each row's items in another order where `order` says so. */
function history(order: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7], dtype: 'float64' | 'float32' = 'float64') {
  const rows = Float64Array.from(order.flatMap((at) => [...values.subarray(at * width, (at + 1) * width)]));
  return {
    rows: tensor(dtype === 'float64' ? rows : Float32Array.from(rows), [8, width]),
    offsets: tensor(Int32Array.from(bounds), [4]),
    age: tensor(
      Int32Array.from(order, (at) => ages[at]!),
      [8],
    ),
  };
}
const target = (dtype: 'float64' | 'float32' = 'float64') =>
  tensor(dtype === 'float64' ? targets : Float32Array.from(targets), [3, width]);

function cosineOf(b: number, t: number): number {
  const d = targets.subarray(b * width, (b + 1) * width);
  const h = values.subarray(t * width, (t + 1) * width);
  const dot = d.reduce((total, x, i) => total + x * h[i]!, 0);
  return dot / Math.hypot(...d) / Math.hypot(...h);
}

describe('historyCosines', () => {
  it('gives the cosines of found rows in order, and sorted with the others last', async () => {
    const { cosines, sorted } = historyCosines(target(), history(), 6);
    const expected = lengths.map((length, b) =>
      Array.from({ length: 6 }, (_, i) => (i < length && ages[bounds[b]! + i]! >= 0 ? cosineOf(b, bounds[b]! + i) : 0)),
    );
    rowsOf(await valuesOf(cosines), 6).forEach((row, b) => {
      expect(worstDifference(row, Float64Array.from(expected[b]!))).toBeLessThan(1e-12);
    });
    rowsOf(await valuesOf(sorted), 6).forEach((row, b) => {
      const found = expected[b]!.filter((_, i) => i < lengths[b]! && ages[bounds[b]! + i]! >= 0).sort((x, y) => y - x);
      const wanted = [...found, ...new Array(6 - found.length).fill(0)];
      expect(worstDifference(row, Float64Array.from(wanted))).toBeLessThan(1e-12);
    });
  });

  it('sorts to the same values whatever the order of the history', async () => {
    const order = [3, 4, 0, 2, 1, 7, 5, 6];
    const straight = await valuesOf(historyCosines(target('float32'), history(undefined, 'float32'), 5).sorted);
    const shuffled = await valuesOf(historyCosines(target('float32'), history(order, 'float32'), 5).sorted);
    expect([...shuffled]).toEqual([...straight]);
  });

  it('passes the gradient of both to the target', async () => {
    const d = parameter(target());
    tidy(() => backward(sum(historyCosines(d, history(), 5).sorted)));
    const fromSorted = await denseGrad(d);
    d.grad = null;
    tidy(() => backward(sum(historyCosines(d, history(), 5).cosines)));
    expect(worstDifference(fromSorted, await denseGrad(d))).toBeLessThan(1e-12);
    expect(fromSorted.subarray(0, width).some((x) => Math.abs(x) > 1e-3)).toBe(true);
  });
});

describe('SimTier', () => {
  it('counts each found row once, in the tier of its cosine', async () => {
    const counts = rowsOf(await valuesOf(tierCounts(target(), history())), 22);
    counts.forEach((row, b) => {
      const wanted = new Float64Array(22);
      for (let t = bounds[b]!; t < bounds[b + 1]!; t++)
        if (ages[t]! >= 0) wanted[Math.ceil(cosineOf(b, t) / 0.1) + 10]!++;
      expect([...row]).toEqual([...wanted]);
      expect(row.reduce((total, x) => total + x, 0)).toBe(wanted.reduce((total, x) => total + x, 0));
    });
  });

  it('in float32, with every cosine from -1 to 1', async () => {
    const n = 4000;
    const cosines = Float64Array.from({ length: n }, (_, i) =>
      i < 2 ? 2 * i - 1 : 2 * uniform(philox([i, 0, 0, 0], [1, 0])[0]!) - 1,
    );
    const rows = Float32Array.from([...cosines].flatMap((c) => [c, Math.sqrt(1 - c * c)]));
    const offsets = tensor(Int32Array.of(0, n), [2]);
    const age = tensor(new Int32Array(n), [n]);
    const given = { rows: tensor(rows, [n, 2]), offsets, age };
    const counts = await valuesOf(tierCounts(tensor(Float32Array.of(1, 0), [1, 2]), given));
    const wanted = new Float64Array(22);
    for (const c of cosines) wanted[Math.ceil(c / 0.1) + 10]!++;
    expect(counts.reduce((total, x) => total + x, 0)).toBe(n);
    expect(counts[0]).toBe(1);
    counts.forEach((count, tier) => {
      expect(Math.abs(count - wanted[tier]!)).toBeLessThanOrEqual(1);
    });
  });

  it('scales a learned vector per tier, and passes no gradient to the target', async () => {
    using tier = new SimTier(new Initializer(3, 'float64'));
    const d = parameter(target());
    const out = tier.forward(d, history());
    expect(out.shape).toEqual([3, 88]);
    const counts = await valuesOf(tierCounts(d, history()));
    const weight = await valuesOf(tier.weight);
    const wanted = Float64Array.from({ length: 3 * 88 }, (_, i) => {
      const [b, of] = [Math.floor(i / 88), i % 88];
      return Math.log(1 + counts[22 * b + Math.floor(of / 4)]!) * weight[of]!;
    });
    expect(worstDifference(await valuesOf(out), wanted)).toBeLessThan(1e-12);
    tidy(() => backward(sum(tier.forward(d, history()))));
    expect(d.grad).toBe(null);
    expect(tier.weight.grad).not.toBe(null);
  });
});
