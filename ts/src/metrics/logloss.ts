/** Losses of click probabilities, from logits in float64. */
import { checkedLabel, checkedScore, checkRows, type Numbers } from './auc.js';

/** Mean of max(s,0) - s y + log(1 + exp(-|s|)) over rows; null without rows. Equals -mean(y log p + (1-y) log(1-p)), p = sigmoid(s). */
export function logloss(logits: Numbers, labels: Numbers): number | null {
  checkRows('logloss', logits, { labels });
  const rows = logits.length;
  const sum = compensatedSum(rows, (row) => {
    const s = checkedScore('logloss', logits, row);
    // s - s y with y in {0, 1}, written so that an infinite logit on the right side costs 0.
    const wrong = checkedLabel('logloss', labels, row) === 1 ? -s : s;
    return Math.max(wrong, 0) + Math.log1p(Math.exp(-Math.abs(s)));
  });
  return rows === 0 ? null : sum / rows;
}

/** Sum of predicted probabilities / sum of labels: 1 is calibrated, above 1 predicts too much; null without positives. */
export function calibration(logits: Numbers, labels: Numbers): number | null {
  checkRows('calibration', logits, { labels });
  const predicted = compensatedSum(
    logits.length,
    (row) => 1 / (1 + Math.exp(-checkedScore('calibration', logits, row))),
  );
  let positives = 0;
  for (let row = 0; row < labels.length; row++) positives += checkedLabel('calibration', labels, row);
  return positives === 0 ? null : predicted / positives;
}

/** Neumaier's sum: its error does not grow with the number of terms, so the order of rows shows in the last digit at most. */
function compensatedSum(count: number, term: (row: number) => number): number {
  let sum = 0;
  let lost = 0;
  for (let row = 0; row < count; row++) {
    const x = term(row);
    const next = sum + x;
    lost += Math.abs(sum) >= Math.abs(x) ? sum - next + x : x - next + sum;
    sum = next;
  }
  // An infinite term makes `lost` NaN; the sum itself is then the answer.
  return Number.isFinite(sum) ? sum + lost : sum;
}
