import { ArgumentError } from '../errors.js';

/** The k nearest of each query, nearest first: row numbers and cosines, both (queries, k). */
export interface Neighbours {
  readonly indices: Int32Array;
  readonly cosines: Float32Array;
}

/**
 * For each row number in `queries` the `k` other rows of `vectors` (n, d) with the largest cosine; equal ones by row number. A row of zeros has
 * cosine 0 with everything. O(queries * n * d), meant for reports. Throws `ArgumentError` where k other rows do not exist.
 */
export function nearestNeighbours(
  vectors: Float32Array,
  { dimension, queries, k }: { dimension: number; queries: readonly number[]; k: number },
): Neighbours {
  const n = vectors.length / dimension;
  const fail = (argument: string, message: string): never => {
    throw new ArgumentError(`nearestNeighbours: ${message}`, { op: 'nearestNeighbours', argument });
  };
  if (!Number.isInteger(n))
    fail('vectors', `expected a multiple of ${dimension} values but received ${vectors.length}`);
  if (!Number.isInteger(k) || k < 0 || k > n - 1) fail('k', `expected k of 0 to ${n - 1} but received ${k}`);
  const inverseNorms = new Float64Array(n);
  for (let row = 0; row < n; row++) {
    let sum = 0;
    for (let i = row * dimension; i < (row + 1) * dimension; i++) sum += vectors[i]! * vectors[i]!;
    inverseNorms[row] = sum > 0 ? 1 / Math.sqrt(sum) : 0;
  }
  const indices = new Int32Array(queries.length * k);
  const cosines = new Float32Array(queries.length * k);
  const bestIndex = new Int32Array(k);
  const bestCosine = new Float64Array(k);
  queries.forEach((query, position) => {
    if (!Number.isInteger(query) || query < 0 || query >= n)
      fail('queries', `expected rows of 0 to ${n - 1} but received ${query}`);
    let found = 0;
    for (let row = 0; row < n; row++) {
      if (row === query) continue;
      let dot = 0;
      for (let i = 0; i < dimension; i++) dot += vectors[query * dimension + i]! * vectors[row * dimension + i]!;
      const cosine = dot * inverseNorms[query]! * inverseNorms[row]!;
      if (found === k && (k === 0 || cosine <= bestCosine[k - 1]!)) continue;
      let slot = found < k ? found++ : k - 1;
      for (; slot > 0 && bestCosine[slot - 1]! < cosine; slot--) {
        bestCosine[slot] = bestCosine[slot - 1]!;
        bestIndex[slot] = bestIndex[slot - 1]!;
      }
      bestCosine[slot] = cosine;
      bestIndex[slot] = row;
    }
    indices.set(bestIndex, position * k);
    cosines.set(bestCosine, position * k);
  });
  return { indices, cosines };
}
