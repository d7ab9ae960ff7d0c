import { describe, expect, it } from 'vitest';
import { ArgumentError } from '../../src/errors.js';
import { normals } from '../../src/random.js';
import { nearestNeighbours } from '../../src/train/neighbours.js';

describe('nearestNeighbours', () => {
  it('finds by direction, not length, without the item itself', () => {
    const vectors = Float32Array.of(1, 0, 0, 5, 9, 1, -1, 0, 0, 0);
    const { indices, cosines } = nearestNeighbours(vectors, { dimension: 2, queries: [0, 4], k: 3 });
    // Row 4 is zero: cosine 0 with all, so its neighbours are the first rows.
    expect([...indices]).toEqual([2, 1, 4, 0, 1, 2]);
    expect(cosines[0]).toBeCloseTo(9 / Math.sqrt(82), 6);
    expect([...cosines.slice(1)]).toEqual([0, 0, 0, 0, 0]);
  });

  it('agrees with sorting all cosines', () => {
    const [n, dimension, k] = [60, 7, 6];
    const vectors = Float32Array.from(normals(n * dimension, 3, 1));
    const row = (i: number) => vectors.subarray(i * dimension, (i + 1) * dimension);
    const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    const queries = [0, 31, 59];
    const { indices, cosines } = nearestNeighbours(vectors, { dimension, queries, k });
    queries.forEach((query, position) => {
      const all = Array.from({ length: n }, (_, i) => ({
        i,
        cosine: dot(row(query), row(i)) / Math.sqrt(dot(row(query), row(query)) * dot(row(i), row(i))),
      }))
        .filter(({ i }) => i !== query)
        .sort((a, b) => b.cosine - a.cosine)
        .slice(0, k);
      expect([...indices.subarray(position * k, (position + 1) * k)]).toEqual(all.map(({ i }) => i));
      all.forEach(({ cosine }, j) => expect(cosines[position * k + j]).toBeCloseTo(cosine, 5));
    });
  });

  it('refuses what does not fit', () => {
    const vectors = new Float32Array(6);
    expect(() => nearestNeighbours(vectors, { dimension: 4, queries: [0], k: 1 })).toThrow(ArgumentError);
    expect(() => nearestNeighbours(vectors, { dimension: 2, queries: [0], k: 3 })).toThrow(
      /k of 0 to 2 but received 3/,
    );
    expect(() => nearestNeighbours(vectors, { dimension: 2, queries: [3], k: 1 })).toThrow(
      /rows of 0 to 2 but received 3/,
    );
    expect(nearestNeighbours(vectors, { dimension: 2, queries: [0], k: 0 }).indices.length).toBe(0);
  });
});
