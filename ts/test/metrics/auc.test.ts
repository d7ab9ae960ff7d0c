import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ArgumentError } from '../../src/errors.js';
import { auc } from '../../src/metrics/auc.js';
import { avgAuc, gauc, qauc } from '../../src/metrics/grouped_auc.js';

interface Row {
  score: number;
  label: number;
  group: number;
}

// Few distinct scores, so that ties are common.
const anyRow: fc.Arbitrary<Row> = fc.record({
  score: fc.oneof(fc.integer({ min: -2, max: 2 }), fc.double({ noNaN: true })),
  label: fc.integer({ min: 0, max: 1 }),
  group: fc.integer({ min: 0, max: 5 }),
});
const anyRows = fc.array(anyRow, { maxLength: 60 });
const columns = (rows: Row[]) =>
  [rows.map((r) => r.score), rows.map((r) => r.label), rows.map((r) => r.group)] as const;

/** The definition: every (positive, negative) pair. */
function bruteForce(rows: Row[]): number | null {
  const positives = rows.filter((r) => r.label === 1);
  const negatives = rows.filter((r) => r.label === 0);
  if (positives.length === 0 || negatives.length === 0) return null;
  let wins = 0;
  for (const p of positives) for (const n of negatives) wins += p.score > n.score ? 1 : p.score === n.score ? 0.5 : 0;
  return wins / (positives.length * negatives.length);
}

function bruteForceGroups(rows: Row[]): { gauc: number | null; avg: number | null; usable: number; groups: number } {
  const groups = [...new Set(rows.map((r) => r.group))].map((group) => rows.filter((r) => r.group === group));
  const usable = groups.flatMap((members) => {
    const value = bruteForce(members);
    return value === null ? [] : [{ value, size: members.length }];
  });
  const total = usable.reduce((sum, { size }) => sum + size, 0);
  return {
    gauc: usable.length ? usable.reduce((sum, { value, size }) => sum + value * size, 0) / total : null,
    avg: usable.length ? usable.reduce((sum, { value }) => sum + value, 0) / usable.length : null,
    usable: usable.length,
    groups: groups.length,
  };
}

function expectEqual(actual: number | null, expected: number | null): void {
  if (expected === null) expect(actual).toBeNull();
  else expect(actual).toBeCloseTo(expected, 12);
}

describe('auc', () => {
  it('equals the count of pairs, exactly', () => {
    fc.assert(
      fc.property(anyRows, (rows) => {
        const [scores, labels] = columns(rows);
        expect(auc(scores, labels)).toBe(bruteForce(rows));
      }),
    );
  });

  it('known values: perfect, reversed, constant, infinite', () => {
    expect(auc([0.1, 0.2, 0.8], [0, 0, 1])).toBe(1);
    expect(auc([0.1, 0.2, 0.8], [1, 1, 0])).toBe(0);
    expect(
      auc(
        new Float32Array(1001).fill(0.3),
        Array.from({ length: 1001 }, (_, i) => i % 2),
      ),
    ).toBe(0.5);
    expect(auc([-Infinity, Infinity, 0, -0], [0, 1, 1, 0])).toBe(0.875);
  });

  it('is null, not one half, when a label is absent', () => {
    expect(auc([], [])).toBeNull();
    expect(auc([1, 2], [1, 1])).toBeNull();
    expect(auc([1, 2], [0, 0])).toBeNull();
  });

  it('refuses NaN, other labels and other lengths', () => {
    expect(() => auc([1, NaN], [0, 1])).toThrow(/NaN in row 1/);
    expect(() => auc([1, 2], [0, 0.5])).toThrow(/labels must be 0 or 1, got 0.5 in row 1/);
    expect(() => auc([1, 2], [0])).toThrow(ArgumentError);
  });

  it('does not touch its input', () => {
    const scores = Float64Array.of(3, 1, 2);
    auc(scores, [0, 1, 0]);
    expect([...scores]).toEqual([3, 1, 2]);
  });
});

describe('grouped AUC', () => {
  it('equals the definition', () => {
    fc.assert(
      fc.property(anyRows, (rows) => {
        const expected = bruteForceGroups(rows);
        const weighted = gauc(...columns(rows));
        expectEqual(weighted.value, expected.gauc);
        expectEqual(avgAuc(...columns(rows)).value, expected.avg);
        expect([weighted.usableGroups, weighted.groups]).toEqual([expected.usable, expected.groups]);
        expect(weighted.usableShare).toBe(expected.groups ? expected.usable / expected.groups : 0);
        expect(qauc(...columns(rows))).toEqual(avgAuc(...columns(rows)));
      }),
    );
  });

  it('does not change when rows are shuffled, to the last bit', () => {
    const shuffled = anyRows.chain((rows) =>
      fc.tuple(fc.constant(rows), fc.shuffledSubarray(rows, { minLength: rows.length })),
    );
    fc.assert(
      fc.property(shuffled, ([rows, other]) => {
        expect(gauc(...columns(other))).toEqual(gauc(...columns(rows)));
        expect(avgAuc(...columns(other))).toEqual(avgAuc(...columns(rows)));
      }),
    );
  });

  it('constant scores give exactly one half, no usable group gives null', () => {
    const groups = Int32Array.from({ length: 300 }, (_, row) => row % 7);
    const labels = Uint8Array.from({ length: 300 }, (_, row) => (row % 3 === 0 ? 1 : 0));
    expect(gauc(new Float32Array(300), labels, groups).value).toBe(0.5);
    expect(avgAuc(new Float32Array(300), labels, groups).value).toBe(0.5);
    expect(gauc([1, 2], [0, 1], [3, 4])).toMatchObject({ value: null, groups: 2, usableGroups: 0, usableShare: 0 });
    expect(gauc([], [], []).value).toBeNull();
  });

  it('one group is plain AUC; negative groups are left out and counted', () => {
    expect(gauc([1, 3, 2], [0, 1, 1], [9, 9, 9]).value).toBe(auc([1, 3, 2], [0, 1, 1]));
    const result = qauc([1, 3, 2, 8], [0, 1, 1, 0], [9, 9, 9, -1]);
    expect(result).toMatchObject({ value: 1, groups: 1, usableRows: 3, ungroupedRows: 1 });
  });
});
