/**
 * LEMUR without each of its parts on the generated shop, and with fewer encoded documents (p and q): the rows of the paper's ablation and
 * cost tables, over several seeds. QAUC is that of all test rows, gains are those over the ranker on ids alone. Learning from pictures
 * begins with a jump, which a run can miss: the table counts the seeds that got there (QAUC of known items above .8, where ids alone reach
 * .77), and gives the gain of those apart.
 *
 *   npm run study:lemur [-- --seeds 5 --jobs 1 --only <row>,<row> --runs runs/lemur --out <file.json>]
 *
 * `--jobs 2` trains two runs beside each other with one thread each: the same bytes, sooner.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { textTable } from '../../ts/src/cli/text_table.js';
import { readMetrics } from '../../ts/src/train/run_folder.js';
import {
  type BySeed,
  finishedRun,
  inOrder,
  meanAndDeviation,
  meanAndSd,
  type Numbers,
  type StudyRow,
  testNumbers,
  writeResults,
} from './study.js';

const everything = ['model.bank.p=100', 'model.bank.q=100', 'train.epochs=8'];
const row = (name: string, ...overrides: string[]): StudyRow => ({
  name,
  config: 'examples/lemur-search.yaml',
  overrides: [...everything, ...overrides],
});

/** In the order of the paper's table: what a part is worth is what the full model loses without it. */
const ablation: readonly StudyRow[] = [
  row('id_only', 'model.training=id_only'),
  row('full'),
  // Its encoders train for the first four epochs only; as everywhere, half of that is warm-up.
  row('two_stage', 'model.training=two_stage', 'train.encoder_warmup_steps=282'),
  row('stop_gradient', 'model.training=stop_gradient'),
  row('no_long', 'model.sequences.long=0'),
  row('no_sqdc', 'model.sqdc.weight=0'),
  row('no_cosines', 'model.similarity=none'),
  row('no_session_mask', 'model.sqdc.session_mask=false'),
  row('no_short', 'model.sequences.short=0', 'model.sequences.to_ranker=long'),
  row('with_cic', 'model.cic.weight=0.01'),
];
/** Shares of the documents of a step that are encoded, and with gradient. */
const sampling: readonly StudyRow[] = [
  row('p100_q20', 'model.bank.q=20'),
  row('p50_q50', 'model.bank.p=50', 'model.bank.q=50'),
  row('p20_q20', 'model.bank.p=20', 'model.bank.q=20'),
  row('p10_q10', 'model.bank.p=10', 'model.bank.q=10'),
];

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '5' },
    jobs: { type: 'string', default: '1' },
    runs: { type: 'string', default: join('runs', 'lemur') },
    only: { type: 'string' },
    out: { type: 'string' },
  },
});
const only = values.only?.split(',');
const rows = [...ablation, ...sampling].filter(({ name }) => only === undefined || only.includes(name));
const jobs = Number(values.jobs);

/** Test metrics, encoder calls, and what the bank told after each epoch: means over epochs, and the last ones. */
async function numbersOf(folder: string): Promise<Numbers> {
  const told = (await readMetrics(folder)).records.filter(({ part }) => part === 'bank');
  const numbers = testNumbers(folder);
  for (const key of ['cosine', 'short.hit_rate', 'long.hit_rate', 'target.hit_rate', 'short.age', 'long.age']) {
    const found = told.map((record) => record[key]).filter((value) => typeof value === 'number');
    if (found.length === 0) continue;
    numbers[`bank.${key}.mean`] = meanAndDeviation(found).mean;
    numbers[`bank.${key}.least`] = Math.min(...found);
    numbers[`bank.${key}.last`] = found.at(-1)!;
  }
  return numbers;
}

const results: Record<string, BySeed> = Object.fromEntries(rows.map(({ name }) => [name, {}]));
let file = '';
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i + 1);
const tasks = seeds.flatMap((seed) => rows.map((of) => ({ of, seed })));
await inOrder(tasks, jobs, async ({ of, seed }) => {
  const folder = await finishedRun(of, seed, { runs: values.runs, ...(jobs > 1 ? { threads: 1 } : {}) });
  results[of.name]![seed] = await numbersOf(folder);
  file = writeResults(results, { name: 'lemur-ablation', out: values.out, command: 'npm run study:lemur' });
});

const gotThere = (numbers: Numbers): boolean => numbers['warm.QAUC']! > 0.8;

/** Relative gain in percent over ids alone, seed by seed, as the paper states gains; of the seeds that `counts` accepts. */
function gain(of: BySeed, metric: string, counts: (numbers: Numbers) => boolean = () => true): string {
  const base = results['id_only'];
  if (base === undefined) return '-';
  const gains = Object.entries(of).flatMap(([seed, numbers]) => {
    if (!counts(numbers)) return [];
    const without = base[Number(seed)]?.[metric];
    return without === undefined ? [] : [100 * (numbers[metric]! / without - 1)];
  });
  if (gains.length === 0) return '-';
  const { mean, sd } = meanAndDeviation(gains);
  return `${mean >= 0 ? '+' : ''}${mean.toFixed(2)} ± ${sd.toFixed(2)} %`;
}

const shown = ['all.QAUC', 'warm.QAUC', 'cold.QAUC', 'warm.AUC', 'cold.AUC'] as const;
const table = (of: readonly StudyRow[]): string[][] =>
  of
    .filter(({ name }) => Object.keys(results[name] ?? {}).length > 0)
    .map(({ name }) => [
      name,
      String(Object.keys(results[name]!).length),
      gain(results[name]!, 'all.QAUC'),
      String(Object.values(results[name]!).filter(gotThere).length),
      gain(results[name]!, 'all.QAUC', gotThere),
      ...shown.map((metric) => meanAndSd(results[name]!, metric)),
      'bank.cosine.mean' in Object.values(results[name]!)[0]! ? meanAndSd(results[name]!, 'bank.cosine.mean') : '-',
    ]);
process.stdout.write(
  textTable(['test', 'seeds', 'QAUC over ids', 'got there', 'QAUC of those', ...shown, 'cosine'], table(rows)),
);
process.stdout.write(`${file}\n`);
