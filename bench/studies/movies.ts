/**
 * Movies whose posters and plots are known and that nobody has rated yet: every training mode over several seeds, and the ranking of
 * new items after training on sampled negatives. Runs that a run folder holds already are read, interrupted ones continue.
 *
 *   npm run study:movies -- --data <folder>/ml-posters [--seeds 5] [--runs runs/movies] [--jobs 2] [--only <row>,<row>] [--out <file.json>]
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { textTable } from '../../ts/src/cli/text_table.js';
import { openRun } from '../../ts/src/train/open_run.js';
import { coldRanking } from './candidates.js';
import {
  type BySeed,
  finishedRun,
  inOrder,
  meanAndSd,
  type Numbers,
  type StudyRow,
  testNumbers,
  writeResults,
} from './study.js';

const em3 = 'examples/movies-em3.yaml';
const genres = 'examples/movies-genres.yaml';
const lemur = 'examples/movies-lemur.yaml';
/** `_dropout`: with the share of hidden item ids that the content rows train with. */
const matrix: readonly StudyRow[] = [
  { name: 'id_only', config: em3, overrides: ['model.training=id_only', 'model.item_id_dropout=0'] },
  { name: 'id_only_dropout', config: em3, overrides: ['model.training=id_only'] },
  { name: 'genres', config: genres, overrides: ['model.item_id_dropout=0'] },
  { name: 'genres_dropout', config: genres, overrides: [] },
  { name: 'end_to_end', config: em3, overrides: [] },
  { name: 'end_to_end_text', config: em3, overrides: ['model.modalities=[text]'] },
  { name: 'frozen_random', config: em3, overrides: ['model.training=frozen'] },
  { name: 'two_stage', config: em3, overrides: ['model.training=two_stage'] },
  { name: 'lemur', config: lemur, overrides: [] },
  { name: 'lemur_text', config: lemur, overrides: ['model.modalities=[text]'] },
];
const ranking: StudyRow = { name: 'ranking', config: 'examples/movies-new-items.yaml', overrides: [] };
const metrics = ['AUC', 'gAUC', 'logloss'] as const;
const slices = ['warm', 'cold'] as const;

const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    seeds: { type: 'string', default: '5' },
    runs: { type: 'string', default: join('runs', 'movies') },
    jobs: { type: 'string', default: '1' },
    only: { type: 'string' },
    out: { type: 'string' },
  },
});
const { data } = values;
if (data === undefined) {
  process.stderr.write('study:movies: expected --data <folder>/ml-posters but received none\n');
  process.exit(64);
}
const only = values.only?.split(',');
const wanted = ({ name }: StudyRow): boolean => only === undefined || only.includes(name);
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i + 1);

/** Test metrics of a run by `slice.metric`. */
function testMetrics(folder: string): Numbers {
  const all = testNumbers(folder);
  const names = slices.flatMap((slice) => metrics.map((metric) => `${slice}.${metric}`));
  return Object.fromEntries([...names, 'wall_s'].map((name) => [name, all[name]!]));
}

/** Ranking AUC of a run's last checkpoint. */
async function rankingMetrics(folder: string): Promise<Record<string, number>> {
  const kept = join(folder, 'cold_ranking.json');
  if (existsSync(kept)) return JSON.parse(readFileSync(kept, 'utf8')) as Record<string, number>;
  await using run = await openRun(folder, { checkpoint: 'latest' });
  const result = { ...(await coldRanking(run.model, run.data)) };
  writeFileSync(kept, `${JSON.stringify(result)}\n`);
  return result;
}

const results: Record<string, BySeed> = Object.fromEntries(
  [...matrix, ranking].filter(wanted).map(({ name }) => [name, {}]),
);
let file = '';
const write = (): void => {
  file = writeResults(results, {
    name: 'movies',
    out: values.out,
    command: 'npm run study:movies -- --data <folder>/ml-posters',
  });
};
const jobs = Number(values.jobs);
const options = { runs: values.runs, more: [`data.path=${data}`], ...(jobs > 1 ? { threads: 1 } : {}) };
await inOrder(
  seeds.flatMap((seed) => [...matrix, ranking].filter(wanted).map((row) => ({ row, seed }))),
  jobs,
  async ({ row, seed }) => {
    const folder = await finishedRun(row, seed, options);
    results[row.name]![seed] = row === ranking ? await rankingMetrics(folder) : testMetrics(folder);
    write();
  },
);

const columns = slices.flatMap((slice) => metrics.map((metric) => `${slice}.${metric}`));
const rows = Object.entries(results).filter(([name]) => name !== ranking.name);
const table = rows.map(([name, of]) => [name, String(Object.keys(of).length), ...columns.map((c) => meanAndSd(of, c))]);
if (rows.length > 0) process.stdout.write(textTable(['test', 'seeds', ...columns], table));
const ranked = results[ranking.name];
if (ranked !== undefined) {
  const shown = (['events', 'users', 'profile_events', 'profile_users'] as const).map((name) => [
    name,
    meanAndSd(ranked, name),
  ]);
  process.stdout.write(textTable(['cold ranking', 'AUC'], shown));
}
process.stdout.write(`${file}\n`);
