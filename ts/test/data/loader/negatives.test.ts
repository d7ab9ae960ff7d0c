import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TRAIN } from '../../../src/data/events.js';
import { drawNegative, logProposal, negativeTable } from '../../../src/data/loader/negatives.js';
import { splitEvents } from '../../../src/data/split.js';
import { ArgumentError, DataError } from '../../../src/errors.js';
import { eventsOf, ITEMS, randomEvents } from '../random_events.js';

/** A million draws would be slow; 4,000 give frequencies within .03. */
const DRAWS = 4000;

describe('negatives', () => {
  it("come from train items, never from the user's train positives, and may be test positives (L5)", () => {
    fc.assert(
      fc.property(randomEvents, fc.nat(99), (events, seed) => {
        const { part } = splitEvents(events, { kind: 'RS', ratios: [0.6, 0.2, 0.2] }, { seed });
        const positive = Uint8Array.from(events.item, (item) => (item < 4 ? 1 : 0));
        const rows = [...part.keys()].filter((row) => part[row] === TRAIN);
        const trainItems = new Set(rows.map((row) => events.item[row]!));
        const full = [...Array(events.users).keys()].some((user) => {
          const own = new Set(
            rows.filter((row) => events.user[row] === user && positive[row]).map((row) => events.item[row]!),
          );
          return own.size > 0 && own.size === trainItems.size;
        });
        if (trainItems.size === 0) return;
        if (full) {
          expect(() => negativeTable(events, part, positive, { kind: 'uniform', n: 1 })).toThrow(DataError);
          return;
        }
        for (const kind of ['uniform', 'popularity'] as const) {
          const table = negativeTable(events, part, positive, { kind, n: 2 });
          for (const row of rows) {
            const user = events.user[row]!;
            const { item } = drawNegative(table, { seed, epoch: 1, sample: row, draw: 0, user });
            expect(trainItems.has(item)).toBe(true);
            expect(
              rows.some((other) => events.user[other] === user && positive[other] && events.item[other] === item),
            ).toBe(false);
          }
        }
      }),
    );
  });

  it('follow (train count)^alpha, and logProposal says so', () => {
    const rows = Array.from({ length: 14 }, (_, i) => [0, i < 2 ? 0 : i < 6 ? 1 : 2, i] as const);
    const events = eventsOf(rows);
    const none = new Uint8Array(events.count);
    const table = negativeTable(events, none, none, { kind: 'popularity', n: 1, alpha: 0.5 });
    const counts = new Float64Array(ITEMS);
    for (let sample = 0; sample < DRAWS; sample++) {
      counts[drawNegative(table, { seed: 1, epoch: 0, sample, draw: 0, user: 0 }).item]!++;
    }
    const sum = Math.sqrt(2) + 2 + Math.sqrt(8);
    for (const [item, count] of [
      [0, 2],
      [1, 4],
      [2, 8],
    ] as const) {
      expect(logProposal(table, item)).toBeCloseTo(Math.log(Math.sqrt(count) / sum), 12);
      expect(Math.abs(counts[item]! / DRAWS - Math.sqrt(count) / sum)).toBeLessThan(0.03);
    }
    expect(logProposal(table, 5)).toBe(Number.NEGATIVE_INFINITY);
  });

  it('are functions of (seed, epoch, sample, draw)', () => {
    const events = eventsOf(
      Array.from({ length: 100 }, (_, i) => [0, i, i] as const),
      { items: 100 },
    );
    const none = new Uint8Array(100);
    const table = negativeTable(events, none, none, { kind: 'uniform', n: 1 });
    const base = { seed: 1, epoch: 0, sample: 5, draw: 0, user: 0 };
    const items = (change: Partial<typeof base>): number[] =>
      [0, 1, 2, 3].map((k) => drawNegative(table, { ...base, sample: base.sample + 10 * k, ...change }).item);
    expect(items({})).toEqual(items({}));
    for (const change of [{ seed: 2 }, { epoch: 1 }, { draw: 1 }]) expect(items(change)).not.toEqual(items({}));
  });

  it('take the next free item after 100 redraws, and say so', () => {
    // User 0 likes the popular items 0 to 2; item 3 has a share of about 1e-4.
    const rows = Array.from({ length: 9999 }, (_, i) => [i < 3 ? 0 : 1, i % 3, i] as const);
    const events = eventsOf([...rows, [1, 3, 9999]]);
    const positive = Uint8Array.from(events.user, (user) => (user === 0 ? 1 : 0));
    const table = negativeTable(events, new Uint8Array(events.count), positive, { kind: 'popularity', n: 1, alpha: 1 });
    expect(drawNegative(table, { seed: 0, epoch: 0, sample: 0, draw: 0, user: 0 })).toEqual({
      item: 3,
      fallback: true,
    });
  });

  it('refuse n below 1 and a negative alpha', () => {
    const events = eventsOf([[0, 0, 0]]);
    const none = new Uint8Array(1);
    expect(() => negativeTable(events, none, none, { kind: 'uniform', n: 0 })).toThrow(ArgumentError);
    expect(() => negativeTable(events, none, none, { kind: 'popularity', n: 1, alpha: -1 })).toThrow(ArgumentError);
  });
});
