import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { datasetFromShop } from '../../src/data/load_dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { generateShop } from '../../src/data/shop/shop.js';
import { ConfigError } from '../../src/errors.js';
import { nodeEnv } from '../../src/io/env.js';
import type { Lemur } from '../../src/models/lemur.js';
import type { RecommenderModel } from '../../src/models/model.js';
import { useCachedFeatures } from '../../src/train/frozen_features.js';
import { batches, fillTable, Steps, tinyEm3 } from '../models/tiny_em3.js';
import { sampled, tinyLemur } from '../models/tiny_lemur.js';
import { bytesOf, valuesOf, worstDifference } from '../values.js';

/** Three blocks of items. */
const items = 600;
let data: Dataset;
let some: Batch[];
let directory = '';
beforeAll(async () => {
  data = await datasetFromShop(generateShop({ seed: 3, items, users: 20, sessions: 200 }));
  some = await batches(data, 3);
});
afterAll(() => data[Symbol.asyncDispose]());
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'galago-features-'));
});
afterEach(() => rm(directory, { recursive: true }));

const frozenImages = { content: { tuneLayers: 0 } } as const;
const float32 = () => ({ directory, dtype: 'float32' }) as const;

/** The data with a hook at every look at texts and pictures. */
function watched(onContent: (call: number) => void): Dataset {
  let calls = 0;
  return new Proxy(data, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name);
      if (name !== 'itemContent') return value;
      return (rows: Int32Array) => {
        onContent(++calls);
        return target.itemContent(rows);
      };
    },
  });
}

/** Losses of a few steps, bit for bit, and what the table holds. */
async function trace(model: RecommenderModel): Promise<string[]> {
  using steps = new Steps(model);
  if (model.frozenContent) await fillTable(model, data);
  const losses = await steps.takeAll(some);
  const stored = model.contentVectors(some[0]!.items.rows.slice(0, 4), 4)!;
  return [...losses, (await bytesOf(stored)).toString('hex')];
}

const models: [string, () => RecommenderModel][] = [
  ['em3, frozen', () => tinyEm3(data, { training: 'frozen' })],
  ['em3, end to end above encoders that do not train', () => tinyEm3(data, frozenImages)],
  [
    'em3, tokens in the table',
    () => tinyEm3(data, { content: { tuneLayers: 0, lora: { mode: 'lora_block' }, cacheTokens: 1 } }),
  ],
  ['em3, exact', () => tinyEm3(data, { training: 'frozen', content: { fusion: { mode: 'exact', layers: 1 } } })],
  ['lemur, frozen', (): Lemur => tinyLemur(data, { ...sampled(100), training: 'frozen' })],
];

describe.each(models)('features of %s', (_, make) => {
  it('from a float32 cache equal the live ones bit for bit, computed or read', async () => {
    using live = make();
    const expected = await trace(live);
    using computed = make();
    expect(await useCachedFeatures(computed, data, float32())).toMatchObject({ blocks: 3, read: 0, computed: 3 });
    expect(await trace(computed)).toEqual(expected);
    using read = make();
    let looks = 0;
    const counts = await useCachedFeatures(
      read,
      watched(() => looks++),
      float32(),
    );
    expect(counts).toMatchObject({ blocks: 3, read: 3, computed: 0, corrupt: 0, failedWrites: 0 });
    expect(looks).toBe(0);
    expect(await trace(read)).toEqual(expected);
  });

  it('are what steps and the table read: rounded ones give other bytes', async () => {
    using live = make();
    using rounded = make();
    await useCachedFeatures(rounded, data, { directory });
    const [exact, other] = [await trace(live), await trace(rounded)];
    exact.forEach((bytes, i) => {
      expect([i, other[i] === bytes]).toEqual([i, false]);
    });
  });
});

