import { describe, expect, it } from 'vitest';
import { timeOrderedUnits, timeWindows } from '../../src/data/time_windows.js';

/** Rows 0 .. n-1 of the train part with these times; sessions as lists of rows. */
function columns(time: readonly number[], sessions: readonly (readonly number[])[] | null = null) {
  const offsets = [0];
  for (const rows of sessions ?? []) offsets.push(offsets.at(-1)! + rows.length);
  return {
    time: Int32Array.from(time),
    parts: { train: Int32Array.from(time.keys()), valid: new Int32Array(0), test: new Int32Array(0) },
    sessions: sessions === null ? null : { rows: Int32Array.from(sessions.flat()), offsets: Int32Array.from(offsets) },
  };
}

const rowsOf = (...args: Parameters<typeof timeWindows>): number[][] =>
  timeWindows(...args).map(({ rows }) => [...rows]);

describe('time windows', () => {
  it('order rows by time, equal times by row', () => {
    expect([...timeOrderedUnits(columns([3, 1, 2, 1, 0]), 'row')]).toEqual([4, 1, 3, 2, 0]);
  });

  it('cut into about equal pieces with their places in the pass', () => {
    expect(timeWindows(columns([0, 1, 2, 3, 4, 5, 6]), 'row', 3)).toEqual([
      { index: 0, start: 0, end: 3, units: 3, rows: Int32Array.of(0, 1, 2) },
      { index: 1, start: 3, end: 5, units: 2, rows: Int32Array.of(3, 4) },
      { index: 2, start: 5, end: 7, units: 2, rows: Int32Array.of(5, 6) },
    ]);
  });

  it('keep equal times together, and are fewer where times are few', () => {
    expect(rowsOf(columns([0, 1, 1, 1, 2, 3]), 'row', 3)).toEqual([[0, 1, 2, 3], [4], [5]]);
    expect(rowsOf(columns([5, 5, 5]), 'row', 2)).toEqual([[0, 1, 2]]);
    expect(rowsOf(columns([]), 'row', 2)).toEqual([]);
    expect(rowsOf(columns([0, 1]), 'row', 9)).toEqual([[0], [1]]);
  });

  it('keep sessions whole, and apart only where the earlier ones have ended', () => {
    // The first session lasts until 4: the second, inside it, cannot come in a later window.
    const data = columns([0, 1, 4, 2, 3, 5, 6], [[0, 2], [3, 4], [1], [5], [6]]);
    expect(rowsOf(data, 'session', 5)).toEqual([[0, 2, 1, 3, 4], [5], [6]]);
    expect(timeWindows(data, 'session', 5).map(({ units }) => units)).toEqual([3, 1, 1]);
  });
});
