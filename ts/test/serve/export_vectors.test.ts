/** Vectors of FREEDOM and of EM3's release, whose products are the scores. */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError } from '../../src/errors.js';
import { readFbin, readRowIds } from '../../src/io/fbin.js';
import { readNpy } from '../../src/io/npy.js';
import { exportRun } from '../../src/serve/export_run.js';
import { resolveConfig } from '../../src/train/config.js';
import { openRun } from '../../src/train/open_run.js';
import { vectorScores } from '../../src/train/rank_items.js';
import { trainRun } from '../../src/train/run.js';
import { writeTopKData } from '../models/top_k_data.js';
import { temporaryFolder } from '../train/tiny_shop.js';

const root = temporaryFolder();
afterAll(() => root[Symbol.dispose]());
const path = join(root.path, 'plane');
const sizes = { users: 12, items: 48, events: 140 };
beforeAll(() => {
  mkdirSync(path);
  writeTopKData(path, sizes);
});

/** Trains an epoch, writes the forms into `<run>.forms` and `.npy` files beside it, for these items. */
async function exported(name: 'freedom' | 'em3_release', items: 'all' | 'train' = 'all') {
  const run = join(root.path, `${name}_${items}`);
  const config = resolveConfig({
    object: {
      data: {
        path,
        user_id: 'userID',
        item_id: 'itemID',
        time: 'timestamp',
        label: { column: null },
        allow_duplicates: true,
      },
      feature_cols: [
        { name: 'userID', type: 'categorical' },
        { name: 'itemID', type: 'categorical' },
        { name: 'image', type: 'embedding', file: 'image_feat.npy' },
        { name: 'text', type: 'embedding', file: 'text_feat.npy' },
      ],
      eval: { split: { given: true }, metrics: ['Recall@20'] },
      model: { name },
      train: { epochs: 1, learning_rate: 0.02 },
    },
  });
  (await trainRun(config, { runDir: run })).model.dispose();
  const [out, vectors] = [`${run}.forms`, `${run}.npy`];
  await exportRun({ run, out, to: ['npy', 'fbin', 'safetensors'], vectors, items, device: 'cpu' });
  return { run, out, vectors };
}

type Rows = Map<string, Float32Array>;

/** Vectors by id. */
async function byId(file: string, ids: ArrayLike<bigint | string>): Promise<Rows> {
  const { shape, data } = await readNpy(file);
  expect(shape[0]).toBe(ids.length);
  const width = shape[1]!;
  return new Map(
    Array.from(ids, (id, i) => [
      String(id),
      Float32Array.from(data.subarray(i * width, (i + 1) * width) as Float32Array),
    ]),
  );
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((total, x, d) => total + x * b[d]!, 0);
}

describe('vectors whose products are the scores', () => {
  it.each([
    ['freedom', 64],
    ['em3_release', 128],
  ] as const)('%s: of users and items, with their ids, in every form', async (name, width) => {
    const { run, out, vectors } = await exported(name);
    expect(readdirSync(out).sort()).toEqual([
      'ids.npy',
      'users.fbin',
      'users.ids.npy',
      'users.npy',
      'vectors.fbin',
      'vectors.npy',
      'weights.safetensors',
    ]);
    const lines = (file: string): string[] => readFileSync(file, 'utf8').trimEnd().split('\n');
    const items = await byId(join(out, 'vectors.npy'), await readRowIds(out, sizes.items));
    const users = await byId(join(out, 'users.npy'), await readRowIds(out, sizes.users, { stem: 'users.ids' }));
    expect(await byId(vectors, lines(vectors.replace('.npy', '.ids.txt')))).toEqual(items);
    const beside = vectors.replace('.npy', '.users.npy');
    expect(await byId(beside, lines(beside.replace('.npy', '.ids.txt')))).toEqual(users);
    for (const [stem, rows] of [
      ['vectors', items],
      ['users', users],
    ] as const) {
      const { count, dim, data } = await readFbin(join(out, `${stem}.fbin`));
      expect([count, dim]).toEqual([rows.size, width]);
      expect([...data]).toEqual([...rows.values()].flatMap((row) => [...row]));
    }

    await using opened = await openRun(run, { device: 'cpu' });
    const { data, model, trainer } = opened;
    const rows = Int32Array.from(data.userIds.keys());
    const scores = await vectorScores(model)!(rows, rows);
    const found = data.userIds.map((user) => data.items.ids.map((item) => dot(users.get(user)!, items.get(item)!)));
    expect(new Set(found.flat()).size).toBe(sizes.users * sizes.items);
    // Float32 sums of them differ from ours in float64 by their rounding.
    const expectScore = (score: number, expected: number): void =>
      expect(Math.abs(score - expected)).toBeLessThan(1e-6 * Math.max(1, Math.abs(expected)));
    found.flat().forEach((score, i) => expectScore(score, scores[i]!));
    const { logits, events } = await trainer.predict('test');
    expect(logits.length).toBeGreaterThan(4);
    logits.forEach((logit, i) => {
      const event = events[i]!;
      expectScore(found[data.events.user[event]!]![data.events.item[event]!]!, logit);
    });
  });

  it('are what is left of a model that no predictor opens: the error says so', async () => {
    const { run } = await exported('em3_release', 'train');
    const out = `${run}.serving`;
    const failed = exportRun({ run, out, device: 'cpu' });
    await expect(failed).rejects.toThrow(ConfigError);
    await expect(failed).rejects.toThrow(/--to serving: model.name em3_release: .*; --to npy gives those vectors$/);
    expect(existsSync(out)).toBe(false);
  });

  it('of items with training events alone, beside all users', async () => {
    const { run, out } = await exported('freedom', 'train');
    await using opened = await openRun(run, { device: 'cpu' });
    const { items } = opened.data;
    const trained = items.ids.filter((_, row) => items.trainCount[row]! > 0);
    expect(trained.length).toBeLessThan(sizes.items);
    expect(Array.from(await readRowIds(out, trained.length), String)).toEqual(trained);
    expect((await readNpy(join(out, 'vectors.npy'))).shape).toEqual([trained.length, 64]);
    expect((await readNpy(join(out, 'users.npy'))).shape).toEqual([sizes.users, 64]);
  });
});
