import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { addon } from '../../src/native.js';
import { gatherRows } from '../../src/ops/gather_rows.js';
import {
  type BankState,
  emptyMemoryBank,
  gatherMemoryBank,
  joinMemoryBank,
  lookupMemoryBank,
  stageMemoryBank,
  type UpsertOptions,
  upsertMemoryBank,
} from '../../src/ops/memory_bank.js';
import { uniforms } from '../../src/random.js';
import { type DeviceName, type Tensor, tensor } from '../../src/tensor.js';
import { keep, tidy } from '../../src/tidy.js';
import '../property_seed.js';
import { bucketsOf, MemoryBankModel, type ModelRow } from '../memory_bank_model.js';
import { testDevices } from '../test_devices.js';
import { valuesOf } from '../values.js';

/** Where the tensors of a test lie. */
let on: DeviceName = 'cpu';
const int64s = (keys: readonly bigint[]) => tensor(BigInt64Array.from(keys), [keys.length], { device: on });
const int32s = (values: readonly number[]) => tensor(Int32Array.from(values), [values.length], { device: on });
const matrix = (rows: readonly (readonly number[])[], width: number) =>
  tensor(Float32Array.from(rows.flat()), [rows.length, width], { device: on });
const keysOf = async (x: Tensor) => Array.from((await x.data()) as BigInt64Array);

const limits = [0n, -1n, 1n, -(2n ** 63n), 2n ** 63n - 1n];

const arraysOf = (state: BankState): Tensor[] =>
  [state.fingerprints, state.keys, state.stamps, state.times, state.rows, state.counters].filter((x) => x !== null);

function disposeBank(state: BankState): void {
  for (const x of arraysOf(state)) x.dispose();
}

function bankOf(options: Parameters<typeof emptyMemoryBank>[0]): BankState {
  const state = emptyMemoryBank({ ...options, device: on });
  for (const x of arraysOf(state)) keep(x);
  return state;
}

const imageOf = (state: BankState) => Promise.all(arraysOf(state).map((x) => x.data()));

interface Outcome {
  keys: bigint[];
  source: number[];
  counts: number[];
}

/** Stages rows, reads what was staged, and writes it. */
function write(state: BankState, rows: readonly ModelRow[], options: UpsertOptions): void {
  tidy(() => {
    const width = state.rows.shape[1]!;
    const staged = stageMemoryBank(
      int64s(rows.map((row) => row.key)),
      matrix(
        rows.map((row) => row.row),
        width,
      ),
      {
        steps: int32s(rows.map((row) => row.step)),
        samples: int64s(rows.map((row) => BigInt(row.sample ?? 0))),
      },
    );
    const eventTimes = state.times ? int32s(rows.map((row) => row.time ?? 0)) : null;
    upsertMemoryBank(state, staged, { eventTimes, ...options });
  });
}

/** Fails unless every slot, row and counter of the bank is that of the model. */
async function expectEqual(state: BankState, model: MemoryBankModel): Promise<void> {
  const width = state.rows.shape[1]!;
  const fingerprints = await valuesOf(state.fingerprints);
  const keys = await keysOf(state.keys);
  const stamps = await valuesOf(state.stamps);
  const times = state.times ? await valuesOf(state.times) : null;
  const rows = await valuesOf(state.rows);
  const wanted = model.slots
    .flat()
    .map((entry) =>
      entry === null ? null : { key: entry.key, step: entry.step, time: times ? entry.time : 0, row: [...entry.row] },
    );
  const found = Array.from(keys, (key, s) =>
    fingerprints[s] === 0
      ? null
      : {
          key,
          step: stamps[s],
          time: times?.[s] ?? 0,
          row: Array.from(rows.subarray(s * width, (s + 1) * width)),
        },
  );
  expect(found).toEqual(wanted);
  expect((await keysOf(state.counters)).map(Number)).toEqual(Object.values(model.counters));
}

const row = (seed: number): readonly number[] => [seed, -seed / 2];

/** Keys of a bank with this many buckets that have a given bucket as both of theirs. */
function keysInBucket(bucket: number, buckets: number, seed: number, count: number): bigint[] {
  const keys: bigint[] = [];
  for (let key = -50n; keys.length < count; key++) {
    const [first, second] = bucketsOf(key, buckets, seed);
    if (first === bucket && second === bucket) keys.push(key);
  }
  return keys;
}

