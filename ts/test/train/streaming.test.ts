import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { datasetFromShop } from '../../src/data/load_dataset.js';
import { timeWindows } from '../../src/data/time_windows.js';
import type { RecommenderModel } from '../../src/models/model.js';
import { flatMetrics } from '../../src/train/metric_values.js';
import { readMetrics } from '../../src/train/run_folder.js';
import { curvesOf } from '../../src/train/run_report.js';
import type { TrainEvent } from '../../src/train/train_events.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { bytesByName, tinyData, tinyEm3, tinyShop } from '../models/tiny_em3.js';
import { tinyLemur } from '../models/tiny_lemur.js';
import { temporaryFolder } from './tiny_shop.js';

const settings: Partial<TrainSettings> = {
  order: 'time',
  windows: 4,
  epochs: 7, // says nothing
  unit: 'session',
  batchSize: 8,
  evalBatchSize: 60,
  learningRates: { dense: 0.01, sparse: 0.01, encoder: 0.01, lora: 0.01 },
};

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

const em3 =
  (changes: Parameters<typeof tinyEm3>[1] = {}) =>
  (source: Dataset): RecommenderModel =>
    tinyEm3(source, { content: { lora: { mode: 'lora_cached' } }, ...changes });
const models = { em3: em3(), lemur: (source: Dataset): RecommenderModel => tinyLemur(source) } as const;

/** What a streamed run saw, in order. */
interface Streamed {
  /** Events that were trained on, and those that were scored, one list per window. */
  readonly trained: number[];
  readonly scored: number[][];
  readonly windows: Record<string, number | null>[];
  readonly losses: number[];
  readonly bytes: Record<string, string>;
  readonly events: TrainEvent[];
}

async function stream({
  source = data,
  changes = {},
  options = {},
  stopAt = Number.POSITIVE_INFINITY,
  make = em3(),
}: {
  source?: Dataset;
  changes?: Partial<TrainSettings>;
  options?: { runDir?: string; resume?: boolean };
  stopAt?: number;
  make?: (data: Dataset) => RecommenderModel;
} = {}): Promise<Streamed> {
  using model = make(source);
  const trained: number[] = [];
  let scoring: number[] = [];
  const scored: number[][] = [];
  const [graph, predict] = [model.graph.bind(model), model.predictTasks!.bind(model)];
  model.graph = (batch, context) => {
    trained.push(...batch.events);
    return graph(batch, context);
  };
  model.predictTasks = (batch, step) => {
    if (batch.part === 'train') scoring.push(...batch.events);
    return predict(batch, step);
  };
  await using trainer = new Trainer({ model, data: source, settings: { ...settings, ...changes }, ...options });
  const stop = new AbortController();
  const events: TrainEvent[] = [];
  try {
    for await (const event of trainer.run({ signal: stop.signal })) {
      events.push(event);
      if (event.type === 'window') {
        if (options.resume !== true) expect(trained.length).toBe(scored.reduce((sum, rows) => sum + rows.length, 0)); // nothing of it, all before it
        scored.push(scoring);
        scoring = [];
      }
      if (event.type === 'step' && event.step >= stopAt) stop.abort();
    }
  } catch (error) {
    if (error !== stop.signal.reason) throw error;
  }
  return {
    trained,
    scored,
    windows: events.flatMap((event) => (event.type === 'window' ? [flatMetrics(event.metrics)] : [])),
    losses: events.flatMap((event) => (event.type === 'step' ? [event.loss] : [])),
    bytes: await bytesByName(model.state()),
    events,
  };
}

const time = (events: readonly number[]): number[] => events.map((event) => data.columns.time[event]!);

