import { describe, expect, it } from 'vitest';
import { IndexError } from '../../src/errors.js';
import { commitContentTable, readContentTable } from '../../src/ops/content_table.js';
import { device, full, tensor, zeros } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { valuesOf } from '../values.js';

const integers = (...values: readonly number[]) => tensor(Int32Array.from(values));

function tableOf(items: number, width: number, dtype: 'float32' | 'float64') {
  return {
    rows: zeros([items, width], { dtype }),
    steps: full([items], -1, { dtype: 'int32' }),
    refused: zeros([1], { dtype: 'int32' }),
  };
}

describe.each(['float32', 'float64'] as const)('content table, %s', (dtype) => {
  const matrix = (values: readonly number[], width: number) =>
    tensor(values, [values.length / width, width], { dtype });

  it('reads what was committed, with its age, and staged rows first', async () => {
    const { rows, steps, refused } = tableOf(5, 3, dtype);
    commitContentTable(
      rows,
      steps,
      refused,
      { keys: integers(1, 4), vectors: matrix([1, 2, 3, 4, 5, 6], 3) },
      { now: 2 },
    );
    const staged = { keys: integers(0, 4), vectors: matrix([7, 8, 9, 10, 11, 12], 3) };
    const { out, age } = readContentTable(rows, steps, integers(4, 1, -1, 0, 2, 4), { staged, now: 5 });
    expect([...(await valuesOf(out))]).toEqual([10, 11, 12, 1, 2, 3, 0, 0, 0, 7, 8, 9, 0, 0, 0, 10, 11, 12]);
    expect([...(await valuesOf(age))]).toEqual([0, 3, -1, 0, -1, 0]);
    expect([...(await valuesOf(steps))]).toEqual([-1, 2, -1, -1, 2]);
    expect(await refused.item()).toBe(0);
  });

  it('reads and writes nothing at all', async () => {
    const { rows, steps, refused } = tableOf(2, 3, dtype);
    const none = { keys: integers(), vectors: zeros([0, 3], { dtype }) };
    commitContentTable(rows, steps, refused, none, { now: 1 });
    const { out, age } = readContentTable(rows, steps, integers(), { staged: none, now: 1 });
    expect([out.shape, age.shape]).toEqual([[0, 3], [0]]);
    expect([...(await valuesOf(steps))]).toEqual([-1, -1]);
  });

  it('reports a key past the table', async () => {
    const { rows, steps } = tableOf(2, 1, dtype);
    const { out, age } = readContentTable(rows, steps, integers(2, 1), { now: 1 });
    await expect(device().synchronize()).rejects.toThrow(IndexError);
    expect([...(await valuesOf(out)), ...(await valuesOf(age))]).toEqual([0, 0, -1, -1]);
  });
});

describe('content table', () => {
  it('refuses shapes and dtypes that do not fit', () => {
    tidy(() => {
      const { rows, steps, refused } = tableOf(3, 2, 'float32');
      expect(() => readContentTable(rows, zeros([4], steps), integers(0), { now: 0 })).toThrow(
        /steps of shape \(V=3\)/,
      );
      expect(() => readContentTable(rows, steps, tensor([0]), { now: 0 })).toThrow(/expected keys to be int32/);
      const staged = { keys: integers(0), vectors: zeros([1, 3]) };
      expect(() => commitContentTable(rows, steps, refused, staged, { now: 0 })).toThrow(
        /staged of shape \(U=1, D=2\)/,
      );
    });
  });
});