describe.each(testDevices)('on %s:', (device) => {
  beforeAll(() => {
    on = device;
  });
  afterAll(() => {
    on = 'cpu';
  });

  describe('memory bank against a model', () => {
    const entry = fc.record({
      key: fc.oneof(fc.constantFrom(...limits), fc.bigInt(-40n, 40n), fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n)),
      value: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 1, max: 1000 }) }, fc.constantFrom(0, Number.NaN)),
      back: fc.nat({ max: 2 }),
      time: fc.integer({ min: -5, max: 60 }),
      sample: fc.nat({ max: 3 }),
    });
    const batches = fc.array(fc.array(entry, { maxLength: 60 }), { minLength: 1, maxLength: 12 });

    it.each([
      { name: 'roomy', buckets: 64, timed: false, evict: true },
      { name: 'three buckets, past full', buckets: 3, timed: false, evict: true },
      { name: 'one bucket', buckets: 1, timed: false, evict: true },
      { name: 'full is full', buckets: 2, timed: false, evict: false },
      { name: 'time to live', buckets: 2, timed: true, evict: false },
      { name: 'time to live, else the oldest', buckets: 2, timed: true, evict: true },
    ])('$name', async ({ buckets, timed, evict }) => {
      await fc.assert(
        fc.asyncProperty(batches, fc.nat({ max: 5 }), async (operations, seed) => {
          const state = bankOf({ buckets, width: 2, times: timed, seed });
          const model = new MemoryBankModel(buckets, seed, timed);
          for (const [i, batch] of operations.entries()) {
            const now = i + 2;
            const rows = batch.map(({ key, value, back, time, sample }) => ({
              key,
              row: row(value),
              step: now - back,
              time,
              sample,
            }));
            const expiredBefore = timed ? 4 * i : null;
            write(state, rows, { now, evict, expiredBefore });
            model.upsert(rows, { evict, ...(expiredBefore === null ? {} : { expiredBefore }) });
          }
          await expectEqual(state, model);
          disposeBank(state);
        }),
        { numRuns: device === 'cpu' ? 25 : 2 },
      );
    });

    it('ten thousand rows, load 0.5 to past full: found rows, ages and losses', async () => {
      const last = device === 'cpu' ? 100 : 25;
      const buckets = 32;
      const state = bankOf({ buckets, width: 2, seed: 3 });
      const model = new MemoryBankModel(buckets, 3);
      const draws = uniforms(10_000, 1, 1);
      for (let now = 1; now <= last; now++) {
        const rows = Array.from({ length: 100 }, (_, i) => {
          const u = draws[(now - 1) * 100 + i]!;
          return { key: BigInt(Math.floor(u * u * 1200)), row: row(now * 1000 + i), step: now };
        });
        write(state, rows, { now });
        model.upsert(rows);
        if (now % 25 !== 0) continue;
        await expectEqual(state, model);
        const wanted = Array.from({ length: 1300 }, (_, i) => BigInt(i) - 50n);
        const { out, age, slot, again } = tidy(() => {
          const keys = int64s(wanted);
          const found = lookupMemoryBank(state, keys, { now: now + 5, maxAge: 40 });
          return {
            ...gatherMemoryBank(state, keys, { now: now + 5, maxAge: 40 }),
            slot: found.slot,
            again: gatherRows(state.rows, found.slot),
          };
        });
        const entries = wanted.map((key) => model.find(key));
        const fresh = entries.map((found) => (found && now + 5 - found.entry.step <= 40 ? found : null));
        expect(Array.from(await valuesOf(age))).toEqual(
          fresh.map((found) => (found ? now + 5 - found.entry.step : -1)),
        );
        expect(Array.from(await valuesOf(slot))).toEqual(fresh.map((found) => found?.slot ?? -1));
        expect(Array.from(await valuesOf(out))).toEqual(fresh.flatMap((found) => found?.entry.row ?? [0, 0]));
        expect(await valuesOf(again)).toEqual(await valuesOf(out));
        for (const x of [out, age, slot, again]) x.dispose();
      }
      expect(model.counters.evicted).toBeGreaterThan(last);
      disposeBank(state);
    });
  });

  describe('memory bank', () => {
    it('holds every key, the extremes too, and nothing else', async () => {
      const state = bankOf({ buckets: 2, width: 2 });
      write(
        state,
        limits.map((key, i) => ({ key, row: row(i + 1), step: 4 })),
        { now: 4 },
      );
      const { out, age } = tidy(() => gatherMemoryBank(state, int64s([...limits, 2n, -2n]), { now: 4 }));
      expect(Array.from(await valuesOf(age))).toEqual([0, 0, 0, 0, 0, -1, -1]);
      expect(Array.from(await valuesOf(out))).toEqual([1, 2, 3, 4, 5].flatMap(row).concat([0, 0, 0, 0]));
      for (const x of [out, age]) x.dispose();
      disposeBank(state);
    });

    it('all keys in one bucket: lowest empty slots, then the oldest, ties to the lowest slot', async () => {
      const [buckets, seed] = [4, 2];
      const keys = keysInBucket(1, buckets, seed, 20);
      const state = bankOf({ buckets, width: 2, seed });
      const model = new MemoryBankModel(buckets, seed);
      const steps = [
        keys.slice(0, 10).map((key) => ({ key, row: row(1), step: 1 })),
        keys.slice(10, 16).map((key) => ({ key, row: row(2), step: 2 })),
        [0, 3].map((k) => ({ key: keys[k]!, row: row(3), step: 3 })),
        keys.slice(16).map((key) => ({ key, row: row(4), step: 4 })), // evicts slots 1, 2, 4, 5
        keys.slice(0, 3).map((key) => ({ key, row: row(5), step: 1 })), // too old for all but its own
      ];
      for (const [i, rows] of steps.entries()) {
        write(state, rows, { now: i + 1 });
        model.upsert(rows);
      }
      await expectEqual(state, model);
      const stamps = Array.from(await valuesOf(state.stamps)).slice(16, 32);
      expect(stamps).toEqual([3, 4, 4, 3, 4, 4, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
      expect(model.counters).toEqual({ inserted: 20, updated: 2, evicted: 4, dropped: 2, refused: 0, superseded: 1 });
      disposeBank(state);
    });

    it('ages: never below 0, never past the largest int32, limited by maxAge', async () => {
      const state = bankOf({ buckets: 1, width: 2 });
      write(state, [{ key: 1n, row: row(1), step: 10 }], { now: 10 });
      const ageAt = async (now: number, maxAge: number | null) => {
        const { age, slot } = tidy(() => lookupMemoryBank(state, int64s([1n]), { now, maxAge }));
        const result = [await age.item(), await slot.item()];
        age.dispose();
        slot.dispose();
        return result;
      };
      expect(await ageAt(10, null)).toEqual([0, 0]);
      expect(await ageAt(5, 0)).toEqual([0, 0]);
      expect(await ageAt(13, 3)).toEqual([3, 0]);
      expect(await ageAt(14, 3)).toEqual([-1, -1]);
      expect(await ageAt(2 ** 31 - 1, null)).toEqual([2 ** 31 - 11, 0]);
      disposeBank(state);
    });

    it('a skipped step leaves every byte as it was', async () => {
      const state = bankOf({ buckets: 2, width: 2 });
      const model = new MemoryBankModel(2, 0);
      const first = [{ key: 5n, row: row(1), step: 1 }];
      write(state, first, { now: 1 });
      model.upsert(first);
      for (const factor of [Number.NaN, 0]) {
        const skipped = tensor([factor], [1], { dtype: 'float64', device: on });
        write(
          state,
          [
            { key: 5n, row: row(2), step: 2 },
            { key: 6n, row: row(Number.NaN), step: 2 },
          ],
          { now: 2, factor: skipped },
        );
        skipped.dispose();
      }
      await expectEqual(state, model);
      disposeBank(state);
    });

    it('reads and writes nothing at all', async () => {
      const state = bankOf({ buckets: 1, width: 2 });
      write(state, [], { now: 1 });
      const { out, age } = tidy(() => gatherMemoryBank(state, int64s([]), { now: 1 }));
      expect([out.shape, age.shape]).toEqual([[0, 2], [0]]);
      await expectEqual(state, new MemoryBankModel(1, 0));
      for (const x of [out, age]) x.dispose();
      disposeBank(state);
    });

    it.each(['float64', 'bfloat16'] as const)('holds rows of %s', async (dtype) => {
      if (dtype === 'float64' && device !== 'cpu') return; // no such dtype there
      const state = bankOf({ buckets: 1, width: 3, dtype });
      const values = [1, 2, 3, 0, 0, 0, 4, Number.POSITIVE_INFINITY, 5, 0, -0, 2 ** -100];
      const { out, age } = tidy(() => {
        const rows = tensor(values, [4, 3], { dtype, device: on });
        upsertMemoryBank(state, stageMemoryBank(int64s([7n, 8n, 9n, 10n]), rows), { now: 1 });
        return gatherMemoryBank(state, int64s([10n, 9n, 8n, 7n]), { now: 1 });
      });
      expect(Array.from(await valuesOf(age))).toEqual([0, -1, -1, 0]);
      expect(Array.from(await out.values(), Number)).toEqual([
        0,
        -0,
        Math.fround(2 ** -100),
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        2,
        3,
      ]);
      for (const x of [out, age]) x.dispose();
      disposeBank(state);
    });
  });

  describe('staged rows', () => {
    it('are distinct, ascending, the newest of each key, without the refused ones', async () => {
      const outcome = async (staged: ReturnType<typeof stageMemoryBank>): Promise<Outcome> => ({
        keys: await keysOf(staged.keys),
        source: Array.from(await valuesOf(staged.source)),
        counts: Array.from(await valuesOf(staged.counts)),
      });
      const keys = [9n, -3n, 9n, 4n, -3n, 9n];
      const rows = [[1], [2], [3], [0], [5], [Number.NaN]];
      const scope = (options: { steps?: number[]; samples?: bigint[] }) =>
        tidy(() =>
          stageMemoryBank(int64s(keys), matrix(rows, 1), {
            ...(options.steps ? { steps: int32s(options.steps) } : {}),
            ...(options.samples ? { samples: int64s(options.samples) } : {}),
          }),
        );
      const expected = (source: number[]) => ({
        keys: [-3n, 9n, -1n, -1n, -1n, -1n],
        source: [...source, -1, -1, -1, -1],
        counts: [2, 2, 2],
      });
      expect(await outcome(scope({}))).toEqual(expected([4, 2]));
      expect(await outcome(scope({ steps: [2, 1, 1, 9, 1, 9] }))).toEqual(expected([4, 0]));
      expect(await outcome(scope({ steps: [2, 1, 2, 9, 1, 9], samples: [5n, 3n, 4n, 0n, 2n, 9n] }))).toEqual(
        expected([1, 0]),
      );
    });

    it('are read first, with age 0, and joined onto rows that were read before', async () => {
      const state = bankOf({ buckets: 2, width: 2 });
      write(
        state,
        [
          { key: 1n, row: row(1), step: 1 },
          { key: 2n, row: row(2), step: 1 },
        ],
        { now: 1 },
      );
      const wanted = [2n, 3n, 1n, 4n, 3n, -1n];
      const results = tidy(() => {
        const keys = int64s(wanted);
        const before = gatherMemoryBank(state, keys, { now: 6 });
        const staged = stageMemoryBank(int64s([3n, 2n]), matrix([row(30), row(20)], 2));
        const fused = gatherMemoryBank(state, keys, { now: 6, staged });
        const joined = joinMemoryBank(before.out, before.age, keys, staged);
        return [fused.out, joined.out, fused.age, joined.age];
      });
      const [fused, joined, fusedAge, joinedAge] = await Promise.all(results.map(valuesOf));
      expect(Array.from(fused!)).toEqual([20, 30, 1, 0, 30, 0].flatMap((x) => [x, -x / 2]).map((x) => x + 0));
      expect(Array.from(fusedAge!)).toEqual([0, 0, 5, -1, 0, -1]);
      expect([joined, joinedAge]).toEqual([fused, fusedAge]);
      for (const x of results) x.dispose();
      disposeBank(state);
    });

    it('receive the sum of the gradients of the places that read them', async () => {
      const state = bankOf({ buckets: 2, width: 2 });
      write(state, [{ key: 1n, row: row(1), step: 1 }], { now: 1 });
      const wanted = [5n, 1n, 7n, 5n, 9n];
      const dout = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
      for (const how of ['gather', 'join'] as const) {
        const live = parameter(matrix([row(5), [0, 0], row(7), row(55)], 2));
        tidy(() => {
          const keys = int64s(wanted);
          const staged = stageMemoryBank(int64s([5n, 9n, 7n, 5n]), live); // row 1 is refused, row 0 superseded
          const before = gatherMemoryBank(state, keys, { now: 2 });
          const { out } =
            how === 'gather'
              ? gatherMemoryBank(state, keys, { now: 2, staged })
              : joinMemoryBank(before.out, before.age, keys, staged);
          backward(out, tensor(dout, [5, 2], { device: on }));
        });
        const grad = await valuesOf(live.grad as Tensor);
        expect(Array.from(grad)).toEqual([0, 0, 0, 0, 5, 6, 1 + 7, 2 + 8]);
        (live.grad as Tensor).dispose();
        live.dispose();
      }
      disposeBank(state);
    });
  });
});

