/**
 * What the loader delivers beside what a step takes: samples per second of batches made in a worker thread, against those of the EM3 step
 * of the demo without pictures on the CPU, in turn within every round. Goal: 5 times as many, with timers at most 10 ms late (p99) while
 * the loader runs at full speed. Batches carry text, ids, histories and queries; a second case has pictures.
 */
import { cpus, loadavg } from 'node:os';
import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadDataset } from '../ts/src/data/load_dataset.js';
import { addon } from '../ts/src/native.js';
import { device } from '../ts/src/tensor.js';
import { trainSettings } from '../ts/src/train/build_model.js';
import type { ConfigInput } from '../ts/src/train/config.js';
import { datasetRequest } from '../ts/src/train/dataset_request.js';
import { buildWorker } from '../ts/test/data/loader/worker_build.js';
import { type Lateness, longest, percentile99, watchTimers } from './lateness.js';
import { say, threads } from './measure.js';
import { ShopStep, shopConfig } from './shop_step.js';

addon.setThreads(threads);
const rounds = 3;
const stepsPerRound = 8;
const loaderSeconds = 2;
const worker = buildWorker(); // benches run from source, where no compiled worker lies
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const rounded = (value: number): number => Number(value.toPrecision(3));

/** How late timers come while `run` runs. */
async function lateness(run: () => Promise<unknown>): Promise<Lateness> {
  const watch = watchTimers();
  await run();
  watch.stop();
  return watch.take();
}

async function compare(name: string, model: ConfigInput['model'], without: readonly string[]): Promise<void> {
  const config = shopConfig({ model });
  const step = await ShopStep.open({ model }, { count: 8, warmUp: 4 });
  const { where, options } = datasetRequest(config);
  const features = options.features!.filter((feature) => !without.includes(feature.name));
  await using data = await loadDataset(where, { ...options, features, workers: 1, workerUrl: worker.url });
  const { batchSize, unit, seed } = trainSettings(config);
  let epoch = 0;
  /** Samples per second over about `seconds`. */
  const feed = async (seconds: number): Promise<number> => {
    const start = performance.now();
    let samples = 0;
    while (performance.now() - start < 1000 * seconds) {
      const loader = data.loader({ part: 'train', epoch: epoch++, batchSize, unit, seed });
      for await (const batch of loader) {
        samples += batch.size;
        loader.recycle(batch);
        if (performance.now() - start >= 1000 * seconds) break;
      }
    }
    return (1000 * samples) / (performance.now() - start);
  };
  const train = async (): Promise<number> => {
    const start = performance.now();
    let samples = 0;
    for (let i = 0; i < stepsPerRound; i++) {
      samples += step.batches[i % step.batches.length]!.size;
      step.run().dispose();
      if (i % 2 === 1) await device('cpu').synchronize();
    }
    await device('cpu').synchronize();
    return (1000 * samples) / (performance.now() - start);
  };
  await feed(1);
  const idle = await lateness(() => sleep(1000 * loaderSeconds));
  const loaderRates: number[] = [];
  const stepRates: number[] = [];
  const busy: Lateness = { late: createHistogram(), own: createHistogram() };
  for (let round = 0; round < rounds; round++) {
    stepRates.push(await train());
    const now = await lateness(async () => loaderRates.push(await feed(loaderSeconds)));
    busy.late.add(now.late);
    busy.own.add(now.own);
  }
  const line = {
    op: 'loader',
    case: `${name}, ${batchSize} sessions a batch`,
    device: `${cpus()[0]?.model.trim() ?? 'cpu'}, ${addon.info().isa}, ${threads} threads`,
    load: loadavg()[0],
    loader_samples_per_s: Math.round(median(loaderRates)),
    step_samples_per_s: Math.round(median(stepRates)),
    ratio: rounded(median(loaderRates) / median(stepRates)),
    ratio_of_best: rounded(Math.max(...loaderRates) / Math.max(...stepRates)),
    p99_ms: percentile99(busy.late),
    own_p99_ms: percentile99(busy.own),
    idle_p99_ms: percentile99(idle.late),
    longest_ms: longest(busy.late),
    own_longest_ms: longest(busy.own),
  };
  console.log(JSON.stringify(line));
  say(
    `  loader, ${name}: ${line.loader_samples_per_s} samples/s, the step takes ${line.step_samples_per_s}: ${line.ratio} times (goal 5); timers late by ${line.p99_ms} ms at p99 (goal 10), ${line.idle_p99_ms} idle, ${line.own_p99_ms} without waits for a core`,
  );
}

try {
  await compare('without pictures', { modalities: ['text'] }, ['picture']);
  await compare('with pictures', {}, []);
} finally {
  worker.remove();
}
