import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { atOnce, inTurns, type Pass, slices, zeroed } from '../../src/data/turns.js';

/** Sums 0 .. n-1, and takes a millisecond for every slice. */
function* sum(n: number): Pass<number> {
  let total = 0;
  yield* slices(n, (from, to) => {
    for (let i = from; i < to; i++) total += i;
    for (const end = performance.now() + 1; performance.now() < end; );
  });
  return total;
}

describe('passes', () => {
  it('come to the same result at once and in turns of the event loop', async () => {
    for (const n of [0, 1, 4095, 4096, 4097, 100_000]) {
      expect(atOnce(sum(n))).toBe((n * n - n) / 2);
      expect(await inTurns(sum(n))).toBe((n * n - n) / 2);
    }
  });

  it('leave the event loop its turns', async () => {
    let [turns, running] = [0, true];
    const count = async (): Promise<void> => {
      for (; running; turns++) await setImmediate();
    };
    const counting = count();
    await inTurns(sum(100_000));
    running = false;
    await counting;
    expect(turns).toBeGreaterThan(5);
  });

  it('stop when their signal is aborted', async () => {
    const control = new AbortController();
    const stopped = inTurns(sum(1_000_000), control.signal);
    control.abort(new Error('enough'));
    await expect(stopped).rejects.toThrow('enough');
  });

  it('give arrays of zeros of every kind', () => {
    expect(atOnce(zeroed(new Int32Array(5)))).toEqual(new Int32Array(5));
    expect(atOnce(zeroed(new Uint8Array(100_000)))).toEqual(new Uint8Array(100_000));
  });
});
