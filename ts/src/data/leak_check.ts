/** The no-leak rules of data.md, section 4, as checks of a finished data set: each looks at the result, not at the code that made it. */

import { DataError } from '../errors.js';
import { type Events, PARTS, TRAIN, userOrder } from './events.js';
import { type HistoryParts, historyRange } from './history.js';
import type { BatchColumns } from './loader/batch_source.js';
import { featuresOf, type Schema } from './schema.js';
import type { Split } from './split.js';
import { atOnce, ownerSlices, type Pass, slices } from './turns.js';

export interface LeakCheck {
  readonly rule: 'L1' | 'L2' | 'L3' | 'L4' | 'L5' | 'L6' | 'L7' | 'L8' | 'L9' | 'L10';
  /** null: kept elsewhere (the detail says where), nothing to look at here. */
  readonly ok: boolean | null;
  readonly detail: string;
}

/** What the checks look at; a data set has all of it. */
export interface LeakSubject {
  readonly events: Events;
  readonly split: Split;
  readonly schema: Schema;
  readonly columns: BatchColumns;
  readonly historyParts: HistoryParts;
  /** Columns that labels come from. */
  readonly labelColumns: readonly string[];
  /** (n) 1 for positives. */
  readonly positive: Uint8Array;
  readonly allowDuplicates: boolean;
}

/** All rules, violated or not. */
export function leakReport(subject: LeakSubject): LeakCheck[] {
  return atOnce(leakReportPass(subject));
}

function* leakReportPass(subject: LeakSubject): Pass<LeakCheck[]> {
  const check = (rule: LeakCheck['rule'], violation: string | null, promise: string): LeakCheck => ({
    rule,
    ok: violation === null,
    detail: violation ?? promise,
  });
  const history = yield* historyViolations(subject);
  const duplicates = yield* duplicatesOf(subject);
  const { labelColumns, schema, historyParts, allowDuplicates } = subject;
  const asFeature = schema.features.find(({ name }) => labelColumns.includes(name) || schema.labels.includes(name));
  const inTwoParts = `${duplicates.across} equal (user, item, time) in two parts`;
  return [
    check(
      'L1',
      history.L1,
      ['histories hold only events before their target', ...(yield* givenHistories(subject))].join('; '),
    ),
    check(
      'L2',
      history.L2,
      `histories from ${historyParts === 'past' ? 'any earlier event' : historyParts === 'earlier' ? 'earlier parts' : 'train'}`,
    ),
    check(
      'L3',
      history.L3 ?? (asFeature ? `feature ${asFeature.name} is the label` : null),
      'no label among features or in histories',
    ),
    check('L4', yield* trainOnlyViolation(subject), 'vocabularies and statistics are those of train'),
    check('L5', yield* negativeViolation(subject), 'negatives from train items, only train positives left out'),
    check('L6', yield* coldViolation(subject), 'new items stand in no train row, no train history and no vocabulary'),
    { rule: 'L7', ok: null, detail: 'evaluation writes nothing: kept by the trainer' },
    { rule: 'L8', ok: null, detail: 'test is sealed: openTest() counts every opening' },
    { rule: 'L9', ok: null, detail: 'split manifest: compared when a checkpoint is loaded' },
    check(
      'L10',
      duplicates.across > 0 && !allowDuplicates ? inTwoParts : null,
      allowDuplicates ? `allowed: ${inTwoParts}` : `none in two parts, ${duplicates.within} within a part`,
    ),
  ];
}

/** The report; throws DataError DATA_LEAK with all violations if there is one. */
export function checkLeaks(subject: LeakSubject): LeakCheck[] {
  return atOnce(checkLeaksPass(subject));
}

export function* checkLeaksPass(subject: LeakSubject): Pass<LeakCheck[]> {
  const report = yield* leakReportPass(subject);
  const violated = report.filter(({ ok }) => ok === false);
  if (violated.length > 0) {
    const list = violated.map(({ rule, detail }) => `${rule} (${detail})`).join(', ');
    throw new DataError('DATA_LEAK', `leak check: expected no violation but found ${list}`, { violated });
  }
  return report;
}

type Violations = Record<'L1' | 'L2' | 'L3', string | null>;

