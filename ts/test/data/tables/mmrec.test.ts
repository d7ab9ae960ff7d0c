import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type LoadOptions, loadDataset } from '../../../src/data/load_dataset.js';
import type { Batch } from '../../../src/data/loader/batch.js';
import { featureNamed } from '../../../src/data/schema.js';
import { ArgumentError, DataError, GalagoError, ModelFileError } from '../../../src/errors.js';
import { encodeNpy } from '../../../src/io/npy.js';
import { resolveConfig } from '../../../src/train/config.js';
import { datasetRequest } from '../../../src/train/dataset_request.js';

const root = mkdtempSync(join(tmpdir(), 'galago-mmrec-'));
afterAll(() => rmSync(root, { recursive: true }));

const HEADER = 'userID\titemID\trating\ttimestamp\tx_label\n';
const ROWS = ['7\t0\t5.0\t100\t0', '7\t2\t4.0\t200\t0', '7\t1\t3.0\t300\t1', '9\t1\t1.0\t100\t0', '9\t3\t2.0\t400\t2'];

/** (rows, width) with value 10 row + column. */
function npy(rows: number, width: number, dtype: 'float32' | 'float64' = 'float32'): Uint8Array {
  const values = Array.from({ length: rows * width }, (_, at) => 10 * Math.floor(at / width) + (at % width));
  const data = dtype === 'float64' ? Float64Array.from(values) : Float32Array.from(values);
  return encodeNpy({ dtype, shape: [rows, width], data } as Parameters<typeof encodeNpy>[0]);
}

let folders = 0;
function folderOf(files: Record<string, string | Uint8Array>): string {
  const folder = join(root, `d${folders++}`);
  mkdirSync(folder);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  return folder;
}

const inter = `${HEADER}${ROWS.join('\n')}\n`;
const whole = { 'baby.inter': inter, 'image_feat.npy': npy(5, 3), 'text_feat.npy': npy(5, 2, 'float64') };
const load = (folder: string, options: LoadOptions = {}) => loadDataset(folder, { workers: 0, ...options });

async function faultOf(promise: Promise<unknown>): Promise<GalagoError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(GalagoError);
  return error as GalagoError;
}

