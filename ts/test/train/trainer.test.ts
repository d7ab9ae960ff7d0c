import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { NonFiniteError } from '../../src/errors.js';
import type { Em3 } from '../../src/models/em3.js';
import { addon } from '../../src/native.js';
import { device } from '../../src/tensor.js';
import type { TrainEvent } from '../../src/train/train_events.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { bytesByName, tinyData, tinyEm3 } from '../models/tiny_em3.js';
import { temporaryFolder } from './tiny_shop.js';

type Changes = NonNullable<Parameters<typeof tinyEm3>[1]>;

const settings: Partial<TrainSettings> = {
  epochs: 2,
  batchSize: 64,
  evalBatchSize: 100,
  learningRates: { dense: 0.01, sparse: 0.01, encoder: 0.01, lora: 0.01 },
};
const everything: Changes = {
  content: { lora: { mode: 'lora_cached' } },
  sqdc: { weight: 0.1 },
  cic: { weight: 0.1 },
};
let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

async function eventsOf(trainer: Trainer, options: Parameters<Trainer['run']>[0] = {}): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of trainer.run(options)) events.push(event);
  return events;
}

const lossesOf = (events: readonly TrainEvent[]): number[] =>
  events.flatMap((event) => (event.type === 'step' ? [event.loss] : []));

/** Trains from scratch: losses, evaluations and the bytes of every tensor of the model. */
async function train(model: Em3, changes: Partial<TrainSettings> = {}) {
  await using trainer = new Trainer({ model, data, settings: { ...settings, ...changes } });
  const events = await eventsOf(trainer);
  const evaluations = events.flatMap((event) => (event.type === 'eval' ? [event.metrics] : []));
  return { events, losses: lossesOf(events), evaluations, bytes: await bytesByName(model.state()) };
}

/** The loader gives labels that are not numbers while the returned object lives. */
function withoutNumbers(part: 'train' | 'valid', every = 1): Disposable {
  const values = data.columns.labels[0]!.values;
  const before = values.slice();
  data.columns.parts[part].forEach((event, i) => {
    if (i % every === 0) values[event] = Number.NaN;
  });
  return { [Symbol.dispose]: () => values.set(before) };
}

