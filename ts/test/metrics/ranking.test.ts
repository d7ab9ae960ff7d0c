import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ArgumentError } from '../../src/errors.js';
import { RankingMeter, rankingAt, rankTargets } from '../../src/metrics/ranking.js';

describe('rankTargets', () => {
  it('equals 1 + higher + half of the other equal ones among candidates', () => {
    const anyCase = fc
      .array(fc.record({ score: fc.integer({ min: -3, max: 3 }), masked: fc.boolean() }), {
        minLength: 1,
        maxLength: 40,
      })
      .chain((items) =>
        fc.record({
          items: fc.constant(items),
          targets: fc.uniqueArray(fc.integer({ min: 0, max: items.length - 1 }), { maxLength: 6 }),
        }),
      );
    fc.assert(
      fc.property(anyCase, ({ items, targets }) => {
        const candidates = items.filter(({ masked }, item) => !masked || targets.includes(item));
        const expected = targets.map((target) => {
          const score = items[target]!.score;
          const higher = candidates.filter((item) => item.score > score).length;
          const equal = candidates.filter((item) => item.score === score).length;
          return 1 + higher + (equal - 1) / 2;
        });
        const scores = Float32Array.from(items, ({ score }) => score);
        const mask = Uint8Array.from(items, ({ masked }) => (masked ? 1 : 0));
        expect([...rankTargets(scores, targets, mask)]).toEqual(expected);
      }),
    );
  });

  it('constant scores rank in the middle', () => {
    expect([...rankTargets(new Float32Array(101), [7, 50])]).toEqual([51, 51]);
  });

  it('refuses NaN and unknown targets', () => {
    expect(() => rankTargets([1, NaN], [0])).toThrow(/NaN for item 1/);
    expect(() => rankTargets([NaN, 1], [0])).toThrow(ArgumentError);
    expect(() => rankTargets([1, 2], [2])).toThrow(/below 2, got 2/);
  });
});

describe('ranking metrics', () => {
  it('known values', () => {
    expect(rankingAt([1], 10)).toEqual({ hitRate: 1, recall: 1, ndcg: 1, mrr: 1 });
    expect(rankingAt([11], 10)).toEqual({ hitRate: 0, recall: 0, ndcg: 0, mrr: 0 });
    const two = rankingAt([3, 12], 10);
    expect(two).toMatchObject({ hitRate: 1, recall: 0.5, mrr: 1 / 3 });
    expect(two.ndcg).toBeCloseTo(0.5 / (1 + 1 / Math.log2(3)), 12);
  });

  it('a tied rank below K + 1 is a hit', () => {
    expect(rankingAt([10.5], 10).hitRate).toBe(1);
    expect(rankingAt([11], 10).hitRate).toBe(0);
    expect(rankingAt([10.5], 10).mrr).toBe(1 / 10.5);
  });

  it('every target on top is 1 whatever K', () => {
    for (const k of [1, 2, 5]) expect(rankingAt([1, 2, 3], k).ndcg).toBe(1);
    expect(rankingAt([1, 2, 3], 2).recall).toBeCloseTo(2 / 3, 12);
  });

  it('stays between 0 and 1 when targets tie around K', () => {
    expect(rankingAt([1.5, 1.5], 1)).toEqual({ hitRate: 1, recall: 1, ndcg: 1, mrr: 1 / 1.5 });
    const ranks = fc.array(fc.integer({ min: 2, max: 30 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(ranks, fc.integer({ min: 1, max: 10 }), (doubled, k) => {
        for (const value of Object.values(
          rankingAt(
            doubled.map((rank) => rank / 2),
            k,
          ),
        )) {
          expect(value).toBeGreaterThanOrEqual(0);
          expect(value).toBeLessThanOrEqual(1);
        }
      }),
    );
  });

  it('the meter averages cases and counts empty ones', () => {
    const meter = new RankingMeter([1, 10]);
    meter.add([1]);
    meter.add([4]);
    meter.add([]);
    const { cases, empty, at } = meter.result();
    expect([cases, empty]).toEqual([2, 1]);
    expect(at.get(1)).toEqual({ hitRate: 0.5, recall: 0.5, ndcg: 0.5, mrr: 0.5 });
    expect(at.get(10)!.mrr).toBe((1 + 1 / 4) / 2);
    expect(new RankingMeter([5]).result().at.get(5)).toBeNull();
    expect(() => new RankingMeter([0])).toThrow(ArgumentError);
  });
});
