/**
 * Long passes over rows that leave the event loop its turns. A pass is a generator that yields every few thousand rows: `inTurns` runs it
 * with a turn of the event loop every few milliseconds, `atOnce` without one. Both come to the same result.
 */

import { setImmediate } from 'node:timers/promises';

export type Pass<T> = Generator<undefined, T, undefined>;

/** Rows between two yields: well below a millisecond, even where every row misses the caches. */
export const SLICE = 1 << 12;
/** Milliseconds of work between two turns of the event loop. */
const BETWEEN_TURNS = 3;

/** Owners (users) of a few dozen rows each between two yields. */
const OWNERS = 1 << 8;

/** Calls `body(from, to)` for consecutive slices of [0, count) and yields after each. */
export function* slices(count: number, body: (from: number, to: number) => void, size = SLICE): Pass<void> {
  for (let from = 0; from < count; from += size) {
    body(from, Math.min(count, from + size));
    yield;
  }
}

/** `slices` of owners: `body` goes over all rows of each. */
export function ownerSlices(count: number, body: (from: number, to: number) => void): Pass<void> {
  return slices(count, body, OWNERS);
}

/** Elements zeroed between two yields. */
const ZEROS = 1 << 14;

/** A fresh array with its memory in place: pages that are first met in random order, one by one, hold up the event loop. */
export function* zeroed<
  T extends { readonly length: number; fill(value: number | bigint, from: number, to: number): unknown },
>(array: T): Pass<T> {
  yield* slices(array.length, (from, to) => array.fill(0, from, to), ZEROS);
  return array;
}

/** Runs a pass to its end. */
export function atOnce<T>(pass: Pass<T>): T {
  for (;;) {
    const step = pass.next();
    if (step.done === true) return step.value;
  }
}

/** Runs a pass in turns of the event loop; rejects with the signal's reason when it is aborted. */
export async function inTurns<T>(pass: Pass<T>, signal?: AbortSignal): Promise<T> {
  const turn = turns(signal);
  for (;;) {
    const step = pass.next();
    if (step.done === true) return step.value;
    await turn();
  }
}

/** A function to call between two pieces of work: it gives the event loop a turn whenever one is due. */
export function turns(signal?: AbortSignal): () => Promise<void> | undefined {
  let since = performance.now();
  const take = async (): Promise<void> => {
    await setImmediate();
    signal?.throwIfAborted();
    since = performance.now();
  };
  return () => (performance.now() - since < BETWEEN_TURNS ? undefined : take());
}
