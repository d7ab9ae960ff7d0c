/** Fewer tokens per picture: means over cells of the grid of patches. */
import { ArgumentError } from '../errors.js';
import { gatherRows } from '../ops/gather_rows.js';
import { segmentSum } from '../ops/segment_sum.js';
import { type Tensor, tensor } from '../tensor.js';

/** The tokens of a picture: a square grid of patches, row by row, behind as many others (a class token) as `tokens` says more. */
interface PatchGrid {
  readonly side: number;
  readonly others: number;
}

function gridOf(tokens: number): PatchGrid {
  const side = Math.floor(Math.sqrt(tokens));
  return { side, others: tokens - side * side };
}

/** Tokens that `poolPatches` leaves of a picture of `tokens`. Errors: `ArgumentError` where `pooled` is no square of at most the patches. */
export function pooledTokens(tokens: number, pooled: number): number {
  const { side, others } = gridOf(tokens);
  const cells = Math.round(Math.sqrt(pooled));
  if (cells * cells !== pooled || cells < 1 || cells > side)
    throw new ArgumentError(
      `poolPatches: expected a square number of at most ${side * side} tokens but received ${pooled}`,
      { op: 'poolPatches', argument: 'pooled' },
    );
  return pooled + others;
}

/** The tokens of a picture of `tokens` whose mean is each token that `poolPatches` leaves. */
export function pooledMembers(tokens: number, pooled: number): number[][] {
  pooledTokens(tokens, pooled);
  const { side, others } = gridOf(tokens);
  const cells = Math.sqrt(pooled);
  const spans = Array.from({ length: cells }, (_, i) => {
    const [from, to] = [Math.floor((i * side) / cells), Math.ceil(((i + 1) * side) / cells)];
    return Array.from({ length: to - from }, (_unused, k) => from + k);
  });
  const members: number[][] = Array.from({ length: others }, (_, i) => [i]);
  for (const ys of spans) for (const xs of spans) members.push(ys.flatMap((y) => xs.map((x) => others + y * side + x)));
  return members;
}

/**
 * Cuts the grid of patches of each picture into `pooled` cells, g by g, and takes the mean of each: rows (n · tokens, W) to (n · pooledTokens, W).
 * Cell i of g along a side of G patches holds patches floor(i G / g) to ceil((i + 1) G / g), so neighbours share some where g does not divide
 * G. Tokens before the grid stay. Differentiable.
 */
export function poolPatches(rows: Tensor, { tokens, pooled }: { tokens: number; pooled: number }): Tensor {
  const members = pooledMembers(tokens, pooled);
  const left = members.length;
  const pictures = rows.shape[0]! / tokens;
  const each = members.reduce((total, cell) => total + cell.length, 0);
  const index = new Int32Array(pictures * each);
  const offsets = new Int32Array(pictures * left + 1);
  for (let picture = 0, at = 0, row = 0; picture < pictures; picture++)
    for (const cell of members) {
      for (const token of cell) index[at++] = picture * tokens + token;
      offsets[++row] = at;
    }
  const { device } = rows;
  return segmentSum(gatherRows(rows, tensor(index, [index.length], { device })), {
    offsets: tensor(offsets, [offsets.length], { device }),
    mode: 'mean',
  });
}
