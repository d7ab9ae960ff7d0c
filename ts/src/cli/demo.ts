import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import { datasetFromShop } from '../data/load_dataset.js';
import { featuresOf } from '../data/schema.js';
import { generateShopAside, knownScores, type Shop } from '../data/shop/shop.js';
import { ConfigError } from '../errors.js';
import { evaluateSlices } from '../metrics/slices.js';
import { type ConfigInput, type ResolvedConfig, resolveConfig } from '../train/config.js';
import { datasetRequest } from '../train/dataset_request.js';
import type { Slices } from '../train/evaluate.js';
import { type ReportContent, type ReportRow, type ReportScores, writeReport } from '../train/report.js';
import { type RunResult, runConfig, runData, runDevice } from '../train/run.js';
import { contentNeighbours, dataNotes, reportRow, runCurves, tableFooter } from '../train/run_report.js';
import { allModes, band, type DemoMode, endToEnd, idOnly, leakMargin, lemur, shortModes } from './demo_modes.js';
import { interruptible } from './interrupt.js';
import { resultTable } from './result_table.js';
import { historyOfBank, shownRun } from './shown_run.js';
import { textTable } from './text_table.js';
import { integer, type Output, single, type Verb, type VerbArguments, type VerbDefinition } from './verb.js';

export const demoDefinition: VerbDefinition = {
  name: 'demo',
  summary:
    'Trains on a generated shop whose best possible score is known, and compares ids, frozen content and content trained end to end.',
  positionals: '',
  options: {
    data: { type: 'string', value: 'folder', help: 'a RecBole atomic folder instead of the generated shop' },
    full: { type: 'boolean', help: 'every mode and modality with three seeds' },
    seed: { type: 'string', value: 'n', help: 'seed of the first run; default 1' },
    'kill-at': { type: 'string', value: 'step', help: 'stop a run at this step, resume it and compare the bytes' },
    device: { type: 'string', value: 'name', help: 'auto, cpu or cuda:N' },
    'run-dir': { type: 'string', value: 'folder', help: 'folder for the runs; without it below runs/' },
  },
  overrides: true,
};

export interface DemoRequest {
  readonly data: string | null;
  readonly full: boolean;
  readonly seed: number;
  readonly killAt: number | null;
  readonly device: string | null;
  readonly runDir: string | null;
  /** Keys of the configuration, for all runs alike. */
  readonly overrides: readonly string[];
}

/** Reads the options of `demo`. Errors: `ConfigError`. */
export function demoRequest(args: VerbArguments): DemoRequest {
  if (args.positionals.length > 0) {
    throw new ConfigError(`demo: expected options only but received ${args.positionals.join(' ')}`, { key: 'demo' });
  }
  return {
    data: single(args, 'data') ?? null,
    full: args.flags.has('full'),
    seed: integer(demoDefinition, args, 'seed', 0) ?? 1,
    killAt: integer(demoDefinition, args, 'kill-at', 1) ?? null,
    device: single(args, 'device') ?? null,
    runDir: single(args, 'run-dir') ?? null,
    overrides: args.overrides,
  };
}

const FULL_SEEDS = 3;

/** `galago demo`. */
export const demo: Verb = {
  ...demoDefinition,
  async run(args, output) {
    const request = demoRequest(args);
    return interruptible(output.stderr, async (signal) => {
      try {
        return await runDemo(request, output, signal);
      } catch (error) {
        if (!signal.aborted || error !== signal.reason) throw error;
        output.stdout.write('stopped\n');
        return { stopped: true };
      }
    });
  },
};

/** The data of the demo, and what is known about them beside any model. */
interface DemoData {
  readonly data: Dataset;
  readonly shop: Shop | null;
}

interface SeedResult {
  readonly mode: DemoMode;
  readonly seed: number;
  readonly path: string;
  readonly test: Slices;
  readonly digest: string | null;
  readonly seconds: number;
  readonly summary: RunResult['summary'];
}

