/**
 * Histories: the user's events before a target, oldest first (data.md, section 4, rules L1 to L3). Events are kept once, sorted
 * by (user, time, row); a history is a slice of them found by one binary search.
 */

import { type Events, lowerBound, type PartName, TEST, TRAIN, userOrder, VALID } from './events.js';
import { sharedInt32 } from './text/token_store.js';
import { atOnce, ownerSlices, type Pass, slices } from './turns.js';

/** Which events may stand in a history: train only; for test targets also valid; or any earlier event. */
export type HistoryParts = 'train' | 'earlier' | 'past';

export interface HistoryOptions {
  readonly parts: HistoryParts;
  /** `strict` (default): time < the target's time. `order`: equal times count by row, for parity runs. */
  readonly ties?: 'strict' | 'order';
  /** (n) 1 where the event may enter a history: positives. null admits all (`history_where: all`). */
  readonly where?: Uint8Array | null;
  /** (items) 1 for new items: no train target sees them, not even in `past` (L6). */
  readonly cold?: Uint8Array | null;
}

/** Events of user u: entries `offsets[u] .. offsets[u+1])`, ascending by (time, row). All int32. */
export interface EventLog {
  readonly offsets: Int32Array;
  readonly item: Int32Array;
  readonly time: Int32Array;
  readonly row: Int32Array;
}

/** The log that targets of each part look into. */
export interface Histories {
  readonly train: EventLog;
  readonly valid: EventLog;
  readonly test: EventLog;
  readonly ties: 'strict' | 'order';
}

/** Builds the logs. `part` (n) holds part codes. Parts that see the same events share one log. */
export function buildHistories(events: Events, part: Uint8Array, options: HistoryOptions): Histories {
  return atOnce(buildHistoriesPass(events, part, options));
}

export function* buildHistoriesPass(
  events: Events,
  part: Uint8Array,
  { parts, ties = 'strict', where = null, cold = null }: HistoryOptions,
): Pass<Histories> {
  const valid = yield* eventLog(events, part, { lastPart: parts === 'past' ? TEST : TRAIN, where });
  const warm =
    parts === 'past' && cold !== null ? yield* eventLog(events, part, { lastPart: TEST, where, cold }) : valid;
  const train = warm.row.length === valid.row.length ? valid : warm;
  return {
    train,
    valid,
    test: parts === 'earlier' ? yield* eventLog(events, part, { lastPart: VALID, where }) : valid,
    ties,
  };
}

/** The events of parts up to `lastPart`; without those of `cold` items that stand before a train event of their user. */
function* eventLog(
  events: Events,
  part: Uint8Array,
  { lastPart, where, cold = null }: { lastPart: number; where: Uint8Array | null; cold?: Uint8Array | null },
): Pass<EventLog> {
  const order = yield* userOrder(events);
  const admitted = new Int32Array(events.count);
  const offsets = sharedInt32(events.users + 1);
  let count = 0;
  yield* ownerSlices(events.users, (from, to) => {
    for (let u = from; u < to; u++) {
      const end = order.offsets[u + 1]!;
      let lastTrain = cold === null ? 0 : end - 1;
      while (lastTrain > order.offsets[u]! && part[order.rows[lastTrain]!] !== TRAIN) lastTrain--;
      for (let at = order.offsets[u]!; at < end; at++) {
        const row = order.rows[at]!;
        if (cold !== null && at < lastTrain && cold[events.item[row]!] === 1) continue;
        if (part[row]! <= lastPart && (where === null || where[row] === 1)) admitted[count++] = row;
      }
      offsets[u + 1] = count;
    }
  });
  const log = { offsets, item: sharedInt32(count), time: sharedInt32(count), row: sharedInt32(count) };
  yield* slices(count, (from, to) => {
    for (let i = from; i < to; i++) {
      const row = admitted[i]!;
      log.row[i] = row;
      log.item[i] = events.item[row]!;
      log.time[i] = events.time[row]!;
    }
  });
  return log;
}

/** Entries [start, end) of the log of `part` that a target of `user` at (time, row) sees: the last `maxLen` before it. */
export function historyRange(
  histories: Histories,
  part: PartName,
  { user, time, row }: { user: number; time: number; row: number },
  maxLen: number,
): readonly [number, number] {
  const log = histories[part];
  const first = log.offsets[user]!;
  const last = log.offsets[user + 1]!;
  let end = lowerBound(log.time, time, first, last);
  if (histories.ties === 'order') while (end < last && log.time[end] === time && log.row[end]! < row) end++;
  return [Math.max(first, end - maxLen), end];
}
