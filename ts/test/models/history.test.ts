import { describe, expect, it } from 'vitest';
import { lastEntries, segmentsOf } from '../../src/models/history.js';

describe('lastEntries', () => {
  const values = Int32Array.of(1, 2, 3, 4, 5, 6);
  const offsets = Int32Array.of(0, 3, 3, 6);
  const gaps = Float32Array.of(9, 8, 7, 6, 5, 4);

  it('keeps the latest of every row, with their gaps', () => {
    expect(lastEntries({ values, offsets, gaps }, 2)).toEqual({
      values: Int32Array.of(2, 3, 5, 6),
      offsets: Int32Array.of(0, 2, 2, 4),
      gaps: Float32Array.of(8, 7, 5, 4),
    });
    expect(lastEntries({ values, offsets }, 1)).toEqual({
      values: Int32Array.of(3, 6),
      offsets: Int32Array.of(0, 1, 1, 2),
    });
  });

  it('gives shorter histories as they are', () => {
    const history = { values, offsets, gaps };
    expect(lastEntries(history, 3)).toBe(history);
  });
});

it('segmentsOf names the row of every entry', () => {
  expect([...segmentsOf(Int32Array.of(0, 2, 2, 3))]).toEqual([0, 0, 2]);
});
