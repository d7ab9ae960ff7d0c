import { describe, expect, it } from 'vitest';
import { IndexError } from '../../src/errors.js';
import { commitContentTable, readContentTable } from '../../src/ops/content_table.js';
import { type DeviceName, device, full, type Tensor, tensor, zeros } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { testDevices } from '../test_devices.js';

type Dtype = 'float32' | 'float64';

const integersOn = (device: DeviceName, values: readonly number[]) =>
  tensor(Int32Array.from(values), [values.length], { device });

function tableOf(items: number, width: number, dtype: Dtype, on: DeviceName = 'cpu') {
  return {
    rows: zeros([items, width], { dtype, device: on }),
    steps: full([items], -1, { dtype: 'int32', device: on }),
    refused: zeros([1], { dtype: 'int32', device: on }),
  };
}

const cases = testDevices.flatMap((on) =>
  (on === 'cpu' ? (['float32', 'float64'] as const) : (['float32'] as const)).map((dtype) => ({
    on,
    dtype,
  })),
);

describe.each(cases)('content table on $on, $dtype', ({ on, dtype }) => {
  const integers = (...values: readonly number[]) => integersOn(on, values);
  const matrix = (values: readonly number[], width: number) =>
    tensor(values, [values.length / width, width], { dtype, device: on });
  const valuesOf = async (x: Tensor) => Array.from((await x.values()) as Float32Array);

  it('reads what was committed, with its age, and staged rows first', async () => {
    const { rows, steps, refused } = tableOf(5, 3, dtype, on);
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

  it('copies rows of any width past one warp', async () => {
    for (const width of [1, 2, 7, 8, 33]) {
      const { rows, steps, refused } = tableOf(70, width, dtype, on);
      const keys = Array.from({ length: 70 }, (_, i) => i);
      const values = keys.flatMap((key) => Array.from({ length: width }, (_, d) => ((key + d) % 100) - 120));
      commitContentTable(rows, steps, refused, { keys: integers(...keys), vectors: matrix(values, width) }, { now: 1 });
      const { out } = readContentTable(rows, steps, integers(...keys.reverse()), { now: 1 });
      expect(await valuesOf(out)).toEqual(keys.flatMap((key) => values.slice(key * width, (key + 1) * width)));
    }
  });

  it('refuses rows that are zero or not finite; a skipped step writes nothing', async () => {
    const { rows, steps, refused } = tableOf(5, 2, dtype, on);
    const vectors = matrix([0, -0, 1, Number.NaN, 2 ** -100, 0, Number.NEGATIVE_INFINITY, 1, 3, 4], 2);
    const staged = { keys: integers(0, 1, 2, 3, 4), vectors };
    for (const factor of [Number.NaN, 0, 0.5]) {
      const given = tensor([factor], [1], { dtype: 'float64', device: on });
      commitContentTable(rows, steps, refused, staged, { factor: given, now: 7 });
      expect(await refused.item()).toBe(factor > 0 ? 3 : 0);
    }
    expect(await valuesOf(steps)).toEqual([-1, -1, 7, -1, 7]);
    expect(await valuesOf(rows)).toEqual([0, 0, 0, 0, 2 ** -100, 0, 0, 0, 3, 4]);
  });

  it('reads and writes nothing at all', async () => {
    const { rows, steps, refused } = tableOf(2, 3, dtype, on);
    const none = { keys: integers(), vectors: zeros([0, 3], { dtype, device: on }) };
    commitContentTable(rows, steps, refused, none, { now: 1 });
    const { out, age } = readContentTable(rows, steps, integers(), { staged: none, now: 1 });
    expect([out.shape, age.shape]).toEqual([[0, 3], [0]]);
    expect([...(await valuesOf(steps))]).toEqual([-1, -1]);
  });

  it('reports a key past the table', async () => {
    const { rows, steps } = tableOf(2, 1, dtype, on);
    const { out, age } = readContentTable(rows, steps, integers(2, 1), { now: 1 });
    await expect(device(on).synchronize()).rejects.toThrow(IndexError);
    expect([...(await valuesOf(out)), ...(await valuesOf(age))]).toEqual([0, 0, -1, -1]);
  });
});

describe('content table', () => {
  it('refuses shapes and dtypes that do not fit', () => {
    tidy(() => {
      const { rows, steps, refused } = tableOf(3, 2, 'float32');
      expect(() => readContentTable(rows, zeros([4], steps), integersOn('cpu', [0]), { now: 0 })).toThrow(
        /steps of shape \(V=3\)/,
      );
      expect(() => readContentTable(rows, steps, tensor([0]), { now: 0 })).toThrow(/expected keys to be int32/);
      const staged = { keys: integersOn('cpu', [0]), vectors: zeros([1, 3]) };
      expect(() => commitContentTable(rows, steps, refused, staged, { now: 0 })).toThrow(
        /staged of shape \(U=1, D=2\)/,
      );
    });
  });
});
