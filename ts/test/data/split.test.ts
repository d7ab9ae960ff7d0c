import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Events, rankTimes, TEST, TRAIN, VALID } from '../../src/data/events.js';
import { partSizes, type SplitRule, splitEvents, splitEventsPass } from '../../src/data/split.js';
import { ArgumentError, DataError } from '../../src/errors.js';
import { sharedData } from '../shared_data.js';
import { eventsOf, ITEMS, randomEvents, withoutTime } from './random_events.js';

const ratios = [0.8, 0.1, 0.1] as const;
const itemIds = Array.from({ length: ITEMS }, (_, i) => `item${i}`);

/** Row numbers of one part. */
function rowsOf(part: Uint8Array, code: number): number[] {
  return [...part.keys()].filter((row) => part[row] === code);
}

describe('partSizes', () => {
  it('floors valid and test, train takes the rest', () => {
    expect(partSizes(62_444, ratios)).toEqual({ train: 49_956, valid: 6244, test: 6244 });
    expect(partSizes(10, [8, 1, 1])).toEqual({ train: 8, valid: 1, test: 1 });
  });
  it('gives an empty part with a positive share one event while train has more than one', () => {
    expect(partSizes(3, ratios)).toEqual({ train: 1, valid: 1, test: 1 });
    expect(partSizes(2, ratios)).toEqual({ train: 1, valid: 0, test: 1 });
    expect(partSizes(1, ratios)).toEqual({ train: 1, valid: 0, test: 0 });
    expect(partSizes(5, [0.9, 0, 0.1])).toEqual({ train: 4, valid: 0, test: 1 });
  });
  it('refuses shares that are negative or sum to nothing', () => {
    expect(() => partSizes(5, [1, -1, 1])).toThrow(ArgumentError);
    expect(() => partSizes(5, [0, 0, 0])).toThrow(ArgumentError);
  });
});

describe('splitEvents', () => {
  it('RS RO has the exact sizes and follows the seed', () => {
    fc.assert(
      fc.property(randomEvents, fc.nat(99), (events, seed) => {
        const { part, order } = splitEvents(events, { kind: 'RS', ratios }, { seed });
        const sizes = partSizes(events.count, ratios);
        expect(order).toBe('RO');
        expect(rowsOf(part, VALID).length).toBe(sizes.valid);
        expect(rowsOf(part, TEST).length).toBe(sizes.test);
        expect(splitEvents(events, { kind: 'RS', ratios }, { seed }).part).toEqual(part);
      }),
    );
  });

  it('RS TO keeps events of one time in one part and parts in order of time', () => {
    fc.assert(
      fc.property(randomEvents, (events) => {
        const { part } = splitEvents(events, { kind: 'RS', ratios, order: 'TO' });
        for (let i = 0; i < events.count; i++) {
          for (let j = 0; j < events.count; j++) {
            if (part[i]! < part[j]!) expect(events.time[i]).toBeLessThan(events.time[j]!);
          }
        }
      }),
    );
  });

  it('RS TO with ties by row keeps the exact sizes', () => {
    fc.assert(
      fc.property(randomEvents, (events) => {
        const { part } = splitEvents(events, { kind: 'RS', ratios, order: 'TO', ties: 'row' });
        expect(rowsOf(part, TEST).length).toBe(partSizes(events.count, ratios).test);
      }),
    );
  });

  it('RS grouped by user has the sizes of every user', () => {
    fc.assert(
      fc.property(randomEvents, (events) => {
        const { part } = splitEvents(events, { kind: 'RS', ratios, groupBy: 'user', order: 'TO', ties: 'row' });
        for (let u = 0; u < events.users; u++) {
          const own = [...events.user.keys()].filter((row) => events.user[row] === u);
          expect(own.filter((row) => part[row] === TEST).length).toBe(partSizes(own.length, ratios).test);
        }
      }),
    );
  });

  it('LS takes the last two events of users with three or more', () => {
    const events = eventsOf([
      [0, 0, 5],
      [0, 1, 3],
      [0, 2, 5],
      [0, 3, 1],
      [1, 0, 1],
      [1, 1, 2],
    ]);
    const { part, counters } = splitEvents(events, { kind: 'LS' });
    expect([...part]).toEqual([VALID, TRAIN, TEST, TRAIN, TRAIN, TRAIN]);
    expect(counters.usersBelowThree).toBe(1);
  });

  it('TS cuts at times, and names the time that a quantile became', () => {
    const events = eventsOf(Array.from({ length: 10 }, (_, i) => [0, 0, 100 + i] as const));
    expect([...splitEvents(events, { kind: 'TS', validFrom: 105, testFrom: 108 }).part].join('')).toBe('0000011122');
    const split = splitEvents(events, { kind: 'TS', validFrom: { quantile: 0.5 }, testFrom: { quantile: 0.75 } });
    expect([...split.part].join('')).toBe('0000011222');
    expect(split.text).toBe('TS valid from 105 test from 107');
  });

  it('TS compares 64-bit times exactly', () => {
    const base = 1_700_000_000_000_000_000n;
    const ranked = rankTimes(BigInt64Array.from([base + 2n, base, base + 1n]));
    const events: Events = {
      ...eventsOf([
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
      ]),
      ...ranked,
    };
    expect([...splitEvents(events, { kind: 'TS', validFrom: base + 1n, testFrom: base + 2n }).part]).toEqual([2, 0, 1]);
  });

  it('CS puts all events of test items into test and none into train', () => {
    fc.assert(
      fc.property(randomEvents, fc.nat(50), (events, seed) => {
        const split = splitEvents(events, { kind: 'CS', test: 0.3, valid: 0.2, ratios }, { seed, itemIds });
        for (let i = 0; i < events.count; i++) if (split.cold[events.item[i]!]) expect(split.part[i]).toBe(TEST);
      }),
    );
  });

  it('CS hashes a few ids between two turns', () => {
    const items = 4000;
    const events = eventsOf([[0, 0, 1]], { items });
    const ids = Array.from({ length: items }, (_, i) => `item${i}`);
    const pass = splitEventsPass(events, { kind: 'CS', test: 0.3, valid: 0.2, ratios }, { itemIds: ids });
    let turns = 0;
    while (pass.next().done !== true) turns++;
    expect(turns).toBeGreaterThan(items / 100);
  });

  it('CS by list counts ids that the data do not have', () => {
    const events = eventsOf([
      [0, 0, 1],
      [0, 1, 2],
      [1, 0, 3],
      [1, 2, 3],
      [1, 3, 9],
      [2, 3, 9],
    ]);
    const split = splitEvents(events, { kind: 'CS', testItems: ['item0', 'nobody'], ratios: [1, 0, 0] }, { itemIds });
    expect([...split.part]).toEqual([2, 0, 2, 0, 0, 0]);
    expect([...split.cold]).toEqual([1, 0, 0, 0, 0, 0, 0]);
    expect(split.counters).toMatchObject({ coldItems: 1, coldItemsUnknown: 1, newItemsTest: 1 });
  });

  it('holds listed items out under any rule', () => {
    const rules: SplitRule[] = [
      { kind: 'RS', ratios },
      { kind: 'RS', ratios, order: 'TO' },
      { kind: 'LS' },
      { kind: 'TS', validFrom: { quantile: 0.6 }, testFrom: { quantile: 0.8 } },
    ];
    fc.assert(
      fc.property(randomEvents, fc.constantFrom(...rules), (events, rule) => {
        const split = splitEvents(events, rule, { itemIds, coldItems: ['item1', 'item2'] });
        expect([...split.cold]).toEqual([0, 1, 1, 0, 0, 0, 0]);
        for (let i = 0; i < events.count; i++) if (split.cold[events.item[i]!]) expect(split.part[i]).toBe(TEST);
      }),
    );
  });

  it('without CS an item is cold when train has no event of it', () => {
    fc.assert(
      fc.property(randomEvents, (events) => {
        const { part, cold } = splitEvents(events, { kind: 'RS', ratios });
        for (let item = 0; item < ITEMS; item++) {
          const inTrain = rowsOf(part, TRAIN).some((row) => events.item[row] === item);
          expect(cold[item]).toBe(inTrain ? 0 : 1);
        }
      }),
    );
  });

  it.each<[string, SplitRule]>([
    ['TS', { kind: 'TS', validFrom: 1, testFrom: 2 }],
    ['TO', { kind: 'RS', ratios, order: 'TO' }],
  ])('%s without a time column is an error', (_, rule) => {
    expect(() => splitEvents(withoutTime(eventsOf([[0, 0, 1]])), rule)).toThrow(DataError);
  });

  it('given parts must fit the events', () => {
    expect(() => splitEvents(eventsOf([[0, 0, 1]]), { kind: 'given', part: new Uint8Array(2) })).toThrow(ArgumentError);
    expect(() => splitEvents(eventsOf([[0, 0, 1]]), { kind: 'given', part: Uint8Array.of(3) })).toThrow(ArgumentError);
  });
});

