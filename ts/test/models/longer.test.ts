import { describe, expect, it } from 'vitest';
import { makeHistory } from '../../src/models/history.js';
import { defaultLonger, LongerBlock, LongerEncoder, type LongerOptions } from '../../src/models/longer.js';
import { Initializer } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(23, 'float64');
const small: LongerOptions = {
  ...defaultLonger,
  width: 8,
  heads: 2,
  merge: 2,
  latest: 2,
  ffn: 6,
  positions: 8,
  gapDim: 2,
};
const context = { training: false };
const D = 4;

function historyOf(lengths: readonly number[], { targetSeed = 1, gap = 10 } = {}) {
  const offsets = new Int32Array(lengths.length + 1);
  lengths.forEach((length, b) => {
    offsets[b + 1] = offsets[b]! + length;
  });
  const T = offsets.at(-1)!;
  return makeHistory({
    name: 'ids',
    target: tensor(normals(lengths.length * D, 1, targetSeed), [lengths.length, D]),
    rows: tensor(normals(T * D, 2, 2), [T, D]),
    offsets,
    gaps: new Float32Array(T).fill(gap),
  });
}

describe('LongerBlock', () => {
  const W = 8;
  const offsets = Int32Array.of(0, 3, 3, 5);
  const tokens = { rows: tensor(normals(5 * W, 1, 1), [5, W]), offsets };
  const globals = (seed: number) => tensor(normals(3 * 2 * W, seed, 2), [6, W]);
  const block = new LongerBlock(init, { width: W, heads: 2, ffn: 6 });

  it('keeps the latest tokens, which never see the candidate', async () => {
    const one = block.forward(globals(1), tokens, 2);
    const other = block.forward(globals(2), tokens, 2);
    expect([...one.tokens.offsets]).toEqual([0, 2, 2, 4]);
    expect(await bytesOf(one.tokens.rows)).toEqual(await bytesOf(other.tokens.rows));
    expect(await bytesOf(one.globals)).not.toEqual(await bytesOf(other.globals));
  });

  it('shows a token no later one', async () => {
    const host = normals(5 * W, 1, 1);
    host.fill(9, 2 * W, 3 * W); // the latest token of the first row
    const before = rowsOf(await valuesOf(block.forward(globals(1), tokens, 3).tokens.rows), W);
    const changed = { rows: tensor(host, [5, W]), offsets };
    const after = rowsOf(await valuesOf(block.forward(globals(1), changed, 3).tokens.rows), W);
    expect(after.map((row, i) => row.every((x, d) => x === before[i]![d]))).toEqual([true, true, false, true, true]);
  });

  it('asks for no token where none is wanted', () => {
    const { tokens: none } = block.forward(globals(1), tokens, 0);
    expect(none.rows.shape).toEqual([0, W]);
    expect([...none.offsets]).toEqual([0, 0, 0, 0]);
  });
});

describe('LongerEncoder', () => {
  const encoder = new LongerEncoder(init, { name: 'ids', width: D, ids: ['items'], timed: true }, 3, small);
  const features = (B: number) => tensor(normals(B * 3, 1, 3), [B, 3]);

  it('merges neighbours from the latest on', async () => {
    const merged = encoder.merged(historyOf([3, 0, 4]), context);
    expect([...merged.offsets]).toEqual([0, 2, 2, 4]);
    const rows = rowsOf(await valuesOf(merged.rows), 8);
    expect([...rows[0]!.slice(0, 4)]).toEqual([0, 0, 0, 0]); // three events in two tokens: the oldest is half empty
    expect(rows[0]!.slice(4).some((x) => x !== 0)).toBe(true);
    expect(rows[2]!.slice(0, 4).some((x) => x !== 0)).toBe(true);
  });

  it('gives each row what it gives it alone, finite without history', async () => {
    const together = rowsOf(await valuesOf(encoder.forward(historyOf([3, 0, 4]), features(3), context)), encoder.width);
    expect(together.every((row) => row.every(Number.isFinite))).toBe(true);
    const first = historyOf([3]);
    const alone = await valuesOf(encoder.forward(first, features(1), context));
    expect(worstDifference(alone, together[0]!)).toBeLessThan(1e-12);
    const none = await valuesOf(encoder.forward(historyOf([0, 0]), features(2), context));
    expect(none.every(Number.isFinite)).toBe(true);
  });

  it('sees order, target and times', async () => {
    const run = async (changes: Parameters<typeof historyOf>[1] = {}) =>
      valuesOf(encoder.forward(historyOf([5], changes), features(1), context));
    const base = await run();
    expect(await run({ targetSeed: 5 })).not.toEqual(base);
    expect(await run({ gap: 100 })).not.toEqual(base);
    expect(await run({ gap: 11 })).toEqual(base); // the same power of two
    const history = historyOf([5]);
    const rows = rowsOf(await valuesOf(history.rows), D).reverse();
    const reversed = { ...history, rows: tensor(Float64Array.from(rows.flatMap((row) => [...row])), [5, D]) };
    expect(await valuesOf(encoder.forward(reversed, features(1), context))).not.toEqual(base);
  });

  it('reads events beyond its positions as the last of them', async () => {
    const long = await valuesOf(encoder.forward(historyOf([20]), features(1), context));
    expect(long.every(Number.isFinite)).toBe(true);
  });

  it('refuses masks, missing times and widths that do not fit', () => {
    const { name, target, rows, hostOffsets: offsets } = historyOf([2]);
    const untimed = makeHistory({ name, target, rows, offsets });
    expect(() => encoder.forward(untimed, features(1), context)).toThrow(/expected times of the events of history ids/);
    const masked = { ...historyOf([2]), mask: tensor(Int32Array.of(0, -1)) };
    expect(() => encoder.forward(masked, features(1), context)).toThrow(/expected an id history, whose rows all count/);
    const make = (changes: Partial<LongerOptions>) =>
      new LongerEncoder(init, { name: 'ids', width: D }, 3, { ...small, ...changes });
    expect(() => make({ merge: 3 })).toThrow(/merge 3 and heads 2 divide but received 8/);
    expect(() => make({ heads: 5 })).toThrow(/heads 5 divide/);
  });
});
