import { describe, expect, it } from 'vitest';
import { gatherTokens, sharedInt32, type TokenStore, tokenRows } from '../../../src/data/text/token_store.js';
import { ArgumentError } from '../../../src/errors.js';

const store: TokenStore = {
  tokens: Int32Array.from([2, 10, 11, 2, 20, 2, 30, 31, 32]),
  types: Int32Array.from([0, 0, 0, 0, 1, 0, 0, 1, 1]),
  positions: Int32Array.from([0, 1, 2, 0, 1, 0, 1, 2, 3]),
  offsets: Int32Array.from([0, 3, 3, 5, 9]),
};

describe('gatherTokens', () => {
  it('copies rows in the order asked for, repeats and missing rows included', () => {
    const batch = gatherTokens(store, Int32Array.from([3, 1, 0, 3]));
    expect([...batch.offsets]).toEqual([0, 4, 4, 7, 11]);
    expect([...batch.tokens]).toEqual([2, 30, 31, 32, 2, 10, 11, 2, 30, 31, 32]);
    expect([...batch.types]).toEqual([0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]);
    expect([...batch.positions]).toEqual([0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]);
  });

  it('gives an empty batch for no rows', () => {
    const batch = gatherTokens(store, []);
    expect([...batch.offsets]).toEqual([0]);
    expect(batch.tokens.length).toBe(0);
  });

  it.each([-1, 4, 0.5, Number.NaN])('rejects row %s', (row) => {
    expect(() => gatherTokens(store, [0, row])).toThrow(ArgumentError);
    expect(() => gatherTokens(store, [0, row])).toThrow(/gatherTokens: expected rows\[1\] in \[0, 4\) but received/);
  });

  it('counts rows and allocates shared memory', () => {
    expect(tokenRows(store)).toBe(4);
    expect(sharedInt32(3).buffer).toBeInstanceOf(SharedArrayBuffer);
  });
});
