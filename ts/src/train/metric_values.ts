/** Metrics by their names. */
import { ConfigError } from '../errors.js';
import type { SliceMetrics } from '../metrics/slices.js';
import type { Slices } from './evaluate.js';
import { rankingMetric } from './rank_items.js';

/** The metric of that name; null where no group, class or user allows it. ConfigError for a name that was not computed. */
export function metricValue(metrics: SliceMetrics, name: string): number | null {
  if (name === 'AUC' || name === 'gAUC' || name === 'QAUC' || name === 'logloss') return metrics[name];
  const value = metrics.ranking?.[name];
  if (value !== undefined && rankingMetric(name) !== null) return value;
  throw new ConfigError(
    `train: expected valid_metric to be AUC, gAUC, QAUC, logloss or a metric of eval.mode full but received ${name}`,
    { key: 'train.valid_metric' },
  );
}

/** Numbers of all slices, flat: `AUC` of all rows, `cold.AUC` of a slice. */
export function flatMetrics(slices: Slices): Record<string, number | null> {
  const flat: Record<string, number | null> = {};
  for (const [slice, metrics] of Object.entries(slices)) {
    const prefix = slice === 'all' ? '' : `${slice}.`;
    for (const name of ['AUC', 'gAUC', 'QAUC', 'logloss', 'calibration', 'rows'] as const)
      flat[`${prefix}${name}`] = metrics[name];
    for (const [name, value] of Object.entries(metrics.ranking ?? {}))
      flat[`${prefix}${rankingMetric(name) === null ? `ranking.${name}` : name}`] = value;
  }
  return flat;
}