describe('MMRec data', () => {
  it('refuses an item number far beyond the rows where no vectors say how many there are', async () => {
    const slip = folderOf({ 'baby.inter': `${inter}7\t999999999\t5.0\t100\t0\n` });
    expect((await faultOf(load(slip))).message).toMatch(/item numbers below 1000060 .* received 999999999 in row 5/);
  });

  it('names the line of an empty time or label that was asked for', async () => {
    const gap = folderOf({ 'baby.inter': inter.replace('\t200\t', '\t\t') });
    expect((await faultOf(load(gap, { time: 'timestamp' }))).message).toMatch(/line 3 .* a value of "timestamp"/);
    const options: LoadOptions = { time: 'timestamp', files: { onBadRow: 'skip', maxBadFraction: 0.5 } };
    await using data = await load(gap, options);
    expect(data.counters['skipped:inter:missing']).toBe(1);
  });

  it('brings its parts, its items as numbers and their vectors', async () => {
    await using data = await load(folderOf(whole));
    expect(data.sizes).toEqual({ train: 3, valid: 1, test: 1 });
    expect(data.items.ids).toEqual(['0', '1', '2', '3', '4']); // 4 has vectors and no event
    expect(data.userIds).toEqual(['7', '9']);
    expect(data.splitManifest.rule).toBe('as given by x_label');
    expect(Object.keys(data.splitManifest.files).sort()).toEqual(['baby.inter', 'image_feat.npy', 'text_feat.npy']);
    expect([...data.positive]).toEqual([1, 1, 1, 1, 1]);
    expect(data.schema).toMatchObject({ userId: 'userID', itemId: 'itemID', labels: ['label'] });
    expect(featureNamed(data.schema, 'image')).toEqual({
      name: 'image',
      source: 'item',
      type: 'embedding',
      dim: 3,
      freeze: true,
    });
    const batches: Batch[] = [];
    for await (const batch of data.loader({ part: 'train', batchSize: 10, shuffle: false })) batches.push(batch);
    expect(batches).toHaveLength(1);
    const { rows, vectors } = batches[0]!.items;
    expect([...rows]).toEqual([0, 1, 2]);
    expect([...vectors!['image']!.values]).toEqual([0, 1, 2, 10, 11, 12, 20, 21, 22]);
    expect([...vectors!['text']!.values]).toEqual([0, 1, 10, 11, 20, 21]);
    expect([...vectors!['text']!.present]).toEqual([1, 1, 1]);
    expect([...(await data.itemContent([4, 0])).vectors!['text']!.values]).toEqual([40, 41, 0, 1]);
    expect(data.counters).toMatchObject({ 'vectors:image:missing': 0, 'vectors:image:unused': 0 });
  });

  it('takes typed headers, labels and a configuration too', async () => {
    const typed = inter.replace(HEADER, 'userID:token\titemID:token\trating:float\ttimestamp:float\tx_label:float\n');
    const folder = folderOf({ ...whole, 'baby.inter': typed });
    const { where, options } = datasetRequest(
      resolveConfig({
        object: {
          data: { path: folder, user_id: 'userID', item_id: 'itemID', label: { column: 'rating', at_least: 3 } },
          feature_cols: [
            { name: 'userID', type: 'categorical' },
            { name: 'itemID', type: 'categorical' },
            { name: 'seen', type: 'embedding', file: 'image_feat.npy' },
          ],
          eval: { split: { given: true } },
        },
      }).config,
    );
    await using data = await loadDataset(where, { ...options, workers: 0 });
    expect([...data.positive]).toEqual([1, 1, 1, 0, 0]);
    expect(data.columns.itemVectors!.map(({ name, dim }) => [name, dim])).toEqual([['seen', 3]]);
  });

  it('takes every row for a positive where the configuration says that there is no label', async () => {
    const { options } = datasetRequest(
      resolveConfig({ object: { data: { path: root, label: { column: null } } } }).config,
    );
    expect(options.labels).toEqual([]);
  });

  it('counts items by the largest id where there are no vectors', async () => {
    await using data = await load(folderOf({ 'baby.inter': inter }));
    expect(data.items.ids).toEqual(['0', '1', '2', '3']);
  });

  const badRows: [string, string, Record<string, unknown>, RegExp][] = [
    [
      'a part that is none',
      '9\t3\t2.0\t400\t3',
      { line: 7, column: 'x_label', reason: 'value' },
      /line 7 .*0 \(train\)/,
    ],
    ['no part', '9\t3\t2.0\t400\t', { line: 7, column: 'x_label', reason: 'missing' }, /x_label/],
    [
      'an item without a vector',
      '9\t5\t2.0\t400\t0',
      { line: 7, column: 'itemID' },
      /below 5, the rows of image_feat.npy, in "itemID", got "5"/,
    ],
    ['an item id that is no row number', '9\t03\t2.0\t400\t0', { line: 7, column: 'itemID' }, /item number/],
    ['a negative item', '9\t-1\t2.0\t400\t0', { line: 7, column: 'itemID' }, /got "-1"/],
    ['a word as time', '9\t1\t2.0\tsoon\t0', { line: 7, column: 'timestamp', reason: 'number' }, /got "soon"/],
    ['a field too few', '9\t1\t2.0\t0', { line: 7, reason: 'ragged' }, /expected 5 fields, got 4/],
  ];
  it.each(badRows)('F11: names file, line and column of %s', async (_, row, fields, message) => {
    const fault = await faultOf(load(folderOf({ ...whole, 'baby.inter': `${inter}${row}\n` })));
    expect(fault).toBeInstanceOf(DataError);
    expect(fault.fields).toMatchObject(fields);
    expect(String(fault.fields['file'])).toMatch(/baby\.inter$/);
    expect(fault.message).toMatch(message);
  });

  it('F11: skips bad rows where asked, counted by reason', async () => {
    const folder = folderOf({ ...whole, 'baby.inter': `${inter}9\t5\t2.0\t400\t0\n` });
    await using data = await load(folder, { files: { onBadRow: 'skip', maxBadFraction: 0.5 } });
    expect(data.counters['skipped:inter:value']).toBe(1);
    expect(data.items.ids).toHaveLength(5);
  });
});