const posters = sharedData('ml-latest-small-posters');
describe.skipIf(posters === null)('LS on ml-posters', () => {
  it('equals the reference for 669 of 669 users', () => {
    const lines = (file: string): string[][] =>
      readFileSync(`${posters}/${file}`, 'utf8')
        .trimEnd()
        .split('\n')
        .slice(1)
        .map((line) => line.split('\t'));
    const rows = lines('ml-posters.inter');
    const numbers = (column: number): Map<string, number> =>
      new Map([...new Set(rows.map((row) => row[column]!))].map((id, i) => [id, i]));
    const users = numbers(0);
    const items = numbers(1);
    const events = eventsOf(
      rows.map(([user, item, , time]) => [users.get(user!)!, items.get(item!)!, Number(time)] as const),
      { users: users.size, items: items.size },
    );
    // The reference breaks ties by numeric item id; the file lists each user's items in that order, so ties by row are the same.
    for (let i = 1; i < rows.length; i++) {
      if (rows[i]![0] === rows[i - 1]![0]) expect(Number(rows[i]![1])).toBeGreaterThan(Number(rows[i - 1]![1]));
    }
    const { part, counters } = splitEvents(events, { kind: 'LS' });
    const found = new Map<string, [string?, string?]>();
    for (let i = 0; i < events.count; i++) {
      if (part[i] === TRAIN) continue;
      const pair = found.get(rows[i]![0]!) ?? [];
      pair[part[i] === VALID ? 0 : 1] = rows[i]![1];
      found.set(rows[i]![0]!, pair);
    }
    const reference = lines('reference/loo_split.tsv');
    const equal = reference.filter(
      ([user, valid, test]) => found.get(user!)?.[0] === valid && found.get(user!)?.[1] === test,
    );
    expect([reference.length, equal.length, found.size, counters.usersBelowThree]).toEqual([669, 669, 669, 2]);
  });
});
