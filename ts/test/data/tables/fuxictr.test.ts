import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { loadDataset } from '../../../src/data/load_dataset.js';
import type { Batch } from '../../../src/data/loader/batch.js';
import { concatTablesPass } from '../../../src/data/tables/concat_tables.js';
import type { Column, Table } from '../../../src/data/tables/table.js';
import { atOnce } from '../../../src/data/turns.js';
import { DataError, type GalagoError } from '../../../src/errors.js';
import { resolveConfig } from '../../../src/train/config.js';
import { datasetRequest } from '../../../src/train/dataset_request.js';

const root = mkdtempSync(join(tmpdir(), 'galago-fuxictr-'));
afterAll(() => rmSync(root, { recursive: true }));

const header = 'clk,user_id,item_id,hour,seen\n';
const files = {
  'train.csv': `${header}1,u1,i1,3,i1^i2\n0,u1,i2,4,i1^i2^i3\n1,u2,i1,5,\n0,u2,i9,6,i2\n`,
  'valid.csv': `${header}1,u1,i3,7,i3^i1\n`,
  'test.csv': `${header}0,u3,i2,8,i1\n1,u1,i1,9,i2^i1\n`,
  'item_info.csv': 'item_id,brand,price,tags\ni1,b1,10,t1^t2\ni2,b2,30,t2\ni3,b1,,t3^t1^t2\n',
};

let folders = 0;
function folderOf(changed: Record<string, string> = {}): string {
  const folder = join(root, `d${folders++}`);
  mkdirSync(folder);
  for (const [name, text] of Object.entries({ ...files, ...changed })) writeFileSync(join(folder, name), text);
  return folder;
}

function load(folder: string, seen: object = { padding: 'pre', share_embedding: 'item_id' }) {
  const { where, options } = datasetRequest(
    resolveConfig({
      object: {
        data: {
          path: folder,
          parts: { train: 'train.csv', valid: 'valid.csv', test: 'test.csv' },
          items: 'item_info.csv',
          time: null,
          label: { column: 'clk' },
        },
        feature_cols: [
          { name: 'user_id', type: 'categorical' },
          { name: 'item_id', type: 'categorical' },
          { name: 'hour', type: 'numeric', transform: 'none' },
          { name: 'seen', type: 'sequence', splitter: '^', max_len: 2, ...seen },
          { name: 'brand', type: 'categorical', source: 'item' },
          { name: 'price', type: 'numeric', source: 'item', transform: 'none' },
          { name: 'tags', type: 'sequence', source: 'item', splitter: '^', max_len: 8 },
        ],
        eval: { split: { given: true } },
      },
    }).config,
  );
  return loadDataset(where, { ...options, workers: 0 });
}

