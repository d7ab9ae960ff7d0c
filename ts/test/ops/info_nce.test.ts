import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { IndexError } from '../../src/errors.js';
import { type InfoNceOptions, infoNce } from '../../src/ops/info_nce.js';
import { normals } from '../../src/random.js';
import { type DType, device, type Tensor, tensor } from '../../src/tensor.js';
import { expectClose, opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

/** (n, d) unit vectors. */
function unit(n: number, d: number, seed: number): { values: number[]; shape: number[] } {
  const x = normals(n * d, seed, 0);
  const values = Array.from(x, (value, i) => {
    const row = x.subarray(Math.floor(i / d) * d, Math.floor(i / d + 1) * d);
    return value / Math.hypot(...row);
  });
  return { values, shape: [n, d] };
}

const pair = (n: number, m: number, d: number) => ({ q: unit(n, d, 1), k: unit(m, d, 2) });
const groups = (n: number, count: number) => ({ ints: Array.from({ length: n }, (_, i) => ((i * 7) % count) - 1) });
const data = (n: number, f: (i: number) => number) => ({
  values: Array.from({ length: n }, (_, i) => f(i)),
  fixed: true,
});
const zeros = (n: number) => data(n, () => 0);

type Options = Pick<InfoNceOptions, 'scale' | 'symmetric'>;

opSuite<Options>('infoNce', {
  run: ({ q, k, ...rest }, options) => infoNce(q!, k!, { ...rest, ...options }),
  golden: 'info_nce',
  wide: ['weights', 'logQ'],
  // A score is a dot product times `scale`: its rounding, about scale 2^-24, is the relative error of e^score.
  float32Tolerance: 5e-5,
  cases: [
    { name: 'one row', inputs: pair(1, 1, 8), options: { scale: 10 } },
    { name: 'no rows', inputs: { q: [0, 8], k: [3, 8] }, options: { scale: 10 } },
    { name: '3 x 3', inputs: pair(3, 3, 5), options: { scale: 10 } },
    { name: 'scale 1', inputs: pair(4, 6, 3), options: { scale: 1 } },
    { name: 'scale 100', inputs: pair(4, 6, 3), options: { scale: 100 } },
    { name: 'rows that are not unit', inputs: { q: [3, 4], k: [5, 4] }, options: { scale: 3 } },
    {
      name: 'groups',
      inputs: { ...pair(7, 7, 5), rowGroups: groups(7, 4), colGroups: groups(7, 4) },
      options: { scale: 10 },
    },
    {
      name: 'two kinds of groups',
      inputs: {
        ...pair(4, 6, 5),
        rowGroups: { ints: [0, 1, 1, -1, 5, 6, 7, 5], shape: [2, 4] },
        colGroups: { ints: [0, 1, 1, -1, 0, 2, 5, 6, 7, 5, -1, 6], shape: [2, 6] },
      },
      options: { scale: 10 },
    },
    {
      name: 'one group hides everything',
      inputs: { ...pair(3, 3, 5), rowGroups: { ints: [4, 4, 4] }, colGroups: { ints: [4, 4, 4] } },
      options: { scale: 10 },
    },
    {
      name: 'weights, logQ and shared positives',
      inputs: {
        ...pair(6, 4, 4),
        positives: { ints: [3, 3, 0, 1, 0, 2] },
        weights: data(6, (i) => i / 2),
        logQ: data(4, (i) => -1 - i),
      },
      options: { scale: 20 },
    },
    { name: 'weights of 0', inputs: { ...pair(3, 3, 4), weights: zeros(3) }, options: { scale: 20 } },
    {
      name: 'symmetric, groups and weights',
      inputs: { ...pair(7, 7, 5), rowGroups: groups(7, 5), colGroups: groups(7, 5), weights: data(7, (i) => i % 3) },
      options: { scale: 10, symmetric: true },
    },
    {
      name: 'listed negatives, repeated, the own among them',
      inputs: {
        ...pair(3, 4, 5),
        negatives: { ints: [0, 3, 3, 1, 2, 2, 2, 0, 2, 3, 1, 1], shape: [3, 4] },
        logQ: data(4, (i) => -i),
      },
      options: { scale: 10 },
    },
    {
      name: 'no listed negatives',
      inputs: { ...pair(3, 4, 5), negatives: { ints: [], shape: [3, 0] } },
      options: { scale: 10 },
    },
    {
      name: 'past one panel',
      noFiniteDifferences: true,
      inputs: { ...pair(252, 1107, 123), rowGroups: groups(252, 40), colGroups: groups(1107, 40) },
      options: { scale: 50 },
    },
    {
      name: 'past one panel, symmetric',
      noFiniteDifferences: true,
      inputs: { ...pair(801, 801, 8), rowGroups: groups(801, 300), colGroups: groups(801, 300) },
      options: { scale: 10, symmetric: true },
    },
    ...[
      { N: 127, M: 129, D: 64, scale: 1 },
      { N: 127, M: 129, D: 256, scale: 50 },
      { N: 65, M: 193, D: 40, scale: 100 },
      { N: 66, M: 70, D: 300, scale: 20 },
    ].map(({ N, M, D, scale }) => ({
      name: `${N} x ${M}, ${D} columns, scale ${scale}`,
      noFiniteDifferences: true,
      inputs: { ...pair(N, M, D), rowGroups: groups(N, 30), colGroups: groups(M, 30), weights: data(N, (i) => i % 4) },
      options: { scale },
    })),
    {
      name: 'symmetric, 128 columns',
      noFiniteDifferences: true,
      inputs: { ...pair(131, 131, 128), rowGroups: groups(131, 40), colGroups: groups(131, 40) },
      options: { scale: 10, symmetric: true },
    },
    {
      name: 'many columns, few rows',
      noFiniteDifferences: true,
      inputs: { ...pair(2, 700, 16), positives: { ints: [699, 3] }, logQ: data(700, (i) => -(i % 5)) },
      options: { scale: 10 },
    },
    {
      name: 'many listed negatives',
      noFiniteDifferences: true,
      inputs: {
        ...pair(300, 70, 33),
        positives: { ints: Array.from({ length: 300 }, (_, i) => i % 70) },
        negatives: { ints: Array.from({ length: 4800 }, (_, i) => (i * 37) % 70), shape: [300, 16] },
      },
      options: { scale: 2 },
    },
  ],
  rejects: [
    {
      inputs: { q: [3, 4], k: [3, 5] },
      options: { scale: 1 },
      says: /infoNce: expected k of shape \(M, D=4\) but received \(3, 5\)/,
    },
    {
      inputs: { q: [3, 4], k: [2, 4] },
      options: { scale: 1 },
      says: /a row of k for every row of q, or positives, but received N=3 and M=2/,
    },
    {
      inputs: { q: [3, 4], k: [0, 4], positives: { ints: [0, 0, 0] } },
      options: { scale: 1 },
      says: /a row of k for positives to name/,
    },
    { inputs: { q: [3, 4], k: [5, 4] }, options: { scale: 1, symmetric: true }, says: /as many rows of q as of k/ },
    {
      inputs: { q: [3, 4], k: [3, 4] },
      options: { scale: Number.NaN },
      says: /expected scale to be a finite number but received NaN/,
    },
    {
      inputs: { q: [3, 4], k: [3, 4], rowGroups: groups(3, 2) },
      options: { scale: 1 },
      says: /rowGroups and colGroups together/,
    },
    {
      name: 'groups of another length',
      inputs: { q: [3, 4], k: [3, 4], rowGroups: groups(3, 2), colGroups: groups(4, 2) },
      options: { scale: 1 },
      says: /expected colGroups of shape \(M=3\) but received \(4\)/,
    },
    {
      name: 'two kinds of groups against one',
      inputs: { q: [3, 4], k: [3, 4], rowGroups: { ints: [0, 1, 2, 0, 1, 2], shape: [2, 3] }, colGroups: groups(3, 2) },
      options: { scale: 1 },
      says: /expected colGroups of shape \(G=2, M=3\) but received \(3\)/,
    },
    {
      name: 'groups that are not int32',
      inputs: { q: [3, 4], k: [3, 4], rowGroups: [3], colGroups: [3] },
      options: { scale: 1 },
      says: /expected rowGroups to be int32 but received float32/,
    },
    {
      name: 'negatives and groups',
      inputs: {
        q: [3, 4],
        k: [3, 4],
        rowGroups: groups(3, 2),
        colGroups: groups(3, 2),
        negatives: { ints: [0, 1, 2], shape: [3, 1] },
      },
      options: { scale: 1 },
      says: /expected negatives or groups but received both/,
    },
    {
      name: 'negatives and symmetric',
      inputs: { q: [3, 4], k: [3, 4], negatives: { ints: [0, 1, 2], shape: [3, 1] } },
      options: { scale: 1, symmetric: true },
      says: /no positives and no negatives with symmetric/,
    },
    {
      inputs: { q: [3, 4], k: [3, 4], weights: [2] },
      options: { scale: 1 },
      says: /expected weights of shape \(N=3\)/,
    },
    {
      inputs: { q: [3, 4], k: [3, 4] },
      float64: ['k'],
      options: { scale: 1 },
      says: /expected k to be float32 like q/,
    },
  ],
});

interface Result {
  readonly loss: number;
  readonly dq: Float64Array;
  readonly dk: Float64Array;
}

async function evaluate(n: number, m: number, options: InfoNceOptions): Promise<Result> {
  const { q, k } = pair(n, m, 6);
  const [x, y] = [q, k].map(({ values, shape }) => {
    const leaf = tensor(Float64Array.from(values), shape);
    leaf.requiresGrad = true;
    return leaf;
  }) as [Tensor, Tensor];
  const loss = infoNce(x, y, options);
  backward(loss);
  const grad = async (leaf: Tensor) => (await (leaf.grad as Tensor).data()) as Float64Array;
  return { loss: await loss.item(), dq: await grad(x), dk: await grad(y) };
}

const ints = (n: number, f: (i: number) => number) => tensor(Int32Array.from({ length: n }, (_, i) => f(i)));
const allZero = (x: Float64Array) => x.every((value) => value === 0);

describe('infoNce identities', () => {
  it('groups that all differ hide nothing', async () => {
    const plain = await evaluate(6, 6, { scale: 50 });
    const grouped = await evaluate(6, 6, { scale: 50, rowGroups: ints(6, (i) => i), colGroups: ints(6, (i) => i) });
    const negative = await evaluate(6, 6, { scale: 50, rowGroups: ints(6, () => -1), colGroups: ints(6, () => -1) });
    expect(grouped).toEqual(plain);
    expect(negative).toEqual(plain);
  });

  it('one group for all is exactly 0 with gradient 0', async () => {
    for (const symmetric of [false, true]) {
      const same = ints(6, () => 3);
      const { loss, dq, dk } = await evaluate(6, 6, { scale: 50, rowGroups: same, colGroups: same, symmetric });
      expect(loss).toBe(0);
      expect(allZero(dq) && allZero(dk)).toBe(true);
    }
  });

  it('no anchors is exactly 0 with gradient 0', async () => {
    const { loss, dq, dk } = await evaluate(5, 7, { scale: 50, weights: tensor(new Float64Array(5)) });
    expect(loss).toBe(0);
    expect(allZero(dq) && allZero(dk)).toBe(true);
  });

  it('listing all other columns equals the dense form', async () => {
    const dense = await evaluate(4, 4, { scale: 10 });
    const others = [1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 1, 2];
    const listed = await evaluate(4, 4, { scale: 10, negatives: tensor(Int32Array.from(others), [4, 3]) });
    expect(listed.loss).toBeCloseTo(dense.loss, 12);
    expectClose(listed.dq, dense.dq, 1e-12, 'dq');
    expectClose(listed.dk, dense.dk, 1e-12, 'dk');
  });

  it('keeps the gradient of a saturated positive in float32', async () => {
    // one negative at distance 30: n = e^-30, far below the rounding of p = 1 - n
    const q = tensor(Float32Array.from([1, 0]), [1, 2]);
    const k = tensor(Float32Array.from([1, 0, -0.5, 0]), [2, 2]);
    k.requiresGrad = true;
    const loss = infoNce(q, k, { scale: 20 });
    backward(loss);
    expect((await loss.item()) / Math.exp(-30)).toBeCloseTo(1, 5);
    const dk = (await (k.grad as Tensor).data()) as Float32Array;
    expect(dk[0]! / (-20 * Math.exp(-30))).toBeCloseTo(1, 5);
    expect(dk[2]! / (20 * Math.exp(-30))).toBeCloseTo(1, 5);
  });

  it('reports an index outside k and stays usable', async () => {
    const { q, k } = pair(2, 3, 4);
    const [x, y] = [tensor(Float64Array.from(q.values), [2, 4]), tensor(Float64Array.from(k.values), [3, 4])];
    const wrong = infoNce(x, y, { scale: 1, positives: ints(2, (i) => 2 + i) }).item();
    await expect(wrong).rejects.toThrow(/infoNce: expected `positives` in \[0, 3\) but position 1 holds 3/);
    await expect(wrong).rejects.toBeInstanceOf(IndexError);
    const negatives = tensor(Int32Array.from([0, -1]), [2, 1]);
    await expect(infoNce(x, y, { scale: 1, negatives }).item()).rejects.toThrow(
      /`negatives` in \[0, 3\) but position 1 holds -1/,
    );
    expect(await infoNce(x, y, { scale: 1 }).item()).toBeGreaterThan(0);
  });
});

describe.each(testDevices.filter((name) => name !== 'cpu'))('infoNce on %s', (on) => {
  const place = (x: { values: number[]; shape: number[] }, dtype: DType): Tensor => {
    const leaf = tensor(x.values, x.shape, { dtype, device: on });
    leaf.requiresGrad = true;
    return leaf;
  };
  const onDevice = (values: Int32Array | Float32Array) => tensor(values, [values.length], { device: on });
  const valuesOf = async (leaf: Tensor) => Float64Array.from((await (leaf.grad as Tensor).values()) as Float64Array);

  it.each(['float32', 'bfloat16'] as const)('nothing to learn from is exactly 0 with gradient 0, %s', async (dtype) => {
    const same = onDevice(new Int32Array(70).fill(3));
    const nothing: Partial<InfoNceOptions>[] = [
      { rowGroups: same, colGroups: same },
      { rowGroups: same, colGroups: same, symmetric: true },
      { weights: onDevice(new Float32Array(70)) },
    ];
    for (const options of nothing) {
      const [q, k] = [place(unit(70, 64, 1), dtype), place(unit(70, 64, 2), dtype)];
      const loss = infoNce(q, k, { scale: 50, ...options });
      backward(loss);
      expect(await loss.item()).toBe(0);
      expect(allZero(await valuesOf(q)) && allZero(await valuesOf(k))).toBe(true);
    }
  });

  it('keeps the gradient of a saturated positive', async () => {
    const q = tensor(Float32Array.from([1, 0]), [1, 2], { device: on });
    const k = place({ values: [1, 0, -0.5, 0], shape: [2, 2] }, 'float32');
    const loss = infoNce(q, k, { scale: 20 });
    backward(loss);
    expect((await loss.item()) / Math.exp(-30)).toBeCloseTo(1, 5);
    const dk = await valuesOf(k);
    expect(dk[0]! / (-20 * Math.exp(-30))).toBeCloseTo(1, 5);
    expect(dk[2]! / (20 * Math.exp(-30))).toBeCloseTo(1, 5);
  });

  it('reports an index outside k and stays usable', async () => {
    const { q, k } = pair(2, 3, 4);
    const [x, y] = [place(q, 'float32'), place(k, 'float32')];
    const wrong = infoNce(x, y, { scale: 1, positives: onDevice(Int32Array.of(2, 3)) }).item();
    await expect(wrong).rejects.toThrow(/infoNce: expected `positives` in \[0, 3\) but position 1 holds 3/);
    const negatives = tensor(Int32Array.of(0, -1), [2, 1], { device: on });
    await expect(infoNce(x, y, { scale: 1, negatives }).item()).rejects.toThrow(/position 1 holds -1/);
    expect(await infoNce(x, y, { scale: 1 }).item()).toBeGreaterThan(0);
    await device(on).synchronize();
  });
});