describe('a training run', () => {
  it.each(['end_to_end', 'frozen', 'two_stage', 'stop_gradient', 'id_only'] as const)(
    'gives the same bytes for the same seed, with one thread and with two: %s',
    async (training) => {
      const runs = [];
      const { threads } = addon.info();
      for (const count of [threads, threads, 1, 2]) {
        addon.setThreads(count);
        using model = tinyEm3(data, { ...everything, training });
        const { losses, evaluations, bytes } = await train(model);
        runs.push({ losses, evaluations, bytes });
      }
      addon.setThreads(threads);
      for (const run of runs.slice(1)) expect(run).toEqual(runs[0]);
      using other = tinyEm3(data, { ...everything, training });
      expect((await train(other, { seed: 8 })).losses).not.toEqual(runs[0]!.losses);
    },
  );

  it('sees the same data in the same order in all modes', async () => {
    const order = async (training: 'end_to_end' | 'frozen' | 'id_only') => {
      using model = tinyEm3(data, { training });
      const seen: number[] = [];
      const graph = model.graph.bind(model);
      model.graph = (batch, context) => {
        seen.push(...batch.events);
        return graph(batch, context);
      };
      await train(model);
      return seen;
    };
    const expected = await order('end_to_end');
    expect(new Set(expected).size).toBe(data.sizes.train);
    expect(await order('frozen')).toEqual(expected);
    expect(await order('id_only')).toEqual(expected);
  });

  it('learns: the loss falls', async () => {
    using model = tinyEm3(data, everything);
    const { losses } = await train(model, { epochs: 6 });
    const mean = (part: number[]): number => part.reduce((sum, x) => sum + x, 0) / part.length;
    expect(mean(losses.slice(-5))).toBeLessThan(0.8 * mean(losses.slice(0, 5)));
  });

  it('augments pictures in training steps alone, to the same bytes every time', async () => {
    await using augmented = await tinyData({ images: { augment: { minArea: 0.5, flip: 0.5 } } });
    const run = async (from: Dataset) => {
      const asked = new Set<string>();
      const recorded: Dataset = {
        ...from,
        loader: (options) => {
          asked.add(`${options.part} ${options.augment ?? false}`);
          return from.loader(options);
        },
      };
      using model = tinyEm3(from, everything);
      await using trainer = new Trainer({ model, data: recorded, settings: { ...settings, epochs: 1 } });
      const losses = lossesOf(await eventsOf(trainer));
      return { losses, asked: [...asked], bytes: await bytesByName(model.state()) };
    };
    const [plain, first, second] = [await run(data), await run(augmented), await run(augmented)];
    expect(first.asked.sort()).toEqual(['train true', 'valid false']);
    expect(second).toEqual(first);
    expect(first.losses).not.toEqual(plain.losses);
    expect(await augmented.itemContent([3, 4])).toEqual(await data.itemContent([3, 4]));
  });

  it('never opens the test part, and stops early by validation alone', async () => {
    using model = tinyEm3(data, { training: 'id_only' });
    const opened = data.testOpenings;
    const still = { dense: 0, sparse: 0, encoder: 0, lora: 0 };
    const { events } = await train(model, { epochs: 10, earlyStopPatience: 2, learningRates: still });
    const evaluations = events.filter((event) => event.type === 'eval');
    expect(evaluations.map(({ part, best }) => [part, best])).toEqual([
      ['valid', true],
      ['valid', false],
      ['valid', false],
    ]);
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'early_stop', bestStep: evaluations[0]!.step });
    expect(data.testOpenings).toBe(opened);
  });

  it('F27: resumed after it stopped early it stops again, where it was', async () => {
    using folder = temporaryFolder();
    const still = { dense: 0, sparse: 0, encoder: 0, lora: 0 };
    const ends: unknown[] = [];
    for (const resume of [false, true]) {
      using model = tinyEm3(data, { training: 'id_only' });
      await using trainer = new Trainer({
        model,
        data,
        settings: { ...settings, epochs: 10, earlyStopPatience: 1, learningRates: still },
        runDir: join(folder.path, 'run'),
        resume,
      });
      ends.push((await eventsOf(trainer)).at(-1));
    }
    expect(ends[1]).toEqual(ends[0]);
    expect(ends[0]).toMatchObject({ type: 'end', reason: 'early_stop' });
  });

  it('evaluates what it trained: low-rank updates are in effect when valid is scored', async () => {
    using model = tinyEm3(data, { content: { lora: { mode: 'lora_cached', onRefresh: 'reset' } } });
    await using trainer = new Trainer({ model, data, settings });
    for await (const event of trainer.run())
      if (event.type === 'eval') {
        const { b } = model.content!.update!;
        expect(((await b.data()) as Float32Array).some((x) => x !== 0)).toBe(true);
      }
  });

  it('renews snapshots every so many steps', async () => {
    using model = tinyEm3(data, { content: { lora: { mode: 'lora_cached' } } });
    const at: number[] = [];
    await using trainer = new Trainer({ model, data, settings: { ...settings, refreshSteps: 5 } });
    const refresh = model.refresh.bind(model);
    model.refresh = () => {
      at.push(trainer.step);
      refresh();
    };
    await eventsOf(trainer);
    expect(at).toEqual(Array.from({ length: Math.floor(trainer.step / 5) }, (_, i) => 5 * (i + 1)));
  });

  it('puts the best weights back', async () => {
    using model = tinyEm3(data);
    await using trainer = new Trainer({ model, data, settings: { ...settings, epochs: 3 } });
    expect(trainer.restoreBest()).toBe(false);
    let best: Record<string, string> = {};
    for await (const event of trainer.run())
      if (event.type === 'eval' && event.best) best = await bytesByName(model.state());
    expect(trainer.restoreBest()).toBe(true);
    expect(await bytesByName(model.state())).toEqual(best);
  });

  it('tells where an evaluation stands: items where an encoder reads them, then rows', async () => {
    const told = async (changes: Changes) => {
      using model = tinyEm3(data, changes);
      const calls: [string, number, number][] = [];
      const onProgress = (...call: [string, number, number]) => void calls.push(call);
      await using trainer = new Trainer({ model, data, settings, onProgress });
      const { logits } = await trainer.predict('valid');
      for (const [doing, done, of] of calls) {
        if (doing === 'scoring') expect(of).toBe(logits.length);
        expect(done).toBeLessThanOrEqual(of);
      }
      const ends = calls.filter(([, done, of]) => done === of).map(([doing]) => doing);
      return [[...new Set(calls.map(([doing]) => doing))], ends];
    };
    expect(await told({ training: 'end_to_end' })).toEqual([
      ['encoding', 'scoring'],
      ['encoding', 'scoring'],
    ]);
    expect(await told({ training: 'id_only' })).toEqual([['scoring'], ['scoring']]);
  });

  it('ends with null metrics where valid has one class', async () => {
    const values = data.columns.labels[0]!.values;
    const before = values.slice();
    for (const event of data.columns.parts.valid) values[event] = 1;
    using model = tinyEm3(data, { training: 'id_only' });
    const { evaluations, events } = await train(model).finally(() => values.set(before));
    expect(evaluations.map(({ all }) => all.AUC)).toEqual([null, null]);
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'epochs', bestStep: null });
  });
});

