/** Histories that stand in columns of the data, in service: each ranker scores a request as the evaluation scores its row. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openOnnxRuntime } from '../../src/io/onnx_runtime.js';
import { exportRun } from '../../src/serve/export_run.js';
import { Predictor } from '../../src/serve/predictor.js';
import { type ConfigInput, resolveConfig } from '../../src/train/config.js';
import { trainRun } from '../../src/train/run.js';
import { clickRows, MAX_CLICKS, writeClickColumns } from '../train/click_columns.js';
import { temporaryFolder } from '../train/tiny_shop.js';
import { evaluatedLogits } from './served_shop.js';

const runtime = await openOnnxRuntime();

const folder = temporaryFolder();
beforeAll(() => writeClickColumns(folder.path));
afterAll(() => folder[Symbol.dispose]());

function config(model: NonNullable<ConfigInput['model']>) {
  const clicks = { type: 'sequence', splitter: '^', max_len: MAX_CLICKS } as const;
  return resolveConfig({
    object: {
      data: {
        ...{ path: folder.path, parts: { train: 'train.csv', valid: 'valid.csv', test: 'test.csv' } },
        ...{ items: 'items.csv', user_id: 'user', item_id: 'item', time: null, label: { column: 'clk' } },
      },
      feature_cols: [
        { name: 'user', type: 'categorical' },
        { name: 'item', type: 'categorical' },
        { name: 'cate', type: 'categorical', source: 'item' },
        { name: 'hour', type: 'numeric' },
        { name: 'click_his', of: 'item', ...clicks },
        { name: 'cate_his', of: 'cate', ...clicks },
      ],
      eval: { split: { given: true } },
      model: { training: 'id_only', embedding_dim: 8, mlp: [16], attention_mlp: [8], ...model },
      train: { epochs: 1, train_batch_size: 32 },
    },
  });
}

describe('train, serve and ONNX agree on histories of columns', () => {
  it.each([
    ['DIN', { ranker: 'din' }],
    ['SIM, soft search', { ranker: 'sim', sim: { top_k: 2 } }],
    ['SIM, hard search', { ranker: 'sim', sim: { search: 'hard', hard_feature: 'cate_his', top_k: 2 } }],
    ['LONGER', { ranker: 'longer', longer: { width: 16, latest: 2, ffn: 16 } }],
    ['RankMixer', { ranker: 'rankmixer', rankmixer: { width: 16, tokens: 4 } }],
    ['deep network', { ranker: 'dnn' }],
    ['DCNv2', { ranker: 'dcnv2' }],
    ['DLRM', { ranker: 'dlrm' }],
    ['MMoE', { ranker: 'mmoe' }],
    ['factorisation machines', { ranker: 'fm' }],
  ] as const)('%s', async (name, model) => {
    const run = join(folder.path, name);
    (await trainRun(config(model), { runDir: run })).model.dispose();
    const expected = await evaluatedLogits(run);
    await exportRun({ run, out: `${run} export`, device: 'cpu' });
    await using predictor = await Predictor.open(`${run} export`, { device: 'cpu' });
    expect(clickRows.test.some(({ clicks }) => clicks.length > MAX_CLICKS)).toBe(true);
    const scores = await Promise.all(
      clickRows.test.map(async ({ user, item, hour, clicks, categories }) => {
        const context = { hour, click_his: clicks, cate_his: categories };
        const { scores: found } = await predictor.predict({ user, context, candidates: [item] });
        return found[0]!;
      }),
    );
    const first = clickRows.train.length + clickRows.valid.length;
    expect(new Map(scores.map((score, row) => [first + row, score]))).toEqual(expected);
    if (runtime === null) return;
    const { parity } = await exportRun({ run, out: `${run} onnx`, to: ['onnx'], device: 'cpu' });
    if (parity === null || parity === 'not run') throw new Error('expected a comparison');
    expect(parity.max_difference['ranker.onnx']).toBeLessThan(1e-5);
  });

  it('a hard search without a category is refused by name', async () => {
    const run = join(folder.path, 'hard without a category');
    const trained = trainRun(config({ ranker: 'sim', sim: { search: 'hard' } }), { runDir: run });
    await expect(trained).rejects.toThrow(
      /Sim: search hard: expected an id history with a category .*model.sim.search/,
    );
  });
});