async function runDemo(request: DemoRequest, output: Output, signal: AbortSignal): Promise<Record<string, unknown>> {
  const started = performance.now();
  const { stdout, stderr } = output;
  const first = configOf(request, null, request.seed, null);
  const place = runDevice(first.config);
  const { data, shop } = await demoData(first, signal);
  try {
    for (const line of dataNotes(data, place)) stdout.write(`${line}\n`);
    stdout.write('\n');
    const root =
      request.runDir ?? join('runs', `demo-${new Date().toISOString().slice(0, 19).replaceAll(/[-:T]/g, '')}`);
    await mkdir(root, { recursive: true });
    const seeds = Array.from({ length: request.full ? FULL_SEEDS : 1 }, (_, k) => request.seed + k);
    const modes = request.full && shop !== null ? allModes : shortModes;
    const results: SeedResult[] = [];
    let neighbours: ReportContent['neighbours'] = [];
    for (const mode of modes) {
      for (const seed of seeds) {
        const name = `${mode.key}-seed${seed}`;
        stderr.write(`${mode.name}, seed ${seed}\n`);
        const resolved = configOf(request, mode, seed, shop === null ? data : null);
        const result = await shownRun(resolved, output, { runDir: join(root, name), data, signal });
        using model = result.model;
        signal.throwIfAborted();
        if (mode === endToEnd && seed === request.seed) neighbours = await contentNeighbours(model, data, result.step);
        results.push(seedResult(mode, seed, result));
      }
    }
    const killed =
      request.killAt === null ? null : await killAndResume(request, { data, shop }, root, results, output, signal);

    const rows = tableRows(modes, results, data, shop);
    const seconds = (performance.now() - started) / 1000;
    const seedText = seeds.length === 1 ? `seed ${seeds[0]}` : `means of seeds ${seeds[0]} to ${seeds.at(-1)}`;
    const footer = tableFooter(data, results[0]!.test, { seeds: seedText, seconds });
    stdout.write(`\n${resultTable(rows, footer)}`);
    if (request.full) stdout.write(`\n${spreadTable(modes, results, shop !== null)}`);
    const closed = shareClosed(rows);
    const notes: string[] = [];
    if (closed !== null)
      notes.push(
        `end to end closes ${(100 * closed).toFixed(0)} % of the way from ids to the ceiling for new items (AUC)`,
      );
    const banked = results.find(({ mode, seed }) => mode === lemur && seed === request.seed);
    if (banked !== undefined) notes.push(bankNote(banked.summary));
    if (killed !== null) notes.push(killed.note);
    const alarms = leakAlarms(rows);
    for (const line of notes) stdout.write(`${line}\n`);
    for (const line of alarms) stderr.write(`error: ${line}\n`);
    const report = join(root, 'report.html');
    await writeReport(report, {
      title: 'galago demo',
      configSummary: { data: data.name, split: data.splitManifest.rule, seeds: seeds.join(', '), runs: results.length },
      curves: (
        await Promise.all(
          results.filter(({ seed }) => seed === request.seed).map(({ mode, path }) => runCurves(mode.name, path)),
        )
      ).flat(),
      table: { rows, footer },
      neighbours,
      notes: [...notes, ...alarms, ...data.leakChecks.map(({ rule, detail }) => `${rule}: ${detail}`)],
    });
    stdout.write(`report ${report}\n`);
    return {
      report,
      rows,
      closed,
      leak_alarms: alarms,
      killed: killed === null ? null : { step: killed.step, equal: killed.equal },
      seeds,
      seconds,
      runs: results.map(({ mode, seed, path, test, digest, seconds: spent }) => ({
        mode: mode.key,
        seed,
        path,
        digest,
        seconds: spent,
        test,
      })),
    };
  } finally {
    await data[Symbol.asyncDispose]();
  }
}

function seedResult(mode: DemoMode, seed: number, { path, test, checkpoint, summary }: RunResult): SeedResult {
  if (test === null)
    throw new ConfigError('demo: expected a test part but the split leaves it empty', { key: 'eval.split' });
  return { mode, seed, path, test, digest: checkpoint?.digest ?? null, seconds: Number(summary['wall_s']), summary };
}

/** What the memory bank of a run did. */
function bankNote(summary: RunResult['summary']): string {
  const bank = (summary['bank'] ?? {}) as Readonly<Record<string, number>>;
  const calls = summary['encoder_calls'] as Readonly<Record<'slots' | 'distinct' | 'items', number>>;
  const history = historyOfBank(bank);
  const percent = (value: number | undefined): string => (value === undefined ? '-' : `${(100 * value).toFixed(0)} %`);
  const { slots, distinct, items } = calls;
  return [
    `${lemur.name}: ${items} encoder calls for ${slots} rows and clicks (each item once: ${distinct}; the bank saves ${percent(1 - items / distinct)} of those)`,
    `bank hit rate ${percent(history?.hitRate)}`,
    `mean age ${history?.age.toFixed(1) ?? '-'} steps`,
    `cosine to fresh vectors ${bank['cosine']?.toFixed(3) ?? '-'}`,
  ].join(', ');
}

// ---- data and configuration

