import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { datasetFromShop, loadDataset } from '../../../src/data/load_dataset.js';
import { generateShop } from '../../../src/data/shop/shop.js';
import { findTables } from '../../../src/data/tables/table_folder.js';
import { IdError, OutOfMemoryError, StorageError } from '../../../src/errors.js';
import { duckdb, faultOf, scratch } from './tables_written.js';

const files = scratch('tables');

const EVENTS = `SELECT (i * 7919) % 50 + 7305112233445566778 AS user_id, (i * 104729) % 30 - 1 AS item_id,
  1700000000 + i * 60 AS timestamp, (i % 3 = 0)::INT AS label FROM range(1000) t(i)`;
const ITEMS = `SELECT i - 1 AS item_id, 'item number ' || i AS title, 10.0::DOUBLE + i AS price, ['Science Fiction', 'g' || i % 4] AS genres,
  i % 5 AS shop_id FROM range(31) t(i)`;

const names = (set: { files: readonly { name: string }[] } | null): string[] | null =>
  set && set.files.map(({ name }) => name);

describe('findTables', () => {
  it('a file is the interactions; a folder goes by names, and without them is one table', async () => {
    for (const name of [
      'a/interactions.csv',
      'a/items.jsonl',
      'a/users/x.csv',
      'b/2.csv',
      'b/10.csv',
      'b/_old.csv',
      'c/events/a.csv',
    ])
      await files.write('csv', 'x\n1\n', name);
    writeFileSync(files.path('c/events/readme.md'), '');
    const a = await findTables(files.path('a'));
    expect([names(a!.interactions), names(a!.items), names(a!.users)]).toEqual([
      ['interactions.csv'],
      ['items.jsonl'],
      ['x.csv'],
    ]);
    const b = await findTables(files.path('b'));
    expect([names(b!.interactions), b!.items]).toEqual([['10.csv', '2.csv'], null]);
    const named = await findTables(files.path('b'), { items: '2.csv' });
    expect([names(named!.interactions), names(named!.items)]).toEqual([['10.csv'], ['2.csv']]);
    expect(names((await findTables(files.path('c')))!.interactions)).toEqual(['a.csv']);
    const file = await findTables(files.path('b/10.csv'), { items: '2.csv' });
    expect([names(file!.interactions), names(file!.items)]).toEqual([['10.csv'], ['2.csv']]);
  });

  it('a link to nothing is an error with its name', async () => {
    await files.write('csv', 'x\n1\n', 'linked/a.csv');
    symlinkSync('gone', files.path('linked/b.csv'));
    const load = loadDataset(files.path('linked'));
    await expect(load).rejects.toThrow(StorageError);
    await expect(load).rejects.toMatchObject({ code: 'ENOENT', fields: { path: files.path('linked/b.csv') } });
    symlinkSync('gone', files.path('named/items'));
    await expect(findTables(files.path('named'))).rejects.toThrow(StorageError);
  });

  it('what is not clear is an error, what is no table is another reader’s', async () => {
    await files.write('csv', 'x\n1\n', 'two/events.csv');
    await files.write('csv', 'x\n1\n', 'two/interactions.csv');
    expect((await faultOf(findTables(files.path('two')))).message).toMatch(
      /found events\.csv, interactions\.csv; choose with data\.interactions/,
    );
    expect((await findTables(files.path('two'), { interactions: 'events.csv' }))!.interactions.name).toBe('events.csv');
    await files.write('csv', 'x\n1\n', 'mixed/a.csv');
    await files.write('jsonl', '{"x":1}\n', 'mixed/b.jsonl');
    expect((await faultOf(findTables(files.path('mixed')))).fields.reason).toBe('several_formats');
    expect((await faultOf(findTables(files.path('b'), { users: 'none.csv' }))).fields.reason).toBe('missing_file');
    mkdirSync(files.path('empty'), { recursive: true });
    expect(await findTables(files.path('empty'))).toBeNull();
    expect(await findTables(files.path('nowhere'))).toBeNull();
    writeFileSync(files.path('atomic.inter'), '');
    expect(await findTables(files.folder)).toBeNull();
  });
});

