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
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) {
      throw new DataError('DATA_ROW', `time: expected a number in every row but row ${i} has none`, { row: i });
    }
  }
  const sorted = values.slice().sort() as T;
  let distinct = 0;
  for (let i = 0; i < sorted.length; i++) {
    if (i === 0 || sorted[i] !== sorted[distinct - 1]) sorted[distinct++] = sorted[i]!;
  }
  const times = sorted.slice(0, distinct) as T;
  const time = new Int32Array(values.length);
  for (let i = 0; i < values.length; i++) time[i] = lowerBound(times, values[i]!);
  return { time, times };
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
): { rows: Int32Array; offsets: Int32Array } {
  const offsets = new Int32Array(count + 1);
  for (const row of order) offsets[groups[row]! + 1]!++;
  for (let g = 0; g < count; g++) offsets[g + 1]! += offsets[g]!;
  const next = offsets.slice();
  const rows = new Int32Array(order.length);
  for (const row of order) rows[next[groups[row]!]!++] = row;
  return { rows, offsets };
}

/** Row numbers by (time, row). */
export function timeOrder(events: Events): Int32Array {
  if (events.times === null) return rowNumbers(events.count);
  return groupRows(events.time, events.times.length).rows;
}
