/** From a finished run to its report: curves out of metrics.jsonl, the row of the table, items beside their neighbours. */
import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import { pictureBytes } from '../data/images/image_store.js';
import { featuresOf } from '../data/schema.js';
import { knownScores, PART_TEST, type Shop } from '../data/shop/shop.js';
import { auc } from '../metrics/auc.js';
import type { SliceMetrics } from '../metrics/slices.js';
import type { RecommenderModel } from '../models/model.js';
import { addon } from '../native.js';
import type { DeviceControl } from '../tensor.js';
import { tidy } from '../tidy.js';
import type { Config } from './config.js';
import { encodeItems, otherLabels, type Slices } from './evaluate.js';
import { nearestNeighbours } from './neighbours.js';
import {
  type ReportContent,
  type ReportCurve,
  type ReportItem,
  type ReportRow,
  type ReportScores,
  writeReport,
} from './report.js';
import { type MetricsRecord, type RunFolder, readMetrics } from './run_folder.js';

/** Points of a training curve: more cannot be told apart. */
const MAX_POINTS = 200;
const SHOWN_ITEMS = 8;
const NEAREST = 6;
/** Items that a report encodes at most. */
const MAX_ENCODED = 20_000;

/** What is said before the first step: machine, data, split, leak check, memory. */
export function dataNotes(data: Dataset, { name, reason }: DeviceControl): string[] {
  const { splitManifest: split, leakChecks, sizes } = data;
  const { threads, isa } = addon.info();
  const { rss } = process.memoryUsage();
  return [
    `device ${name} (${[reason, isa].filter((part) => part !== null).join(', ')}), ${threads} threads`,
    `data ${data.name}, digest ${data.digest.slice(0, 16)}: ${data.schema.users} users, ${data.schema.items} items`,
    `split ${split.rule}: ${sizes.train} train, ${sizes.valid} valid, ${sizes.test} test rows; ${split.newItemEvents} rows of new items`,
    ...leakChecks.map(
      ({ rule, ok, detail }) => `leak check ${rule.padEnd(3)} ${ok === null ? '-   ' : ok ? 'ok  ' : 'FAIL'} ${detail}`,
    ),
    `memory ${Math.round(rss / 2 ** 20)} MiB resident before the first step`,
  ];
}

/** The best AUC that anything could reach on test: that of the true click probabilities. */
export function ceilingNote(shop: Shop): string {
  const { events } = shop;
  const { everything } = knownScores(shop);
  const best = (cold: 0 | 1): string => {
    const rows = [...events.part.keys()].filter((row) => events.part[row] === PART_TEST && events.cold[row] === cold);
    const value = auc(
      rows.map((row) => everything[row]!),
      rows.map((row) => events.click[row]!),
    );
    return value?.toFixed(4) ?? '-';
  };
  return `best possible AUC on test, by the true click probabilities: ${best(0)} known items, ${best(1)} new items`;
}

export function reportScores(metrics: SliceMetrics | undefined): ReportScores | null {
  return metrics === undefined || metrics.rows === 0
    ? null
    : { AUC: metrics.AUC, gAUC: metrics.gAUC, QAUC: metrics.QAUC };
}

/** The row of a run in the table of modes: known items, new items. `label`: one beside the main one. */
export function reportRow(name: string, test: Slices, label: string | null = null): ReportRow {
  const of = (slice: string): SliceMetrics | undefined => test[label === null ? slice : `${label}.${slice}`];
  const all = label === null ? test.all : test[label];
  return { name, known: reportScores(of('warm') ?? all), fresh: reportScores(of('cold')) };
}

/** The row of a run, and one for each other label that it learned. */
export function reportRows(name: string, test: Slices): ReportRow[] {
  return [reportRow(name, test), ...otherLabels(test).map((label) => reportRow(`${name}, ${label}`, test, label))];
}

/** What a memory bank says of itself over training, as lines of metrics name it. */
function bankCurves(run: string, records: readonly MetricsRecord[]): ReportCurve[] {
  const told = records.filter(({ part }) => part === 'bank');
  const curve = (metric: string, key: string): ReportCurve => ({
    run,
    metric,
    part: 'train',
    points: told.map((record) => {
      const value = record[key];
      return { step: record.step, value: typeof value === 'number' ? value : null };
    }),
  });
  const curves = ['short', 'long', 'target'].flatMap((sequence) => [
    curve(`bank hit rate, ${sequence}`, `${sequence}.hit_rate`),
    curve(`bank age in steps, ${sequence}`, `${sequence}.age`),
  ]);
  const others = [
    curve('cosine of stored and fresh vectors', 'cosine'),
    curve('share of encoder calls saved by the bank', 'calls_saved'),
  ];
  return [...curves, ...others].filter(({ points }) => points.some(({ value }) => value !== null));
}

/** Loss of train, thinned to what a chart can show, the metrics of windows (order 'time') and of valid, and those of a memory bank. */
export function curvesOf(run: string, records: readonly MetricsRecord[]): ReportCurve[] {
  const trained = records.filter(({ part }) => part === 'train');
  const width = Math.max(1, Math.ceil(trained.length / MAX_POINTS));
  const loss: { step: number; value: number | null }[] = [];
  for (let at = 0; at < trained.length; at += width) {
    const block = trained.slice(at, at + width);
    const values = block.map(({ loss: value }) => value).filter((value) => typeof value === 'number');
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    loss.push({ step: block.at(-1)!.step, value: values.length === 0 ? null : mean });
  }
  const curves: ReportCurve[] = [{ run, metric: 'loss', part: 'train', points: loss }];
  for (const [metric, key] of [
    ['AUC, known items', 'warm.AUC'],
    ['AUC, new items', 'cold.AUC'],
    ['logloss', 'logloss'],
  ] as const) {
    for (const part of ['window', 'valid'] as const) {
      const points = records
        .filter((record) => record.part === part)
        .map((record) => {
          const value = record[key];
          return { step: record.step, value: typeof value === 'number' ? value : null };
        });
      if (points.some(({ value }) => value !== null)) curves.push({ run, metric, part, points });
    }
  }
  return [...curves, ...bankCurves(run, records)];
}

