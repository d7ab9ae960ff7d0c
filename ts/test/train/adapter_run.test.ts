import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { peftFiles, readPeft } from '../../src/io/peft.js';
import { exportRun } from '../../src/serve/export_run.js';
import type { ConfigInput } from '../../src/train/config.js';
import { runConfig, trainRun } from '../../src/train/run.js';
import { temporaryFolder, tinyConfig } from './tiny_shop.js';

async function train(runDir: string, encoder: NonNullable<ConfigInput['model']>['encoder'], rate: number) {
  const config = tinyConfig({
    model: { encoder },
    train: { epochs: 1, learning_rate: { dense: 1e-3, sparse: 1e-3, encoder: 1e-3, lora: rate } },
  });
  const { model } = await trainRun(config, { runDir });
  model.dispose();
}

it('a run with model.encoder.lora leaves an adapter, from which another starts by model.encoder.adapter alone', async () => {
  using folder = temporaryFolder();
  const [first, second] = [join(folder.path, '1'), join(folder.path, '2')];
  await train(first, { lora: { rank: 3, alpha: 6, targets: ['query', 'up'] } }, 1e-2);
  const adapter = await readPeft(join(first, 'adapter', 'text'));
  expect(adapter).toMatchObject({ rank: 3, alpha: 6, dropout: 0, targets: ['query', 'up'] });
  expect([...adapter.layers.keys()]).toEqual(['blocks.0.attention.query', 'blocks.0.up']);
  expect(adapter.layers.get('blocks.0.up')!.b.data.some((byte) => byte !== 0)).toBe(true);

  await train(second, { adapter: join(first, 'adapter') }, 0);
  expect(runConfig(second).config.model.encoder).toMatchObject({
    lora: { rank: 3, alpha: 6, targets: ['query', 'up'], dropout: 0 },
    tune_layers: null,
  });
  // nothing was learnt at rate 0: the run ends with the adapter that it started from
  for (const encoder of ['text', 'image'])
    for (const file of Object.values(peftFiles))
      expect(readFileSync(join(second, 'adapter', encoder, file))).toEqual(
        readFileSync(join(first, 'adapter', encoder, file)),
      );

  const third = join(folder.path, '3');
  await train(third, {}, 0);
  expect(existsSync(join(third, 'adapter'))).toBe(false);

  const out = join(folder.path, 'out');
  await exportRun({ run: first, out, to: ['peft'] });
  for (const file of Object.values(peftFiles))
    expect(readFileSync(join(out, 'text', file))).toEqual(readFileSync(join(first, 'adapter', 'text', file)));
  await expect(exportRun({ run: third, out: join(folder.path, 'none'), to: ['peft'] })).rejects.toThrow(
    'expected a model with model.encoder.lora or adapter',
  );
});
