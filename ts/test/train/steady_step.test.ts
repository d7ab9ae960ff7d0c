/** What a step of training asks of the CUDA runtime once memory, events and staging are there: nothing that makes host or device wait. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { DeviceLostError } from '../../src/errors.js';
import { moduleFile } from '../../src/native.js';
import { device, full } from '../../src/tensor.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { tinyData, tinyEm3 } from '../models/tiny_em3.js';

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

/** Steps `from` to `to` of a run in which the emulator refuses cudaMalloc, cudaStreamSynchronize, cudaFuncSetAttribute and their like. */
async function forbidWaits(precision: TrainSettings['precision'], from: number, to: number): Promise<void> {
  const changes = {
    content: { lora: { mode: 'lora_cached' } },
    sqdc: { weight: 0.1 },
    cic: { weight: 0.1 },
  } as const;
  const settings = { batchSize: 16, evalBatchSize: 100, checkpointEveryMinutes: null, precision } as const;
  using model = tinyEm3(data, changes);
  await using trainer = new Trainer({ model, data, device: 'cuda-emu', settings });
  try {
    for await (const event of trainer.run()) {
      if (event.type !== 'step') continue;
      if (event.step >= from) process.env['GALAGO_EMU_FORBID_WAITS'] = '1'; // the emulator looks in every call
      if (event.step >= to) break;
    }
  } finally {
    delete process.env['GALAGO_EMU_FORBID_WAITS'];
  }
}

describe.skipIf(moduleFile('cuda-emu') === null)('a step of EM3 after the first ones', () => {
  it.each(['float32', 'bf16'] as const)('never waits for the device nor asks it for memory: %s', async (precision) => {
    await forbidWaits(precision, 4, 8);
  });

  it('would be noticed if it did', async () => {
    process.env['GALAGO_EMU_FORBID_WAITS'] = '1';
    using large = full([64 << 20], 1, { device: 'cuda-emu' }); // more than any step has left behind
    await expect(large.data().finally(() => delete process.env['GALAGO_EMU_FORBID_WAITS'])).rejects.toThrow(
      DeviceLostError,
    );
    await expect(device('cuda-emu').synchronize()).rejects.toThrow(/operation not permitted/);
  });
});
