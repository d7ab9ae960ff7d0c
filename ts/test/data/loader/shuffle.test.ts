import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { permutation, shuffler } from '../../../src/data/loader/shuffle.js';
import { ArgumentError } from '../../../src/errors.js';

describe('shuffler', () => {
  it('is a bijection on [0, n) for every n, seed and epoch', () => {
    fc.assert(
      fc.property(fc.nat(3000), fc.maxSafeNat(), fc.nat(1000), (n, seed, epoch) => {
        const seen = new Uint8Array(n);
        for (const value of permutation(n, seed, epoch)) seen[value]!++;
        expect(seen.every((count) => count === 1)).toBe(true);
      }),
    );
  });

  it('depends on seed (all 53 bits) and epoch, and on nothing else', () => {
    const base = permutation(1000, 7, 0);
    expect(permutation(1000, 7, 0)).toEqual(base);
    expect(permutation(1000, 7, 1)).not.toEqual(base);
    expect(permutation(1000, 7 + 2 ** 40, 0)).not.toEqual(base);
  });

  it('looks random: places are spread evenly and neighbours are not kept', () => {
    const n = 20_000;
    const order = permutation(n, 3, 5);
    let correlation = 0;
    let neighbours = 0;
    for (let k = 0; k < n; k++) {
      correlation += ((k / n - 0.5) * (order[k]! / n - 0.5) * 12) / n;
      if (k > 0 && Math.abs(order[k]! - order[k - 1]!) === 1) neighbours++;
    }
    expect(Math.abs(correlation)).toBeLessThan(0.03);
    expect(neighbours).toBeLessThan(12);
  });

  it('stays inside the domain at the largest n', () => {
    const order = shuffler(2 ** 30 - 1, 1, 0);
    for (let k = 0; k < 1000; k++) expect(order(k * 1_000_003)).toBeLessThan(2 ** 30 - 1);
  });

  it.each([-1, 1.5, Number.NaN, 2 ** 31])('refuses n = %s', (n) => {
    expect(() => shuffler(n, 0, 0)).toThrow(ArgumentError);
  });

  it('refuses a seed or epoch that is no natural number', () => {
    expect(() => shuffler(4, -1, 0)).toThrow(/seed: expected an integer/);
    expect(() => shuffler(4, 0, 0.5)).toThrow(/expected epoch/);
  });
});