describe('the cache', () => {
  const make = () => tinyEm3(data, { training: 'frozen' });
  const bytes = async (folder: string): Promise<Record<string, string>> =>
    Object.fromEntries(
      await Promise.all(
        (await readdir(folder))
          .sort()
          .map(async (name) => [name, (await readFile(join(folder, name))).toString('hex')]),
      ),
    );

  it('in bfloat16 takes half the bytes and stays within its rounding', async () => {
    using wide = make();
    using narrow = make();
    const [a, b] = [
      await useCachedFeatures(wide, data, float32()),
      await useCachedFeatures(narrow, data, { directory }),
    ];
    expect(b.bytes).toBe(a.bytes / 2);
    expect(b.folder).not.toBe(a.folder);
    const some = Int32Array.from({ length: items }, (_, i) => i);
    for (const model of [wide, narrow]) await fillTable(model, data);
    const [x, y] = [await valuesOf(wide.contentVectors(some, 1)!), await valuesOf(narrow.contentVectors(some, 1)!)];
    const difference = worstDifference(y, x);
    expect(difference).toBeGreaterThan(0);
    expect(difference).toBeLessThan(0.02);
  });

  it('F02: what was stopped goes on where it stopped', async () => {
    using model = make();
    const stop = new AbortController();
    const stopped = useCachedFeatures(
      model,
      watched((call) => call === 2 && stop.abort(new Error('stopped'))),
      { ...float32(), signal: stop.signal },
    );
    await expect(stopped).rejects.toThrow('stopped');
    expect(await useCachedFeatures(model, data, float32())).toMatchObject({ read: 2, computed: 1 });
  });

  it('F02: a write that ends in its middle leaves a torn draft, which nobody reads', async () => {
    using model = make();
    let files = 0;
    const dies = {
      ...nodeEnv,
      remove: () => Promise.resolve(),
      create: async (path: string) => {
        const file = await nodeEnv.create(path);
        if (++files < 2) return file;
        const write = async (part: Uint8Array): Promise<number> => {
          await file.write(part.subarray(0, 20));
          throw new Error('killed');
        };
        return { ...file, write };
      },
    };
    await expect(useCachedFeatures(model, data, { ...float32(), env: dies })).rejects.toThrow('killed');
    const { folder, read, computed, corrupt } = await useCachedFeatures(model, data, float32());
    expect([read, computed, corrupt]).toEqual([1, 2, 0]);
    const names = await readdir(folder);
    expect(names.filter((name) => name.startsWith('.tmp-')).length).toBe(1);
    expect(names.filter((name) => name.startsWith('block-')).length).toBe(3);
  });

  it('F01: a changed byte is noticed; that block alone is computed again, to the same bytes', async () => {
    using model = make();
    const { folder } = await useCachedFeatures(model, data, float32());
    const whole = await bytes(folder);
    const file = join(folder, 'block-000001.features');
    const changed = await readFile(file);
    changed[changed.length - 9]! ^= 4;
    await writeFile(file, changed);
    expect(await useCachedFeatures(model, data, float32())).toMatchObject({ read: 2, computed: 1, corrupt: 1 });
    expect(await bytes(folder)).toEqual(whole);
  });

  it('F05: other weights, encoders, pooling or data have another key, and what is there stays', async () => {
    using model = make();
    const { folder } = await useCachedFeatures(model, data, float32());
    const before = await bytes(folder);
    await using other = await datasetFromShop(generateShop({ seed: 4, items: 60, users: 20, sessions: 200 }));
    const others: [RecommenderModel, Dataset][] = [
      [tinyEm3(data, { training: 'frozen', seed: 6 }), data],
      [tinyEm3(data, { training: 'frozen', content: { text: { heads: 4 } } }), data],
      [tinyEm3(data, { training: 'frozen', content: { cacheTokens: 1 } }), data],
      [tinyEm3(other, { training: 'frozen' }), other],
    ];
    const folders = new Set([folder]);
    for (const [one, its] of others) {
      const counts = await useCachedFeatures(one, its, float32());
      expect(counts.read).toBe(0);
      folders.add(counts.folder);
      one.dispose();
    }
    expect(folders.size).toBe(1 + others.length);
    expect(await bytes(folder)).toEqual(before);
  });

  it('says what it would take before it computes anything', async () => {
    using model = make();
    let looks = 0;
    const asked = useCachedFeatures(
      model,
      watched(() => looks++),
      { ...float32(), maxBytes: 1000 },
    );
    const tokens = data.columns.itemText!.offsets.at(-1)!;
    await expect(asked).rejects.toMatchObject({
      name: 'ConfigError',
      fields: { key: 'model.encoder.cache_max_bytes', received: 4 * (tokens * 8 + items * 4 * 6) },
      message: expect.stringContaining(`${items} items (text up to`) as string,
    });
    expect([looks, await readdir(directory)]).toEqual([0, []]);
  });

  it('is refused where an encoder trains', async () => {
    const lora = { rank: 1, alpha: 1, targets: ['query'] };
    for (const model of [
      tinyEm3(data),
      tinyEm3(data, { training: 'two_stage' }),
      tinyEm3(data, { content: { tuneLayers: 1 } }),
      tinyEm3(data, { content: { tuneLayers: 0, encoderLora: lora } }),
      tinyLemur(data, sampled(100)),
    ]) {
      await expect(useCachedFeatures(model, data, float32())).rejects.toThrow(ConfigError);
      model.dispose();
    }
  });
});
