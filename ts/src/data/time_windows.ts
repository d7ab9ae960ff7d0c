/** The train part in time order, cut into windows: for training on a stream, where each window is scored before it is trained on. */

import { groupRows } from './events.js';
import type { BatchColumns } from './loader/batch_source.js';

type Columns = Pick<BatchColumns, 'time' | 'sessions' | 'parts'>;
type Unit = 'row' | 'session';

/** Units of the train part by the time of their first row, then by number. */
interface OrderedUnits {
  readonly order: Int32Array;
  /** By unit: ranks of the first and of the last time in it. */
  readonly first: Int32Array;
  readonly last: Int32Array;
}

const made = new WeakMap<Columns, Map<Unit, OrderedUnits>>();

function orderedUnits(columns: Columns, unit: Unit): OrderedUnits {
  const known = made.get(columns) ?? new Map<Unit, OrderedUnits>();
  made.set(columns, known);
  let units = known.get(unit);
  if (units === undefined) {
    units = orderUnits(columns, unit);
    known.set(unit, units);
  }
  return units;
}

function orderUnits({ time, sessions, parts }: Columns, unit: Unit): OrderedUnits {
  const bySession = unit === 'session' ? sessions : null;
  const rows = bySession?.rows ?? parts.train;
  const count = bySession === null ? rows.length : bySession.offsets.length - 1;
  const first = new Int32Array(count);
  const last = new Int32Array(count);
  let latest = -1;
  for (let u = 0; u < count; u++) {
    const [from, to] = bySession === null ? [u, u + 1] : [bySession.offsets[u]!, bySession.offsets[u + 1]!];
    first[u] = last[u] = time[rows[from]!]!;
    for (let at = from + 1; at < to; at++) {
      const moment = time[rows[at]!]!;
      first[u] = Math.min(first[u]!, moment);
      last[u] = Math.max(last[u]!, moment);
    }
    latest = Math.max(latest, last[u]!);
  }
  return { order: groupRows(first, latest + 1).rows, first, last };
}

/** Units (rows, or sessions) of the train part in time order: by their first row, equal times by number. */
export function timeOrderedUnits(columns: Columns, unit: Unit): Int32Array {
  return orderedUnits(columns, unit).order;
}

/** A piece of the train part in time order. */
export interface TimeWindow {
  /** From 0. */
  readonly index: number;
  /** Samples of the pass before it, and before its end. */
  readonly start: number;
  readonly end: number;
  /** Units in it. */
  readonly units: number;
  /** Its event numbers, in order. */
  readonly rows: Int32Array;
}

/**
 * At most `count` windows of about as many units each. Every row of a window is strictly earlier than every row of the next: a cut moves
 * on until no time lies on both sides, so there are fewer windows where times are few.
 */
export function timeWindows(columns: Columns, unit: Unit, count: number): TimeWindow[] {
  const { order, first, last } = orderedUnits(columns, unit);
  const bySession = unit === 'session' ? columns.sessions : null;
  const windows: TimeWindow[] = [];
  let rows: number[] = [];
  let start = 0;
  let units = 0;
  let latest = -1;
  for (let k = 0; k < order.length; k++) {
    const u = order[k]!;
    if (bySession === null) rows.push(columns.parts.train[u]!);
    else for (let at = bySession.offsets[u]!; at < bySession.offsets[u + 1]!; at++) rows.push(bySession.rows[at]!);
    units++;
    latest = Math.max(latest, last[u]!);
    const atEnd = k + 1 === order.length;
    const due = k + 1 >= ((windows.length + 1) * order.length) / count;
    if (!atEnd && !(due && latest < first[order[k + 1]!]!)) continue;
    const window = { index: windows.length, start, end: start + rows.length, units, rows: Int32Array.from(rows) };
    windows.push(window);
    start = window.end;
    rows = [];
    units = 0;
  }
  return windows;
}
