import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readNpy } from '../../src/io/npy.js';
import { Predictor } from '../../src/serve/predictor.js';
import { trainedRun } from '../serve/served_shop.js';
import { captured, lastJson } from './captured.js';

describe('galago export', () => {
  it('writes a folder that a predictor opens, and vectors for a search index', async () => {
    using run = await trainedRun();
    const [out, vectors] = [join(run.folder, 'export'), join(run.folder, 'vectors.npy')];
    const { exitCode, stdout, stderr } = await captured([
      'export',
      ...['--run', run.path, '--out', out, '--vectors', vectors, '--device', 'cpu', '--json'],
    ]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toMatch(/step 6 {2}40 vectors of 40 items/);
    expect(lastJson(stdout)).toMatchObject({ verb: 'export', checkpoint: 'step-6', exported: { path: out, step: 6 } });
    await using predictor = await Predictor.open(out, { device: 'cpu' });
    expect((await predictor.predict({ user: '1', query: 'lamp', candidates: ['1', '2'] })).scores).toHaveLength(2);
    const { shape, data } = await readNpy(vectors);
    expect(shape[0]).toBe(40);
    expect(data.length).toBe(40 * shape[1]!);
    expect(readFileSync(join(run.folder, 'vectors.ids.txt'), 'utf8').split('\n')).toHaveLength(41);

    const again = await captured(['export', '--run', run.path, '--out', out]);
    expect(again).toMatchObject({ exitCode: 1 });
    expect(again.stderr).toMatch(/expected a new or empty folder/);
  });

  it.each([
    [[], /expected --run <folder> but received none/],
    [['--run', 'r'], /expected --out <folder> or --vectors/],
    [['--run', 'r', '--out', 'o', '--items', 'some'], /expected --items all or train but received some/],
    [['--run', 'r', '--out', 'o', '--checkpoint', 'first'], /expected --checkpoint best, last or step-N/],
    [['--run', 'r', '--vectors', 'v.txt'], /expected --vectors to end in \.npy/],
    [['--run', 'no such run', '--out', 'no such folder'], /no such run/],
  ])('refuses %j', async (argv, says) => {
    const { exitCode, stderr } = await captured(['export', ...argv]);
    expect(exitCode).toBe(78);
    expect(stderr).toMatch(says);
    expect(existsSync('no such folder')).toBe(false);
  });
});
