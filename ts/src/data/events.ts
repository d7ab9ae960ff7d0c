/** Interactions in the form that splits, histories and the loader share: one row number per event, dense numbers throughout. */

import { DataError } from '../errors.js';

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

/** Ranks of exact times: `time[i]` is the index of `values[i]` in `times`, the ascending distinct values. NaN is an error with its row. */
export function rankTimes<T extends Float64Array | BigInt64Array>(values: T): { time: Int32Array; times: T } {
  const { low, high } = sortableWords(values);
  const order = radixOrder(low, high);
  const time = new Int32Array(values.length);
  let distinct = 0;
  for (let i = 0; i < order.length; i++) {
    const row = order[i]!;
    const before = order[i - 1]!;
    if (i > 0 && low[row] === low[before] && high[row] === high[before]) time[row] = distinct - 1;
    else time[row] = distinct++;
  }
  const times = new (values.constructor as new (length: number) => T)(distinct);
  for (let row = 0; row < values.length; row++) times[time[row]!] = values[row]!;
  return { time, times };
}

/** 64-bit values as unsigned words of 32 bits that sort as the values do: integers with their sign turned, floats by their bits. */
function sortableWords(values: Float64Array | BigInt64Array): { low: Uint32Array; high: Uint32Array } {
  const words = new Uint32Array(values.buffer, values.byteOffset, 2 * values.length);
  const low = new Uint32Array(values.length);
  const high = new Uint32Array(values.length);
  const isFloat = values instanceof Float64Array;
  for (let row = 0; row < values.length; row++) {
    let [l, h] = [words[2 * row]!, words[2 * row + 1]!];
    if (isFloat) {
      const value = values[row]!;
      if (Number.isNaN(value)) {
        throw new DataError('DATA_ROW', `time: expected a number in every row but row ${row} has none`, { row });
      }
      if (value === 0) h = 0; // -0 is 0
      if (h >= 0x8000_0000) {
        l = ~l;
        h = ~h;
      } else h ^= 0x8000_0000;
    } else h ^= 0x8000_0000;
    low[row] = l;
    high[row] = h;
  }
  return { low, high };
}

/** Row numbers in ascending order of (high, low), equal ones by row: a counting sort for each 16 bits in which rows differ. */
function radixOrder(low: Uint32Array, high: Uint32Array): Int32Array {
  let order = rowNumbers(low.length);
  let next: Int32Array = new Int32Array(low.length);
  for (const [words, shift] of [
    [low, 0],
    [low, 16],
    [high, 0],
    [high, 16],
  ] as const) {
    const starts = new Int32Array(0x1_0001);
    for (let row = 0; row < words.length; row++) starts[((words[row]! >>> shift) & 0xffff) + 1]!++;
    if (starts.includes(words.length)) continue; // all rows are equal here
    for (let digit = 0; digit < 0x1_0000; digit++) starts[digit + 1]! += starts[digit]!;
    for (let i = 0; i < order.length; i++) {
      const row = order[i]!;
      next[starts[(words[row]! >>> shift) & 0xffff]!++] = row;
    }
    [order, next] = [next, order];
  }
  return order;
}

/** Numbers of the rows whose flag is `value`, ascending. */
export function rowsWhere(flags: Uint8Array, value: number): Int32Array {
  let count = 0;
  for (let row = 0; row < flags.length; row++) if (flags[row] === value) count++;
  const rows = new Int32Array(count);
  let at = 0;
  for (let row = 0; row < flags.length; row++) if (flags[row] === value) rows[at++] = row;
  return rows;
}

/** Row numbers 0 .. n-1: the order that stands in for time where there is none. */
export function rowNumbers(n: number): Int32Array {
  const rows = new Int32Array(n);
  for (let i = 0; i < n; i++) rows[i] = i;
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
export function groupRows(
  groups: Int32Array,
  count: number,
  order: Int32Array = rowNumbers(groups.length),
): GroupedRows {
  const offsets = new Int32Array(count + 1);
  for (let i = 0; i < order.length; i++) offsets[groups[order[i]!]! + 1]!++;
  for (let g = 0; g < count; g++) offsets[g + 1]! += offsets[g]!;
  const next = offsets.slice();
  const rows = new Int32Array(order.length);
  for (let i = 0; i < order.length; i++) {
    const row = order[i]!;
    rows[next[groups[row]!]!++] = row;
  }
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

/** Row numbers by (time, row). Not to be written to: it is computed once. */
export function timeOrder(events: Events): Int32Array {
  const held = ordersOf(events);
  held.time ??= events.times === null ? rowNumbers(events.count) : groupRows(events.time, events.times.length).rows;
  return held.time;
}

/** Row numbers by (user, time, row). Not to be written to: it is computed once. */
export function userOrder(events: Events): GroupedRows {
  const held = ordersOf(events);
  held.user ??= groupRows(events.user, events.users, timeOrder(events));
  return held.user;
}

/** Gives back the memory of the orders: 8 bytes per event. */
export function forgetOrders(events: Events): void {
  orders.delete(events);
}
