/** Interactions in the form that splits, histories and the loader share: one row number per event, dense numbers throughout. */

import { DataError } from '../errors.js';
import { sharedInt32 } from './text/token_store.js';
import { atOnce, type Pass, slices, zeroed } from './turns.js';

/** Part codes of `Split.part`. */
export const PARTS = ['train', 'valid', 'test'] as const;
export type PartName = (typeof PARTS)[number];
export const TRAIN = 0;
export const VALID = 1;
export const TEST = 2;

/** n events. Users and items are dense numbers; items index the item table. */
export interface Events {
  readonly count: number;
  readonly users: number;
  readonly items: number;
  /** (n) */
  readonly user: Int32Array;
  /** (n) */
  readonly item: Int32Array;
  /** (n) place of the event's time among the distinct times: equal numbers are equal times. The row number where there is no time column. */
  readonly time: Int32Array;
  /** Distinct times, ascending; null where there is no time column. */
  readonly times: Float64Array | BigInt64Array | null;
}

/** Ranks of exact times: `time[i]` is the index of `values[i]` in `times`, the ascending distinct values. What is not finite is an error with its row. */
export function rankTimes<T extends Float64Array | BigInt64Array>(values: T): { time: Int32Array; times: T } {
  return atOnce(rankTimesPass(values));
}

/** `rankTimes` in slices; `order`: row numbers by (time, row). */
export function* rankTimesPass<T extends Float64Array | BigInt64Array>(
  values: T,
): Pass<{ time: Int32Array; times: T; order: Int32Array }> {
  const { low, high } = yield* sortableWords(values);
  const order = yield* radixOrder(low, high);
  const time = yield* zeroed(sharedInt32(values.length));
  let [distinct, beforeLow, beforeHigh] = [0, 0, 0];
  yield* slices(order.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const row = order[i]!;
      const [l, h] = [low[row]!, high[row]!];
      if (distinct === 0 || l !== beforeLow || h !== beforeHigh) distinct++;
      time[row] = distinct - 1;
      beforeLow = l;
      beforeHigh = h;
    }
  });
  const times = new (values.constructor as new (length: number) => T)(distinct);
  yield* zeroed(new Uint8Array(times.buffer));
  yield* slices(values.length, (from, to) => {
    for (let row = from; row < to; row++) times[time[row]!] = values[row]!;
  });
  return { time, times, order };
}

/** 64-bit values as words of 32 bits that sort, without their sign, as the values do: integers with their sign turned, floats by their bits. */
function* sortableWords(values: Float64Array | BigInt64Array): Pass<{ low: Int32Array; high: Int32Array }> {
  const words = new Int32Array(values.buffer, values.byteOffset, 2 * values.length);
  const low = new Int32Array(values.length);
  const high = new Int32Array(values.length);
  const floats = values instanceof Float64Array ? values : null;
  yield* slices(values.length, (from, to) => {
    for (let row = from; row < to; row++) {
      let l = words[2 * row]!;
      let h = words[2 * row + 1]!;
      if (floats !== null) {
        const value = floats[row]!;
        if (!Number.isFinite(value)) {
          const has = Number.isNaN(value) ? 'none' : String(value);
          throw new DataError('DATA_ROW', `time: expected a finite number in every row but row ${row} has ${has}`, {
            row,
          });
        }
        if (value === 0) h = 0; // -0 is 0
      }
      if (floats !== null && h < 0) {
        l = ~l;
        h = ~h;
      } else h ^= 0x8000_0000;
      low[row] = l;
      high[row] = h;
    }
  });
  return { low, high };
}

/** Row numbers in ascending order of (high, low), equal ones by row: a counting sort for each 16 bits in which rows differ. */
function* radixOrder(low: Int32Array, high: Int32Array): Pass<Int32Array> {
  let order = yield* rowNumbersPass(low.length);
  let next: Int32Array = yield* zeroed(new Int32Array(low.length));
  for (const [words, shift] of [
    [low, 0],
    [low, 16],
    [high, 0],
    [high, 16],
  ] as const) {
    const starts = new Int32Array(0x1_0001);
    yield* slices(words.length, (from, to) => {
      for (let row = from; row < to; row++) starts[((words[row]! >>> shift) & 0xffff) + 1]!++;
    });
    if (starts.includes(words.length)) continue; // all rows are equal here
    for (let digit = 0; digit < 0x1_0000; digit++) starts[digit + 1]! += starts[digit]!;
    const [read, written] = [order, next];
    yield* slices(read.length, (from, to) => {
      for (let i = from; i < to; i++) {
        const row = read[i]!;
        written[starts[(words[row]! >>> shift) & 0xffff]!++] = row;
      }
    });
    [order, next] = [written, read];
  }
  return order;
}

