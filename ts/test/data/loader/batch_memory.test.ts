import { describe, expect, it } from 'vitest';
import { BatchArena } from '../../../src/data/loader/batch_memory.js';
import { BatchSource, batchBuffers } from '../../../src/data/loader/batch_source.js';
import { smallColumns } from '../tables/small_columns.js';

describe('BatchArena', () => {
  it('gives arrays that do not overlap, at cache lines, also beyond its first buffer', () => {
    const arena = new BatchArena();
    arena.begin();
    const arrays = [arena.int32(5), arena.float32(0), arena.uint8(3), arena.int32(20_000), arena.float32(7)];
    arrays.forEach((array, i) => {
      expect(array.byteOffset % 64).toBe(0);
      array.fill(i + 1);
    });
    arrays.forEach((array, i) => {
      expect(array.every((value) => value === i + 1)).toBe(true);
    });
    expect(arena.made).toBe(2);
    arena.begin();
    for (const array of arrays) arena.uint8(array.byteLength);
    expect(arena.made).toBe(3); // one buffer, large enough for all
  });

  it('makes no buffer while batches come back', () => {
    const arena = new BatchArena();
    const source = new BatchSource(smallColumns({ events: 20_000, items: 400, pictureSize: 8 }), {
      part: 'train',
      epoch: 0,
      batchSize: 200,
      seed: 1,
    });
    const reused = new BatchSource(
      smallColumns({ events: 20_000, items: 400, pictureSize: 8 }),
      { part: 'train', epoch: 0, batchSize: 200, seed: 1 },
      arena,
    );
    const waiting: ArrayBuffer[][] = [];
    const counts: number[] = [];
    for (let batch = source.next(); batch !== null; batch = source.next()) {
      arena.begin();
      const other = reused.next()!;
      expect(other).toEqual(batch);
      waiting.push(batchBuffers(other));
      counts.push(arena.made);
      // Two batches stay with the consumer; the memory of others comes back, full of what it held.
      if (waiting.length > 2)
        for (const buffer of waiting.shift()!) {
          new Uint8Array(buffer).fill(0xab);
          arena.giveBack(buffer);
        }
    }
    expect(counts.length).toBe(80);
    expect(counts.at(-1)).toBeLessThanOrEqual(8);
    expect(counts.at(-1)).toBe(counts[40]);
  });
});
