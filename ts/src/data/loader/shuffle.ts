/**
 * A keyed bijection on [0, n): the order of samples without an array and without generator state (data.md, section 9).
 * A balanced Feistel network permutes the smallest even power of two at or above n; a value outside [0, n) walks on along
 * its cycle until it falls inside, which keeps the map a bijection and takes fewer than four steps on average.
 */

import { ArgumentError } from '../../errors.js';
import { philox, streamOf } from '../../random.js';
import { atOnce, type Pass, slices } from '../turns.js';

const ROUNDS = 6;
const STREAM = streamOf('shuffle');

/** Mixes 32 bits (the finaliser of MurmurHash3, public domain constants). */
function mix(word: number): number {
  let h = word | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** The two 32-bit words of a seed: low and high. */
export function seedKey(seed: number): [number, number] {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new ArgumentError(`seed: expected an integer in [0, 2^53) but received ${String(seed)}`, {
      argument: 'seed',
    });
  }
  return [seed >>> 0, Math.floor(seed / 4294967296) >>> 0];
}

/**
 * The bijection on [0, n) under (seed, epoch): `order(k)` is the number at place k.
 * n up to 2^30. Throws ArgumentError for another n, seed or epoch; the returned function expects an integer in [0, n).
 */
export function shuffler(n: number, seed: number, epoch: number): (k: number) => number {
  if (!Number.isInteger(n) || n < 0 || n > 2 ** 30) {
    throw new ArgumentError(`shuffler: expected n in [0, 2^30] but received ${String(n)}`, { argument: 'n' });
  }
  if (!Number.isInteger(epoch) || epoch < 0 || epoch >= 2 ** 32) {
    throw new ArgumentError(`shuffler: expected epoch in [0, 2^32) but received ${String(epoch)}`, {
      argument: 'epoch',
    });
  }
  let half = 1;
  while (4 ** half < n) half++;
  const mask = 2 ** half - 1;
  const key = seedKey(seed);
  const keys = new Int32Array(8);
  for (let block = 0; block < 2; block++) keys.set(philox([block, epoch, STREAM, 0], key), 4 * block);

  return (k) => {
    let value = k;
    do {
      let left = value >>> half;
      let right = value & mask;
      for (let round = 0; round < ROUNDS; round++) {
        const next = (left ^ mix(right ^ keys[round]!)) & mask;
        left = right;
        right = next;
      }
      value = ((left << half) | right) >>> 0;
    } while (value >= n);
    return value;
  };
}

/** The whole order at once: row numbers 0 .. n-1 by place. */
export function permutation(n: number, seed: number, epoch: number): Int32Array {
  return atOnce(permutationPass(n, seed, epoch));
}

export function* permutationPass(n: number, seed: number, epoch: number): Pass<Int32Array> {
  const order = shuffler(n, seed, epoch);
  const out = new Int32Array(n);
  yield* slices(n, (from, to) => {
    for (let k = from; k < to; k++) out[k] = order(k);
  });
  return out;
}
