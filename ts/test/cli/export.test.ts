import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readFbin, readRowIds } from '../../src/io/fbin.js';
import { readNpy } from '../../src/io/npy.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { Predictor } from '../../src/serve/predictor.js';
import { openRun } from '../../src/train/open_run.js';
import { readTensors } from '../../src/train/state.js';
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

  it('writes weights by name, and item vectors with their ids as .npy and .fbin', async () => {
    using run = await trainedRun();
    const out = join(run.folder, 'forms');
    const args = [
      'export',
      '--run',
      run.path,
      '--out',
      out,
      '--to',
      'safetensors,npy,fbin',
      '--device',
      'cpu',
      '--json',
    ];
    const { exitCode, stdout, stderr } = await captured(args);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(lastJson(stdout)).toMatchObject({ out, to: ['safetensors', 'npy', 'fbin'], step: 6, exported: null });
    expect(readdirSync(out).sort()).toEqual(['ids.npy', 'vectors.fbin', 'vectors.npy', 'weights.safetensors']);

    const weights = await readSafetensors(join(out, 'weights.safetensors'));
    await using opened = await openRun(run.path, { device: 'cpu' });
    const state = await readTensors(opened.model.state());
    const kept = [...state].filter(([name]) => !/^(heads|content\.table)\./.test(name));
    expect([...weights.keys()].sort()).toEqual(kept.map(([name]) => name).sort());
    for (const [name, { data }] of kept) expect(Buffer.compare(weights.get(name)!.data, data), name).toBe(0);

    const [npy, fbin] = [await readNpy(join(out, 'vectors.npy')), await readFbin(join(out, 'vectors.fbin'))];
    const ids = await readRowIds(out, 40);
    expect([npy.shape, fbin.count, ids.length]).toEqual([[40, fbin.dim], 40, 40]);
    expect(fbin.data).toEqual(npy.data);
    expect(new Set(fbin.data).size).toBeGreaterThan(1000);
  });

  it('leaves nothing behind where a form cannot be written', async () => {
    using run = await trainedRun({ model: { training: 'id_only' } });
    const out = join(run.folder, 'forms');
    const { exitCode, stderr } = await captured([
      'export',
      '--run',
      run.path,
      '--out',
      out,
      '--to',
      'safetensors,fbin',
    ]);
    expect(exitCode).toBe(78);
    expect(stderr).toMatch(/expected a model with item content for item vectors/);
    expect(readdirSync(run.folder)).toEqual(['run']);
    const beside = await captured([
      'export',
      ...['--run', run.path, '--out', out, '--vectors', join(run.folder, 'v.npy'), '--device', 'cpu'],
    ]);
    expect(beside.exitCode).toBe(78);
    expect(readdirSync(run.folder)).toEqual(['run']);
  });

  it('names the file of ids that cannot be written, as a failure of storage', async () => {
    using run = await trainedRun();
    mkdirSync(join(run.folder, 'v.ids.txt'));
    const { exitCode, stderr } = await captured([
      'export',
      ...['--run', run.path, '--vectors', join(run.folder, 'v.npy'), '--device', 'cpu'],
    ]);
    expect(exitCode).toBe(74);
    expect(stderr).toMatch(/v\.ids\.txt/);
  });

  it.each([
    [[], /expected --run <folder> but received none/],
    [['--run', 'r'], /expected --out <folder> or --vectors/],
    [['--run', 'r', '--out', 'o', '--items', 'some'], /expected --items all or train but received some/],
    [['--run', 'r', '--out', 'o', '--checkpoint', 'first'], /expected --checkpoint best, last or step-N/],
    [['--run', 'r', '--out', 'o', '--to', 'onnx,pt'], /expected --to to name serving, onnx, .* but received pt/],
    [['--run', 'r', '--vectors', 'v.npy', '--to', 'npy'], /expected --out <folder> with --to/],
    [['--run', 'r', '--vectors', 'v.txt'], /expected --vectors to end in \.npy/],
    [['--run', 'no such run', '--out', 'no such folder'], /no such run/],
  ])('refuses %j', async (argv, says) => {
    const { exitCode, stderr } = await captured(['export', ...argv]);
    expect(exitCode).toBe(78);
    expect(stderr).toMatch(says);
    expect(existsSync('no such folder')).toBe(false);
  });
});