/** The same random writes into a bank on `device`; its bytes. */
async function imageAfter(device: DeviceName, dtype: 'float32' | 'bfloat16', width: number): Promise<unknown> {
  on = device;
  const state = bankOf({ buckets: 9, width, dtype, times: true, seed: 7 });
  const draws = uniforms(6 * 150, 2, 2);
  for (let now = 1; now <= 6; now++) {
    const u = Array.from(draws.subarray((now - 1) * 150, now * 150));
    tidy(() => {
      const values = u.flatMap((x) => Array.from({ length: width }, (_, d) => (x < 0.02 ? Number.NaN : x + d)));
      const rows = tensor(values, [u.length, width], { dtype, device });
      const staged = stageMemoryBank(int64s(u.map((x) => BigInt(Math.floor(x * 500 * now)))), rows, {
        steps: int32s(u.map((x) => now - (Math.floor(x * 30) % 2))),
      });
      const eventTimes = int32s(u.map((x) => now * 10 - Math.floor(x * 7)));
      upsertMemoryBank(state, staged, { now, eventTimes, expiredBefore: now * 8 - 20, evict: now % 2 === 0 });
    });
  }
  const image = await imageOf(state);
  disposeBank(state);
  on = 'cpu';
  return image;
}

describe.each(testDevices.filter((device) => device !== 'cpu'))('banks on %s and on the CPU', (device) => {
  it.each([
    ['float32', 4],
    ['float32', 5],
    ['bfloat16', 8],
    ['bfloat16', 3],
  ] as const)('%s, rows of %i: equal bytes, whatever the grid', async (dtype, width) => {
    const expected = await imageAfter('cpu', dtype, width);
    for (const blocks of [0, 1, 3]) {
      addon.testGridLimit(blocks);
      expect(await imageAfter(device, dtype, width)).toEqual(expected);
    }
    addon.testGridLimit(0);
  });
});

