/** A model of several labels: every evaluation tells of each of them, the main one under its own names. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { auc } from '../../src/metrics/auc.js';
import { logloss } from '../../src/metrics/logloss.js';
import { metricsOf } from '../../src/train/evaluate.js';
import { flatMetrics } from '../../src/train/metric_values.js';
import { readMetrics } from '../../src/train/run_folder.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { captured, lastJson } from '../cli/captured.js';
import { tinyData, tinyEm3, tinyShop } from '../models/tiny_em3.js';
import { temporaryFolder, tinyShopOptions } from './tiny_shop.js';

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

const settings: Partial<TrainSettings> = {
  unit: 'session',
  batchSize: 8,
  evalBatchSize: 60,
  epochs: 1,
  learningRates: { dense: 0.01, sparse: 0.01, encoder: 0.01, lora: 0.01 },
};

describe('a model of two labels', () => {
  it('gives the logits of each, and metrics of each slice by its label', async () => {
    using model = tinyEm3(data, { training: 'id_only', ranker: 'mmoe' });
    await using trainer = new Trainer({ model, data, device: 'cpu', settings });
    const predictions = await trainer.predict('valid');
    const { buy } = predictions.others;
    const bought = Array.from(predictions.events, (event) => tinyShop.events.buy[event]!);
    expect([...buy!.labels]).toEqual(bought);
    expect([...buy!.logits]).not.toEqual([...predictions.logits]);
    const slices = await metricsOf(predictions);
    expect(Object.keys(slices)).toEqual(['all', 'warm', 'cold', 'buy', 'buy.warm', 'buy.cold']);
    expect(slices['buy']!.AUC).toBe(auc(buy!.logits, buy!.labels));
    expect(slices['buy']!.logloss).toBe(logloss(buy!.logits, buy!.labels));
    const rows = [...predictions.cold.keys()].filter((row) => predictions.cold[row] === 1);
    const of = (values: ArrayLike<number>) => Float64Array.from(rows, (row) => values[row]!);
    expect(slices['buy.cold']!.AUC).toBe(auc(of(buy!.logits), of(buy!.labels)));
    const alone = await metricsOf({ ...predictions, others: {} });
    expect({ all: slices.all, warm: slices['warm'], cold: slices['cold'] }).toEqual(alone);
    expect(flatMetrics(slices)['buy.warm.gAUC']).toBe(slices['buy.warm']!.gAUC);
  });

  it('takes the first as the main one, whatever the names', async () => {
    const labels = [{ column: 'click' }, { column: 'buy', name: '4' }];
    await using named = await tinyData({ labels });
    using model = tinyEm3(named, { training: 'id_only', ranker: 'mmoe' });
    await using trainer = new Trainer({ model, data: named, device: 'cpu', settings });
    const { labels: main, events, others } = await trainer.predict('valid');
    expect([...main]).toEqual(Array.from(events, (event) => tinyShop.events.click[event]!));
    expect([...others['4']!.labels]).toEqual(Array.from(events, (event) => tinyShop.events.buy[event]!));
  });

  it('tells of both before it trains on a window', async () => {
    using model = tinyEm3(data, { training: 'id_only', ranker: 'mmoe' });
    using folder = temporaryFolder();
    const run = join(folder.path, 'run');
    await using trainer = new Trainer({
      ...{ model, data, device: 'cpu' as const, runDir: run },
      settings: { ...settings, order: 'time', windows: 3 },
    });
    const told: Record<string, number | null>[] = [];
    for await (const event of trainer.run()) if (event.type === 'window') told.push(flatMetrics(event.metrics));
    expect(told).toHaveLength(3);
    for (const window of told) expect(window['buy.rows']).toBe(window['rows']);
    expect(told.some((window) => window['buy.AUC'] !== null && window['buy.AUC'] !== window['AUC'])).toBe(true);
    const { records } = await readMetrics(run);
    expect(records.filter(({ part }) => part === 'window').map((record) => record['buy.logloss'])).toEqual(
      told.map((window) => window['buy.logloss']),
    );
  });

  it('says nothing of a label that a ranker of one task does not learn', async () => {
    using model = tinyEm3(data, { training: 'id_only', ranker: 'dnn' });
    await using trainer = new Trainer({ model, data, device: 'cpu', settings });
    expect((await trainer.predict('valid')).others).toEqual({});
  });
});

describe('galago train and eval of two labels', () => {
  it('show the metrics of each', async () => {
    using folder = temporaryFolder();
    const run = join(folder.path, 'run');
    const options = ['--data.more_labels=[{column: buy}]', '--model.ranker=mmoe', '--model.training=id_only'];
    const trained = await captured(['train', ...tinyShopOptions, ...options, '--train.epochs=1', '--run-dir', run]);
    expect(trained.exitCode, trained.stderr).toBe(0);
    expect(trained.stdout).toMatch(/^id_only +0\.\d+.*\nid_only, buy +0\.\d+/m);
    const evaluated = await captured(['eval', run, '--part', 'test', '--json']);
    expect(evaluated.exitCode, evaluated.stderr).toBe(0);
    expect(evaluated.stdout).toMatch(/^buy +\d+ +0\.\d{4}/m);
    expect(evaluated.stdout).toMatch(/^buy\.cold +\d+ /m);
    const { metrics } = lastJson(evaluated.stdout) as { metrics: Record<string, { rows: number }> };
    expect(metrics['buy']!.rows).toBe(metrics['all']!.rows);
  });
});