function* historyViolations({ events, split, columns, positive, historyParts }: LeakSubject): Pass<Violations> {
  const found: Violations = { L1: null, L2: null, L3: null };
  const { histories } = columns;
  if (histories === null) return found;
  const { time, user } = events;
  // Logs must ascend in (time, row): then the last entry of a slice speaks for all before it.
  for (const log of new Set([histories.train, histories.valid, histories.test])) {
    yield* ownerSlices(events.users, (from, to) => {
      for (let u = from; u < to; u++) {
        let [timeBefore, rowBefore] = [-1, -1];
        for (let at = log.offsets[u]!; at < log.offsets[u + 1]!; at++) {
          const row = log.row[at]!;
          const now = time[row]!;
          if (timeBefore > now || (timeBefore === now && rowBefore > row))
            found.L1 ??= `history of user ${u} is not in order of time`;
          timeBefore = now;
          rowBefore = row;
        }
      }
    });
  }
  // User by user: what is looked up then lies together.
  const { rows } = yield* userOrder(events);
  yield* slices(rows.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const row = rows[i]!;
      const name = PARTS[split.part[row]!]!;
      const target = { user: user[row]!, time: time[row]!, row };
      const [start, end] = historyRange(histories, name, target, Number.POSITIVE_INFINITY);
      if (end === start) continue;
      const last = histories[name].row[end - 1]!;
      const before =
        time[last]! < target.time || (histories.ties === 'order' && time[last] === target.time && last < row);
      if (!before || user[last] !== target.user)
        found.L1 ??= `history of event ${row} holds event ${last}, which is not before it`;
      if (last === row) found.L3 ??= `event ${row} stands in its own history`;
    }
  });
  const lastPart = {
    train: historyParts === 'past' ? 2 : 0,
    valid: historyParts === 'past' ? 2 : 0,
    test: { train: 0, earlier: 1, past: 2 }[historyParts],
  };
  for (const name of PARTS) {
    const log = histories[name].row;
    yield* slices(log.length, (from, to) => {
      for (let i = from; i < to; i++) {
        const row = log[i]!;
        if (split.part[row]! > lastPart[name])
          found.L2 ??= `histories of ${name} hold event ${row} of ${PARTS[split.part[row]!]}`;
      }
    });
  }
  if (positive.length !== events.count) found.L3 ??= `${positive.length} labels for ${events.count} events`;
  return found;
}

/** Of each sequence of earlier ids, whose times nobody knows: how often, in train, it ends with the id of its own row. */
function* givenHistories({ schema, columns, split, positive }: LeakSubject): Pass<string[]> {
  const found: string[] = [];
  const rowOfEvent = { inter: null, item: columns.item, user: columns.user, query: columns.query };
  for (const { name, of } of featuresOf(schema, 'sequence')) {
    if (of === undefined) continue;
    const list = columns.sequences.find((column) => column.name === name)!;
    const target = columns.categorical.find((column) => column.name === of)!;
    const [listOf, targetOf] = [rowOfEvent[list.source], rowOfEvent[target.source]];
    const [ends, rows] = [
      [0, 0],
      [0, 0],
    ];
    yield* slices(split.part.length, (from, to) => {
      for (let i = from; i < to; i++) {
        if (split.part[i] !== TRAIN) continue;
        const at = listOf?.[i] ?? i;
        const id = target.rows[targetOf?.[i] ?? i]!;
        const label = positive[i] === 1 ? 1 : 0;
        rows[label]!++;
        if (id !== 0 && list.offsets[at + 1]! > list.offsets[at]! && list.values[list.offsets[at + 1]! - 1] === id)
          ends[label]!++;
      }
    });
    const share = (label: 0 | 1): string => `${((100 * ends[label]!) / Math.max(1, rows[label]!)).toFixed(1)} %`;
    found.push(
      `${name} is taken as given: it ends with the row's own ${of} in ${share(1)} of the positives of train and ${share(0)} of the others`,
    );
  }
  return found;
}

/** Rows of embedding tables that events or items outside train have and train does not. */
function* trainOnlyViolation({ columns, events, split, schema }: LeakSubject): Pass<string | null> {
  // A feature with the vocabulary of another one may show rows that only that one has in train.
  const sharing = new Set(
    schema.features.flatMap((feature) =>
      ('shareEmbedding' in feature && feature.shareEmbedding !== null) ||
      (feature.type === 'sequence' && feature.of !== undefined)
        ? [feature.name]
        : [],
    ),
  );
  const rowOfEvent = { inter: null, item: columns.item, user: columns.user, query: columns.query };
  const single = columns.categorical.map((column) => ({ ...column, values: column.rows, offsets: null }));
  for (const { name, source, values, offsets } of [...single, ...columns.sequences]) {
    if (sharing.has(name)) continue;
    const joined = rowOfEvent[source];
    const met = new Uint8Array(offsets === null ? values.length : offsets.length - 1);
    yield* slices(events.count, (from, to) => {
      for (let i = from; i < to; i++) if (split.part[i] === TRAIN) met[joined === null ? i : joined[i]!] = 1;
    });
    let most = 0;
    yield* slices(values.length, (from, to) => {
      for (let at = from; at < to; at++) if (values[at]! > most) most = values[at]!;
    });
    const inTrain = new Uint8Array(most + 1);
    inTrain[0] = 1;
    yield* slices(met.length, (from, to) => {
      for (let row = from; row < to; row++) {
        if (met[row] === 0) continue;
        for (let at = offsets?.[row] ?? row; at < (offsets?.[row + 1] ?? row + 1); at++) inTrain[values[at]!] = 1;
      }
    });
    let stranger = null as number | null;
    yield* slices(values.length, (from, to) => {
      for (let at = from; at < to; at++) if (inTrain[values[at]!] === 0) stranger ??= values[at]!;
    });
    if (stranger !== null) return `${name}: row ${stranger} of its vocabulary does not occur in train`;
  }
  return null;
}

