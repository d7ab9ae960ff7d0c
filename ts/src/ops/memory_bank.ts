/**
 * Rows by 64-bit key, in buckets of 16 slots: look-up, staging, gather with the rows of this step, and deterministic upsert. These are
 * the calls that `MemoryBank` (nn/memory_bank.ts) is made of. Nothing is read back from the device; CPU and CUDA banks stay equal to the byte.
 */
import { defineOp } from '../autograd.js';
import { ArgumentError, DtypeError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { type DeviceName, empty, type Tensor, zeros } from '../tensor.js';

/** Slots of a bucket: a key may live in any slot of two buckets. */
export const bucketWidth = 16;

const maxBuckets = 2 ** 27 - 1; // row numbers are int32

export type BankDtype = 'float32' | 'float64' | 'bfloat16';

/** The arrays of a bank. Row 16 b + s belongs to slot s of bucket b. 13 bytes per slot beside the row, 17 with `times`. */
export interface BankState {
  /** (buckets, 16) uint8, 0 = empty slot. */
  readonly fingerprints: Tensor;
  /** (buckets, 16) int64. */
  readonly keys: Tensor;
  /** (buckets, 16) int32: step of the last write. */
  readonly stamps: Tensor;
  /** (buckets, 16) int32: event time of the last write, or null. */
  readonly times: Tensor | null;
  /** (16 buckets, D). */
  readonly rows: Tensor;
  /** (6) int64: rows inserted, updated, evicted, dropped, refused, superseded. */
  readonly counters: Tensor;
  /** Of the hash. Part of the state: another seed finds nothing. */
  readonly seed: number;
}

/** What a step wants to write: the result of `stageMemoryBank`. */
export interface StagedBankRows {
  /** (n) int64: distinct keys, ascending; -1 behind the first counts[0]. */
  readonly keys: Tensor;
  /** (n) int32: which row belongs to each of them; -1 behind the first counts[0]. */
  readonly source: Tensor;
  /** (3) int32: rows staged, refused, superseded by a newer one of the same key. */
  readonly counts: Tensor;
  /** (n, D), as they were given. */
  readonly rows: Tensor;
  /** (n) int32 or null. */
  readonly steps: Tensor | null;
}

function checksOf<T extends BankDtype>(dtype: T) {
  const rows = `n D:${dtype}` as const;
  const table = { fingerprints: 'K 16:uint8', keys: 'K 16:int64', stamps: 'K 16:int32', rows: `S D:${dtype}` } as const;
  const staged = {
    stagedKeys: 'n:int64?',
    source: 'n:int32?',
    counts: '3:int32?',
    stagedRows: `n D:${dtype}?`,
  } as const;
  return {
    stage: shapes('stageMemoryBank', { keys: 'n:int64', rows, steps: 'n:int32?', samples: 'n:int64?' }),
    lookup: shapes('lookupMemoryBank', { ...table, wanted: 'T:int64' }),
    gather: shapes('gatherMemoryBank', { ...table, wanted: 'T:int64', ...staged }),
    join: shapes('joinMemoryBank', { rows: `T D:${dtype}`, age: 'T:int32', wanted: 'T:int64', ...staged }),
    upsert: shapes('upsertMemoryBank', {
      ...table,
      times: 'K 16:int32?',
      counters: '6:int64',
      ...staged,
      steps: 'n:int32?',
      eventTimes: 'n:int32?',
      factor: '1:float64?',
    }),
  };
}

const checks = { float32: checksOf('float32'), float64: checksOf('float64'), bfloat16: checksOf('bfloat16') };

function checksFor(op: string, rows: Tensor) {
  const { dtype } = rows;
  if (dtype === 'float32' || dtype === 'float64' || dtype === 'bfloat16') return checks[dtype];
  throw new DtypeError(`${op}: expected rows to be float32, float64 or bfloat16 but received ${dtype}`, {
    op,
    argument: 'rows',
  });
}

/** Throws `ArgumentError` unless `value` is an integer in [least, most]. */
export function checkInteger(op: string, argument: string, value: number, least: number, most: number): void {
  if (!Number.isSafeInteger(value) || value < least || value > most)
    throw new ArgumentError(
      `${op}: expected ${argument} to be an integer in [${least}, ${most}] but received ${value}`,
      { op, argument },
    );
}

function checkStep(op: string, now: number, maxAge: number | null): void {
  checkInteger(op, 'now', now, 0, 2 ** 31 - 1);
  if (maxAge !== null) checkInteger(op, 'maxAge', maxAge, 0, Number.MAX_SAFE_INTEGER);
}

function checkTable(op: string, state: BankState): void {
  const [buckets, rows] = [state.fingerprints.shape[0] ?? 0, state.rows.shape[0] ?? 0];
  if (buckets === 0 || rows !== buckets * bucketWidth)
    throw new ShapeError(
      `${op}: expected rows of shape (16 x buckets, D) with at least one bucket but received ${rows} rows for ${buckets} buckets`,
      { op, argument: 'rows' },
    );
}

function stagedArguments(staged: StagedBankRows | null) {
  return {
    stagedKeys: staged?.keys ?? null,
    source: staged?.source ?? null,
    counts: staged?.counts ?? null,
    stagedRows: staged?.rows ?? null,
  };
}

/** The arrays of an empty bank with 16 x `buckets` slots for rows of `width` elements. */
export function emptyMemoryBank({
  buckets,
  width,
  dtype = 'float32',
  device = 'cpu',
  times = false,
  seed = 0,
}: {
  buckets: number;
  width: number;
  dtype?: BankDtype;
  device?: DeviceName;
  times?: boolean;
  seed?: number;
}): BankState {
  checkInteger('emptyMemoryBank', 'buckets', buckets, 1, maxBuckets);
  checkInteger('emptyMemoryBank', 'width', width, 1, 2 ** 31 - 1);
  checkInteger('emptyMemoryBank', 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
  const slots = [buckets, bucketWidth];
  return {
    fingerprints: zeros(slots, { dtype: 'uint8', device }),
    keys: zeros(slots, { dtype: 'int64', device }),
    stamps: zeros(slots, { dtype: 'int32', device }),
    times: times ? zeros(slots, { dtype: 'int32', device }) : null,
    rows: zeros([buckets * bucketWidth, width], { dtype, device }),
    counters: zeros([6], { dtype: 'int64', device }),
    seed,
  };
}

/**
 * Where `wanted` (T) int64 lie: `slot` (T) int32, row numbers for `gatherRows(state.rows, slot)`, and `age` (T) int32, steps since the
 * last write. Both -1 where a key is not in the bank, or was written more than `maxAge` steps before `now`.
 */
export function lookupMemoryBank(
  state: BankState,
  wanted: Tensor,
  { now, maxAge = null }: { now: number; maxAge?: number | null },
): { slot: Tensor; age: Tensor } {
  const op = 'lookupMemoryBank';
  const { fingerprints, keys, stamps, rows, seed } = state;
  const { T } = checksFor(op, rows).lookup({ fingerprints, keys, stamps, rows, wanted });
  checkTable(op, state);
  checkStep(op, now, maxAge);
  const slot = empty([T], { dtype: 'int32', device: rows.device });
  const age = empty([T], slot);
  native.memory_bank_lookup(
    fingerprints.handle,
    keys.handle,
    stamps.handle,
    wanted.handle,
    slot.handle,
    age.handle,
    seed,
    now,
    maxAge ?? -1,
  );
  return { slot, age };
}

/**
 * Makes rows (n, D) with keys (n) int64 ready to be read in this step and written at its end. Rows that are zero or not finite are
 * refused. Of several rows with one key the newest stays: the highest of `steps` (n) int32, then the highest of `samples` (n) int64
 * (their global numbers), then the last. No gradient passes through the choice.
 */
export function stageMemoryBank(
  keys: Tensor,
  rows: Tensor,
  { steps = null, samples = null }: { steps?: Tensor | null; samples?: Tensor | null } = {},
): StagedBankRows {
  const { n } = checksFor('stageMemoryBank', rows).stage({ keys, rows, steps, samples });
  const stagedKeys = empty([n], keys);
  const source = empty([n], { dtype: 'int32', device: keys.device });
  const counts = empty([3], source);
  native.memory_bank_stage(
    keys.handle,
    rows.handle,
    steps?.handle ?? null,
    samples?.handle ?? null,
    stagedKeys.handle,
    source.handle,
    counts.handle,
  );
  return { keys: stagedKeys, source, counts, rows, steps };
}

/** Gradient of the staged rows: the sum over the places that read each of them. A kernel of gatherRows does it. */
function backwardToStaged(dout: Tensor, joined: Tensor, stagedRows: Tensor): Tensor {
  const drows = empty(stagedRows.shape, stagedRows);
  native.gather_rows_backward(dout.handle, joined.handle, drows.handle);
  return drows;
}

interface ReadOutputs {
  readonly age: Tensor;
  readonly joined: Tensor | null;
}

const gather = defineOp({
  name: 'gatherMemoryBank',
  forward(
    [stagedRows]: readonly [Tensor | null],
    {
      state: { fingerprints, keys, stamps, rows, seed },
      wanted,
      staged,
      now,
      maxAge,
      age,
      joined,
    }: ReadOutputs & {
      state: BankState;
      wanted: Tensor;
      staged: StagedBankRows | null;
      now: number;
      maxAge: number | null;
    },
  ) {
    const out = empty([wanted.size, rows.shape[1]!], rows);
    native.memory_bank_gather(
      fingerprints.handle,
      keys.handle,
      stamps.handle,
      rows.handle,
      wanted.handle,
      staged?.keys.handle ?? null,
      staged?.source.handle ?? null,
      staged?.counts.handle ?? null,
      stagedRows?.handle ?? null,
      out.handle,
      age.handle,
      joined?.handle ?? null,
      seed,
      now,
      maxAge ?? -1,
    );
    return { out, saved: [joined, stagedRows] };
  },
  backward(dout, [joined, stagedRows]) {
    return [joined === null || stagedRows === null ? null : backwardToStaged(dout, joined, stagedRows)];
  },
});

/**
 * Rows of `wanted` (T) int64: `out` (T, D), the staged row where there is one, else the bank's, else zero. `age` (T) int32: steps since
 * the row was written, 0 if staged in this step, -1 if there is none, or none within `maxAge` steps. The gradient of `out` goes to
 * `staged.rows`, if they require one; to the bank there is none.
 */
export function gatherMemoryBank(
  state: BankState,
  wanted: Tensor,
  { staged = null, now, maxAge = null }: { staged?: StagedBankRows | null; now: number; maxAge?: number | null },
): { out: Tensor; age: Tensor } {
  const name = 'gatherMemoryBank';
  const { fingerprints, keys, stamps, rows } = state;
  const { T } = checksFor(name, rows).gather({ fingerprints, keys, stamps, rows, wanted, ...stagedArguments(staged) });
  checkTable(name, state);
  checkStep(name, now, maxAge);
  const age = empty([T], { dtype: 'int32', device: rows.device });
  const joined = staged?.rows.requiresGrad ? empty([T], age) : null;
  return { out: gather([staged?.rows ?? null], { state, wanted, staged, now, maxAge, age, joined }), age };
}

const join = defineOp({
  name: 'joinMemoryBank',
  forward(
    [stagedRows]: readonly [Tensor],
    {
      rows,
      rowAge,
      wanted,
      staged,
      age,
      joined,
    }: { rows: Tensor; rowAge: Tensor; wanted: Tensor; staged: StagedBankRows; age: Tensor; joined: Tensor },
  ) {
    const out = empty(rows.shape, rows);
    native.memory_bank_join(
      rows.handle,
      rowAge.handle,
      wanted.handle,
      staged.keys.handle,
      staged.source.handle,
      staged.counts.handle,
      stagedRows.handle,
      out.handle,
      age.handle,
      joined.handle,
    );
    return { out, saved: [joined, stagedRows] };
  },
  backward(dout, [joined, stagedRows]) {
    return [backwardToStaged(dout, joined, stagedRows)];
  },
});

/**
 * Rows (T, D) and ages (T) that were gathered by `wanted` (T) before `staged` was: staged rows replace them, with age 0, the others are
 * copied. The gradient of `out` goes to `staged.rows`; `rows` come from the bank and have none.
 */
export function joinMemoryBank(
  rows: Tensor,
  age: Tensor,
  wanted: Tensor,
  staged: StagedBankRows,
): { out: Tensor; age: Tensor } {
  checksFor('joinMemoryBank', rows).join({ rows, age, wanted, ...stagedArguments(staged) });
  const joinedAge = empty(age.shape, age);
  const joined = empty(age.shape, age);
  return { out: join([staged.rows], { rows, rowAge: age, wanted, staged, age: joinedAge, joined }), age: joinedAge };
}

export interface UpsertOptions {
  /** The step: stamp of rows whose `staged.steps` are not given. */
  readonly now: number;
  /** (1) float64, the optimizer's clip factor: nothing at all is written where it is NaN or 0. */
  readonly factor?: Tensor | null;
  /** (n) int32, event times of the staged rows: for a bank with `times`. */
  readonly eventTimes?: Tensor | null;
  /** In a bank with `times`, slots last written before this time may be taken when their bucket is full. */
  readonly expiredBefore?: number | null;
  /** Whether a new key in a full bucket takes the slot with the oldest stamp, if that is older than its own step. Default true. */
  readonly evict?: boolean;
}

/**
 * Writes staged rows into the bank, the same bytes whatever the order of rows with different keys and the number of threads. A known
 * key keeps its slot; a row older than what is there is superseded. A new key goes to the emptier of its two buckets: to an empty slot,
 * else an expired one, else (`evict`) the one written the longest time ago, else it is dropped. Every outcome is counted.
 */
export function upsertMemoryBank(
  state: BankState,
  staged: StagedBankRows,
  { now, factor = null, eventTimes = null, expiredBefore = null, evict = true }: UpsertOptions,
): void {
  const op = 'upsertMemoryBank';
  const { fingerprints, keys, stamps, times, rows, counters, seed } = state;
  const { steps } = staged;
  const table = { fingerprints, keys, stamps, times, rows, counters };
  checksFor(op, rows).upsert({ ...table, ...stagedArguments(staged), steps, eventTimes, factor });
  checkTable(op, state);
  checkStep(op, now, null);
  if ((times === null) !== (eventTimes === null))
    throw new ArgumentError(
      `${op}: expected eventTimes ${times === null ? 'to be absent for a bank without times' : 'for a bank with times'}`,
      { op, argument: 'eventTimes' },
    );
  if (expiredBefore !== null) checkInteger(op, 'expiredBefore', expiredBefore, -(2 ** 31), 2 ** 31);
  native.memory_bank_upsert(
    fingerprints.handle,
    keys.handle,
    stamps.handle,
    times?.handle ?? null,
    rows.handle,
    counters.handle,
    staged.keys.handle,
    staged.source.handle,
    staged.counts.handle,
    staged.rows.handle,
    steps?.handle ?? null,
    eventTimes?.handle ?? null,
    factor?.handle ?? null,
    seed,
    now,
    expiredBefore ?? -(2 ** 31),
    evict,
  );
}
