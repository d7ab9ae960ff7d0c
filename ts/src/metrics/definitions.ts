/** One sentence per metric, printed beside its number: a metric without its definition says nothing. */
export const metricDefinitions = {
  AUC: 'share of (positive, negative) row pairs in which the positive scores higher; ties count one half; null with one label',
  gAUC: 'AUC within each user that has both labels, averaged with weight = rows of the user; null when no user has both',
  avgAUC: 'AUC within each user that has both labels, unweighted mean; null when no user has both',
  QAUC: 'AUC within each query request that has both labels, unweighted mean; null when no request has both',
  logloss: 'mean binary cross-entropy from logits in float64, natural logarithm',
  calibration: 'sum of predicted probabilities / sum of labels; null without positives',
  'HR@K':
    'share of cases with at least one target in the top K; rank = 1 + scored higher + half of the other equal ones, top K: rank < K + 1',
  'Recall@K': 'targets in the top K / targets, mean over cases; ranks as in HR@K',
  'NDCG@K':
    'sum of 1 / log2(rank + 1) over targets in the top K / the same for ranks 1 .. min(K, targets), at most 1, mean over cases',
  'MRR@K': '1 / rank of the best target if it is in the top K, else 0, mean over cases',
} as const;

export type MetricName = keyof typeof metricDefinitions;
