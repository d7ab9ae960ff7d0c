import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { MemoryBankFullError, ShapeError } from '../../src/errors.js';
import { MemoryBank, type MemoryBankOptions, type ReadOptions } from '../../src/nn/memory_bank.js';
import { reshape } from '../../src/ops/transpose.js';
import { type DeviceName, device, type Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import '../property_seed.js';
import { testDevices } from '../test_devices.js';
import { bytesOf } from '../values.js';

const width = 2;
let on: DeviceName = 'cpu';
const keysOf = (...keys: readonly (bigint | number)[]) => BigInt64Array.from(keys, BigInt);
const matrix = (rows: readonly (readonly number[])[]) =>
  tensor(Float32Array.from(rows.flat()), [rows.length, width], { device: on });
const int32s = (...values: readonly number[]) => tensor(Int32Array.from(values), [values.length], { device: on });
const bankOf = (options: Partial<MemoryBankOptions> = {}) =>
  new MemoryBank({ capacity: 100, width, device: on, ...options });

/** Rows and ages as plain numbers. */
async function read(bank: MemoryBank, keys: BigInt64Array, options: ReadOptions) {
  const { rows, age } = tidy(() => bank.read(keys, options));
  const values = Array.from((await rows.values()) as Float32Array);
  const result = { rows: values, age: Array.from((await age.data()) as Int32Array) };
  rows.dispose();
  age.dispose();
  return result;
}

const imageOf = (bank: MemoryBank) => Promise.all([...bank.state().values()].map(bytesOf));

describe.each(testDevices)('MemoryBank on %s', (name) => {
  beforeAll(() => {
    on = name;
  });
  afterAll(() => {
    on = 'cpu';
  });

  it('does what a Map does, step by step, skipped steps and discarded rows included', async () => {
    const rows = fc.array(
      fc.record({
        key: fc.oneof(
          fc.bigInt(-6n, 6n),
          fc.constantFrom(-(2n ** 63n), 2n ** 63n - 1n),
          fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n),
        ),
        value: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 99 }) }, fc.constantFrom(0, Number.NaN)),
      }),
      { maxLength: 12 },
    );
    const steps = fc.array(
      fc.record({
        rows,
        history: fc.array(fc.bigInt(-8n, 8n), { maxLength: 12 }),
        end: fc.constantFrom('commit', 'skip', 'discard'),
      }),
      { maxLength: 12 },
    );
    await fc.assert(
      fc.asyncProperty(steps, async (list) => {
        const bank = bankOf({ capacity: 400 });
        const model = new Map<bigint, { row: number[]; step: number }>();
        for (const [step, { rows: staged, history, end }] of list.entries()) {
          const overlay = new Map(model);
          for (const { key, value } of staged) if (value > 0) overlay.set(key, { row: [value, -value], step });
          const { seen, age } = tidy(() => {
            bank.stage(keysOf(...staged.map((x) => x.key)), matrix(staged.map(({ value }) => [value, -value])), {
              step,
            });
            const found = bank.read(keysOf(...history), { now: step });
            if (end === 'discard') bank.discard();
            else
              bank.commit({ factor: tensor([end === 'skip' ? Number.NaN : 1], [1], { dtype: 'float64', device: on }) });
            return { seen: found.rows, age: found.age };
          });
          expect(Array.from((await seen.data()) as Float32Array)).toEqual(
            history.flatMap((key) => overlay.get(key)?.row ?? [0, 0]),
          );
          expect(Array.from((await age.data()) as Int32Array)).toEqual(
            history.map((key) => (overlay.has(key) ? step - overlay.get(key)!.step : -1)),
          );
          seen.dispose();
          age.dispose();
          if (end === 'commit') for (const [key, entry] of overlay) model.set(key, entry);
        }
        const keys = [...model.keys(), 12345n];
        const final = await read(bank, keysOf(...keys), { now: 50 });
        expect(final.rows).toEqual([...model.values()].flatMap(({ row }) => row).concat([0, 0]));
        expect(final.age).toEqual([...model.values()].map(({ step }) => 50 - step).concat([-1]));
        expect((await bank.stats()).rows).toBe(model.size);
        bank.dispose();
      }),
      { numRuns: name === 'cpu' ? 40 : 4 },
    );
  });

  it('joins staged rows onto what was read before; their gradient is a choice', async () => {
    const bank = bankOf();
    tidy(() =>
      bank.write(
        keysOf(1, 2),
        matrix([
          [1, 1],
          [2, 2],
        ]),
        { step: 1 },
      ),
    );
    for (const historyGrad of ['none', 'joined'] as const)
      for (const how of ['read', 'join'] as const) {
        const live = parameter(
          matrix([
            [20, 20],
            [30, 30],
          ]),
        );
        const out = tidy(() => {
          const history = keysOf(2, 1, 3, 2, 4);
          const before = bank.read(history, { now: 4 });
          bank.stage(keysOf(2, 3), live, { step: 4 });
          const { rows, age } =
            how === 'read' ? bank.read(history, { now: 4, historyGrad }) : bank.join(before, history, { historyGrad });
          if (rows.requiresGrad)
            backward(
              rows,
              matrix([
                [1, 2],
                [3, 4],
                [5, 6],
                [7, 8],
                [9, 10],
              ]),
            );
          bank.discard();
          expect(rows.requiresGrad).toBe(historyGrad === 'joined');
          return { rows, age };
        });
        expect(Array.from((await out.rows.data()) as Float32Array)).toEqual([20, 20, 1, 1, 30, 30, 20, 20, 0, 0]);
        expect(Array.from((await out.age.data()) as Int32Array)).toEqual([0, 3, 0, 0, -1]);
        const grad = live.grad as Tensor | null;
        if (historyGrad === 'none') expect(grad).toBeNull();
        else expect(Array.from((await grad!.data()) as Float32Array)).toEqual([8, 10, 5, 6]);
        for (const x of [out.rows, out.age, grad, live]) x?.dispose();
      }
    bank.dispose();
  });

  it('saved and loaded it goes on as if nothing had happened, with the seed of the saved bank', async () => {
    const fill = (bank: MemoryBank, first: number, last: number) => {
      for (let step = first; step < last; step++)
        tidy(() => {
          const keys = Array.from({ length: 40 }, (_, i) => (step * 17 + i * 5) % 150);
          bank.write(keysOf(...keys), matrix(keys.map((key) => [key + 1, step + 1])), { step });
        });
    };
    const whole = bankOf({ seed: 5 });
    fill(whole, 0, 12);
    const half = bankOf({ seed: 5 });
    fill(half, 0, 6);
    const resumed = bankOf({ seed: 99 });
    resumed.load(await half.snapshot());
    fill(resumed, 6, 12);
    expect(resumed.seed).toBe(5);
    expect(await imageOf(resumed)).toEqual(await imageOf(whole));
    for (const bank of [whole, half, resumed]) bank.dispose();
  });

  it('tells hit rate, ages and cosines, by popularity too', async () => {
    const bank = bankOf();
    tidy(() =>
      bank.write(
        keysOf(1, 2),
        matrix([
          [1, 0],
          [0, 2],
        ]),
        { step: 1 },
      ),
    );
    tidy(() => bank.write(keysOf(3), matrix([[3, 3]]), { step: 4 }));
    tidy(() => {
      bank.stage(
        keysOf(1, 2, 9),
        matrix([
          [2, 0],
          [2, 0],
          [1, 1],
        ]),
        { step: 6, measure: true, deciles: Uint8Array.of(0, 9, 0) },
      );
      bank.discard();
      bank.read(keysOf(1, 2, 3, 4), { now: 6, sequence: 'short', deciles: Uint8Array.of(0, 0, 9, 9) });
      bank.read(keysOf(), { now: 6, sequence: 'empty' });
    });
    const { sequences, staleness, ...counts } = await bank.stats();
    expect(counts).toEqual({
      slots: 112,
      rows: 3,
      load: 3 / 112,
      inserted: 3,
      updated: 0,
      evicted: 0,
      dropped: 0,
      refused: 0,
      superseded: 0,
    });
    expect(sequences['short']).toMatchObject({ keys: 4, found: 3, hitRate: 0.75, mean: 4, p50: 5, p99: 5 });
    expect(sequences['short']!.deciles![9]).toEqual({ keys: 2, found: 1, hitRate: 0.5, mean: 2, p50: 2, p99: 2 });
    expect(sequences['empty']).toMatchObject({ keys: 0, hitRate: Number.NaN, deciles: null });
    expect(staleness).toMatchObject({ rows: 2, cosine: 0.5 });
    expect(staleness!.deciles![9]).toEqual({ rows: 1, cosine: 0 });
    bank.dispose();
  });

  it('moves between devices with all that it holds', async () => {
    const bank = new MemoryBank({ capacity: 50, width });
    const before = on;
    for (const [step, place] of [before, 'cpu' as const, before].entries()) {
      await bank.moveTo(place);
      on = place;
      tidy(() =>
        bank.write(
          keysOf(step, 9),
          matrix([
            [step + 1, 1],
            [step + 1, 2],
          ]),
          { step },
        ),
      );
    }
    on = before;
    const expected = { rows: [1, 1, 2, 1, 3, 1, 3, 2], age: [2, 1, 0, 0] };
    expect(await read(bank, keysOf(0, 1, 2, 9), { now: 2 })).toEqual(expected);
    bank.dispose();
  });

  it('holds bfloat16 rows: what is staged is cast', async () => {
    const bank = bankOf({ dtype: 'bfloat16' });
    tidy(() => bank.write(keysOf(7), matrix([[1 + 2 ** -10, 3]]), { step: 1 }));
    expect((await read(bank, keysOf(7), { now: 1 })).rows).toEqual([1, 3]);
    bank.dispose();
  });

  it('makes room by event time where it has a time to live', async () => {
    const bank = bankOf({ capacity: 1, ttl: 10, full: 'drop' }); // one bucket
    const write = (first: number, count: number, time: number, eventNow: number) =>
      tidy(() => {
        const keys = Array.from({ length: count }, (_, i) => first + i);
        bank.write(keysOf(...keys), matrix(keys.map((key) => [key, 1])), {
          step: 1,
          eventTimes: int32s(...keys.map(() => time)),
          eventNow,
        });
      });
    write(1, 10, 0, 0);
    write(11, 6, 5, 5);
    write(17, 1, 8, 8); // nothing is older than 10
    expect(await bank.stats()).toMatchObject({ rows: 16, dropped: 1, evicted: 0 });
    write(18, 12, 12, 12); // ten are
    expect(await bank.stats()).toMatchObject({ rows: 16, dropped: 3, evicted: 10 });
    bank.dispose();
  });

  it('of a full bank: the oldest goes, or the new one is dropped, or check rejects', async () => {
    for (const full of ['evict', 'drop', 'error'] as const) {
      const bank = bankOf({ capacity: 1, full });
      await device(on).synchronize();
      const before = device(on).memory().live;
      for (const step of [1, 2])
        tidy(() => {
          const keys = Array.from({ length: 12 }, (_, i) => step * 100 + i);
          bank.write(keysOf(...keys), matrix(keys.map((key) => [key, 1])), { step });
        });
      await device(on).synchronize();
      expect(device(on).memory().live).toBe(before);
      const lost = full === 'evict' ? { evicted: 8, dropped: 0 } : { evicted: 0, dropped: 8 };
      expect(await bank.stats()).toMatchObject({ rows: 16, slots: 16, ...lost });
      if (full === 'error') await expect(bank.check()).rejects.toThrow(MemoryBankFullError);
      else await bank.check();
      bank.dispose();
    }
  });
});

