import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { philox, philoxBlocks } from '../src/random.js';

const word = fc.integer({ min: 0, max: 0xffffffff });

describe('Philox4x32-10', () => {
  type Case = [[number, number, number, number], [number, number], string];
  // Known answers published with the algorithm.
  it.each<Case>([
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], 'd16cfe09 94fdcceb 5001e420 24126ea1'],
  ])('counter %j, key %j', (counter, key, expected) => {
    const words = Array.from(philox(counter, key), (value) => value.toString(16).padStart(8, '0'));
    expect(words.join(' ')).toBe(expected);
  });

  it('blocks in bulk are the blocks one by one', () => {
    fc.assert(
      fc.property(
        fc.tuple(word, word, word, word),
        fc.tuple(word, word),
        fc.integer({ min: 0, max: 9 }),
        (counter, key, n) => {
          const [c0, c1, c2, c3] = counter;
          const single = Array.from({ length: n }, (_, i) => [...philox([c0, (c1 + i) >>> 0, c2, c3], key)]).flat();
          expect([...philoxBlocks(counter, key, new Uint32Array(4 * n))]).toEqual(single);
        },
      ),
    );
  });
});