describe('training in time order', () => {
  it.each(['session', 'row'] as const)('scores every window, then trains on it, once: %s', async (unit) => {
    const { trained, scored, windows, events } = await stream({
      changes: { unit, batchSize: unit === 'row' ? 48 : 8 },
    });
    expect(scored.flat()).toEqual(trained);
    expect(trained.slice().sort((a, b) => a - b)).toEqual([...data.columns.parts.train]);
    expect(time(trained)).toEqual(time(trained).sort((a, b) => a - b));
    expect(windows.length).toBe(4);
    for (let w = 1; w < 4; w++)
      expect(Math.min(...time(scored[w]!))).toBeGreaterThan(Math.max(...time(scored[w - 1]!)));
    expect(windows.map((metrics) => metrics['rows'])).toEqual(scored.map((rows) => rows.length));
    expect(events.filter(({ type }) => type === 'eval').length).toBe(1);
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'epochs' });
  });

  it('takes as new the items that no earlier window shows', async () => {
    const { windows, scored } = await stream({ make: em3({ training: 'id_only' }) });
    const seen = new Set<number>();
    scored.forEach((rows, w) => {
      const items = rows.map((event) => data.columns.item[event]!);
      expect(windows[w]!['cold.rows'] ?? 0).toBe(items.filter((item) => !seen.has(item)).length);
      for (const item of items) seen.add(item);
    });
  });

  it.each(Object.entries(models))('leaks nothing of later windows, whatever stands there: %s', async (_name, make) => {
    const third = timeWindows(data.columns, 'session', 4)[2]!;
    const steps = (losses: readonly number[]) => losses.slice(0, Math.ceil(third.start / 6 / 8));
    const first = await stream({ make });
    const late = new Set(
      timeWindows(data.columns, 'session', 4).flatMap(({ rows, index }) => (index < 2 ? [] : [...rows])),
    );
    const click = tinyShop.events.click.map((label, event) => (late.has(event) ? 1 - label : label));
    const planted = await datasetFromShop({ ...tinyShop, events: { ...tinyShop.events, click } });
    try {
      const { item, parts } = planted.columns;
      const known = Array.from(parts.train.subarray(0, 6), (event) => item[event]!);
      for (const event of late) item[event] = known[event % known.length]!;
      const second = await stream({ source: planted, make });
      expect(second.windows.slice(0, 2)).toEqual(first.windows.slice(0, 2));
      expect(steps(second.losses)).toEqual(steps(first.losses));
      expect(second.windows[2]).not.toEqual(first.windows[2]);
      expect(second.losses.at(-1)).not.toBe(first.losses.at(-1));
    } finally {
      await planted[Symbol.asyncDispose]();
    }
  });

  it.each(Object.entries(models))(
    'goes on inside a window to the same bytes, without scoring it again: %s',
    async (_name, make) => {
      using whole = temporaryFolder();
      using halted = temporaryFolder();
      const expected = await stream({ make, options: { runDir: join(whole.path, 'run') } });
      const stepsOfWindow = Math.ceil(timeWindows(data.columns, 'session', 4)[0]!.units / 8);
      const runDir = join(halted.path, 'run');
      const stopAt = stepsOfWindow + 2; // in the second window
      const before = await stream({ make, options: { runDir }, stopAt });
      expect(before.windows.length).toBe(2);
      const after = await stream({ make, options: { runDir, resume: true } });
      expect(after.windows.length).toBe(2);
      expect([...before.windows, ...after.windows]).toEqual(expected.windows);
      expect([...before.losses, ...after.losses]).toEqual(expected.losses);
      expect(after.bytes).toEqual(expected.bytes);
    },
  );

  it('tells the windows to the run folder and to the report', async () => {
    using folder = temporaryFolder();
    const runDir = join(folder.path, 'run');
    const { windows } = await stream({ options: { runDir }, make: em3({ training: 'id_only' }) });
    const { records } = await readMetrics(runDir);
    const told = records.filter(({ part }) => part === 'window');
    expect(told.map(({ window, windows: all }) => [window, all])).toEqual([1, 2, 3, 4].map((number) => [number, 4]));
    expect(told.map(({ logloss }) => logloss)).toEqual(windows.map(({ logloss }) => logloss));
    const curve = curvesOf('run', records).find(({ metric, part }) => metric === 'logloss' && part === 'window')!;
    expect(curve.points.map(({ value }) => value)).toEqual(windows.map(({ logloss }) => logloss));
  });

  it('refuses what it cannot stream', () => {
    using model = tinyEm3(data, { training: 'two_stage' });
    expect(() => new Trainer({ model, data, settings })).toThrow(
      /one stage and the rows as they are with order 'time'/,
    );
  });
});
