/** Small random interactions for property tests. */

import fc from 'fast-check';
import { type Events, rankTimes, rowNumbers } from '../../src/data/events.js';

export const USERS = 5;
export const ITEMS = 7;

/** Up to 40 events of 5 users and 7 items at few distinct times, so that ties are common. */
export const randomEvents: fc.Arbitrary<Events> = fc
  .array(fc.tuple(fc.nat(USERS - 1), fc.nat(ITEMS - 1), fc.nat(12)), { maxLength: 40 })
  .map((rows) => eventsOf(rows));

/** Events from rows (user, item, time). */
export function eventsOf(
  rows: readonly (readonly [number, number, number])[],
  { users = USERS, items = ITEMS }: { users?: number; items?: number } = {},
): Events {
  const { time, times } = rankTimes(Float64Array.from(rows, (row) => row[2]));
  return {
    count: rows.length,
    users,
    items,
    user: Int32Array.from(rows, (row) => row[0]),
    item: Int32Array.from(rows, (row) => row[1]),
    time,
    times,
  };
}

/** The same events without a time column. */
export function withoutTime(events: Events): Events {
  return { ...events, time: rowNumbers(events.count), times: null };
}