/** Numbers of the rows whose flag is `value`, ascending. */
export function rowsWhere(flags: Uint8Array, value: number): Int32Array {
  return atOnce(rowsWherePass(flags, value));
}

/** `rowsWhere` in slices, over shared memory. */
export function* rowsWherePass(flags: Uint8Array, value: number): Pass<Int32Array> {
  let count = 0;
  yield* slices(flags.length, (from, to) => {
    for (let row = from; row < to; row++) if (flags[row] === value) count++;
  });
  const rows = sharedInt32(count);
  let at = 0;
  yield* slices(flags.length, (from, to) => {
    for (let row = from; row < to; row++) if (flags[row] === value) rows[at++] = row;
  });
  return rows;
}

/** The rows that `keeps` says yes to, in their order, over shared memory. */
export function* rowsKept(rows: Int32Array, keeps: (row: number) => boolean): Pass<Int32Array> {
  const flags = new Uint8Array(rows.length);
  yield* slices(rows.length, (from, to) => {
    for (let i = from; i < to; i++) if (keeps(rows[i]!)) flags[i] = 1;
  });
  const kept = yield* rowsWherePass(flags, 1);
  yield* slices(kept.length, (from, to) => {
    for (let i = from; i < to; i++) kept[i] = rows[kept[i]!]!;
  });
  return kept;
}

/** Row numbers 0 .. n-1: the order that stands in for time where there is none. */
export function rowNumbers(n: number): Int32Array {
  return atOnce(rowNumbersPass(n));
}

export function* rowNumbersPass(n: number): Pass<Int32Array> {
  const rows = new Int32Array(n);
  yield* slices(n, (from, to) => {
    for (let i = from; i < to; i++) rows[i] = i;
  });
  return rows;
}

/** First index whose value is not below `value`, in [from, to). */
export function lowerBound(
  sorted: ArrayLike<number> | ArrayLike<bigint>,
  value: number | bigint,
  from = 0,
  to = sorted.length,
): number {
  let low = from;
  let high = to;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Rows of each group, in the order given: rows of group g are `rows[offsets[g] .. offsets[g+1])`. A stable counting sort. */
export function groupRows(groups: Int32Array, count: number, order?: Int32Array): GroupedRows {
  return atOnce(groupRowsPass(groups, count, order));
}

export function* groupRowsPass(groups: Int32Array, count: number, order: Int32Array | null = null): Pass<GroupedRows> {
  const offsets = yield* zeroed(new Int32Array(count + 1));
  const length = order?.length ?? groups.length;
  yield* slices(length, (from, to) => {
    for (let i = from; i < to; i++) offsets[groups[order === null ? i : order[i]!]! + 1]!++;
  });
  yield* slices(count, (from, to) => {
    for (let g = from; g < to; g++) offsets[g + 1]! += offsets[g]!;
  });
  const next = offsets.slice();
  const rows = yield* zeroed(new Int32Array(length));
  yield* slices(length, (from, to) => {
    for (let i = from; i < to; i++) {
      const row = order === null ? i : order[i]!;
      rows[next[groups[row]!]!++] = row;
    }
  });
  return { rows, offsets };
}

/** Row numbers grouped by one number: those of group g are `rows[offsets[g] .. offsets[g+1])`. */
export interface GroupedRows {
  readonly rows: Int32Array;
  readonly offsets: Int32Array;
}

/** Orders that splits, histories and checks of the same events share, until `forgetOrders`. */
const orders = new WeakMap<Events, { time?: Int32Array; user?: GroupedRows }>();

function ordersOf(events: Events): { time?: Int32Array; user?: GroupedRows } {
  let held = orders.get(events);
  if (held === undefined) orders.set(events, (held = {}));
  return held;
}

/** Tells the order by (time, row) that is known from ranking the times. */
export function holdTimeOrder(events: Events, order: Int32Array): void {
  ordersOf(events).time = order;
}

/** Row numbers by (time, row). Not to be written to: it is computed once. */
export function* timeOrder(events: Events): Pass<Int32Array> {
  const held = ordersOf(events);
  held.time ??=
    events.times === null
      ? yield* rowNumbersPass(events.count)
      : (yield* groupRowsPass(events.time, events.times.length)).rows;
  return held.time;
}

/** Row numbers by (user, time, row). Not to be written to: it is computed once. */
export function* userOrder(events: Events): Pass<GroupedRows> {
  const held = ordersOf(events);
  held.user ??= yield* groupRowsPass(events.user, events.users, yield* timeOrder(events));
  return held.user;
}

/** Gives back the memory of the orders: 8 bytes per event. */
export function forgetOrders(events: Events): void {
  orders.delete(events);
}
