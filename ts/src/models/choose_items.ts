/** Which items of a step are encoded, and which of them with gradient (LEMUR's p and q; models.md 5.2). */
import { streamOf, uniformAt } from '../random.js';

export interface ItemSampling {
  /** Percent of the items that are encoded. */
  readonly p: number;
  /** Percent of the items that are encoded with gradient. */
  readonly q: number;
  readonly seed: number;
  /** Until this step every item is encoded with gradient. */
  readonly warmupSteps: number;
  /** Items with more training rows than this are encoded less: with p and q times popularAt / rows. Null: all alike. */
  readonly popularAt: number | null;
  /** Steps after which a stored vector is too old to serve as a target; null: never. */
  readonly maxAge: number | null;
}

/** Positions in the list of items, ascending in each group; together they are all. */
export interface ChosenItems {
  /** Encoded with gradient. */
  readonly live: Int32Array;
  /** Of each of these, how likely that was; 1 for items without a stored vector. */
  readonly chance: Float32Array;
  /** Encoded without. */
  readonly fresh: Int32Array;
  /** Read from the bank. */
  readonly cached: Int32Array;
}

const stream = streamOf('lemur.choose_items');

/**
 * Chooses by u(item, step), so that neither the order of a batch nor the number of workers matters. Items without a stored vector
 * (`lastWrite` < 0), or with one that is too old, are encoded always, those without with gradient if q > 0.
 */
export function chooseItems(
  items: Int32Array,
  step: number,
  { p, q, seed, warmupSteps, popularAt, maxAge }: ItemSampling,
  { lastWrite, trainRows }: { lastWrite: (item: number) => number; trainRows: (item: number) => number },
): ChosenItems {
  if (step <= warmupSteps) {
    const none = new Int32Array(0);
    return {
      live: Int32Array.from(items.keys()),
      chance: new Float32Array(items.length).fill(1),
      fresh: none,
      cached: none,
    };
  }
  const live: number[] = [];
  const chance: number[] = [];
  const fresh: number[] = [];
  const cached: number[] = [];
  items.forEach((item, at) => {
    const rarer = popularAt === null ? 1 : Math.min(1, popularAt / trainRows(item));
    const u = (100 / rarer) * uniformAt(item, step, seed, stream);
    const last = lastWrite(item);
    const tooOld = maxAge !== null && step - last > maxAge;
    const encoded = u < p || last < 0 || tooOld;
    if (encoded && (u < q || (last < 0 && q > 0))) {
      live.push(at);
      chance.push(last < 0 ? 1 : Math.min(1, (rarer * (tooOld ? q : Math.min(p, q))) / 100));
    } else (encoded ? fresh : cached).push(at);
  });
  return {
    live: Int32Array.from(live),
    chance: Float32Array.from(chance),
    fresh: Int32Array.from(fresh),
    cached: Int32Array.from(cached),
  };
}
