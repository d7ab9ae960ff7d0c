/** Splits into train, valid and test by the definitions of data.md, section 4. A split is one byte per event and what was counted on the way. */

import { createHash } from 'node:crypto';
import { ArgumentError, DataError } from '../errors.js';
import { type Events, groupRowsPass, lowerBound, rowsKept, TEST, TRAIN, timeOrder, VALID } from './events.js';
import { permutationPass } from './loader/shuffle.js';
import { DenseCodes } from './tables/id_codes.js';
import { atOnce, ownerSlices, type Pass, slices } from './turns.js';

/** Shares of train, valid and test; they are normalised. */
export type Ratios = readonly [number, number, number];

/** `RO`: the seeded permutation. `TO`: time, then row. */
export type Order = 'RO' | 'TO';

/** A time, or the quantile of all event times to take one from. */
export type Threshold = number | bigint | { readonly quantile: number };

interface RatioRule {
  readonly ratios: Ratios;
  readonly order?: Order;
  /** With `TO`: `time` (default) keeps events of one time in one part, `row` keeps the exact sizes. */
  readonly ties?: 'time' | 'row';
}

export type SplitRule =
  | ({ readonly kind: 'RS'; readonly groupBy?: 'user' } & RatioRule)
  | { readonly kind: 'LS' }
  | { readonly kind: 'TS'; readonly validFrom: Threshold; readonly testFrom: Threshold }
  /** Shares of the items, chosen by a keyed hash of the id; warm events follow `RS`. */
  | ({ readonly kind: 'CS'; readonly test: number; readonly valid: number } & RatioRule)
  /** The item ids of the part *new items*, by list; warm events follow `RS`. */
  | ({ readonly kind: 'CS'; readonly testItems: readonly string[] } & RatioRule)
  /** One part code per event, as the data came; `cold` (items) marks the new items where the data know them, `text` says the rule. */
  | { readonly kind: 'given'; readonly part: Uint8Array; readonly cold?: Uint8Array; readonly text?: string };

/** What a split made of the events. */
export interface Split {
  /** (n): 0 train, 1 valid, 2 test. */
  readonly part: Uint8Array;
  /** (items): 1 for *new items*. By `CS` or given data these items; else every item without a train event. */
  readonly cold: Uint8Array;
  /** One line for reports: rule, order, thresholds as the times they became, seed. */
  readonly text: string;
  /** Order and history defaults follow from it: `RO` when order says nothing about time. */
  readonly order: Order;
  readonly counters: Readonly<Record<string, number>>;
}

/**
 * Splits `events` by `rule`. `itemIds` (items) are the ids as text: `CS` hashes or looks them up. `seed` keys `RO` and `CS`.
 * `coldItems`: ids of items that are *new items* whatever the rule; the rule then splits the events of the others.
 * Throws ArgumentError for a rule that makes no sense, DataError (DATA_SCHEMA) when a time is needed and there is none.
 */
export function splitEvents(events: Events, rule: SplitRule, options: SplitOptions = {}): Split {
  return atOnce(splitEventsPass(events, rule, options));
}

export interface SplitOptions {
  readonly seed?: number;
  readonly itemIds?: readonly string[];
  readonly coldItems?: readonly string[];
}

