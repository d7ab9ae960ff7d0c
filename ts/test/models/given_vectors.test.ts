/** Given vectors in models: as inputs of the ranker, and as content tokens of the FusionQFormer, one per modality. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { loadDataset } from '../../src/data/load_dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { ConfigError } from '../../src/errors.js';
import { encodeNpy } from '../../src/io/npy.js';
import { em3 } from '../../src/models/em3.js';
import { defaultLemurOptions, Lemur } from '../../src/models/lemur.js';
import { tidy } from '../../src/tidy.js';
import { Trainer } from '../../src/train/trainer.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-given-'));
let data: Dataset;
let batch: Batch;

function features(rows: number, width: number): Uint8Array {
  const values = Float32Array.from({ length: rows * width }, (_, at) => Math.sin(1 + 7 * at));
  return encodeNpy({ dtype: 'float32', shape: [rows, width], data: values });
}

beforeAll(async () => {
  const events = Array.from(
    { length: 60 },
    (_, i) => `u${i % 6}\ti${(5 * i + (i >> 2)) % 12}\t${(i * i) % 3 ? 1 : 0}\t${i}`,
  );
  writeFileSync(
    join(folder, 'set.inter'),
    `user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n${events.join('\n')}\n`,
  );
  writeFileSync(join(folder, 'image_feat.npy'), features(10, 6));
  writeFileSync(join(folder, 'text_feat.npy'), features(10, 4));
  writeFileSync(join(folder, 'ids.txt'), Array.from({ length: 10 }, (_, i) => `i${i}\n`).join(''));
  data = await loadDataset(folder, {
    workers: 0,
    features: [
      { name: 'user_id', type: 'categorical' },
      { name: 'item_id', type: 'categorical' },
      { name: 'history', type: 'history', of: 'item_id', shareEmbedding: 'item_id', maxLen: 5 },
      { name: 'image', type: 'embedding', file: 'image_feat.npy' },
      { name: 'text', type: 'embedding', file: 'text_feat.npy' },
    ],
  });
  for await (const one of data.loader({ part: 'train', batchSize: 64, shuffle: false })) batch = one;
});
afterAll(async () => {
  await data[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const small = {
  content: { fusion: { mode: 'exact', queries: 1, layers: 1, heads: 2, width: 8, dropout: 0 } },
} as const;

/** The batch with the vectors of a feature changed for items that have them (`present` 1) or lack them (0). */
function changed(name: string, present: 0 | 1): Batch {
  const given = batch.items.vectors![name]!;
  const values = given.values.map((x, at) => (given.present[Math.floor(at / given.dim)] === present ? x + 1 : x));
  return { ...batch, items: { ...batch.items, vectors: { ...batch.items.vectors, [name]: { ...given, values } } } };
}

describe('given vectors', () => {
  it('are tokens of the FusionQFormer, one per modality, in the order of the modalities', () => {
    using model = em3(data.schema, { ranker: 'dnn', historyLen: 5, ...small });
    const shapes = new Map([...model.parameters()].map(([name, x]) => [name, x.shape]));
    expect(shapes.get('content.fusion.project.image.weight')).toEqual([8, 6]);
    expect(shapes.get('content.fusion.project.text.weight')).toEqual([8, 4]);
    expect([...shapes.keys()].some((name) => /content\.(text|image)\./.test(name))).toBe(false);
    expect(model.features.spec().vectors.has('image')).toBe(false); // content, not a plain input too
  });

  it('move the logits where an item has them and change nothing where it has none', async () => {
    using model = em3(data.schema, { ranker: 'dnn', historyLen: 0, ...small });
    const context = { training: false, step: 1, stage: 'ranker' } as const;
    const logits = async (of: Batch): Promise<number[]> => {
      const scores = tidy(() => model.graph(of, context).logits);
      const values = [...((await scores.values()) as Float32Array)];
      scores.dispose();
      return values;
    };
    const { rows, index, vectors } = batch.items;
    expect([...rows.filter((row) => row >= 10)]).not.toEqual([]);
    expect(vectors!['image']!.present.reduce((sum, there) => sum + there, 0)).toBeLessThan(rows.length);
    const before = await logits(batch);
    expect(await logits(changed('image', 0))).toEqual(before);
    const after = await logits(changed('image', 1));
    index.forEach((item, b) => {
      if (vectors!['image']!.present[item] === 1) expect(after[b]).not.toBe(before[b]);
      else expect(after[b]).toBe(before[b]);
    });
  });

  it.each(['fm', 'dnn', 'dcnv2', 'din', 'rankmixer', 'dlrm', 'mmoe'] as const)(
    'are seen by ranker %s as they are',
    async (ranker) => {
      const rankerOptions = { mlp: [8], rankMixer: { tokens: 4, width: 8 } };
      using model = em3(data.schema, {
        ranker,
        training: 'id_only',
        content: { modalities: ['other'] },
        rankerOptions,
      });
      expect(model.features.spec().vectors.get('image')).toBe(6);
      const scores = (of: Batch) => tidy(() => model.predict(of, 1));
      const [before, after] = [scores(batch), scores(changed('text', 1))];
      expect(await after.values()).not.toEqual(await before.values());
      before.dispose();
      after.dispose();
    },
  );

  it('train end to end, also as cached tokens of the history', async () => {
    for (const mode of ['lora_cached', 'lora_block'] as const) {
      using model = em3(data.schema, { ranker: 'din', ...small, content: { ...small.content, lora: { mode } } });
      await using trainer = new Trainer({ model, data, settings: { epochs: 2, batchSize: 16 }, device: 'cpu' });
      const losses: number[] = [];
      for await (const event of trainer.run()) if (event.type === 'step') losses.push(event.loss);
      expect(losses.every(Number.isFinite)).toBe(true);
      expect((await trainer.evaluate('test')).all.rows).toBe(6);
    }
  });

  it('are refused as a modality that the data lack, and by LEMUR', () => {
    expect(() => em3(data.schema, { content: { modalities: ['sound'] } })).toThrow(
      'expected a sound feature of items for modality sound',
    );
    expect(() => new Lemur(data.schema, defaultLemurOptions)).toThrow(ConfigError);
  });
});
