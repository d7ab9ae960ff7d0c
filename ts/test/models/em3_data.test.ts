import { describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { datasetFromShop, SHOP_FEATURES } from '../../src/data/load_dataset.js';
import { ConfigError } from '../../src/errors.js';
import { em3 } from '../../src/models/em3.js';
import { tidy } from '../../src/tidy.js';
import { predict } from '../../src/train/evaluate.js';
import { batches, Steps, tinyData, tinyEm3, tinyShop } from './tiny_em3.js';

const without = (...names: string[]): Promise<Dataset> =>
  datasetFromShop(tinyShop, { features: SHOP_FEATURES.filter(({ name }) => !names.includes(name)) });
const modes = ['none', 'lora_cached', 'lora_block', 'shared'] as const;

/** Two steps and a look at valid: finite losses and scores. */
async function trains(data: Dataset, changes: Parameters<typeof tinyEm3>[1]): Promise<void> {
  using model = tinyEm3(data, changes);
  using steps = new Steps(model);
  for (const batch of await batches(data, 2))
    expect(Number.isFinite(Buffer.from(await steps.take(batch), 'hex').readFloatLE())).toBe(true);
  expect(await steps.optimizer.skippedSteps()).toBe(0);
  const loader = data.loader({ part: 'valid', batchSize: 90 });
  const { logits } = await predict(model, data, loader, data.columns.parts.valid, 2);
  expect(logits.every(Number.isFinite)).toBe(true);
  expect(new Set(logits).size).toBeGreaterThan(logits.length / 2);
}

describe('EM3 takes data', () => {
  it.each(modes)('with one modality of the two: %s', async (mode) => {
    await using data = await tinyData();
    const losses = { sqdc: { weight: 0.1 }, cic: { weight: 0.1 } };
    for (const modality of ['text', 'image'] as const)
      for (const fusion of ['ctr', 'exact'] as const)
        await trains(data, {
          ...losses,
          content: { modalities: [modality], lora: { mode }, fusion: { mode: fusion } },
        });
  });

  it.each(['fm', 'dnn', 'dcnv2', 'din'] as const)(
    'without queries, item ids, or a content history: %s',
    async (ranker) => {
      await using noQueries = await without('query', 'query_id');
      for (const training of ['end_to_end', 'frozen', 'id_only'] as const)
        await trains(noQueries, { ranker, training, sqdc: { weight: 0.1 }, cic: { weight: 0.1 } });
      await trains(noQueries, { ranker, historyLen: 0 });
      await using data = await tinyData();
      await trains(data, { ranker, features: ['user_id'], cic: { weight: 0.1 } });
    },
  );

  it.each(['flags', 'content', 'cosines'])('but no feature called %s', async (name) => {
    await using data = await tinyData();
    const { features } = data.schema;
    const schema = {
      ...data.schema,
      features: [...features, { ...features.find((f) => f.name === 'user_id')!, name }],
    };
    expect(() => em3(schema)).toThrow(`em3: expected another name of feature ${name}`);
  });

  it('and says what it misses', async () => {
    await using noPictures = await without('picture');
    expect(() => tinyEm3(noPictures)).toThrow(ConfigError);
    await trains(noPictures, { content: { modalities: ['text'] } });
    await using noHistory = await without('history');
    using model = tinyEm3(noHistory);
    const [batch] = await batches(noHistory, 1);
    expect(() => tidy(() => model.graph(batch!, { training: true, step: 1, stage: 'ranker' }))).toThrow(
      /expected batches with a history/,
    );
    await trains(noHistory, { historyLen: 0 });
  });
});