export function* splitEventsPass(
  events: Events,
  rule: SplitRule,
  { seed = 0, itemIds, coldItems = [] }: SplitOptions = {},
): Pass<Split> {
  const counters: Record<string, number> = {};
  const part = new Uint8Array(events.count);
  // Part code per item: TRAIN for warm items, whose events the rule splits.
  const chosen =
    rule.kind === 'CS' || coldItems.length > 0
      ? yield* chooseItems(rule, coldItems, itemIds, events.items, seed, counters)
      : null;
  const isWarm = (row: number): boolean => chosen === null || chosen[events.item[row]!] === TRAIN;
  function* warm(order: Order): Pass<Int32Array> {
    const rows = yield* orderedRows(events, order, seed);
    return chosen === null ? rows : yield* rowsKept(rows, isWarm);
  }
  let text: string;
  let order: Order = 'TO';
  if (rule.kind === 'RS' || rule.kind === 'CS') {
    order = rule.order ?? 'RO';
    needTime(events, 'order TO', order === 'TO' && rule.ties !== 'row');
    const byUser = rule.kind === 'RS' && rule.groupBy === 'user';
    if (byUser) {
      const { rows, offsets } = yield* groupRowsPass(events.user, events.users, yield* warm(order));
      yield* ownerSlices(events.users, (from, to) => {
        for (let u = from; u < to; u++)
          atOnce(cut(events, rows.subarray(offsets[u], offsets[u + 1]), rule, order, part, counters));
      });
    } else yield* cut(events, yield* warm(order), rule, order, part, counters);
    text = `${rule.kind} ${rule.ratios.join('/')} ${order}${byUser ? ' by user' : ''} seed ${seed}`;
  } else if (rule.kind === 'LS') {
    yield* leaveLast(events, yield* warm('TO'), part, counters);
    text = 'LS valid_and_test';
  } else if (rule.kind === 'TS') {
    const valid = yield* thresholdOf(events, rule.validFrom);
    const test = yield* thresholdOf(events, rule.testFrom);
    if (valid > test) {
      throw new ArgumentError('split TS: expected valid_from at or before test_from', { argument: 'validFrom' });
    }
    yield* slices(events.count, (from, to) => {
      for (let i = from; i < to; i++)
        part[i] = events.time[i]! >= test ? TEST : events.time[i]! >= valid ? VALID : TRAIN;
    });
    const shown = (rank: number): string => String(events.times![rank] ?? 'never');
    text = `TS valid from ${shown(valid)} test from ${shown(test)}`;
  } else {
    const { part: given } = rule;
    let isPart = given.length === events.count;
    yield* slices(given.length, (from, to) => {
      for (let i = from; i < to; i++) if (given[i]! > TEST) isPart = false;
    });
    if (!isPart) {
      throw new ArgumentError(`split: expected ${events.count} part codes 0, 1 or 2 but received ${given.length}`, {
        argument: 'part',
      });
    }
    part.set(given);
    text = rule.text ?? 'as given';
  }
  let cold = rule.kind === 'given' ? (rule.cold ?? null) : null;
  if (chosen !== null) {
    yield* slices(events.count, (from, to) => {
      for (let i = from; i < to; i++) if (!isWarm(i)) part[i] = chosen[events.item[i]!]!;
    });
    cold = chosen.map((code) => (code === TEST ? 1 : 0));
    text += `, ${counters.coldItems} new items ${rule.kind === 'CS' && 'test' in rule ? 'by hash' : 'by list'}`;
  }
  if (cold === null) {
    const untrained = new Uint8Array(events.items).fill(1);
    yield* slices(events.count, (from, to) => {
      for (let i = from; i < to; i++) if (part[i] === TRAIN) untrained[events.item[i]!] = 0;
    });
    cold = untrained;
  }
  yield* countNew(events, part, counters);
  return { part, cold, text, order, counters };
}

function orderedRows(events: Events, order: Order, seed: number): Pass<Int32Array> {
  return order === 'RO' ? permutationPass(events.count, seed, 0) : timeOrder(events);
}

/** Sizes of valid and test for n events: floors of normalised shares; an empty part with a positive share takes one from train while train has more than one. */
export function partSizes(n: number, ratios: Ratios): { train: number; valid: number; test: number } {
  const sum = ratios[0] + ratios[1] + ratios[2];
  if (!(sum > 0) || !Number.isFinite(sum) || ratios.some((ratio) => ratio < 0)) {
    throw new ArgumentError(`split: expected three shares of at least 0 but received ${ratios.join(', ')}`, {
      argument: 'ratios',
    });
  }
  let valid = Math.floor((ratios[1] / sum) * n);
  let test = Math.floor((ratios[2] / sum) * n);
  if (test === 0 && ratios[2] > 0 && n - valid > 1) test = 1;
  if (valid === 0 && ratios[1] > 0 && n - test > 1) valid = 1;
  return { train: n - valid - test, valid, test };
}

/** Cuts ordered rows into train, valid and test. */
function* cut(
  events: Events,
  rows: Int32Array,
  { ratios, ties = 'time' }: RatioRule,
  order: Order,
  part: Uint8Array,
  counters: Record<string, number>,
): Pass<void> {
  const sizes = partSizes(rows.length, ratios);
  let validStart = sizes.train;
  let testStart = sizes.train + sizes.valid;
  if (order === 'TO' && ties === 'time') {
    // The test part takes its first time whole, then the valid part does.
    const back = (start: number): number => {
      let at = start;
      while (at > 0 && at < rows.length && events.time[rows[at - 1]!] === events.time[rows[at]!]) at--;
      return at;
    };
    testStart = back(testStart);
    validStart = Math.min(validStart, testStart);
    if (validStart < testStart) validStart = back(validStart);
    counters.movedByTies = (counters.movedByTies ?? 0) + (sizes.train - validStart);
  }
  yield* slices(rows.length - validStart, (from, to) => {
    for (let i = validStart + from; i < validStart + to; i++) part[rows[i]!] = i < testStart ? VALID : TEST;
  });
}

