import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PARTS } from '../../src/data/events.js';
import { buildHistories, type HistoryOptions, historyRange } from '../../src/data/history.js';
import { splitEvents } from '../../src/data/split.js';
import { eventsOf, randomEvents, withoutTime } from './random_events.js';

const options = fc.record<HistoryOptions>({
  parts: fc.constantFrom('train', 'earlier', 'past'),
  ties: fc.constantFrom('strict', 'order'),
});

describe('histories', () => {
  it('equal the definition, event by event, for every mode (L1, L2, L3)', () => {
    fc.assert(
      fc.property(randomEvents, options, fc.nat(4), fc.boolean(), (timed, { parts, ties }, maxLen, hasTime) => {
        const events = hasTime ? timed : withoutTime(timed);
        const { part } = splitEvents(events, { kind: 'RS', ratios: [0.6, 0.2, 0.2] }, { seed: 3 });
        const where = Uint8Array.from(events.item, (item) => (item % 3 === 0 ? 0 : 1));
        const histories = buildHistories(events, part, { parts, ties, where });
        const rows = [...events.user.keys()].sort((a, b) => events.time[a]! - events.time[b]! || a - b);
        for (const target of rows) {
          const name = PARTS[part[target]!]!;
          const last = parts === 'past' ? 2 : parts === 'earlier' && name === 'test' ? 1 : 0;
          const expected = rows.filter(
            (row) =>
              events.user[row] === events.user[target] &&
              where[row] === 1 &&
              part[row]! <= last &&
              (events.time[row]! < events.time[target]! ||
                (ties === 'order' && events.time[row] === events.time[target] && row < target)),
          );
          const at = { user: events.user[target]!, time: events.time[target]!, row: target };
          const [start, end] = historyRange(histories, name, at, maxLen);
          const found = [...histories[name].row.subarray(start, end)];
          expect(found).toEqual(maxLen === 0 ? [] : expected.slice(-maxLen));
          expect(found).not.toContain(target);
          expect([...histories[name].item.subarray(start, end)]).toEqual(found.map((row) => events.item[row]));
        }
      }),
    );
  });

  it('is oldest first, and empty for a first event', () => {
    const events = eventsOf([
      [0, 4, 9],
      [0, 2, 1],
      [0, 3, 5],
    ]);
    const histories = buildHistories(events, new Uint8Array(3), { parts: 'train' });
    const [start, end] = historyRange(histories, 'train', { user: 0, time: 2, row: 0 }, 10);
    expect([...histories.train.item.subarray(start, end)]).toEqual([2, 3]);
    expect(historyRange(histories, 'train', { user: 0, time: 0, row: 1 }, 10)).toEqual([0, 0]);
  });
});