/** Curves of a run folder. */
export async function runCurves(name: string, path: string): Promise<ReportCurve[]> {
  return curvesOf(name, (await readMetrics(path)).records);
}

/** Items of the train part and new ones, each with its nearest neighbours by the content vectors of the model as it is; none without content. */
export async function contentNeighbours(
  model: RecommenderModel,
  data: Dataset,
  step: number,
): Promise<ReportContent['neighbours']> {
  if (!model.encodesItems) return [];
  const { trainCount, cold } = data.items;
  const image = data.columns.itemImage;
  const rows = [...trainCount.keys()].filter((item) => trainCount[item]! > 0 || cold[item] === 1).slice(0, MAX_ENCODED);
  if (rows.length <= NEAREST) return [];
  await encodeItems(model, data, 'overlay', Int32Array.from(rows), step);
  try {
    const tensor = tidy(() => model.contentVectors(Int32Array.from(rows), step));
    if (tensor === null) return [];
    const vectors = Float32Array.from((await tensor.data()) as Float32Array);
    const dimension = tensor.shape[1]!;
    tensor.dispose();
    const shown = (item: number): boolean => image === null || image.present[item] === 1;
    const places = [...rows.keys()];
    const known = places
      .filter((place) => cold[rows[place]!] === 0 && shown(rows[place]!))
      .sort((a, b) => trainCount[rows[b]!]! - trainCount[rows[a]!]! || a - b);
    const fresh = places.filter((place) => cold[rows[place]!] === 1 && shown(rows[place]!));
    const half = Math.min(SHOWN_ITEMS / 2, fresh.length);
    const queries = [...known.slice(0, SHOWN_ITEMS - half), ...fresh.slice(0, half)];
    const { indices, cosines } = nearestNeighbours(vectors, { dimension, queries, k: NEAREST });
    const all = new Set(queries.flatMap((query, q) => [query, ...indices.subarray(q * NEAREST, (q + 1) * NEAREST)]));
    const described = await describeItems(
      data,
      [...all].map((place) => rows[place]!),
    );
    const describe = (item: number): ReportItem => described.get(item)!;
    return queries.map((query, q) => ({
      item: describe(rows[query]!),
      nearest: Array.from({ length: NEAREST }, (_, k) => ({
        item: describe(rows[indices[q * NEAREST + k]!]!),
        cosine: cosines[q * NEAREST + k]!,
      })),
    }));
  } finally {
    model.dropOverlay();
  }
}

/** Title, picture and a note of item rows. */
async function describeItems(data: Dataset, items: readonly number[]): Promise<Map<number, ReportItem>> {
  const text = featuresOf(data.schema, 'text').find(({ source }) => source === 'item');
  const column = text?.fields[0]?.name;
  const titles = column === undefined ? data.items.ids : data.items.fields.strings(column);
  const { image } = await data.itemContent(items);
  const picture = (i: number): ReportItem['picture'] => {
    if (image === null || image.present[i] !== 1) return null;
    const bytes = pictureBytes(image.size);
    const pixels = image.pixels.slice(i * bytes, (i + 1) * bytes);
    return { pixels, height: image.size, width: image.size, channels: 3 };
  };
  return new Map(
    items.map((item, i) => {
      const title = titles[item] ?? data.items.ids[item]!;
      return [item, { title, picture: picture(i), ...(data.items.cold[item] === 1 ? { note: 'new' } : {}) }];
    }),
  );
}

/** Where numbers come from: no table stands without it. */
export function tableFooter(
  data: Dataset,
  test: Slices,
  { seeds, seconds }: { seeds: string; seconds: number },
): string {
  const share = data.items.cold.reduce((sum, flag) => sum + flag, 0) / data.items.cold.length;
  const rows = `${(test['warm'] ?? test.all).rows} / ${test['cold']?.rows ?? 0}`;
  return (
    `split ${data.splitManifest.rule}; new = ${Math.round(100 * share)} % of items, in no training row; test rows ${rows}; ` +
    `${seeds}; ${seconds.toFixed(0)} s on ${addon.info().threads} threads`
  );
}

export async function writeRunReport(finished: {
  readonly run: RunFolder;
  readonly data: Dataset;
  readonly config: Config;
  readonly model: RecommenderModel;
  readonly step: number;
  readonly test: Slices | null;
  readonly footer: string;
}): Promise<void> {
  const { run, data, config, model, step, test, footer } = finished;
  const { model: setting, train } = config;
  await writeReport(join(run.path, 'report.html'), {
    title: `${setting.name}: ${setting.training}`,
    configSummary: {
      data: data.name,
      ranker: setting.ranker,
      training: setting.training,
      modalities: setting.training === 'id_only' ? 'none' : setting.modalities.join(' + '),
      epochs: train.epochs,
      batch: `${train.train_batch_size} ${train.unit}s`,
      seed: train.seed,
      steps: step,
    },
    curves: await runCurves(setting.training, run.path),
    table: test === null ? null : { rows: reportRows(setting.training, test), footer },
    neighbours: await contentNeighbours(model, data, step),
    notes: data.leakChecks.map(({ rule, detail }) => `${rule}: ${detail}`),
  });
}