/** `ordered`: rows by (time, row). */
function* leaveLast(
  events: Events,
  ordered: Int32Array,
  part: Uint8Array,
  counters: Record<string, number>,
): Pass<void> {
  const { rows, offsets } = yield* groupRowsPass(events.user, events.users, ordered);
  let below = 0;
  yield* ownerSlices(events.users, (from, to) => {
    for (let u = from; u < to; u++) {
      const end = offsets[u + 1]!;
      const count = end - offsets[u]!;
      if (count >= 3) {
        part[rows[end - 1]!] = TEST;
        part[rows[end - 2]!] = VALID;
      } else if (count > 0) below++;
    }
  });
  counters.usersBelowThree = below;
}

/** Rank of the first distinct time at or after a threshold. */
function* thresholdOf(events: Events, threshold: Threshold): Pass<number> {
  needTime(events, 'TS', true);
  if (typeof threshold !== 'object') return lowerBound(events.times!, threshold);
  const { quantile } = threshold;
  if (!(quantile >= 0 && quantile <= 1)) {
    throw new ArgumentError(`split TS: expected a quantile in [0, 1] but received ${quantile}`, {
      argument: 'quantile',
    });
  }
  const at = Math.floor(quantile * events.count);
  return at >= events.count ? events.times!.length : events.time[(yield* timeOrder(events))[at]!]!;
}

function needTime(events: Events, who: string, needed: boolean): void {
  if (needed && events.times === null) {
    throw new DataError('DATA_SCHEMA', `split ${who}: expected a time column but the data have none`);
  }
}

/** Ids hashed between two yields: about a millisecond. */
const HASHES = 1 << 6;

/** Part code per item: TEST for new items, VALID for those whose events join valid, TRAIN for warm ones. */
function* chooseItems(
  rule: SplitRule,
  coldItems: readonly string[],
  itemIds: readonly string[] | undefined,
  items: number,
  seed: number,
  counters: Record<string, number>,
): Pass<Uint8Array> {
  if (itemIds?.length !== items) {
    throw new ArgumentError(`split: expected ${items} item ids but received ${itemIds?.length ?? 'none'}`, {
      argument: 'itemIds',
    });
  }
  const chosen = new Uint8Array(items);
  if (rule.kind === 'CS' && 'test' in rule) {
    if (!(rule.test >= 0 && rule.valid >= 0 && rule.test + rule.valid < 1)) {
      throw new ArgumentError(
        `split CS: expected shares of at least 0 below 1 together but received ${rule.test}, ${rule.valid}`,
        { argument: 'test' },
      );
    }
    const { test, valid } = rule;
    yield* slices(
      items,
      (from, to) => {
        for (let i = from; i < to; i++) {
          const share = createHash('sha256').update(`${seed}:${itemIds[i]!}`).digest().readUInt32LE(0) / 2 ** 32;
          chosen[i] = share < test ? TEST : share < test + valid ? VALID : TRAIN;
        }
      },
      HASHES,
    );
  }
  const listed = [...coldItems, ...(rule.kind === 'CS' && 'testItems' in rule ? rule.testItems : [])];
  const wanted = new DenseCodes<string>();
  for (const id of listed) wanted.code(id);
  const found = new Uint8Array(wanted.ids.length);
  yield* slices(items, (from, to) => {
    for (let i = from; i < to; i++) {
      const code = wanted.ids.length === 0 ? -1 : wanted.find(itemIds[i]!);
      if (code < 0) continue;
      chosen[i] = TEST;
      found[code] = 1;
    }
  });
  counters.coldItemsUnknown = listed.reduce((count, id) => count + (found[wanted.find(id)] === 1 ? 0 : 1), 0);
  counters.coldItems = chosen.reduce((count, code) => count + (code === TEST ? 1 : 0), 0);
  return chosen;
}

/** Counts users and items of valid and test that train has never seen. */
function* countNew(events: Events, part: Uint8Array, counters: Record<string, number>): Pass<void> {
  for (const [name, column, size] of [
    ['Users', events.user, events.users],
    ['Items', events.item, events.items],
  ] as const) {
    const seen = new Uint8Array(size);
    yield* slices(events.count, (from, to) => {
      for (let i = from; i < to; i++) seen[column[i]!]! |= 1 << part[i]!;
    });
    let [valid, test] = [0, 0];
    yield* slices(size, (from, to) => {
      for (let i = from; i < to; i++) {
        if ((seen[i]! & 3) === 2) valid++;
        if ((seen[i]! & 5) === 4) test++;
      }
    });
    counters[`new${name}Valid`] = valid;
    counters[`new${name}Test`] = test;
  }
}
