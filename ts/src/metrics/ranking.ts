/**
 * Full-ranking metrics: where the wanted items land among all candidates. A rank is 1 + items scored higher + half of the other
 * items scored equal, so ties neither help nor hurt; an item is in the top K when its rank is below K + 1.
 */
import { ArgumentError } from '../errors.js';
import type { Numbers } from './auc.js';

/**
 * Ranks of `targets` (item rows) among all `scores` (items). Items with `mask` 1 are no candidates (the user met them earlier);
 * a target always is. One pass over the items, O(items log targets). Throws ArgumentError for NaN and for targets out of range.
 */
export function rankTargets(scores: Numbers, targets: Numbers, mask: Uint8Array | null = null): Float64Array {
  const items = scores.length;
  const isTarget = new Set<number>();
  for (let t = 0; t < targets.length; t++) {
    const target = targets[t]!;
    if (!Number.isInteger(target) || target < 0 || target >= items)
      throw new ArgumentError(`rankTargets: targets must be item rows below ${items}, got ${target}`, {
        op: 'rankTargets',
        argument: 'targets',
      });
    isTarget.add(target);
  }
  const levels = Float64Array.from(
    new Set(Array.from(targets as ArrayLike<number>, (target) => scores[target]!)),
  ).sort();
  const equal = new Int32Array(levels.length);
  const above = new Int32Array(levels.length + 1); // above[j]: candidates that beat exactly the first j levels
  for (let item = 0; item < items; item++) {
    if (mask?.[item] === 1 && !isTarget.has(item)) continue;
    const score = scores[item]!;
    if (Number.isNaN(score))
      throw new ArgumentError(`rankTargets: scores must be numbers, got NaN for item ${item}`, {
        op: 'rankTargets',
        argument: 'scores',
      });
    const level = levelsBelow(levels, score);
    if (levels[level] === score) equal[level]!++;
    above[level]!++;
  }
  const ranks = new Float64Array(levels.length);
  let higher = 0;
  for (let level = levels.length - 1; level >= 0; level--) {
    higher += above[level + 1]!;
    ranks[level] = 1 + higher + (equal[level]! - 1) / 2;
  }
  return Float64Array.from(targets, (target) => ranks[levelsBelow(levels, scores[target]!)]!);
}

/** How many ascending levels are strictly below a score. */
function levelsBelow(levels: Float64Array, score: number): number {
  let low = 0;
  let high = levels.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (levels[middle]! < score) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Values at one cut-off: means over cases. */
export interface RankingAtK {
  readonly hitRate: number;
  readonly recall: number;
  readonly ndcg: number;
  readonly mrr: number;
}

export interface RankingResult {
  /** Cases with at least one target: users, or targets in leave-one-out. */
  readonly cases: number;
  /** Cases without a target, left out. */
  readonly empty: number;
  /** By K; null when there is no case. */
  readonly at: ReadonlyMap<number, RankingAtK | null>;
}

/** HR@K, Recall@K, NDCG@K and MRR@K of one case from the ranks of its targets. NDCG: sum of 1/log2(rank+1) over the ideal for min(K, targets). */
export function rankingAt(ranks: Numbers, k: number): RankingAtK {
  let hits = 0;
  let gain = 0;
  let ideal = 0;
  let best = Infinity;
  for (let t = 0; t < ranks.length; t++) {
    const rank = ranks[t]!;
    if (t < k) ideal += 1 / Math.log2(t + 2);
    if (rank >= k + 1) continue;
    hits++;
    gain += 1 / Math.log2(rank + 1);
    best = Math.min(best, rank);
  }
  return {
    hitRate: hits > 0 ? 1 : 0,
    recall: hits / ranks.length,
    // Targets tied around K may all have a rank below K + 1, more of them than places: never better than the ideal.
    ndcg: Math.min(1, gain / ideal),
    mrr: hits > 0 ? 1 / best : 0,
  };
}

/** Collects cases one by one: memory does not depend on the catalogue or on the number of cases. */
export class RankingMeter {
  private cases = 0;
  private empty = 0;
  private readonly sums: { k: number; hitRate: number; recall: number; ndcg: number; mrr: number }[];

  constructor(ks: readonly number[]) {
    for (const k of ks) {
      if (Number.isSafeInteger(k) && k >= 1) continue;
      throw new ArgumentError(`RankingMeter: K must be a positive integer, got ${k}`, {
        op: 'RankingMeter',
        argument: 'ks',
      });
    }
    this.sums = ks.map((k) => ({ k, hitRate: 0, recall: 0, ndcg: 0, mrr: 0 }));
  }

  /** Adds one case by the ranks of its targets. */
  add(ranks: Numbers): void {
    if (ranks.length === 0) {
      this.empty++;
      return;
    }
    this.cases++;
    for (const sum of this.sums) {
      const at = rankingAt(ranks, sum.k);
      sum.hitRate += at.hitRate;
      sum.recall += at.recall;
      sum.ndcg += at.ndcg;
      sum.mrr += at.mrr;
    }
  }

  result(): RankingResult {
    const { cases, empty } = this;
    const mean = ({ hitRate, recall, ndcg, mrr }: RankingAtK): RankingAtK | null =>
      cases === 0 ? null : { hitRate: hitRate / cases, recall: recall / cases, ndcg: ndcg / cases, mrr: mrr / cases };
    return { cases, empty, at: new Map(this.sums.map((sum) => [sum.k, mean(sum)])) };
  }
}
