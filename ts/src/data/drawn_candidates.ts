/** Candidates of a sampled ranking (data.md 5): drawn once per target, a function of (seed, user, target) alone. */
import { philoxBlocks, streamOf, uniform } from '../random.js';
import type { Dataset } from './dataset.js';
import { lowerBound, TRAIN } from './events.js';
import { seedKey } from './loader/shuffle.js';

export interface DrawnCandidates {
  /** 'uniform': every item of the catalogue alike; 'popularity': in proportion to its events in the train part. */
  readonly kind: 'uniform' | 'popularity';
  /** Items drawn for each target. */
  readonly n: number;
  readonly seed: number;
}

const STREAM = streamOf('candidates');
/** Words of one call of the generator. */
const WORDS = 128;
/** Calls after which what is missing is taken in item order. */
const ROUNDS = 64;

/**
 * Draws for one target: `n` distinct items but those with `taken` 1 (items), fewer where there are not so many. `taken` is as it was
 * afterwards.
 */
export type DrawCandidates = (user: number, target: number, taken: Uint8Array) => Int32Array;

export function candidateDraws(
  { events, split, schema: { items } }: Pick<Dataset, 'events' | 'split' | 'schema'>,
  { kind, n, seed }: DrawnCandidates,
): DrawCandidates {
  const cumulative = new Float64Array(items).fill(kind === 'uniform' ? 1 : 0);
  if (kind === 'popularity')
    events.item.forEach((item, row) => (cumulative[item]! += Number(split.part[row] === TRAIN)));
  for (let i = 1; i < items; i++) cumulative[i]! += cumulative[i - 1]!;
  const total = cumulative.at(-1) ?? 0;
  const key = seedKey(seed);
  const words = new Uint32Array(WORDS);
  return (user, target, taken) => {
    const drawn = new Int32Array(n);
    let count = 0;
    const take = (item: number): void => {
      if (taken[item] === 1) return;
      taken[item] = 1;
      drawn[count++] = item;
    };
    for (let round = 0; round < ROUNDS && count < n && total > 0; round++) {
      philoxBlocks([target, (round * WORDS) / 4, user, STREAM], key, words);
      for (let w = 0; w < WORDS && count < n; w++) take(lowerBound(cumulative, uniform(words[w]!) * total));
    }
    for (let item = 0; item < items && count < n; item++) take(item);
    const kept = drawn.subarray(0, count);
    for (const item of kept) taken[item] = 0;
    return kept;
  };
}
