import type { SliceMetrics } from '../metrics/slices.js';

/** AUC, gAUC and QAUC of one slice; null where no group is eligible. */
export interface SliceScores {
  readonly AUC: number | null;
  readonly gAUC: number | null;
  readonly QAUC: number | null;
}

/** `Recall@20 0.0985  NDCG@20 0.0416`, and what they rest on. */
export function rankingText(ranking: NonNullable<SliceMetrics['ranking']>): string {
  const { users, unknownUsers, targets, candidates, uniform, popularity, digest, ...metrics } = ranking;
  const values = Object.entries(metrics).map(([name, value]) => `${name} ${value?.toFixed(4) ?? '-'}`);
  const unknown = unknownUsers ? ` (${unknownUsers} without train events left out)` : '';
  const drawn = uniform ?? popularity;
  const among =
    drawn === undefined
      ? `full ranking of ${candidates} items`
      : `ranking among ${drawn} items drawn ${uniform === undefined ? 'by popularity' : 'uniformly'} (digest ${digest?.toString(16).padStart(12, '0')})`;
  return `${values.join('  ')}\n${among} for ${users} users${unknown}, ${targets} targets\n`;
}

/** One line of the table of modes. A slice is null where the row has no meaning there. */
export interface ResultRow {
  readonly name: string;
  readonly known: SliceScores | null;
  readonly fresh: SliceScores | null;
}

const metrics = ['AUC', 'gAUC', 'QAUC'] as const;
const nameWidth = 33;
const cellWidth = 9;
const gap = '  ';

function cells(scores: SliceScores | null): string {
  return metrics
    .map((metric) => {
      const value = scores?.[metric] ?? null;
      return (value === null ? '-' : value.toFixed(3)).padEnd(cellWidth);
    })
    .join('');
}

/**
 * The table that compares modes on known and on new items (data.md, section 13). `footer` says split, rows, seeds and time:
 * no number is printed without them. Metrics without an eligible group show as `-`.
 */
export function resultTable(rows: readonly ResultRow[], footer: string): string {
  const head = metrics.map((metric) => metric.padEnd(cellWidth)).join('');
  const block = head.length;
  const lines = [
    `${' '.repeat(nameWidth)}${'known items'.padEnd(block)}${gap}new items`,
    `${' '.repeat(nameWidth)}${head}${gap}${head}`,
    ...rows.map(({ name, known, fresh }) => `${name.padEnd(nameWidth)}${cells(known)}${gap}${cells(fresh)}`),
    footer,
  ];
  return lines.map((line) => `${line.trimEnd()}\n`).join('');
}