/** Configuration of one mode; `folder`: the loaded data of `--data`, whose features the modes divide among them. */
function configOf(request: DemoRequest, mode: DemoMode | null, seed: number, folder: Dataset | null): ResolvedConfig {
  const base: ConfigInput =
    request.data === null
      ? { data: { shop: { seed: 1 } }, train: { seed } }
      : { ...folderConfig, data: { ...folderConfig.data, path: request.data }, train: { ...folderConfig.train, seed } };
  const features = folder === null ? {} : { features: mode === idOnly ? idFeatures(folder) : null };
  const onShop: ConfigInput = request.data === null && mode?.onShop !== undefined ? { train: mode.onShop } : {};
  return resolveConfig({
    object: {
      ...base,
      ...(request.device === null ? {} : { device: request.device }),
      ...(request.data === null ? {} : { model: { ...folderConfig.model, ...features } }),
    },
    set: mode === null ? [] : [mode.config, onShop].map((part) => JSON.stringify(part)),
    overrides: request.overrides,
  });
}

/** A user's own folder: ratings of at least 4, 15 % of the items held out, features by their columns. */
const folderConfig = {
  data: { label: { column: 'rating', at_least: 4 } },
  eval: { split: { CS: { test: 0.15, valid: 0 } } },
  model: {
    ranker: 'din',
    encoder: { width: 32, layers: 1, query_layers: 1, heads: 4, ffn: 64 },
    fusion: { queries: 2, layers: 1, heads: 4, width: 32, ffn: 64, dropout: 0 },
    lora: { mode: 'none' },
    cic: { weight: 0 },
    history_len: 20,
  },
  train: { epochs: 5, learning_rate: 1e-3 },
} satisfies ConfigInput;

function idFeatures({ schema }: Dataset): string[] {
  const ids = [schema.userId, schema.itemId].filter((name) => name !== null);
  return [...ids, ...featuresOf(schema, 'history').map(({ name }) => name)];
}

async function demoData({ config }: ResolvedConfig, signal: AbortSignal): Promise<DemoData> {
  const { where, options } = datasetRequest(config);
  if (typeof where === 'string') return { data: await runData(config, { signal }), shop: null };
  const shop = await generateShopAside(where.shop, signal);
  return { data: await datasetFromShop(shop, { ...options, signal }), shop };
}

// ---- rows of the table

/** What nobody trained: the mean of each item, and the ceilings of the shop. */
function knownRows(data: Dataset, shop: Shop | null): { mean: ReportRow; ceilings: ReportRow[] } {
  const { parts, labels, item, user, session } = data.columns;
  const label = labels[0]!.values;
  const clicks = new Float64Array(data.schema.items);
  for (const event of parts.train) clicks[item[event]!]! += label[event]!;
  const test = parts.test;
  const cold = Uint8Array.from(test, (event) => data.items.cold[item[event]!]!);
  const slices = (score: (event: number) => number): Slices =>
    evaluateSlices({
      logits: Float64Array.from(test, score),
      labels: Float64Array.from(test, (event) => label[event]!),
      user: Int32Array.from(test, (event) => user[event]!),
      session: session === null ? undefined : Int32Array.from(test, (event) => session[event]!),
      cold,
    });
  const mean = slices((event) => {
    const seen = data.items.trainCount[item[event]!]!;
    return seen === 0 ? 0 : clicks[item[event]!]! / seen;
  });
  const ceilings: ReportRow[] = [];
  if (shop !== null) {
    const scores = knownScores(shop);
    const everything = slices((event) => scores.everything[event]!);
    const content = slices((event) => scores.content[event]!);
    ceilings.push({ ...reportRow('best possible (generated set)', everything), isCeiling: true });
    ceilings.push({ ...reportRow('ceiling for new items', content), known: null, isCeiling: true });
  }
  return { mean: { ...reportRow('item mean', mean), fresh: null }, ceilings };
}

function average(values: readonly (number | null | undefined)[]): number | null {
  const known = values.filter((value) => typeof value === 'number');
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
}

function deviation(values: readonly number[]): number {
  const mean = average(values) ?? 0;
  return values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
}

function meanScores(scores: readonly (ReportScores | null)[]): ReportScores | null {
  if (scores.every((one) => one === null)) return null;
  const of = (metric: keyof ReportScores): number | null => average(scores.map((one) => one?.[metric]));
  return { AUC: of('AUC'), gAUC: of('gAUC'), QAUC: of('QAUC') };
}

function tableRows(
  modes: readonly DemoMode[],
  results: readonly SeedResult[],
  data: Dataset,
  shop: Shop | null,
): ReportRow[] {
  const { mean, ceilings } = knownRows(data, shop);
  const trained = modes.map((mode): ReportRow => {
    const rows = results.filter((result) => result.mode === mode).map(({ test }) => reportRow(mode.name, test));
    return {
      name: mode.name,
      known: meanScores(rows.map(({ known }) => known)),
      fresh: meanScores(rows.map(({ fresh }) => fresh)),
    };
  });
  return [mean, ...trained, ...ceilings];
}