describe('threads and order', () => {
  const before = addon.info().threads;
  beforeAll(() => addon.setThreads(2));
  afterAll(() => addon.setThreads(before));

  it('change no byte', async () => {
    const rows = Array.from(uniforms(20_000, 5, 5), (u, i) => ({
      key: BigInt(Math.floor(u * 9000)),
      row: row(i + 1),
      step: 1 + (i % 3),
      sample: i,
    }));
    const shuffled = Array.from(uniforms(rows.length, 6, 6), (u, i) => ({ u, row: rows[i]! }))
      .sort((a, b) => a.u - b.u)
      .map((x) => x.row);
    const images: unknown[] = [];
    for (const [threads, list] of [
      [1, rows],
      [2, rows],
      [2, shuffled],
    ] as const) {
      addon.setThreads(threads);
      const state = bankOf({ buckets: 400, width: 2 });
      write(state, list, { now: 4 });
      images.push(
        await Promise.all(
          [state.fingerprints, state.keys, state.stamps, state.rows, state.counters].map((x) => x.data()),
        ),
      );
      disposeBank(state);
    }
    expect(images[1]).toEqual(images[0]);
    expect(images[2]).toEqual(images[0]);
  });
});

describe('memory bank refuses', () => {
  it('shapes, dtypes and numbers that do not fit', () => {
    tidy(() => {
      const state = emptyMemoryBank({ buckets: 2, width: 2 });
      const keys = int64s([1n]);
      expect(() => emptyMemoryBank({ buckets: 0, width: 2 })).toThrow(/expected buckets to be an integer in \[1, /);
      expect(() => emptyMemoryBank({ buckets: 1, width: 2, seed: 0.5 })).toThrow(/expected seed to be an integer/);
      expect(() => gatherMemoryBank(state, int32s([1]), { now: 0 })).toThrow(/expected wanted to be int64/);
      expect(() => gatherMemoryBank(state, keys, { now: -1 })).toThrow(/expected now to be an integer in \[0, /);
      expect(() => lookupMemoryBank(state, keys, { now: 1, maxAge: -1 })).toThrow(/expected maxAge to be an integer/);
      expect(() => stageMemoryBank(keys, matrix([[1], [2]], 1))).toThrow(/expected rows of shape \(n=1, D\)/);
      expect(() => stageMemoryBank(keys, int32s([1]))).toThrow(/expected rows to be float32, float64 or bfloat16/);
      const wide = stageMemoryBank(keys, matrix([[1, 2, 3]], 3));
      expect(() => upsertMemoryBank(state, wide, { now: 1 })).toThrow(/expected stagedRows of shape \(n=1, D=2\)/);
      expect(() => gatherMemoryBank(state, keys, { now: 1, staged: wide })).toThrow(/stagedRows of shape/);
      const staged = stageMemoryBank(keys, matrix([[1, 2]], 2));
      expect(() => upsertMemoryBank(state, staged, { now: 1, eventTimes: int32s([1]) })).toThrow(
        /expected eventTimes to be absent for a bank without times/,
      );
      const { rows } = emptyMemoryBank({ buckets: 1, width: 2 });
      expect(() => gatherMemoryBank({ ...state, rows }, keys, { now: 1 })).toThrow(/received 16 rows for 2 buckets/);
    });
  });
});
