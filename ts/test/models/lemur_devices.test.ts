import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import type { DeviceName } from '../../src/tensor.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { testDevices } from '../test_devices.js';
import { tinyData } from './tiny_em3.js';
import { type LemurChanges, tinyLemur } from './tiny_lemur.js';

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

async function lossesOn(
  device: DeviceName,
  precision: TrainSettings['precision'],
  changes: LemurChanges = {},
): Promise<number[]> {
  using model = tinyLemur(data, changes);
  const settings = { batchSize: 16, evalBatchSize: 100, checkpointEveryMinutes: null, precision };
  await using trainer = new Trainer({ model, data, device, settings });
  const losses: number[] = [];
  for await (const event of trainer.run()) {
    if (event.type === 'step') losses.push(event.loss);
    if (losses.length === 4) break;
  }
  expect(model.device).toBe(device);
  return losses;
}

describe.each(testDevices.filter((name) => name !== 'cpu'))('training LEMUR on %s', (name) => {
  it.each<[string, LemurChanges, number]>([
    ['cosines', {}, 1e-4],
    // A target among its own clicks has the cosine 1, and rounding decides between the tiers 20 and 21.
    ['SimTier', { similarity: 'sim_tier' }, 5e-3],
    ['gradient through the history', { content: { bank: { historyGrad: 'joined' } } }, 1e-4],
  ])('has the losses of the CPU in float32: %s', async (_, changes, tolerance) => {
    const expected = await lossesOn('cpu', 'float32', changes);
    (await lossesOn(name, 'float32', changes)).forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]!), `step ${i + 1}: ${loss} beside ${expected[i]}`).toBeLessThan(tolerance);
    });
  });

  it.each<[string, LemurChanges]>([
    ['float32 rows', {}],
    ['bfloat16 rows', { content: { bank: { dtype: 'bfloat16' } } }],
    ['SimTier', { similarity: 'sim_tier' }],
  ])('has losses near those of the CPU in bf16: %s', async (_, changes) => {
    const expected = await lossesOn('cpu', 'float32', changes);
    (await lossesOn(name, 'bf16', changes)).forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]!), `step ${i + 1}: ${loss} beside ${expected[i]}`).toBeLessThan(0.05);
    });
  });
});
