/**
 * Sampled training negatives (data.md, section 5). Candidates are the items of the train part, and only the user's *train*
 * positives are left out: leaving out test positives would give them away (rule L5). A draw is a function of (seed, epoch, sample, draw).
 */

import { ArgumentError, DataError } from '../../errors.js';
import { philox, streamOf, uniform } from '../../random.js';
import { type Events, groupRowsPass, lowerBound, rowNumbers, rowsKept, rowsWherePass, TRAIN } from '../events.js';
import { atOnce, ownerSlices, type Pass, slices } from '../turns.js';
import { seedKey } from './shuffle.js';

const STREAM = streamOf('negatives');
const MAX_REDRAWS = 100;

export interface NegativeOptions {
  readonly kind: 'uniform' | 'popularity';
  /** Negatives per positive. */
  readonly n: number;
  /** Popularity weight is (train count)^alpha; 1 by default. */
  readonly alpha?: number;
}

/** Plain arrays, so that a worker can have them. */
export interface NegativeTable {
  readonly n: number;
  /** Items of the train part, ascending. */
  readonly items: Int32Array;
  /** Running sums of the weights; null draws uniformly. */
  readonly cumulative: Float64Array | null;
  /** Items of user u's train positives, ascending and distinct: `positives[offsets[u] .. offsets[u+1])`. */
  readonly positives: Int32Array;
  readonly offsets: Int32Array;
}

/**
 * The table for `drawNegative`. `positive` (n): 1 for positive events. Throws ArgumentError for n below 1 or a negative alpha,
 * DataError when a user likes every train item, so that there is nothing to draw.
 */
export function negativeTable(
  events: Events,
  part: Uint8Array,
  positive: Uint8Array,
  options: NegativeOptions,
): NegativeTable {
  return atOnce(negativeTablePass(events, part, positive, options));
}

export function* negativeTablePass(
  events: Events,
  part: Uint8Array,
  positive: Uint8Array,
  { kind, n, alpha = 1 }: NegativeOptions,
): Pass<NegativeTable> {
  if (!Number.isInteger(n) || n < 1) {
    throw new ArgumentError(`negatives: expected n of at least 1 but received ${n}`, { argument: 'n' });
  }
  if (!(alpha >= 0))
    throw new ArgumentError(`negatives: expected alpha of at least 0 but received ${alpha}`, { argument: 'alpha' });
  const counts = new Int32Array(events.items);
  yield* slices(events.count, (from, to) => {
    for (let i = from; i < to; i++) if (part[i] === TRAIN) counts[events.item[i]!]!++;
  });
  const items = rowNumbers(events.items).filter((item) => counts[item]! > 0);

  let cumulative: Float64Array | null = null;
  if (kind === 'popularity') {
    cumulative = new Float64Array(items.length);
    let sum = 0;
    for (let i = 0; i < items.length; i++) cumulative[i] = sum += counts[items[i]!]! ** alpha;
  }

  const liked = yield* rowsKept(yield* rowsWherePass(part, TRAIN), (row) => positive[row] === 1);
  const byUser = yield* groupRowsPass(events.user, events.users, liked);
  const offsets = new Int32Array(events.users + 1);
  const positives = new Int32Array(liked.length);
  let size = 0;
  yield* ownerSlices(events.users, (from, to) => {
    for (let u = from; u < to; u++) {
      const own = byUser.rows
        .subarray(byUser.offsets[u], byUser.offsets[u + 1])
        .map((row) => events.item[row]!)
        .sort();
      for (let i = 0; i < own.length; i++) if (i === 0 || own[i] !== own[i - 1]) positives[size++] = own[i]!;
      offsets[u + 1] = size;
      if (own.length > 0 && size - offsets[u]! === items.length) {
        throw new DataError(
          'DATA_SCHEMA',
          `negatives: expected an item that user ${u} has no positive for, but all ${items.length} train items are positives`,
          { user: u },
        );
      }
    }
  });
  return { n, items, cumulative, positives: positives.slice(0, size), offsets };
}

/** One draw: the item, and whether 100 redraws met positives only, so the next free item in item order was taken. */
export function drawNegative(
  table: NegativeTable,
  { seed, epoch, sample, draw, user }: { seed: number; epoch: number; sample: number; draw: number; user: number },
): { item: number; fallback: boolean } {
  const { items, cumulative } = table;
  const key = seedKey(seed);
  const from = table.offsets[user]!;
  const to = table.offsets[user + 1]!;
  const isPositive = (item: number): boolean => {
    const at = lowerBound(table.positives, item, from, to);
    return at < to && table.positives[at] === item;
  };
  let place = 0;
  for (let attempt = 0; attempt <= MAX_REDRAWS; attempt++) {
    const u = uniform(philox([sample, draw * 128 + attempt, epoch, STREAM], key)[0]!);
    place = cumulative === null ? Math.floor(u * items.length) : lowerBound(cumulative, u * cumulative.at(-1)!);
    if (!isPositive(items[place]!)) return { item: items[place]!, fallback: false };
  }
  while (isPositive(items[place]!)) place = (place + 1) % items.length;
  return { item: items[place]!, fallback: true };
}

/** log of the probability with which the table proposes `item`; -Infinity for an item outside the train part. For logQ correction. */
export function logProposal(table: NegativeTable, item: number): number {
  const place = lowerBound(table.items, item);
  if (table.items[place] !== item) return Number.NEGATIVE_INFINITY;
  if (table.cumulative === null) return -Math.log(table.items.length);
  const weight = table.cumulative[place]! - (table.cumulative[place - 1] ?? 0);
  return Math.log(weight / table.cumulative.at(-1)!);
}