describe('loadDataset', () => {
  it('takes a Parquet file, CSV and JSONL with the same outcome, ids exact', async () => {
    const formats = ['parquet', 'csv', 'json'];
    await duckdb(
      ...formats.flatMap((format) => {
        const folder = files.path(`${format}-set/x`).slice(0, -2);
        const end = format === 'json' ? 'jsonl' : format;
        return [
          `COPY (${EVENTS}) TO '${folder}/interactions.${end}' (FORMAT ${format})`,
          `COPY (SELECT * EXCLUDE genres FROM (${ITEMS})) TO '${folder}/items.${end}' (FORMAT ${format})`,
        ];
      }),
    );
    const outcomes = [];
    for (const format of formats) {
      await using data = await loadDataset(files.path(`${format}-set`));
      expect(data.userIds).toContain('7305112233445566778');
      expect(data.items.ids.slice(0, 2)).toEqual(['-1', '0']);
      outcomes.push({
        digest: data.digest,
        features: data.schema.features.map(({ name, type }) => [name, type]),
        parts: data.splitManifest.parts,
        files: Object.keys(data.splitManifest.files),
      });
    }
    expect(outcomes[0]!.features).toEqual([
      ['user_id', 'categorical'],
      ['item_id', 'categorical'],
      ['history', 'history'],
      ['title', 'text'],
      ['price', 'numeric'],
    ]);
    expect(outcomes[0]!.files).toEqual(['interactions.parquet', 'items.parquet']);
    for (const { digest, parts } of outcomes.slice(1))
      expect([digest, parts]).toEqual([outcomes[0]!.digest, outcomes[0]!.parts]);
  });

  it('lists are lists whatever the splitter; partitions and single files load alike', async () => {
    await duckdb(
      `COPY (${ITEMS}) TO '${files.path('lists/items.parquet')}' (FORMAT parquet)`,
      `COPY (SELECT *, i % 2 AS part FROM (SELECT row_number() OVER () AS i, * FROM (${EVENTS}))) TO '${files.path('lists/events')}' (FORMAT parquet, PARTITION_BY (part))`,
    );
    await using data = await loadDataset(files.path('lists'), {
      features: [
        { name: 'user_id', type: 'categorical' },
        { name: 'item_id', type: 'categorical' },
        { name: 'part', type: 'categorical' },
        { name: 'genres', type: 'sequence', source: 'item', splitter: ' ', maxLen: 4 },
      ],
    });
    expect(data.vocabularies.get('genres')!.row('Science Fiction')).toBeGreaterThan(0);
    expect(data.vocabularies.get('part')!.size).toBe(3);
  });

  it('F17: float ids are refused, and names of absent columns', async () => {
    await files.write('csv', 'user_id,item_id\n1.5,2\n2,3\n', 'float/a.csv');
    await expect(loadDataset(files.path('float'))).rejects.toThrow(IdError);
    const error = await faultOf(
      loadDataset(files.path('float'), { userId: 'uid', time: 'when', labels: [{ column: 'y' }] }),
    );
    expect(error.message).toMatch(/expected columns uid, y, when, the file has user_id, item_id/);
  });

  it('F16: labels and numbers that are not finite are refused with their row', async () => {
    await duckdb(
      `COPY (SELECT i AS user_id, i AS item_id, CASE WHEN i = 2 THEN 'inf'::DOUBLE ELSE 1 END AS label FROM range(4) t(i)) TO '${files.path('inf/events.parquet')}' (FORMAT parquet)`,
      `COPY (SELECT i AS user_id, i AS item_id, CASE WHEN i = 2 THEN 'nan'::DOUBLE ELSE 1 END AS label, 1 AS price FROM range(4) t(i)) TO '${files.path('nan/events.parquet')}' (FORMAT parquet)`,
      `COPY (SELECT i AS item_id, 'inf'::DOUBLE AS price FROM range(4) t(i)) TO '${files.path('price/items.parquet')}' (FORMAT parquet)`,
      `COPY (SELECT i AS user_id, i AS item_id FROM range(4) t(i)) TO '${files.path('price/events.parquet')}' (FORMAT parquet)`,
    );
    expect((await faultOf(loadDataset(files.path('inf')))).message).toMatch(
      /label label: .*received Infinity in row 2/,
    );
    const labels = [{ column: 'label' }];
    expect((await faultOf(loadDataset(files.path('nan'), { labels }))).fields).toMatchObject({
      column: 'label',
      row: 2,
    });
    expect((await faultOf(loadDataset(files.path('price')))).message).toMatch(/feature price: expected finite numbers/);
  });

  it('max_memory is checked before a row is read', async () => {
    await duckdb(`COPY (${EVENTS}) TO '${files.path('big.parquet')}' (FORMAT parquet)`);
    const error = await loadDataset(files.path('big.parquet'), { maxMemory: 31_999 }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect((error as OutOfMemoryError).message).toMatch(/big\.parquet needs 32000: (\w+ 8000(, )?){4}/);
  });

  it('a shop written to Parquet gives the batches of the shop', async () => {
    const shop = generateShop({ items: 60, users: 20, sessions: 120 });
    const rows = Array.from(
      { length: shop.events.count },
      (_, i) => `(${shop.events.user[i]}, ${shop.events.item[i]}, ${shop.events.time[i]}, ${shop.events.click[i]})`,
    );
    await duckdb(
      `COPY (SELECT * FROM (VALUES ${rows.join(', ')}) t(user_id, item_id, timestamp, click)) TO '${files.path('shop.parquet')}' (FORMAT parquet)`,
    );
    const features = [
      { name: 'user_id', type: 'categorical' },
      { name: 'item_id', type: 'categorical' },
      { name: 'history', type: 'history', of: 'item_id', maxLen: 10 },
    ] as const;
    const part = {
      features,
      split: { kind: 'RS', ratios: [0.8, 0.1, 0.1], order: 'TO' },
      labels: [{ column: 'click' }],
    } as const;
    await using read = await loadDataset(files.path('shop.parquet'), part);
    await using made = await datasetFromShop(shop, { ...part, history: { parts: 'earlier' } });
    expect(read.sizes).toEqual(made.sizes);
    const user = (data: typeof read, event: number): string => data.userIds[data.events.user[event]!]!;
    for (let event = 0; event < shop.events.count; event++) expect(user(read, event)).toBe(user(made, event));
  });
});