describe('MemoryBank', () => {
  it('frozen, it can be read over staged rows but not written', async () => {
    const bank = bankOf();
    tidy(() => bank.write(keysOf(1), matrix([[1, 2]]), { step: 1 }));
    const before = await imageOf(bank);
    bank.frozen = true;
    tidy(() => {
      bank.stage(keysOf(2), matrix([[3, 4]]), { step: 2 });
      expect(() => bank.commit()).toThrow(/MemoryBank.commit: the bank is frozen/);
      bank.discard();
      expect(() => bank.write(keysOf(2), matrix([[3, 4]]), { step: 2 })).toThrow(/frozen/);
    });
    expect(await imageOf(bank)).toEqual(before);
    bank.dispose();
  });

  it('refuses what makes no sense', () => {
    expect(() => bankOf({ capacity: 0 })).toThrow(/expected capacity to be a positive integer but received 0/);
    expect(() => bankOf({ ttl: -1 })).toThrow(/expected ttl to be a non-negative integer/);
    const bank = bankOf();
    tidy(() => {
      bank.stage(keysOf(1), matrix([[1, 1]]), { step: 1 });
      expect(() => bank.stage(keysOf(1), matrix([[1, 1]]), { step: 1 })).toThrow(/rows are staged already/);
      bank.discard();
      expect(() => bank.stage(keysOf(1), matrix([[1, 1]]), { step: 1, eventTimes: int32s(1) })).toThrow(
        /only in a bank with ttl/,
      );
      expect(() => bank.read(keysOf(1), { now: 1, sequence: 's', deciles: Uint8Array.of(10) })).toThrow(
        /expected deciles of 0 to 9 for 1 keys/,
      );
    });
    bank.dispose();
  });

  it('stages nothing of a call that it refuses', async () => {
    const bank = bankOf();
    tidy(() => {
      const row = matrix([[1, 1]]);
      expect(() => bank.stage(keysOf(1), reshape(row, [2, 1]), { step: 1 })).toThrow(
        /MemoryBank.stage: expected rows of shape \(n, 2\) but received \(2, 1\)/,
      );
      expect(() => bank.stage(keysOf(1, 2), row, { step: 1 })).toThrow(ShapeError);
      expect(() => bank.stage(keysOf(1), row, { step: -1 })).toThrow(/MemoryBank.stage: expected step .* received -1/);
      const deciles = Uint8Array.of(10);
      expect(() => bank.stage(keysOf(1), row, { step: 1, measure: true, deciles })).toThrow(/deciles of 0 to 9/);
      bank.write(keysOf(1), row, { step: 1 });
    });
    expect(await bank.stats()).toMatchObject({ rows: 1, inserted: 1 });
    bank.dispose();
  });
});