describe('given vectors', () => {
  const items = 'item_id:token\ttitle:token_seq\na\tone\nb\ttwo\nc\tthree\n';
  const events = 'user_id:token\titem_id:token\nu\ta\nu\tb\nv\tc\nv\ta\nu\tc\n';
  const files = { 'set.inter': events, 'set.item': items, 'v.npy': npy(3, 2) };
  const features = (more: { file?: string; ids?: string } = {}): LoadOptions => ({
    features: [
      { name: 'item_id', type: 'categorical' },
      { name: 'v', type: 'embedding', file: 'v.npy', ...more },
    ],
    split: { kind: 'RS', ratios: [1, 0, 0] },
  });
  const rowsOf = async (folder: string, options = features()): Promise<number[][]> => {
    await using data = await load(folder, options);
    const { values, present, dim } = data.columns.itemVectors![0]!;
    return [...present].map((there, i) => (there ? [...values.subarray(i * dim, (i + 1) * dim)] : []));
  };

  it('stand in the order of the item table', async () => {
    expect(await rowsOf(folderOf(files))).toEqual([
      [0, 1],
      [10, 11],
      [20, 21],
    ]);
  });

  it('or by the ids beside them, as text or as int64; an item without one has none', async () => {
    const byText = folderOf({ ...files, 'ids.txt': '\ufeffc\nx\na\n' });
    expect(await rowsOf(byText)).toEqual([[20, 21], [], [0, 1]]);
    await using data = await load(byText, features());
    expect(data.counters).toMatchObject({ 'vectors:v:missing': 1, 'vectors:v:unused': 1 });
    const numbered = { ...files, 'set.inter': events.replace(/a/g, '4'), 'set.item': items.replace('a\t', '4\t') };
    const ids = encodeNpy({ dtype: 'int64', shape: [3], data: BigInt64Array.of(7305112233445566778n, 4n, -1n) });
    expect(await rowsOf(folderOf({ ...numbered, 'ids.npy': ids }))).toEqual([[10, 11], [], []]);
    const named = folderOf({ ...files, 'who.txt': 'b\na\nc\n' });
    expect(await rowsOf(named, features({ ids: 'who.txt' }))).toEqual([
      [10, 11],
      [0, 1],
      [20, 21],
    ]);
  });

  const nan = npy(3, 2);
  new DataView(nan.buffer).setFloat32(nan.length - 4, Number.NaN, true);
  const faults: [string, Record<string, string | Uint8Array>, LoadOptions, RegExp][] = [
    ['F12: fewer rows than items', { 'v.npy': npy(2, 2) }, features(), /a row for each of 3 items but .*v\.npy has 2/],
    ['F12: too few ids', { 'ids.txt': 'a\nb\n' }, features(), /expected 3 ids, one per vector, but .*ids\.txt holds 2/],
    ['F12: ids in no UTF-8', { 'ids.txt': Buffer.from([0xff]) }, features(), /ids\.txt: expected ids in UTF-8/],
    ['F12: an id twice', { 'ids.txt': 'a\nb\na\n' }, features(), /line 3 of .*ids\.txt repeats a/],
    ['F12: a list that is not there', {}, features({ ids: 'who.txt' }), /expected a list of ids in .*who\.txt/],
    [
      'F12: no matrix',
      { 'v.npy': encodeNpy({ dtype: 'float32', shape: [3], data: new Float32Array(3) }) },
      features(),
      /shape \(rows, width\)/,
    ],
    ['F16: a NaN', { 'v.npy': nan }, features(), /holds NaN in row 2, column 1/],
    ['F12: a cut file', { 'v.npy': npy(3, 2).subarray(0, -1) }, features(), /v\.npy/],
  ];
  it.each(faults)('%s is refused', async (_, changed, options, message) => {
    const fault = await faultOf(load(folderOf({ ...files, ...changed }), options));
    expect(fault instanceof DataError || fault instanceof ModelFileError).toBe(true);
    expect(fault.message).toMatch(message);
  });

  it('refuse rows outside, and data without a folder', async () => {
    await using data = await load(folderOf(files), features());
    await expect(data.itemContent([3])).rejects.toThrow(ArgumentError);
    const shop = loadDataset({ shop: { seed: 1, items: 40, users: 20, sessions: 240 } }, { workers: 0, ...features() });
    expect((await faultOf(shop)).message).toMatch(/feature v: expected data in a folder/);
  });
});
