/**
 * Movies whose posters and plots are known and that nobody has rated yet: every training mode over several seeds, and the ranking of
 * new items after training on sampled negatives. Runs that a run folder holds already are read, interrupted ones continue.
 *
 *   npm run study:movies -- --data <folder>/ml-posters [--seeds 5] [--runs runs/movies] [--only <row>,<row>] [--out <file.json>]
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { textTable } from '../../ts/src/cli/text_table.js';
import { addon } from '../../ts/src/native.js';
import { buildModel, trainSettings } from '../../ts/src/train/build_model.js';
import { configDigest, resolveConfig } from '../../ts/src/train/config.js';
import { runConfig, runData } from '../../ts/src/train/run.js';
import { Trainer } from '../../ts/src/train/trainer.js';
import { coldRanking } from './candidates.js';

interface Row {
  readonly name: string;
  readonly config: string;
  readonly overrides: readonly string[];
}

const em3 = 'examples/movies-em3.yaml';
const genres = 'examples/movies-genres.yaml';
/** `_dropout`: with the share of hidden item ids that the content rows train with. */
const matrix: readonly Row[] = [
  { name: 'id_only', config: em3, overrides: ['model.training=id_only', 'model.item_id_dropout=0'] },
  { name: 'id_only_dropout', config: em3, overrides: ['model.training=id_only'] },
  { name: 'genres', config: genres, overrides: ['model.item_id_dropout=0'] },
  { name: 'genres_dropout', config: genres, overrides: [] },
  { name: 'end_to_end', config: em3, overrides: [] },
  { name: 'end_to_end_text', config: em3, overrides: ['model.modalities=[text]'] },
  { name: 'frozen_random', config: em3, overrides: ['model.training=frozen'] },
  { name: 'two_stage', config: em3, overrides: ['model.training=two_stage'] },
];
const ranking: Row = { name: 'ranking', config: 'examples/movies-new-items.yaml', overrides: [] };
const metrics = ['AUC', 'gAUC', 'logloss'] as const;
const slices = ['warm', 'cold'] as const;

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    seeds: { type: 'string', default: '5' },
    runs: { type: 'string', default: join('runs', 'movies') },
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
const wanted = ({ name }: Row): boolean => only === undefined || only.includes(name);
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i + 1);

/** The folder of a finished run of `row` with `seed`: trained now unless it lies there already. */
function finishedRun({ name, config, overrides }: Row, seed: number): string {
  const all = [...overrides, `train.seed=${seed}`, `data.path=${data}`];
  const resolved = resolveConfig({ files: [join(root, config)], overrides: all });
  const folder = join(values.runs, `${name}-seed${seed}-${configDigest(resolved.config).slice(0, 8)}`);
  if (existsSync(join(folder, 'summary.json'))) return folder;
  const started = existsSync(join(folder, 'resolved_config.yaml'));
  const command = started
    ? ['train', '--resume', folder]
    : ['train', join(root, config), ...all.map((one) => `--${one}`), '--run-dir', folder];
  process.stderr.write(`galago ${command.join(' ')}\n`);
  const { status } = spawnSync(process.execPath, [join(root, 'dist', 'cli', 'main.js'), ...command], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) throw new Error(`study:movies: galago ${command.join(' ')} ended with ${status}`);
  return folder;
}

/** Test metrics of a run by `slice.metric`. */
function testMetrics(folder: string): Record<string, number> {
  const { test, wall_s } = JSON.parse(readFileSync(join(folder, 'summary.json'), 'utf8')) as {
    test: Record<string, number>;
    wall_s: number;
  };
  const names = slices.flatMap((slice) => metrics.map((metric) => `${slice}.${metric}`));
  return { ...Object.fromEntries(names.map((name) => [name, test[name]!])), wall_s };
}

/** Ranking AUC of a run's last checkpoint. */
async function rankingMetrics(folder: string): Promise<Record<string, number>> {
  const kept = join(folder, 'cold_ranking.json');
  if (existsSync(kept)) return JSON.parse(readFileSync(kept, 'utf8')) as Record<string, number>;
  const { config } = runConfig(folder);
  await using loaded = await runData(config);
  using model = buildModel(config, loaded.schema);
  await using trainer = new Trainer({
    model,
    data: loaded,
    settings: trainSettings(config),
    configDigest: configDigest(config),
  });
  await trainer.load('latest', join(folder, 'checkpoints'));
  const result = { ...(await coldRanking(model, loaded)) };
  writeFileSync(kept, `${JSON.stringify(result)}\n`);
  return result;
}

type BySeed = Record<number, Record<string, number>>;

function meanAndSd(results: BySeed, name: string): string {
  const found = Object.values(results).map((one) => one[name]!);
  const mean = found.reduce((sum, value) => sum + value, 0) / found.length;
  const variance = found.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, found.length - 1);
  return `${mean.toFixed(3)} ± ${Math.sqrt(variance).toFixed(3)}`;
}

/** Writes what there is so far: a study that is stopped leaves its finished runs. */
function write(results: Record<string, BySeed>): string {
  const date = new Date().toISOString().slice(0, 10);
  const file = values.out ?? join(root, 'bench', 'results', `movies-${date}.json`);
  mkdirSync(dirname(file), { recursive: true });
  const { isa, threads } = addon.info();
  const command = 'npm run study:movies -- --data <folder>/ml-posters';
  writeFileSync(
    file,
    `${JSON.stringify({ command, node: process.version, kernels: isa, threads, results }, null, 2)}\n`,
  );
  return file;
}

const results: Record<string, BySeed> = {};
let file = '';
for (const seed of seeds) {
  for (const row of matrix.filter(wanted)) {
    (results[row.name] ??= {})[seed] = testMetrics(finishedRun(row, seed));
    file = write(results);
  }
  if (wanted(ranking)) {
    (results[ranking.name] ??= {})[seed] = await rankingMetrics(finishedRun(ranking, seed));
    file = write(results);
  }
}

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
