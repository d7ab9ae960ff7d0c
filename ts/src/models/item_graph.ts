/** The frozen graphs of FREEDOM (models.md 7): items that resemble each other by given vectors, and who met what. */
import { noGrad } from '../autograd.js';
import { slice } from '../ops/concat.js';
import { matmul } from '../ops/matmul.js';
import { normalize } from '../ops/normalize.js';
import type { SparseEntries } from '../ops/sparse_matmul.js';
import { topK } from '../ops/top_k.js';
import { philoxBlocks, streamOf, uniform } from '../random.js';
import type { Tensor } from '../tensor.js';
import { tidy } from '../tidy.js';

/** Scores of one block of items against all: 16 MiB. */
const BLOCK_SCORES = 1 << 22;

/** Rows whose length is below this are taken for this long. */
const NORM_EPS = 1e-12;

/**
 * The `k` items of largest cosine of every item, itself among them, as places (n k): one block of items at a time, so that memory does
 * not grow with the square of the catalogue. vectors (n, D).
 */
export async function nearestItems(vectors: Tensor, k: number): Promise<Int32Array> {
  const n = vectors.shape[0]!;
  const found = new Int32Array(n * k);
  const unit = tidy(() => noGrad(() => normalize(vectors, { eps: NORM_EPS })));
  const block = Math.max(1, Math.floor(BLOCK_SCORES / Math.max(n, 1)));
  try {
    for (let start = 0; start < n; start += block) {
      const indices = tidy(() =>
        noGrad(() => {
          const rows = slice(unit, { axis: 0, start, end: Math.min(n, start + block) });
          return topK(matmul(rows, unit, { transposeB: true }), { k }).indices;
        }),
      );
      found.set((await indices.values()) as Int32Array, start * k);
      indices.dispose();
    }
  } finally {
    unit.dispose();
  }
  return found;
}

/**
 * Directed, unweighted neighbours with rows of sum 1, the modalities mixed by weight: entry 1 / k for each of k neighbours (k is that of
 * `neighbours`, places (n k) by modality).
 */
export function itemGraph(items: number, neighbours: readonly { places: Int32Array; weight: number }[]): SparseEntries {
  const total = neighbours.reduce((sum, { places }) => sum + places.length, 0);
  const [row, column, value] = [new Int32Array(total), new Int32Array(total), new Float64Array(total)];
  let at = 0;
  for (const { places, weight } of neighbours) {
    const k = places.length / items;
    places.forEach((place, i) => {
      row[at] = Math.floor(i / k);
      column[at] = place;
      value[at++] = weight / k;
    });
  }
  return { rows: items, columns: items, row, column, value };
}

/** Distinct pairs of a user and an item. */
export interface Edges {
  readonly users: number;
  readonly items: number;
  readonly user: Int32Array;
  readonly item: Int32Array;
}

/** The distinct pairs of `rows`, in order of first appearance. */
export function distinctEdges(
  { users, items, user, item }: Edges,
  rows: Int32Array = Int32Array.from(user.keys()),
): Edges {
  const seen = new Set<number>();
  const kept = rows.filter((row) => {
    const pair = user[row]! * items + item[row]!;
    if (seen.has(pair)) return false;
    seen.add(pair);
    return true;
  });
  return { users, items, user: kept.map((row) => user[row]!), item: kept.map((row) => item[row]!) };
}

/** Added to degrees, so that a user or an item without edges divides by something. */
const DEGREE_EPS = 1e-7;

function degrees({ users, items, user, item }: Edges): { user: Float64Array; item: Float64Array } {
  const out = { user: new Float64Array(users), item: new Float64Array(items) };
  for (const u of user) out.user[u]!++;
  for (const i of item) out.item[i]!++;
  return out;
}

/** D^-1/2 A D^-1/2 over users, then items, of (users + items) rows; D are the degrees within `edges`. */
export function userItemGraph(edges: Edges): SparseEntries {
  const { users, items, user, item } = edges;
  const degree = degrees(edges);
  const E = user.length;
  const [row, column, value] = [new Int32Array(2 * E), new Int32Array(2 * E), new Float64Array(2 * E)];
  for (let e = 0; e < E; e++) {
    const [u, i] = [user[e]!, item[e]!];
    row[e] = column[E + e] = u;
    column[e] = row[E + e] = users + i;
    value[e] = value[E + e] = 1 / Math.sqrt((degree.user[u]! + DEGREE_EPS) * (degree.item[i]! + DEGREE_EPS));
  }
  return { rows: users + items, columns: users + items, row, column, value };
}

const STREAM = streamOf('freedom.edges');

/**
 * int(share E) of the edges, drawn without replacement with probability in proportion to 1 / sqrt(d_u d_i): popular pairs are dropped
 * first. A function of (seed, epoch). Each edge gets an exponential time of that rate; the earliest are kept.
 */
export function keptEdges(edges: Edges, { share, seed, epoch }: { share: number; seed: number; epoch: number }): Edges {
  const degree = degrees(edges);
  const E = edges.user.length;
  const words = new Uint32Array(4 * Math.ceil(E / 4));
  philoxBlocks([epoch >>> 0, 0, STREAM, 0], [seed >>> 0, Math.floor(seed / 4294967296) >>> 0], words);
  const times = Float64Array.from({ length: E }, (_, e) => {
    const rate = 1 / Math.sqrt(degree.user[edges.user[e]!]! * degree.item[edges.item[e]!]!);
    return -Math.log(uniform(words[e]!)) / rate;
  });
  const order = Int32Array.from(times.keys()).sort((a, b) => times[a]! - times[b]! || a - b);
  const kept = order.subarray(0, Math.floor(share * E)).sort();
  return { ...edges, user: kept.map((e) => edges.user[e]!), item: kept.map((e) => edges.item[e]!) };
}
