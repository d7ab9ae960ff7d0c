import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { ArgumentError, ConfigError, DeviceUnavailableError } from '../../src/errors.js';
import { defaultLonger } from '../../src/models/longer.js';
import { defaultRankMixer } from '../../src/models/rank_mixer.js';
import { defaultSim } from '../../src/models/sim.js';
import { moduleFile } from '../../src/native.js';
import { type DeviceName, device, Tensor } from '../../src/tensor.js';
import { resolveConfig } from '../../src/train/config.js';
import { runDevice, trainRun } from '../../src/train/run.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { tinyData, tinyEm3 } from '../models/tiny_em3.js';
import { testDevices } from '../test_devices.js';
import { temporaryFolder } from './tiny_shop.js';

const settings: Partial<TrainSettings> = { batchSize: 16, evalBatchSize: 100, checkpointEveryMinutes: null };
type Changes = NonNullable<Parameters<typeof tinyEm3>[1]>;
const changes = { content: { lora: { mode: 'lora_cached' } }, sqdc: { weight: 0.1 }, cic: { weight: 0.1 } } as const;
const rankMixer = { ...defaultRankMixer, tokens: 4, width: 16 };
const longer = { ...defaultLonger, width: 8, heads: 2, latest: 3, ffn: 12 };
/** Every ranker, training mode and history path that has ops of its own. */
const others: [string, Changes][] = [
  ['din', { ranker: 'din' }],
  ['dcnv2', { ranker: 'dcnv2' }],
  ['fm', { ranker: 'fm' }],
  [
    'rankmixer over longer',
    { ranker: 'rankmixer', rankerOptions: { rankMixer: { ...rankMixer, sequence: 'longer' }, longer } },
  ],
  ['dlrm', { ranker: 'dlrm' }],
  ['longer', { ranker: 'longer', rankerOptions: { longer } }],
  ['sim', { ranker: 'sim', rankerOptions: { sim: { ...defaultSim, topK: 3 } } }],
  ['mmoe', { ranker: 'mmoe' }],
  ['frozen', { training: 'frozen' }],
  ['two_stage', { training: 'two_stage' }],
  ['id_only', { training: 'id_only', ranker: 'din' }],
  ['lora_block', { content: { lora: { mode: 'lora_block' } } }],
  ['shared', { content: { lora: { mode: 'shared' } } }],
];

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

/** Takes steps until `until`; their losses by step. The one that was queued when it stopped is done too, but not told. */
async function stepsOf(trainer: Trainer, until: number): Promise<Map<number, number>> {
  const losses = new Map<number, number>();
  for await (const event of trainer.run()) {
    if (event.type !== 'step') continue;
    losses.set(event.step, event.loss);
    if (event.step >= until) break;
  }
  return losses;
}

async function lossesOn(
  name: DeviceName,
  steps: number,
  precision: TrainSettings['precision'],
  options: Changes = changes,
): Promise<number[]> {
  using model = tinyEm3(data, options);
  await using trainer = new Trainer({ model, data, device: name, settings: { ...settings, precision } });
  const losses = [...(await stepsOf(trainer, steps)).values()];
  expect(model.device).toBe(name);
  for (const [path, x] of model.state())
    expect(x.dtype === 'int32' || x.dtype === 'float32', `${path} is ${x.dtype}`).toBe(true);
  return losses;
}