describe('a file per part and an item table (FuxiCTR)', () => {
  it('takes the parts as they are and joins item fields by row', async () => {
    await using data = await load(folderOf());
    expect(data.sizes).toEqual({ train: 4, valid: 1, test: 2 });
    expect(data.splitManifest.rule).toBe('as given by a file per part');
    expect(Object.keys(data.splitManifest.files).sort()).toEqual(Object.keys(files).sort());
    expect([...data.positive]).toEqual([1, 0, 1, 0, 1, 0, 1]);
    let batch: Batch | null = null;
    for await (const one of data.loader({ part: 'train', batchSize: 9, shuffle: false })) batch = one;
    const { categorical, numeric, sequences } = batch!;
    expect([...numeric['hour']!]).toEqual([3, 4, 5, 6]);
    expect([...numeric['price']!]).toEqual([10, 30, 10, expect.closeTo(50 / 3, 5) as number]);
    expect(categorical['brand']![0]).toBe(categorical['brand']![2]);
    expect(categorical['brand']![3]).toBe(0); // i9 is in no row of the item table
    expect([...sequences['tags']!.offsets]).toEqual([0, 2, 3, 5, 5]);
    expect(data.counters).toMatchObject({ itemsWithoutRow: 1, 'truncated:seen': 1, 'missing:price': 2 });
  });

  it('keeps the last values of a long sequence with padding pre, the first with post', async () => {
    const seen = async (padding: 'pre' | 'post'): Promise<number[]> => {
      await using data = await load(folderOf(), { padding, share_embedding: 'item_id' });
      const { values, offsets } = data.columns.sequences.find(({ name }) => name === 'seen')!;
      const item = data.columns.categorical.find(({ name }) => name === 'item_id')!.rows;
      return [...values.subarray(offsets[1], offsets[2])].map((row) => [...item].indexOf(row));
    };
    const [i1, i2, unknown] = [0, 1, 2]; // i3 is in no train row as an item: the row of unknown ids, which i3 is the first to have
    expect(await seen('pre')).toEqual([i2, unknown]);
    expect(await seen('post')).toEqual([i1, i2]);
  });

  it('reads a sequence of earlier ids by the vocabulary and table of their feature, and keeps its latest', async () => {
    const seen = async (changes: object = {}) => {
      await using data = await load(folderOf(), { of: 'item_id', ...changes });
      expect(data.vocabularies.get('seen')).toBe(data.vocabularies.get('item_id'));
      const { offsets, values } = data.columns.sequences.find(({ name }) => name === 'seen')!;
      const feature = data.schema.features.find(({ name }) => name === 'seen')!;
      return { feature, second: [...values.subarray(offsets[1], offsets[2])], leaks: data.leakChecks[0]!.detail };
    };
    const { feature, second, leaks } = await seen();
    expect(feature).toEqual({
      ...{ name: 'seen', source: 'inter', type: 'sequence', of: 'item_id', vocabularySize: 4, embeddingDim: null },
      ...{ shareEmbedding: 'item_id', maxLen: 2, keep: 'last' },
    });
    expect(second).toEqual([2, 0]); // i2, and i3, which is no item of train
    expect(leaks).toContain("seen is taken as given: it ends with the row's own item_id in 0.0 % of the positives");
    expect((await seen({ padding: 'post' })).second).toEqual([1, 2]);
    expect((await seen({ share_embedding: null })).feature).toMatchObject({ shareEmbedding: null, vocabularySize: 4 });
  });

  it('refuses earlier ids of what is no id feature, or in another table', async () => {
    await expect(async () => load(folderOf(), { of: 'hour' })).rejects.toThrow(
      /feature_cols\[3\].of .*: expected a categorical feature but received 'hour'/,
    );
    await expect(load(folderOf(), { of: 'item_id', share_embedding: 'user_id' })).rejects.toThrow(
      /feature seen: expected share_embedding to name the table of item_id but received user_id/,
    );
    const features = [{ name: 'seen', type: 'sequence', of: 'none', splitter: '^', maxLen: 2 }] as const;
    const parts = ['train.csv', 'valid.csv', 'test.csv'];
    const options = { features, labels: [{ column: 'clk' }], time: null, split: 'given', tables: { parts } } as const;
    await expect(loadDataset(folderOf(), { ...options, workers: 0 })).rejects.toThrow(
      /feature seen: expected of to name a categorical feature .* but received none/,
    );
  });

  it('takes integers in one part and fractions in another, and a part without a value', async () => {
    const folder = folderOf({
      'train.csv': files['train.csv'].replace('u1,i1,3,', 'u1,i1,3.5,'),
      'test.csv': `${header}0,u3,i2,,\n`,
    });
    await using data = await load(folder);
    const hour = data.columns.numeric.find(({ name }) => name === 'hour')!.values;
    expect([...hour]).toEqual([3.5, 4, 5, 6, 7, expect.closeTo(4.625, 5) as number]);
    const beyond = load(
      folderOf({ 'train.csv': `${header}1,u1,i1,9007199254740993,i1\n`, 'valid.csv': `${header}1,u1,i2,0.5,i1\n` }),
    );
    await expect(beyond).rejects.toThrow(/float64 holds in hour, .* received 9007199254740993 in row 0/);
  });

  it('puts columns of every kind below each other', () => {
    const counters = { bytes: 1, skipped: {}, emptyLines: 0, missing: {} };
    const table = (name: string, columns: Column[]): Table => ({
      ...{ name, rows: 2, counters },
      columns: new Map(columns.map((column) => [column.name, column])),
    });
    const missing = null;
    const whole = (a: bigint, list: number[], flags: Uint8Array | null): Column[] => [
      { kind: 'uint64', name: 'u', values: BigUint64Array.of(a, 2n ** 64n - 1n), missing: flags },
      {
        kind: 'float_seq',
        name: 'l',
        values: Float64Array.from(list),
        offsets: Int32Array.of(0, 1, list.length),
        missing,
      },
      { kind: 'token_seq', name: 's', values: ['x', 'y z'], separator: ' ', missing },
    ];
    const { rows, columns } = atOnce(
      concatTablesPass('both', [
        table('a', whole(1n, [1, 2, 3], null)),
        table('b', whole(0n, [4, 5], Uint8Array.of(1, 0))),
      ]),
    );
    expect(rows).toBe(4);
    expect(columns.get('u')!.values).toEqual(BigUint64Array.of(1n, 2n ** 64n - 1n, 0n, 2n ** 64n - 1n));
    expect(columns.get('u')!.missing).toEqual(Uint8Array.of(0, 0, 1, 0));
    expect(columns.get('l')).toMatchObject({
      values: Float64Array.of(1, 2, 3, 4, 5),
      offsets: Int32Array.of(0, 1, 3, 4, 5),
    });
    expect(columns.get('s')!.values).toEqual(['x', 'y z', 'x', 'y z']);
  });

  it('F12: refuses an item that comes twice, columns that differ and a part that is not there', async () => {
    const fault = (folder: string): Promise<GalagoError> =>
      load(folder).then(
        () => {
          throw new Error('expected a fault');
        },
        (error: unknown) => error as GalagoError,
      );
    const twice = await fault(folderOf({ 'item_info.csv': `${files['item_info.csv']}i2,b9,1,t1\n` }));
    expect(twice).toBeInstanceOf(DataError);
    expect(twice.message).toContain('expected item_id i2 once but row 3 repeats it');
    const other = await fault(folderOf({ 'valid.csv': files['valid.csv'].replace('hour', 'day') }));
    expect(other).toBeInstanceOf(DataError);
    expect(other.message).toContain('hour');
    const row = await fault(folderOf({ 'test.csv': `${header}0,u3,i2,8\n` }));
    expect(row.message).toMatch(/test\.csv line 2/);
    const folder = folderOf();
    rmSync(join(folder, 'test.csv'));
    expect((await fault(folder)).message).toMatch(/test\.csv/);
  });
});
