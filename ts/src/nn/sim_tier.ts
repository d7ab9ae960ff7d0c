/**
 * How alike target and history are, as features of fixed size (models.md 6): the cosines and a sorted copy, or a histogram of them.
 * Rows that the mask hides (not found) count for nothing. Everything stays on the device.
 */
import { detach, noGrad } from '../autograd.js';
import { relu } from '../ops/activation.js';
import { concat, slice } from '../ops/concat.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import { affine, div, log, mul, sub } from '../ops/elementwise.js';
import { padJagged } from '../ops/pad_jagged.js';
import { segmentSum } from '../ops/segment_sum.js';
import { sortDescending } from '../ops/sort_descending.js';
import { reshape } from '../ops/transpose.js';
import { full, type Tensor, tensor } from '../tensor.js';
import { type Initializer, Module } from './module.js';

/** Tier of a cosine: ceil(cos / 0.1) + 10, so 0 for -1 and 20 for 1; 21 is that of no cosine. */
const tiers = 22;
const featuresPerTier = 4;

/** Rows of a history, (T, D), beside the targets d (B, D): row b's at offsets[b] .. offsets[b+1]; `age` (T) int32, negative: not found. */
export interface ComparedHistory {
  readonly rows: Tensor;
  readonly offsets: Tensor;
  readonly age: Tensor;
}

/** 1 for rows found and 0 for others, (T) in the dtype of `rows`: the cosine of (1) and (1), masked. */
export function foundRows({ rows, offsets, age }: ComparedHistory): Tensor {
  const B = offsets.shape[0]! - 1;
  return cosineSimilarity(full([B, 1], 1, rows), full([rows.shape[0]!, 1], 1, rows), { offsets, mask: age });
}

/**
 * Cosines of d (B, D) with the last rows of its history, (B, length) in their order, zero where a row was not found and behind the last
 * one; and the same sorted, largest first, rows that were not found last.
 */
export function historyCosines(
  d: Tensor,
  history: ComparedHistory,
  length: number,
): { cosines: Tensor; sorted: Tensor } {
  const { rows, offsets, age } = history;
  const padded = (x: Tensor): Tensor => padJagged(x, { offsets, length });
  const found = foundRows(history);
  const cosines = cosineSimilarity(d, rows, { offsets, mask: age });
  // Found ones lie in [1, 3], the others at 0, so that those sort last.
  const shifted = mul(affine(cosines, { shift: 2 }), found);
  const places = noGrad(() => sortDescending(padded(found)));
  const sorted = sub(sortDescending(padded(shifted)), affine(places, { scale: 2 }));
  return { cosines: padded(cosines), sorted };
}

/** Number of found rows in each tier, (B, 22). No gradient. */
export function tierCounts(d: Tensor, history: ComparedHistory): Tensor {
  return noGrad(() => {
    const { rows, offsets, age } = history;
    const cosines = cosineSimilarity(detach(d), detach(rows), { offsets, mask: age });
    // Equal vectors are common, and rounding may put their cosine above 1: in which tier they are must not depend on it.
    const thresholds = Float64Array.from({ length: tiers - 1 }, (_, k) => (k < tiers - 2 ? (k - 10) / 10 : 1.05));
    const limits = tensor(cosines.dtype === 'float64' ? thresholds : Float32Array.from(thresholds), [1, tiers - 1], {
      device: d.device,
    });
    const above = relu(sub(reshape(cosines, [rows.shape[0]!, 1]), limits));
    // x / (x + 1e-30) is exactly 1 for any difference of two such numbers, and 0 for 0
    const steps = div(above, affine(above, { shift: 1e-30 }));
    const all = full([rows.shape[0]!, 1], 1, cosines);
    const beyond = segmentSum(concat([all, steps], { axis: 1 }), { offsets, weights: foundRows(history) });
    const none = full([beyond.shape[0]!, 1], 0, beyond);
    return sub(beyond, concat([slice(beyond, { axis: 1, start: 1 }), none], { axis: 1 }));
  });
}

/** SimTier: log(1 + count) of each tier times a learned vector of 4; independent of the length of the history. No gradient to d or the rows. */
export class SimTier extends Module {
  /** (22, 4). */
  readonly weight: Tensor;
  readonly width = tiers * featuresPerTier;

  constructor(init: Initializer) {
    super();
    this.weight = init.normal('weight', [tiers, featuresPerTier], 0.5);
  }

  /** (B, 88). */
  forward(d: Tensor, history: ComparedHistory): Tensor {
    const counts = noGrad(() => log(affine(tierCounts(d, history), { shift: 1 })));
    const B = counts.shape[0]!;
    return reshape(mul(reshape(counts, [B, tiers, 1]), this.weight), [B, this.width]);
  }
}
