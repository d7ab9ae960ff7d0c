/** AUC within groups: of a user (gAUC, avgAUC) or of a query request (QAUC). */
import { checkedLabel, checkedScore, checkRows, type Numbers, pairAuc } from './auc.js';

/** A grouped metric and what it rests on. */
export interface GroupedAuc {
  /** Null when no group has both labels. */
  readonly value: number | null;
  readonly groups: number;
  /** Groups with both labels: only these count. */
  readonly usableGroups: number;
  /** usableGroups / groups; 0 without groups. */
  readonly usableShare: number;
  /** Rows in usable groups. */
  readonly usableRows: number;
  /** Rows with a negative group number: they belong to no group and are left out. */
  readonly ungroupedRows: number;
}

/** gAUC: sum n_g AUC_g / sum n_g over groups with both labels, n_g the rows of group g. `groups` (n): integers, negative = none. */
export function gauc(scores: Numbers, labels: Numbers, groups: Numbers): GroupedAuc {
  return groupedAuc('gauc', scores, labels, groups, true);
}

/** avgAUC: the unweighted mean of AUC_g over groups with both labels. */
export function avgAuc(scores: Numbers, labels: Numbers, groups: Numbers): GroupedAuc {
  return groupedAuc('avgAuc', scores, labels, groups, false);
}

/** QAUC: avgAUC with the query request as group. */
export function qauc(scores: Numbers, labels: Numbers, requests: Numbers): GroupedAuc {
  return groupedAuc('qauc', scores, labels, requests, false);
}

function groupedAuc(op: string, scores: Numbers, labels: Numbers, groups: Numbers, byRows: boolean): GroupedAuc {
  checkRows(op, scores, { labels, groups });
  const rows = scores.length;
  // Groups in ascending order, so that the float sum below does not depend on the order of rows.
  const numbers = Float64Array.from(new Set(Array.from(groups).filter((group) => group >= 0))).sort();
  const index = new Map<number, number>();
  numbers.forEach((group, position) => index.set(group, position));

  // Group g owns begin[g] .. begin[g+1): negatives are filled in from its left end, positives from its right end.
  const begin = new Int32Array(numbers.length + 1);
  const member = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    member[row] = index.get(groups[row]!) ?? -1;
    if (member[row]! >= 0) begin[member[row]! + 1]!++;
  }
  for (let g = 0; g < numbers.length; g++) begin[g + 1]! += begin[g]!;
  const left = begin.slice(0, -1);
  const right = begin.slice(1);
  const sorted = new Float64Array(begin.at(-1)!);
  for (let row = 0; row < rows; row++) {
    const score = checkedScore(op, scores, row);
    const label = checkedLabel(op, labels, row);
    const g = member[row]!;
    if (g < 0) continue;
    if (label === 1) sorted[--right[g]!] = score;
    else sorted[left[g]!++] = score;
  }

  let sum = 0;
  let weight = 0;
  let usableGroups = 0;
  let usableRows = 0;
  for (let g = 0; g < numbers.length; g++) {
    const split = left[g]!;
    const value = pairAuc(sorted.subarray(split, begin[g + 1]!), sorted.subarray(begin[g]!, split));
    if (value === null) continue;
    const size = begin[g + 1]! - begin[g]!;
    usableGroups++;
    usableRows += size;
    sum += byRows ? size * value : value;
    weight += byRows ? size : 1;
  }
  return {
    value: usableGroups === 0 ? null : sum / weight,
    groups: numbers.length,
    usableGroups,
    usableShare: numbers.length === 0 ? 0 : usableGroups / numbers.length,
    usableRows,
    ungroupedRows: rows - sorted.length,
  };
}
