import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { buildHistories, type HistoryParts } from '../../src/data/history.js';
import {
  checkLeaks,
  countDuplicates,
  type LeakCheck,
  type LeakSubject,
  leakReport,
} from '../../src/data/leak_check.js';
import type { BatchColumns } from '../../src/data/loader/batch_source.js';
import { negativeTable } from '../../src/data/loader/negatives.js';
import type { SequenceFeature } from '../../src/data/schema.js';
import { splitEvents } from '../../src/data/split.js';
import { DataError } from '../../src/errors.js';
import { eventsOf, randomEvents } from './random_events.js';

/** Two users, four items, item 3 only in test. */
function subject(
  change: (columns: BatchColumns) => Partial<BatchColumns> = () => ({}),
  parts: HistoryParts = 'train',
): LeakSubject {
  const events = eventsOf(
    [
      [0, 0, 1],
      [0, 1, 2],
      [1, 2, 1],
      [1, 0, 3],
      [0, 2, 5],
      [1, 1, 6],
      [0, 3, 8],
      [1, 3, 9],
    ],
    { users: 2, items: 4 },
  );
  const split = splitEvents(events, { kind: 'given', part: Uint8Array.from([0, 0, 0, 0, 1, 1, 2, 2]) });
  const positive = Uint8Array.from([1, 0, 1, 0, 1, 1, 1, 1]);
  const columns: BatchColumns = {
    user: events.user,
    item: events.item,
    time: events.time,
    times: null,
    session: null,
    query: null,
    items: 4,
    labels: [{ name: 'click', values: Float32Array.from(positive) }],
    categorical: [{ name: 'item_id', source: 'item', rows: Int32Array.from([1, 2, 3, 0]) }],
    numeric: [],
    sequences: [],
    idHistories: [],
    histories: buildHistories(events, split.part, { parts, where: positive }),
    historyLen: 5,
    itemText: null,
    itemImage: null,
    queryText: null,
    parts: { train: Int32Array.from([0, 1, 2, 3]), valid: Int32Array.from([4, 5]), test: Int32Array.from([6, 7]) },
    sessions: null,
    negatives: negativeTable(events, split.part, positive, { kind: 'uniform', n: 1 }),
  };
  return {
    events,
    split,
    schema: {
      features: [
        {
          name: 'item_id',
          source: 'item',
          type: 'categorical',
          vocabularySize: 4,
          embeddingDim: null,
          shareEmbedding: null,
        },
      ],
      userId: null,
      itemId: 'item_id',
      labels: ['click'],
      users: 2,
      items: 4,
      queries: 0,
    },
    columns: { ...columns, ...change(columns) },
    historyParts: 'train',
    labelColumns: ['rating'],
    positive,
    allowDuplicates: false,
  };
}

function violated(of: LeakSubject): LeakCheck['rule'][] {
  return leakReport(of).flatMap(({ rule, ok }) => (ok === false ? [rule] : []));
}

