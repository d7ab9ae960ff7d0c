/**
 * Area under the ROC curve, exact: the share of (positive, negative) pairs in which the positive scores higher, ties one half.
 * Positives and negatives are sorted apart and merged, so no row order matters and wins are counted in integers.
 */
import { ArgumentError } from '../errors.js';

/** Numbers by row: any typed array, or a plain array. */
export type Numbers = ArrayLike<number>;

/**
 * AUC of `scores` (n) for 0/1 `labels` (n); ties count one half. Null when only one label occurs: there is no pair to judge.
 * Throws ArgumentError for NaN scores, other labels and unequal lengths.
 */
export function auc(scores: Numbers, labels: Numbers): number | null {
  checkRows('auc', scores, { labels });
  const count = scores.length;
  const positives = new Float64Array(count);
  const negatives = new Float64Array(count);
  let p = 0;
  let n = 0;
  for (let row = 0; row < count; row++) {
    const score = checkedScore('auc', scores, row);
    if (checkedLabel('auc', labels, row) === 1) positives[p++] = score;
    else negatives[n++] = score;
  }
  return pairAuc(positives.subarray(0, p), negatives.subarray(0, n));
}

/** AUC of two sets of scores, which are sorted in place; null if one is empty. */
export function pairAuc(positives: Float64Array, negatives: Float64Array): number | null {
  if (positives.length === 0 || negatives.length === 0) return null;
  positives.sort();
  negatives.sort();
  let halfWins = 0; // two per win, one per tie: an integer below 2^53 up to 67 million rows of each label
  let below = 0;
  let notAbove = 0;
  for (const score of positives) {
    while (below < negatives.length && negatives[below]! < score) below++;
    if (notAbove < below) notAbove = below;
    while (notAbove < negatives.length && negatives[notAbove]! === score) notAbove++;
    halfWins += below + notAbove;
  }
  return halfWins / (2 * positives.length * negatives.length);
}

/** Every column must have as many rows as the scores. */
export function checkRows(op: string, scores: Numbers, columns: Readonly<Record<string, Numbers>>): void {
  for (const [name, column] of Object.entries(columns)) {
    if (column.length === scores.length) continue;
    throw new ArgumentError(`${op}: ${name} must have ${scores.length} rows like the scores, got ${column.length}`, {
      op,
      argument: name,
    });
  }
}

export function checkedScore(op: string, scores: Numbers, row: number): number {
  const score = scores[row]!;
  if (!Number.isNaN(score)) return score;
  throw new ArgumentError(`${op}: scores must be numbers, got NaN in row ${row}`, { op, argument: 'scores', row });
}

export function checkedLabel(op: string, labels: Numbers, row: number): number {
  const label = labels[row]!;
  if (label === 0 || label === 1) return label;
  throw new ArgumentError(`${op}: labels must be 0 or 1, got ${label} in row ${row}`, { op, argument: 'labels', row });
}
