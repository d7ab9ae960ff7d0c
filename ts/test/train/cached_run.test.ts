import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { ConfigInput } from '../../src/train/config.js';
import { trainRun } from '../../src/train/run.js';
import { temporaryFolder, tinyConfig } from './tiny_shop.js';

it('a frozen run with a float32 cache ends with the bytes of one without, computed or read', async () => {
  using folder = temporaryFolder();
  const run = async (name: string, encoder: NonNullable<ConfigInput['model']>['encoder']) => {
    const notes: string[] = [];
    const runDir = join(folder.path, name);
    const config = tinyConfig({ model: { training: 'frozen', encoder }, train: { epochs: 1 } });
    const { model, checkpoint } = await trainRun(config, { runDir, onNote: (line) => notes.push(line) });
    model.dispose();
    const file = readFileSync(join(runDir, 'checkpoints', checkpoint!.name, 'dense.safetensors'));
    const told = notes.filter((line) => line.startsWith('features of frozen encoders'));
    return { weights: createHash('sha256').update(file).digest('hex'), told };
  };
  const cached = { cache_dir: join(folder.path, 'cache'), cache_dtype: 'float32' } as const;
  const [live, first, second] = [await run('1', {}), await run('2', cached), await run('3', cached)];
  expect([first.weights, second.weights]).toEqual([live.weights, live.weights]);
  expect(live.told).toEqual([]);
  expect(first.told).toEqual([expect.stringMatching(/: 0 of 1 blocks read, 1 computed$/)]);
  expect(second.told).toEqual([expect.stringMatching(/: 1 of 1 blocks read, 0 computed$/)]);
});