/** Share of the way from ids only to the ceiling that end-to-end training goes, in AUC on new items. */
function shareClosed(rows: readonly ReportRow[]): number | null {
  const auc = (name: string): number | null => rows.find((row) => row.name === name)?.fresh?.AUC ?? null;
  const [low, reached, ceiling] = [auc(idOnly.name), auc(endToEnd.name), auc('ceiling for new items')];
  return low === null || reached === null || ceiling === null ? null : (reached - low) / (ceiling - low);
}

/** Rows that beat what is possible. */
function leakAlarms(rows: readonly ReportRow[]): string[] {
  const best = rows.find(({ name }) => name === 'best possible (generated set)');
  const alarms: string[] = [];
  for (const row of rows.filter(({ isCeiling }) => isCeiling !== true)) {
    for (const slice of ['known', 'fresh'] as const) {
      const [reached, limit] = [row[slice]?.AUC, best?.[slice]?.AUC];
      if (typeof reached === 'number' && typeof limit === 'number' && reached > limit + leakMargin)
        alarms.push(
          `leak: ${row.name} reaches AUC ${reached.toFixed(4)} on ${slice === 'known' ? 'known' : 'new'} items, above the best possible ${limit.toFixed(4)}`,
        );
    }
  }
  return alarms;
}

/** Mean and deviation over seeds, and on the shop whether the mean lies in its band. */
function spreadTable(modes: readonly DemoMode[], results: readonly SeedResult[], banded: boolean): string {
  const rows = modes.map(({ name, reference }, at) => {
    const of = results.filter(({ mode }) => mode === modes[at]).map(({ test }) => reportRow(name, test));
    const cell = (values: (number | null | undefined)[], expected: number | undefined): string => {
      const known = values.filter((value) => typeof value === 'number');
      const mean = average(known);
      if (mean === null) return '-';
      const verdict =
        !banded || expected === undefined
          ? ''
          : Math.abs(mean - expected) <= band
            ? ' in'
            : ` OUT of ${expected.toFixed(3)}`;
      return `${mean.toFixed(3)} sd ${deviation(known).toFixed(3)}${verdict}`;
    };
    return [
      name,
      cell(
        of.map(({ known }) => known?.AUC),
        reference?.knownAuc,
      ),
      ...(['AUC', 'gAUC', 'QAUC'] as const).map((metric) =>
        cell(
          of.map(({ fresh }) => fresh?.[metric]),
          reference?.fresh[metric],
        ),
      ),
    ];
  });
  const head = ['mean and sd over seeds', 'known AUC', 'new AUC', 'new gAUC', 'new QAUC'];
  return `${textTable(head, rows, 'left')}${banded ? `in: the mean lies within ${band} of the reference\n` : ''}`;
}

// ---- --kill-at

/** Stops the end-to-end run at a step, resumes it from its folder, and compares the last checkpoint with the uninterrupted one. */
async function killAndResume(
  request: DemoRequest,
  { data, shop }: DemoData,
  root: string,
  results: readonly SeedResult[],
  output: Output,
  signal: AbortSignal,
): Promise<{ step: number; equal: boolean; note: string }> {
  const whole = results.find(({ mode, seed }) => mode === endToEnd && seed === request.seed)!;
  const resolved = configOf(request, endToEnd, request.seed, shop === null ? data : null);
  const runDir = join(root, `${endToEnd.key}-seed${request.seed}-killed`);
  const stop = new AbortController();
  const killed = await shownRun(resolved, output, {
    runDir,
    data,
    signal: AbortSignal.any([signal, stop.signal]),
    onEvent: (event) => {
      if (event.type === 'step' && event.step >= request.killAt!) stop.abort();
    },
  });
  killed.model.dispose();
  signal.throwIfAborted();
  if (!killed.stopped)
    throw new ConfigError(
      `demo: expected --kill-at below the ${killed.step} steps of the run but received ${request.killAt}`,
      {
        key: 'kill-at',
      },
    );
  output.stderr.write(`stopped at step ${killed.step}, resuming\n`);
  const resumed = await shownRun(runConfig(runDir), output, { runDir, resume: true, data, signal });
  resumed.model.dispose();
  signal.throwIfAborted();
  const equal = resumed.checkpoint?.digest === whole.digest;
  const digests = `${whole.digest?.slice(0, 16) ?? 'none'} and ${resumed.checkpoint?.digest.slice(0, 16) ?? 'none'}`;
  return {
    step: killed.step,
    equal,
    note: `stopped at step ${killed.step} and resumed: final digests ${digests}, ${equal ? 'equal' : 'NOT EQUAL'}`,
  };
}