describe.each(testDevices.filter((name) => name !== 'cpu'))('training on %s', (name) => {
  it('has the losses of the CPU in float32', async () => {
    const expected = await lossesOn('cpu', 4, 'float32');
    const losses = await lossesOn(name, 4, 'float32');
    losses.forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]!), `step ${i + 1}: ${loss} beside ${expected[i]}`).toBeLessThan(1e-4);
    });
  });

  it('has losses near those of float32 in bf16, the same in every run', async () => {
    const expected = await lossesOn('cpu', 4, 'float32');
    const losses = await lossesOn(name, 4, 'bf16');
    losses.forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]!) / expected[i]!, `step ${i + 1}: ${loss} beside ${expected[i]}`).toBeLessThan(
        0.01,
      );
    });
    expect(losses).not.toEqual(expected.map(Math.fround));
    expect(await lossesOn(name, 4, 'bf16')).toEqual(losses);
  });

  it.each(others)('has losses near those of the CPU in bf16: %s', async (_, options) => {
    const all = { sqdc: { weight: 0.1 }, cic: { weight: 0.1 }, ...options };
    const expected = await lossesOn('cpu', 2, 'float32', all);
    const losses = await lossesOn(name, 2, 'bf16', all);
    losses.forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]!), `step ${i + 1}: ${loss} beside ${expected[i]}`).toBeLessThan(0.05);
    });
  });

  it('goes on from a checkpoint of the CPU, and the CPU from its', async () => {
    const places: DeviceName[] = ['cpu', name, 'cpu'];
    using folder = temporaryFolder();
    const runDir = `${folder.path}/run`;
    const losses = new Map<number, number>();
    for (const [k, place] of places.entries()) {
      using model = tinyEm3(data, changes);
      await using trainer = new Trainer({ model, data, device: place, settings, runDir, resume: k > 0 });
      for (const [step, loss] of await stepsOf(trainer, 2 * (k + 1))) losses.set(step, loss);
      await trainer.save();
    }
    const expected = await lossesOn('cpu', 6, 'float32');
    expect([...losses.keys()]).toEqual([1, 2, 4, 6]);
    for (const [step, loss] of losses) {
      const there = expected[step - 1]!;
      expect(Math.abs(loss - there), `step ${step}: ${loss} beside ${there}`).toBeLessThan(1e-4);
    }
  });

  it('leaves nothing behind', async () => {
    const control = device(name);
    await control.synchronize();
    const { live } = control.memory();
    await lossesOn(name, 2, 'float32');
    await control.synchronize();
    expect(control.memory().live).toBe(live);
  });

  it('moves a tensor and its values, and refuses results of ops', async () => {
    using model = tinyEm3(data);
    const before = await Promise.all([...model.state().values()].map((x) => x.data()));
    await model.moveTo(name);
    const there = [...model.state().values()];
    expect(there.every((x) => x.device === name && x instanceof Tensor)).toBe(true);
    expect(await Promise.all(there.map((x) => x.data()))).toEqual(before);
  });
});

describe('the device of a run', () => {
  const config = (object: Parameters<typeof resolveConfig>[0]['object']) => resolveConfig({ object }).config;

  it('is named in notes and by trainers, with the reason where it was not asked for', () => {
    const auto = runDevice(config({}));
    expect(auto.reason).not.toBeNull();
    expect(runDevice(config({ device: 'cpu' }))).toMatchObject({ name: 'cpu', reason: null });
  });

  it('has bfloat16, or bf16 is refused', () => {
    expect(() => runDevice(config({ device: 'cpu', train: { precision: 'bf16' } }))).toThrow(ConfigError);
    expect(() => runDevice(config({ device: 'cpu', train: { precision: 'bf16' } }))).toThrow(
      /train\.precision: expected float32 on cpu, which has no bfloat16, but received bf16/,
    );
    using model = tinyEm3(data);
    const make = () => new Trainer({ model, data, device: 'cpu', settings: { precision: 'bf16' } });
    expect(make).toThrow(ArgumentError);
    expect(make).toThrow(/trainer: expected precision 'float32' on cpu/);
  });

  it.skipIf(moduleFile('cuda') !== null)('F34: cuda where there is none ends a run before data are read', async () => {
    const resolved = resolveConfig({ object: { data: { path: 'there/is/no/such/folder' }, device: 'cuda' } });
    await expect(trainRun(resolved)).rejects.toSatisfy(
      (error) => error instanceof DeviceUnavailableError && error.exitCode === 78,
    );
    expect(runDevice(config({ device: 'auto' })).name).toBe('cpu');
  });
});
