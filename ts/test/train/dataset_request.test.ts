import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadDataset, SHOP_FEATURES } from '../../src/data/load_dataset.js';
import { DataError } from '../../src/errors.js';
import { resolveConfig } from '../../src/train/config.js';
import { datasetRequest } from '../../src/train/dataset_request.js';

const request = (object: Parameters<typeof resolveConfig>[0]['object']) =>
  datasetRequest(resolveConfig({ object }).config);

describe('datasetRequest', () => {
  it('passes every key of text on', () => {
    const text = {
      tokenizer: 'word',
      min_count: 3,
      max_words: 500,
      positions: 'per_field' as const,
      cache_dir: 'texts',
    };
    const { options } = request({ data: { shop: {} }, text });
    expect(options.text).toEqual({
      tokenizer: 'word',
      minCount: 3,
      maxWords: 500,
      positions: 'per_field',
      cacheDir: 'texts',
    });
  });

  it('asks for the shop with the features it has', async () => {
    const { where, options } = request({ data: { shop: { items: 200, users: 100, sessions: 600 } } });
    const wanted = SHOP_FEATURES.filter(({ name }) => name !== 'price'); // has no effect on clicks
    expect(options.features).toMatchObject(wanted as object[]);
    expect(options.split).toBe('given');
    await using data = await loadDataset(where, options);
    expect(data.schema.labels).toEqual(['click']);
    expect(data.schema.features.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['user_id', 'item_id', 'query_id', 'picture']),
    );
  });

  it('leaves out texts and pictures of items that the model does not read', () => {
    const read = (object: Parameters<typeof request>[0]) =>
      request({ data: { shop: {} }, ...object }).options.features!.flatMap(({ name, type }) =>
        type === 'text' || type === 'image' ? [name] : [],
      );
    expect(read({})).toEqual(['query', 'title', 'tags', 'picture']);
    expect(read({ model: { modalities: ['text'] } })).toEqual(['query', 'title', 'tags']);
    expect(read({ model: { modalities: ['image'] } })).toEqual(['query', 'picture']);
    expect(read({ model: { training: 'id_only' } })).toEqual(['query']);
    // rows of items with bad pictures are left out: those of all modes are the same
    expect(read({ model: { training: 'id_only' }, image: { on_bad_image: 'skip' } })).toEqual(['query', 'picture']);
  });

  it('refuses features of which the model reads none', () => {
    const title = { name: 'title', type: 'text' } as const;
    const only = { data: { path: 'x' }, feature_cols: [title] };
    expect(request(only).options.features).toHaveLength(1);
    expect(() => request({ ...only, model: { training: 'id_only' } })).toThrow(
      /feature_cols of which the model reads some but received title/,
    );
  });

  it('asks for labels beside the main one', () => {
    const more = [
      { column: 'buy' },
      { column: 'rating', at_least: 4 },
      { column: 'rating', at_least: 5, name: 'loved' },
    ];
    const { options } = request({ data: { shop: {}, more_labels: more }, model: { ranker: 'mmoe' } });
    expect(options.labels).toEqual([
      { column: 'click', atLeast: null },
      { column: 'buy', atLeast: null },
      { column: 'rating', atLeast: 4 },
      { column: 'rating', atLeast: 5, name: 'loved' },
    ]);
  });

  it('reads atomic files with other separators that come split', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'galago-request-'));
    for (const [part, item] of [
      ['train', 'a'],
      ['valid', 'b'],
    ])
      writeFileSync(join(folder, `x.${part}.inter`), `user_id:token,item_id:token,label:float\nu,${item},1\n`);
    const data = { path: folder, time: null, field_separator: ',', benchmark_filename: ['train', 'valid'] };
    const { where, options } = request({
      data,
      eval: { split: { given: true } },
      feature_cols: [{ name: 'item_id', type: 'categorical' }],
    });
    await using set = await loadDataset(where, { ...options, workers: 0 });
    expect([set.sizes, set.items.ids]).toEqual([{ train: 1, valid: 1, test: 0 }, ['a', 'b']]);
    writeFileSync(join(folder, 'interactions.csv'), 'user_id,item_id,label\nu,a,1\n');
    const table = request({ data: { ...data, path: join(folder, 'interactions.csv') } });
    await expect(loadDataset(table.where, table.options)).rejects.toThrow(/atomic files for fieldSeparator/);
    rmSync(folder, { recursive: true });
  });

  it('translates splits, negatives and lists of items', () => {
    const folder = mkdtempSync(join(tmpdir(), 'galago-request-'));
    const file = join(folder, 'cold.txt');
    writeFileSync(file, '7\r\n9\n');
    const { options } = request({
      data: { path: 'x', cold_items: file, label: { column: 'rating', at_least: 4 } },
      eval: { split: { RS: [8, 1, 1] }, order: 'TO', group_by: 'user' },
      train: { negatives: { kind: 'popularity', n: 3, alpha: 0.5 } },
    });
    expect(options).toMatchObject({
      coldItems: ['7', '9'],
      labels: [{ column: 'rating', atLeast: 4 }],
      split: { kind: 'RS', ratios: [8, 1, 1], order: 'TO', groupBy: 'user' },
      negatives: { kind: 'popularity', n: 3, alpha: 0.5 },
    });
    expect(request({ data: { path: 'x' }, eval: { split: { CS: { file } } } }).options.split).toMatchObject({
      kind: 'CS',
      testItems: ['7', '9'],
    });
    writeFileSync(file, '\ufeff7\n9');
    expect(request({ data: { path: 'x', cold_items: file } }).options.coldItems).toEqual(['7', '9']);
    writeFileSync(file, Buffer.from([0x37, 0xff, 0x0a]));
    expect(() => request({ data: { path: 'x', cold_items: file } })).toThrow(DataError);
    expect(request({ data: { path: 'x' }, eval: { split: { LS: 'valid_and_test' } } }).options.split).toEqual({
      kind: 'LS',
    });
    rmSync(folder, { recursive: true });
  });

  it('refuses a configuration without data and a list that is not there', () => {
    expect(() => request({})).toThrow('config: expected data.path or data.shop but received neither');
    expect(() => request({ data: { path: 'x', cold_items: 'no such file' } })).toThrow(
      'config: data.cold_items: cannot read no such file',
    );
  });
});
