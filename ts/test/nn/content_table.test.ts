import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ContentTable } from '../../src/nn/content_table.js';
import { Initializer } from '../../src/nn/module.js';
import { tensor } from '../../src/tensor.js';
import { bytesOf, rowsOf, valuesOf } from '../values.js';

const items = 6;
const width = 2;
const vectors = (...rows: readonly number[][]) => tensor(Float32Array.from(rows.flat()), [rows.length, width]);

describe('ContentTable', () => {
  let table: ContentTable;
  beforeEach(() => {
    table = new ContentTable(new Initializer(1), items, width);
  });
  afterEach(() => table.dispose());
  const read = async (keys: readonly number[], now: number) => {
    const { rows, age } = table.read(Int32Array.from(keys), now);
    return { rows: rowsOf(await valuesOf(rows), width).map((row) => [...row]), age: [...(await valuesOf(age))] };
  };
  const state = async () => Promise.all([...table.state().values()].map(bytesOf));

  it('joins staged rows into what is read, and keeps them once committed', async () => {
    expect(await read([3, -1, 3], 0)).toEqual({
      rows: [
        [0, 0],
        [0, 0],
        [0, 0],
      ],
      age: [-1, -1, -1],
    });
    table.stage(Int32Array.of(1, 3), vectors([1, 2], [3, 4]));
    const staged = {
      rows: [
        [3, 4],
        [0, 0],
        [1, 2],
      ],
      age: [0, -1, 0],
    };
    expect(await read([3, 0, 1], 7)).toEqual(staged);
    table.commit(7);
    expect(await read([3, 0, 1], 7)).toEqual(staged);
    expect((await read([3, 0, 1], 10)).age).toEqual([3, -1, 3]);
    table.stage(Int32Array.of(3), vectors([5, 6]));
    expect(await read([3, 1], 11)).toEqual({
      rows: [
        [5, 6],
        [1, 2],
      ],
      age: [0, 4],
    });
  });

  it('forgets what was discarded, and leaves every byte where the factor is 0 or NaN', async () => {
    table.stage(Int32Array.of(2), vectors([1, 1]));
    table.commit(1);
    const before = await state();
    table.stage(Int32Array.of(2, 4), vectors([7, 7], [8, 8]));
    table.discard();
    expect(await read([2, 4], 2)).toEqual({
      rows: [
        [1, 1],
        [0, 0],
      ],
      age: [1, -1],
    });
    table.commit(2); // nothing staged
    table.stage(Int32Array.of(2, 4), vectors([Number.NaN, 7], [8, 8]));
    table.commit(3, tensor(Float64Array.of(0)));
    table.stage(Int32Array.of(4), vectors([8, 8]));
    table.commit(3, tensor(Float64Array.of(Number.NaN)));
    expect(await state()).toEqual(before);
    expect((await read([4], 4)).age).toEqual([-1]);
    table.stage(Int32Array.of(4), vectors([8, 8]));
    table.commit(4, tensor(Float64Array.of(0.5)));
    expect((await read([4], 4)).rows).toEqual([[8, 8]]);
  });

  it('refuses rows that are zero or not finite, and counts them', async () => {
    table.stage(Int32Array.of(0, 1, 2, 5), vectors([1, 2], [Number.NaN, 1], [0, 0], [1, Number.POSITIVE_INFINITY]));
    table.commit(1);
    expect((await read([0, 1, 2, 5], 1)).age).toEqual([0, -1, -1, -1]);
    expect([...(await valuesOf(table.refused))]).toEqual([3]);
  });

  it('keeps the values of a staged tensor that trains on', async () => {
    const live = vectors([1, 2]);
    live.requiresGrad = true;
    table.stage(Int32Array.of(0), live);
    expect(table.read(Int32Array.of(0), 0).rows.requiresGrad).toBe(false);
  });

  it('behaves as a map does', async () => {
    const row = fc.oneof(
      fc.tuple(fc.integer({ min: -9, max: 9 }), fc.integer({ min: -9, max: 9 })),
      fc.constant([Number.NaN, 1] as const),
    );
    const staged = fc.uniqueArray(fc.tuple(fc.nat(items - 1), row), { selector: ([key]) => key, maxLength: items });
    const step = fc.record({
      staged,
      keys: fc.array(fc.integer({ min: -1, max: items - 1 }), { maxLength: 12 }),
      end: fc.constantFrom('commit', 'discard', 'zero', 'NaN'),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 8 }), async (steps) => {
        table.dispose();
        table = new ContentTable(new Initializer(1), items, width);
        const model = new Map<number, { row: readonly number[]; step: number }>();
        let refused = 0;
        for (const [now, { staged, keys, end }] of steps.entries()) {
          const sorted = [...staged].sort(([a], [b]) => a - b);
          table.stage(
            Int32Array.from(sorted, ([key]) => key),
            vectors(...sorted.map(([, values]) => [...values])),
          );
          const fresh = new Map(sorted);
          const expected = keys.map((key) => {
            const values = fresh.get(key);
            if (values !== undefined) return { row: [...values], age: 0 };
            const found = model.get(key);
            return found === undefined ? { row: [0, 0], age: -1 } : { row: [...found.row], age: now - found.step };
          });
          const actual = await read(keys, now);
          expect(actual).toEqual({ rows: expected.map(({ row }) => row), age: expected.map(({ age }) => age) });
          if (end === 'commit') table.commit(now);
          else if (end === 'discard') table.discard();
          else table.commit(now, tensor(Float64Array.of(end === 'zero' ? 0 : Number.NaN)));
          for (const [key, values] of end === 'commit' ? sorted : []) {
            if (values.every(Number.isFinite) && values.some((x) => x !== 0))
              model.set(key, { row: values, step: now });
            else refused++;
          }
        }
        expect([...(await valuesOf(table.refused))]).toEqual([refused]);
      }),
      { numRuns: 40, seed: 1 },
    );
  });
});