function* negativeViolation({ columns, events, split, positive }: LeakSubject): Pass<string | null> {
  const { negatives } = columns;
  if (negatives === null) return null;
  const inTrain = new Uint8Array(events.items);
  yield* slices(events.count, (from, to) => {
    for (let i = from; i < to; i++) if (split.part[i] === TRAIN) inTrain[events.item[i]!] = 1;
  });
  const stranger = negatives.items.find((item) => inTrain[item] === 0);
  if (stranger !== undefined) return `candidate ${stranger} is no item of train`;
  const { rows, offsets } = yield* userOrder(events);
  const likedBy = new Int32Array(events.items).fill(-1); // the last user that likes an item
  let liked = 0;
  let violation = null as string | null;
  yield* ownerSlices(events.users, (from, to) => {
    for (let u = from; u < to; u++) {
      for (let at = offsets[u]!; at < offsets[u + 1]!; at++) {
        const row = rows[at]!;
        const item = events.item[row]!;
        if (split.part[row] !== TRAIN || positive[row] !== 1 || likedBy[item] === u) continue;
        likedBy[item] = u;
        liked++;
      }
      for (let at = negatives.offsets[u]!; at < negatives.offsets[u + 1]!; at++) {
        const item = negatives.positives[at]!;
        if (likedBy[item] !== u) violation ??= `user ${u}: item ${item} is left out but is no train positive`;
      }
    }
  });
  if (violation !== null) return violation;
  return liked === negatives.positives.length
    ? null
    : `${liked} train positives but ${negatives.positives.length} are left out`;
}

function* coldViolation({ events, split, columns, schema }: LeakSubject): Pass<string | null> {
  let violation = null as string | null;
  yield* slices(events.count, (from, to) => {
    for (let i = from; i < to; i++) {
      if (split.part[i] === TRAIN && split.cold[events.item[i]!] === 1)
        violation ??= `train event ${i} is of the new item ${events.item[i]}`;
    }
  });
  violation ??= yield* coldInHistories({ events, split, columns });
  if (violation !== null) return violation;
  const ids = columns.categorical.find(({ name }) => name === schema.itemId);
  const known = ids?.rows.findIndex((row, item) => row !== 0 && split.cold[item] === 1) ?? -1;
  return known < 0 ? null : `the new item ${known} has a row of its own in the vocabulary`;
}

/** New items that stand before a train event in the log of train targets. */
function* coldInHistories({
  events,
  split,
  columns,
}: Pick<LeakSubject, 'events' | 'split' | 'columns'>): Pass<string | null> {
  if (columns.histories === null) return null;
  const log = columns.histories.train;
  const { rows, offsets } = yield* userOrder(events);
  let violation = null as string | null;
  yield* ownerSlices(events.users, (from, to) => {
    for (let u = from; u < to; u++) {
      let last = offsets[u + 1]! - 1;
      while (last >= offsets[u]! && split.part[rows[last]!] !== TRAIN) last--;
      if (last < offsets[u]!) continue;
      const end = events.time[rows[last]!]!;
      for (let at = log.offsets[u]!; at < log.offsets[u + 1]! && log.time[at]! < end; at++)
        if (split.cold[log.item[at]!] === 1)
          violation ??= `a train history of user ${u} holds the new item ${log.item[at]}`;
    }
  });
  return violation;
}

interface Duplicates {
  within: number;
  across: number;
}

/** Equal (user, item, time): pairs of neighbours in the same part, and in different ones. Without times there are none. */
export function countDuplicates(subject: Pick<LeakSubject, 'events' | 'split'>): Duplicates {
  return atOnce(duplicatesOf(subject));
}

function* duplicatesOf({ events, split }: Pick<LeakSubject, 'events' | 'split'>): Pass<Duplicates> {
  const found = { within: 0, across: 0 };
  if (events.times === null) return found;
  const { time, item } = events;
  const { rows, offsets } = yield* userOrder(events);
  // Rows of a user at one time stand together; there are few of them.
  const compare = (start: number, end: number): void => {
    const tied = Array.from(rows.subarray(start, end)).sort((a, b) => item[a]! - item[b]! || a - b);
    for (let i = 1; i < tied.length; i++) {
      const [a, b] = [tied[i - 1]!, tied[i]!];
      if (item[a] === item[b]) found[split.part[a] === split.part[b] ? 'within' : 'across']++;
    }
  };
  yield* ownerSlices(events.users, (from, to) => {
    for (let u = from; u < to; u++) {
      const last = offsets[u + 1]!;
      for (let start = offsets[u]!, end = start; start < last; start = end) {
        const now = time[rows[start]!]!;
        for (end = start + 1; end < last && time[rows[end]!] === now; ) end++;
        if (end - start > 1) compare(start, end);
      }
    }
  });
  return found;
}