describe('leak check', () => {
  it('passes a clean data set with a line per rule', () => {
    const report = checkLeaks(subject());
    expect(report.map(({ rule }) => rule)).toEqual(['L1', 'L2', 'L3', 'L4', 'L5', 'L6', 'L7', 'L8', 'L9', 'L10']);
    expect(report.every(({ ok }) => ok !== false)).toBe(true);
  });

  it('L1: a log out of order, or with entries of another user', () => {
    const swapped = subject(({ histories }) => {
      const log = histories!.train;
      return { histories: { ...histories!, test: { ...log, row: log.row.toReversed(), time: log.time.map(() => 0) } } };
    });
    expect(violated(swapped)).toContain('L1');
  });

  it('L1: says how often a sequence of earlier ids ends with the id of its row', () => {
    const clicks = {
      name: 'clicks',
      source: 'inter',
      values: Int32Array.from([2, 1, 1, 1, 3, 3]),
      offsets: Int32Array.from([0, 2, 3, 4, 5, 6, 6, 6, 6]),
    } as const;
    const { schema, ...rest } = subject(() => ({ sequences: [clicks] }));
    const feature: SequenceFeature = {
      ...{ name: 'clicks', source: 'inter', type: 'sequence', of: 'item_id', vocabularySize: 4, maxLen: 9 },
      ...{ embeddingDim: null, shareEmbedding: null },
    };
    const report = checkLeaks({ ...rest, schema: { ...schema, features: [...schema.features, feature] } });
    expect(report[0]!.detail).toBe(
      "histories hold only events before their target; clicks is taken as given: it ends with the row's own item_id in 50.0 % of the positives of train and 0.0 % of the others",
    );
  });

  it('L2: events of a later part in a history', () => {
    expect(violated(subject(undefined, 'past'))).toEqual(['L2']);
    expect(violated({ ...subject(undefined, 'past'), historyParts: 'past' })).toEqual([]);
    expect(violated({ ...subject(undefined, 'earlier'), historyParts: 'earlier' })).toEqual([]);
  });

  it('L3: the label, or the column it was made from, as a feature', () => {
    const { schema, ...rest } = subject();
    for (const name of ['rating', 'click']) {
      const features = [...schema.features, { name, source: 'inter', type: 'meta' } as const];
      expect(violated({ ...rest, schema: { ...schema, features } })).toEqual(['L3']);
    }
  });

  it('L4 and L6: a row of its own for what train does not know', () => {
    const own = subject(() => ({
      categorical: [{ name: 'item_id', source: 'item', rows: Int32Array.from([1, 2, 3, 4]) }],
    }));
    expect(violated(own)).toEqual(['L4', 'L6']);
    const genres = {
      name: 'genres',
      source: 'item',
      values: Int32Array.from([1, 2, 1, 5]),
      offsets: Int32Array.from([0, 2, 2, 3, 4]),
    } as const;
    expect(violated(subject(() => ({ sequences: [genres] })))).toEqual(['L4']);
  });

  it('L5: candidates from outside train, or exclusions that give valid and test away', () => {
    const stranger = subject(({ negatives }) => ({
      negatives: { ...negatives!, items: Int32Array.from([0, 1, 2, 3]) },
    }));
    expect(violated(stranger)).toEqual(['L5']);
    const all = (of: LeakSubject) =>
      negativeTable(of.events, new Uint8Array(8), of.positive, { kind: 'uniform', n: 1 });
    const telling = subject(({ negatives }) => ({ negatives: { ...all(subject()), items: negatives!.items } }));
    expect(violated(telling)).toEqual(['L5']);
  });

  it('L6: a new item in a train row', () => {
    const of = subject();
    expect(violated({ ...of, split: { ...of.split, cold: Uint8Array.from([1, 0, 0, 1]) } })).toEqual(['L6']);
  });

  it('L6: a new item in a history of a train target', () => {
    const events = eventsOf(
      [
        [0, 0, 1],
        [0, 1, 2],
        [0, 0, 3],
      ],
      { users: 1, items: 2 },
    );
    const split = splitEvents(events, { kind: 'given', part: Uint8Array.from([0, 2, 0]) });
    expect([...split.cold]).toEqual([0, 1]);
    const of = (cold: Uint8Array | null): LeakSubject => {
      const histories = buildHistories(events, split.part, { parts: 'past', cold });
      const { columns, ...rest } = subject(() => ({ histories, negatives: null, categorical: [] }));
      return { ...rest, events, split, columns, historyParts: 'past', positive: new Uint8Array(3).fill(1) };
    };
    expect(violated(of(null))).toEqual(['L6']);
    const clean = of(split.cold);
    expect(violated(clean)).toEqual([]);
    expect([...clean.columns.histories!.train.item]).toEqual([0, 0]);
    expect([...clean.columns.histories!.test.item]).toEqual([0, 1, 0]);
  });

  it('throws with the list of what is violated', () => {
    expect(() => checkLeaks(subject(undefined, 'past'))).toThrow(DataError);
    expect(() => checkLeaks(subject(undefined, 'past'))).toThrow(/L2 \(histories of train hold event 4 of valid\)/);
  });

  it('L10: counts equal (user, item, time) like the definition', () => {
    fc.assert(
      fc.property(randomEvents, (events) => {
        const split = splitEvents(events, { kind: 'RS', ratios: [0.5, 0.25, 0.25] });
        const groups = new Map<string, Set<number>>();
        for (let i = 0; i < events.count; i++) {
          const key = `${events.user[i]} ${events.item[i]} ${events.time[i]}`;
          groups.set(key, (groups.get(key) ?? new Set()).add(split.part[i]!));
        }
        expect(countDuplicates({ events, split }).across > 0).toBe(
          [...groups.values()].some((parts) => parts.size > 1),
        );
        const { within, across } = countDuplicates({ events, split });
        expect(within + across).toBe(events.count - groups.size);
      }),
    );
  });
});