describe('steps that are not finite', () => {
  it('F26: are skipped, told, and end the run after ten in a row', async () => {
    using bad = withoutNumbers('train');
    expect(bad).toBeDefined();
    using model = tinyEm3(data, everything);
    const before = await bytesByName(model.state());
    await using trainer = new Trainer({ model, data, settings });
    const events: TrainEvent[] = [];
    const run = async (): Promise<void> => {
      for await (const event of trainer.run()) events.push(event);
    };
    await expect(run()).rejects.toThrow(NonFiniteError);
    expect(events.filter(({ type }) => type === 'step')).toHaveLength(9);
    expect(events[1]).toMatchObject({ type: 'warning', step: 1, message: expect.stringContaining('skipped') });
    expect(await bytesByName(model.state())).toEqual(before);
  });

  it('F26: do not end a run that goes on between them', async () => {
    const train = data.columns.parts.train;
    const values = data.columns.labels[0]!.values;
    const before = values.slice();
    values[train[0]!] = Number.NaN; // one row: one bad batch per epoch
    using model = tinyEm3(data);
    await using trainer = new Trainer({ model, data, settings });
    const events = await eventsOf(trainer).finally(() => values.set(before));
    expect(events.filter(({ type }) => type === 'warning')).toHaveLength(2);
    for (const event of events) if (event.type === 'eval') expect(event.metrics.all.AUC).toBeTypeOf('number');
  });
});

describe('stopping', () => {
  it('by break leaves no tensors beyond the model and the optimizer', async () => {
    await device().synchronize();
    const start = device().memory();
    {
      using model = tinyEm3(data, everything);
      await using trainer = new Trainer({ model, data, settings });
      await device().synchronize();
      const empty = device().memory();
      let steps = 0;
      for await (const event of trainer.run()) if (event.type === 'step' && ++steps === 7) break;
      await device().synchronize();
      expect(device().memory().live).toBe(empty.live);
      // and the run goes on where it stopped
      const rest = await eventsOf(trainer);
      expect(rest.at(-1)).toMatchObject({ type: 'end', step: 2 * Math.ceil(data.sizes.train / 64) });
    }
    await device().synchronize();
    expect([device().memory().live, device().memory().tensors]).toEqual([start.live, start.tensors]);
  });

  it('F27: by a signal resumes in the middle of an epoch to the bytes of an uninterrupted run', async () => {
    for (const changes of [everything, { content: { lora: { mode: 'lora_block' } } } as const]) {
      using whole = tinyEm3(data, changes);
      const expected = await train(whole, { batchSize: 16 });
      using folder = temporaryFolder();
      const runDir = join(folder.path, 'run');
      const stop = new AbortController();
      const losses: number[] = [];
      {
        using model = tinyEm3(data, changes);
        await using trainer = new Trainer({ model, data, settings: { ...settings, batchSize: 16 }, runDir });
        const run = async (): Promise<void> => {
          for await (const event of trainer.run({ signal: stop.signal })) {
            if (event.type === 'step') losses.push(event.loss);
            if (losses.length === 5) stop.abort();
          }
        };
        await expect(run()).rejects.toThrow('abort');
      }
      expect(existsSync(join(runDir, 'checkpoints'))).toBe(true);
      using model = tinyEm3(data, { ...changes, seed: 123 });
      await using trainer = new Trainer({
        model,
        data,
        settings: { ...settings, batchSize: 16 },
        runDir,
        resume: true,
      });
      const events = await eventsOf(trainer);
      expect([...losses, ...lossesOf(events)]).toEqual(expected.losses);
      expect(await bytesByName(model.state())).toEqual(expected.bytes);
    }
  });
});

describe('memory', () => {
  it.each(['none', 'lora_cached', 'lora_block'] as const)('stays flat over 200 steps: %s', async (mode) => {
    using model = tinyEm3(data, { ...everything, content: { lora: { mode } } });
    await using trainer = new Trainer({ model, data, settings: { ...settings, batchSize: 16, evalEveryEpochs: 50 } });
    let steps = 0;
    const live: number[] = [];
    for await (const event of trainer.run({ epochs: 5 })) {
      if (event.type !== 'step') continue;
      steps++;
      if (steps === 200) break;
      if (steps % 40 !== 30) continue;
      await device().synchronize();
      live.push(device().memory().live);
    }
    expect(steps).toBe(200);
    // Batches differ in size: a leak of one vector per step would still show.
    const spread = Math.max(...live) - Math.min(...live);
    expect(live.length).toBe(5);
    expect(spread).toBeLessThan(1024);
  });
});
