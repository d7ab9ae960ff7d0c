import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { ArgumentError, ShapeError } from '../../src/errors.js';
import { type SqdcOptions, sqdc } from '../../src/losses/sqdc.js';
import { normals } from '../../src/random.js';
import { Tensor, tensor } from '../../src/tensor.js';

const D = 6;

interface Result {
  readonly loss: number;
  readonly dq: Float64Array;
  readonly dd: Float64Array;
}

/** Random vectors of `sessions.length` rows; `zero` names a row of zeros in both. */
async function evaluate(options: Omit<SqdcOptions, 'labels'> & { labels: number[] }, zero = -1): Promise<Result> {
  const n = options.sessions.length;
  const [q, d] = [1, 2].map((seed) => {
    const values = normals(n * D, seed, 0);
    if (zero >= 0) values.fill(0, zero * D, (zero + 1) * D);
    const leaf = tensor(values, [n, D]);
    leaf.requiresGrad = true;
    return leaf;
  }) as [Tensor, Tensor];
  const loss = sqdc(q, d, { ...options, labels: Float32Array.from(options.labels) });
  backward(loss);
  const grad = async (x: Tensor) =>
    x.grad instanceof Tensor ? ((await x.grad.data()) as Float64Array) : new Float64Array(x.size);
  return { loss: await loss.item(), dq: await grad(q), dd: await grad(d) };
}

/** The formula, term by term. */
function expected(labels: number[], hidden: (i: number, j: number) => boolean, scale: number, all: boolean): number {
  const n = labels.length;
  const [q, d] = [1, 2].map((seed) => normals(n * D, seed, 0)) as [Float64Array, Float64Array];
  const row = (x: Float64Array, i: number) => Array.from(x.subarray(i * D, (i + 1) * D));
  const similarity = (i: number, j: number) => {
    const [a, b] = [row(q, i), row(d, j)];
    return a.reduce((sum, x, k) => sum + x * b[k]!, 0) / (Math.hypot(...a) * Math.hypot(...b));
  };
  const anchors = [...labels.keys()].filter((i) => labels[i] === 1);
  const columns = all ? [...labels.keys()] : anchors;
  const losses = anchors.map((i) => {
    const terms = columns.filter((j) => j === i || !hidden(i, j)).map((j) => Math.exp(scale * similarity(i, j)));
    return Math.log(terms.reduce((a, b) => a + b, 0)) - scale * similarity(i, i);
  });
  return losses.reduce((a, b) => a + b, 0) / losses.length;
}

const ints = (...values: number[]) => Int32Array.from(values);
const zero = (x: Float64Array) => x.every((value) => value === 0);

describe('sqdc', () => {
  const labels = [1, 0, 1, 1, 0, 1];
  const sessions = ints(7, 7, 8, 7, 9, -1);
  const items = ints(0, 1, 2, 3, 2, 2);
  const sameSession = (i: number, j: number) => sessions[i] === sessions[j] && sessions[i]! >= 0;

  it('equals the formula with either set of columns and with items masked', async () => {
    for (const columns of ['positives', 'all'] as const) {
      const all = columns === 'all';
      for (const scale of [1, 10, 50, 100]) {
        const { loss } = await evaluate({ labels, sessions, columns, scale });
        expect(loss).toBeCloseTo(expected(labels, sameSession, scale, all), 9);
        const masked = await evaluate({ labels, sessions, columns, scale, maskSameItem: true, items });
        const hidden = (i: number, j: number) => sameSession(i, j) || items[i] === items[j];
        expect(masked.loss).toBeCloseTo(expected(labels, hidden, scale, all), 9);
      }
    }
  });

  it('gives rows without label 1 no gradient as queries, and as documents only where they are columns', async () => {
    const row = (x: Float64Array, i: number) => x.subarray(i * D, (i + 1) * D);
    const positives = await evaluate({ labels, sessions, scale: 5 });
    const all = await evaluate({ labels, sessions, scale: 5, columns: 'all' });
    for (const i of [1, 4]) {
      expect(zero(row(positives.dq, i)) && zero(row(all.dq, i)) && zero(row(positives.dd, i))).toBe(true);
      expect(zero(row(all.dd, i))).toBe(false);
    }
  });

  it('all sessions distinct is the plain loss', async () => {
    const { loss } = await evaluate({ labels: [1, 1, 1], sessions: ints(4, 5, 6) });
    expect(loss).toBeCloseTo(
      expected([1, 1, 1], () => false, 50, false),
      9,
    );
  });

  it('one session is exactly 0 with gradient 0', async () => {
    for (const columns of ['positives', 'all'] as const) {
      const { loss, dq, dd } = await evaluate({ labels: [1, 1, 0, 1], sessions: ints(3, 3, 3, 3), columns });
      expect(loss).toBe(0);
      expect(zero(dq) && zero(dd)).toBe(true);
    }
  });

  it('no positive row, one row and no row are 0', async () => {
    for (const columns of ['positives', 'all'] as const) {
      const none = await evaluate({ labels: [0, 0, 0], sessions: ints(1, 2, 3), columns });
      expect(none.loss).toBe(0);
      expect(zero(none.dq) && zero(none.dd)).toBe(true);
      expect((await evaluate({ labels: [1], sessions: ints(1), columns })).loss).toBe(0);
      expect((await evaluate({ labels: [], sessions: ints(), columns })).loss).toBe(0);
    }
  });

  it('a zero vector is finite', async () => {
    for (const scale of [1, 100]) {
      const { loss, dq, dd } = await evaluate({ labels: [1, 1, 1], sessions: ints(1, 2, 3), scale }, 1);
      expect(Number.isFinite(loss) && dq.every(Number.isFinite) && dd.every(Number.isFinite)).toBe(true);
    }
  });

  it('rows added to a session change no loss of that session', async () => {
    // anchors of session 7 only: with and without a third row of session 7 among the columns
    const few = await evaluate({ labels: [1, 1, 0], sessions: ints(7, 7, 8), columns: 'all' });
    const more = await evaluate({ labels: [1, 1, 0, 0, 0], sessions: ints(7, 7, 8, 7, 7), columns: 'all' });
    expect(more.loss).toBeCloseTo(few.loss, 14);
  });

  it('refuses what does not fit together', () => {
    const x = tensor(new Float32Array(12), [3, 4]);
    const fits = { labels: new Float32Array(3), sessions: new Int32Array(3) };
    expect(() => sqdc(x, tensor(new Float32Array(8), [2, 4]), fits)).toThrow(/sqdc: expected d with B=3 rows like q/);
    expect(() => sqdc(x, x, { ...fits, sessions: new Int32Array(2) })).toThrow(
      /sqdc: expected sessions of length B=3 but received 2/,
    );
    expect(() => sqdc(x, x, { ...fits, labels: new Float32Array(4) })).toThrow(ShapeError);
    expect(() => sqdc(x, x, { ...fits, maskSameItem: true })).toThrow(ArgumentError);
  });
});
