import { describe, expect, it } from 'vitest';
import { HistoryDecoder } from '../../src/nn/history_decoder.js';
import { Initializer } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { expectGradients } from '../module_gradients.js';
import { valuesOf, worstDifference } from '../values.js';

const width = 8;
const random = (name: number, rows: number, columns: number) =>
  tensor(normals(rows * columns, 3, name), [rows, columns]);
const features = random(1, 3, 5);
const rows = random(2, 6, width);
const offsets = Int32Array.of(0, 4, 4, 6);
const sizes = { width, features: 5, layers: 2, heads: 2, ffn: 12 };

function reordered(order: readonly number[]) {
  const values = normals(6 * width, 3, 2);
  return tensor(Float64Array.from(order.flatMap((at) => [...values.subarray(at * width, (at + 1) * width)])), [
    6,
    width,
  ]);
}

describe('HistoryDecoder', () => {
  const decoder = new HistoryDecoder(new Initializer(4, 'float64'), sizes);
  const run = async (of: HistoryDecoder, history = rows, mask: readonly number[] | null = null) =>
    valuesOf(
      of.forward(features, { rows: history, offsets, mask: mask === null ? null : tensor(Int32Array.from(mask), [6]) }),
    );

  it('does not depend on the order of the history, unless rows have positions', async () => {
    const straight = await run(decoder);
    const shuffled = await run(decoder, reordered([2, 0, 3, 1, 5, 4]));
    expect(worstDifference(straight, shuffled)).toBeLessThan(1e-12);
    using placed = new HistoryDecoder(new Initializer(4, 'float64'), { ...sizes, positions: 4 });
    expect(worstDifference(await run(placed), await run(placed, reordered([2, 0, 3, 1, 5, 4])))).toBeGreaterThan(1e-3);
  });

  it('tells rows apart by the time since, where it is asked to; without times it says so', async () => {
    using timed = new HistoryDecoder(new Initializer(4, 'float64'), { ...sizes, timeGaps: true });
    const at = (...gaps: number[]) =>
      valuesOf(timed.forward(features, { rows, offsets, gaps: Float32Array.from(gaps) }));
    const early = await at(0, 1, 10, 100, 5, 5);
    expect(worstDifference(early, await at(0, 1, 10, 100_000, 5, 5))).toBeGreaterThan(1e-3);
    expect(worstDifference(early, await at(0, 1, 10, 110, 5, 5))).toBe(0); // one class of log2
    expect(() => timed.forward(features, { rows, offsets })).toThrow(/expected times of the events/);
  });

  it('leaves hidden rows out; what they hold changes nothing, and without any it is finite', async () => {
    const mask = [-1, 0, 3, -1, -1, -1];
    const hidden = await run(decoder, rows, mask);
    const other = await run(decoder, reordered([5, 1, 2, 4, 0, 3]), mask);
    expect(worstDifference(hidden, other)).toBeLessThan(1e-12);
    expect(hidden.every(Number.isFinite)).toBe(true);
  });

  it('paper_literal: with one item each layer is FFN(h)', async () => {
    using literal = new HistoryDecoder(new Initializer(4, 'float64'), { ...sizes, layers: 1, paperLiteral: true });
    const one = random(5, 2, width);
    const out = literal.forward(random(6, 2, 5), { rows: one, offsets: Int32Array.of(0, 1, 2) });
    expect(worstDifference(await valuesOf(out), await valuesOf(literal.layers[0]!.feedForward(one)))).toBeLessThan(
      1e-12,
    );
    expect([...literal.parameters().keys()]).toEqual(
      ['compress', 'layers.0.up', 'layers.0.down'].flatMap((name) => [`${name}.weight`, `${name}.bias`]),
    );
  });

  it.each([{}, { paperLiteral: true }, { queries: 3, positions: 3 }])(
    'has the gradients of finite differences: %j',
    async (changes) => {
      using one = new HistoryDecoder(new Initializer(4, 'float64'), { ...sizes, ...changes });
      const mask = tensor(Int32Array.of(0, 0, -1, 0, 0, 0), [6]);
      // The key bias adds the same to all scores of a query.
      const unreached = [...one.parameters().keys()].filter((name) => name.endsWith('attention.key.bias'));
      await expectGradients(one.parameters(), () => one.forward(features, { rows, offsets, mask }), {
        perParameter: 3,
        unreached,
      });
      expect(one.width).toBe('queries' in changes ? 24 : 8);
    },
  );

  it('refuses to have no layer', () => {
    expect(() => new HistoryDecoder(new Initializer(1), { ...sizes, layers: 0 })).toThrow(/layers of at least 1/);
  });
});
