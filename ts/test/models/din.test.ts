import { describe, expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { TargetAttention } from '../../src/models/din.js';
import { makeHistory } from '../../src/models/history.js';
import { Initializer } from '../../src/nn/module.js';
import { sum } from '../../src/ops/reduce.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { denseGrad } from '../harness.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(5, 'float64');
const evaluation = { training: false };
const target = normals(3 * 4, 1, 1);
const rows = rowsOf(normals(5 * 4, 1, 2), 4).map((row) => [...row]);

function historyOf(past: readonly (readonly number[])[], lengths: readonly number[]) {
  const offsets = new Int32Array(lengths.length + 1);
  lengths.forEach((length, b) => {
    offsets[b + 1] = offsets[b]! + length;
  });
  return makeHistory({
    name: 'h',
    target: tensor(target.slice(0, 4 * lengths.length), [lengths.length, 4]),
    rows: tensor(Float64Array.from(past.flat()), [past.length, 4]),
    offsets,
  });
}

describe.each([false, true])('TargetAttention, softmax %s', (softmax) => {
  const attention = new TargetAttention(init, 4, { hidden: [6, 3], softmax });
  const run = async (history: ReturnType<typeof historyOf>): Promise<Float64Array> =>
    valuesOf(attention.forward(history, evaluation));

  it('gives zero without history, in training too', async () => {
    const mixed = await run(historyOf(rows.slice(0, 3), [2, 0, 1]));
    expect([...mixed.slice(4, 8)]).toEqual([0, 0, 0, 0]);
    expect(mixed.slice(0, 4).every((x) => x !== 0)).toBe(true);
    const none = attention.forward(historyOf([], [0, 0]), { training: true });
    expect([...(await valuesOf(none))]).toEqual(new Array(8).fill(0));
    for (const [name, x] of attention.state())
      expect((await valuesOf(x)).every(Number.isFinite), `${name} stays finite`).toBe(true);
  });

  it('does not depend on the order of the history', async () => {
    const straight = await run(historyOf(rows, [3, 0, 2]));
    const shuffled = [2, 0, 1, 4, 3].map((i) => rows[i]!);
    expect(worstDifference(await run(historyOf(shuffled, [3, 0, 2])), straight)).toBeLessThan(1e-12);
  });

  it('adds weighted rows: twice the history is twice the sum, or the same mean', async () => {
    const once = await run(historyOf(rows.slice(0, 3), [3]));
    const twice = await run(historyOf([...rows.slice(0, 3), ...rows.slice(0, 3)], [6]));
    const factor = softmax ? 1 : 2;
    const expected = once.map((x) => factor * x);
    expect(worstDifference(twice, expected)).toBeLessThan(1e-12);
  });

  it('is a multiple of a lone row, the row itself with a softmax', async () => {
    const one = await run(historyOf(rows.slice(0, 1), [1]));
    const weight = softmax ? 1 : one[0]! / rows[0]![0]!;
    const expected = rows[0]!.map((x) => weight * x);
    expect(worstDifference(one, expected)).toBeLessThan(1e-12);
  });

  it('passes no gradient into hidden rows', async () => {
    const past = parameter(tensor(Float64Array.from(rows.flat()), [5, 4]));
    const mask = tensor(Int32Array.of(1, -1, -1, -1, 0));
    const offsets = Int32Array.of(0, 2, 4, 5);
    const history = makeHistory({ name: 'h', target: tensor(target, [3, 4]), rows: past, offsets, mask });
    backward(sum(attention.forward(history, evaluation)));
    const reached = rowsOf(await denseGrad(past), 4).map((row) => row.some((x) => x !== 0));
    expect(reached).toEqual([true, false, false, false, true]);
  });
});
