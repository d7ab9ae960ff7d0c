import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ArgumentError } from '../../src/errors.js';
import { metricDefinitions } from '../../src/metrics/definitions.js';
import { calibration, logloss } from '../../src/metrics/logloss.js';
import { defaultSlices, evaluateSlices } from '../../src/metrics/slices.js';

describe('logloss and calibration', () => {
  it('equal the definition from probabilities', () => {
    const row = fc.tuple(fc.double({ min: -20, max: 20, noNaN: true }), fc.integer({ min: 0, max: 1 }));
    fc.assert(
      fc.property(fc.array(row, { minLength: 1, maxLength: 40 }), (rows) => {
        const logits = rows.map(([logit]) => logit);
        const labels = rows.map(([, label]) => label);
        const p = logits.map((s) => 1 / (1 + Math.exp(-s)));
        const loss = labels.map((y, i) => -Math.log(y ? p[i]! : 1 / (1 + Math.exp(logits[i]!))));
        expect(logloss(logits, labels)).toBeCloseTo(loss.reduce((a, b) => a + b) / rows.length, 10);
        const clicks = labels.reduce((a, b) => a + b);
        const ratio = calibration(logits, labels);
        if (clicks === 0) expect(ratio).toBeNull();
        else expect(ratio).toBeCloseTo(p.reduce((a, b) => a + b) / clicks, 10);
      }),
    );
  });

  it('stay finite for large logits, infinite only for certain and wrong', () => {
    expect(logloss([1000, -1000], [1, 0])).toBe(0);
    expect(logloss([1000], [0])).toBe(1000);
    expect(logloss([Infinity], [0])).toBe(Infinity);
    expect(logloss([0], [1])).toBe(Math.LN2);
    expect(logloss([], [])).toBeNull();
    expect(() => logloss([NaN], [0])).toThrow(ArgumentError);
  });

  it('do not drift with the number of rows', () => {
    const logits = new Float64Array(200_000).fill(-2.2);
    const labels = new Uint8Array(200_000);
    expect(Math.abs(logloss(logits, labels)! - Math.log1p(Math.exp(-2.2)))).toBeLessThan(1e-16);
  });
});

describe('evaluateSlices', () => {
  const rows = {
    logits: [2, -1, 0.5, 0.5, 1, -2],
    labels: [1, 0, 1, 0, 0, 1],
    user: [1, 1, 1, 2, 2, 2],
    session: [10, 10, 11, 11, 12, 12],
    cold: [0, 0, 0, 0, 1, 1],
  };

  it('splits warm and cold and counts groups', () => {
    const { all, warm, cold } = evaluateSlices(rows);
    expect(all).toMatchObject({ rows: 6, positives: 3, gAUC: (3 * 1 + 3 * 0) / 6, QAUC: (1 + 0.5 + 0) / 3 });
    expect(all.users).toMatchObject({ groups: 2, usableGroups: 2, usableShare: 1 });
    expect(warm).toMatchObject({ rows: 4, positives: 2, AUC: 3.5 / 4, gAUC: 1, QAUC: 0.75 });
    expect(warm!.users).toMatchObject({ groups: 2, usableGroups: 1, usableRows: 3 });
    expect(cold).toMatchObject({ rows: 2, AUC: 0, gAUC: 0, QAUC: 0 });
  });

  it('an empty slice is null everywhere', () => {
    const { cold } = evaluateSlices({ ...rows, cold: new Uint8Array(6) });
    expect(cold).toMatchObject({ AUC: null, gAUC: null, QAUC: null, logloss: null, calibration: null, rows: 0 });
  });

  it('works without sessions, cold flags or extra slices', () => {
    const { logits, labels, user } = rows;
    const result = evaluateSlices({ logits, labels, user });
    expect(Object.keys(result)).toEqual(['all']);
    expect(result.all).toMatchObject({ QAUC: null, requests: null });
  });

  it('takes the default slices', () => {
    const slices = defaultSlices({
      trainImpressions: [0, 4, 5, 9, 10, 30],
      itemAgeDays: [0, 0.99, 1, 7, 29, 30],
      historyLength: [0, 1, 5, 6, 20, 21],
      imageMissing: [1, 0, 0, 0, 0, 0],
      popularityDecile: [0, 0, 1, 2, 3, 9],
    });
    const result = evaluateSlices({ ...rows, slices });
    const counted = ['few_5', 'few_10', 'few_20', 'age_below_1d', 'age_1d_7d', 'age_7d_30d', 'age_from_30d'];
    expect(counted.map((name) => result[name]!.rows)).toEqual([2, 4, 5, 2, 1, 2, 1]);
    const others = ['history_0', 'history_1_5', 'history_6_20', 'history_above_20', 'image_missing', 'popularity_0'];
    expect(others.map((name) => result[name]!.rows)).toEqual([1, 2, 2, 1, 1, 2]);
    expect(result['text_missing']).toBeUndefined();
  });

  it('refuses a slice named like a built-in one, and wrong lengths', () => {
    expect(() => evaluateSlices({ ...rows, slices: { warm: rows.cold } })).toThrow(/must not redefine warm/);
    expect(() => evaluateSlices({ ...rows, cold: [1] })).toThrow(/cold must have 6 rows/);
  });

  it('defines every metric it prints', () => {
    for (const name of ['AUC', 'gAUC', 'QAUC', 'logloss', 'calibration'] as const)
      expect(metricDefinitions[name].length).toBeGreaterThan(20);
  });
});
