import { readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { parquetMetadata } from 'hyparquet';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { describe, expect, it } from 'vitest';
import { type DataFiles, listDataFiles } from '../../../src/data/tables/data_files.js';
import { readParquetFiles } from '../../../src/data/tables/parquet.js';
import type { TableReadOptions } from '../../../src/data/tables/table_schema.js';
import { DataError } from '../../../src/errors.js';
import { duckdb, EXTREME_IDS, faultOf, kindsOf, scratch, valuesOf } from './tables_written.js';

const files = scratch('parquet');
const at = (name: string): Promise<DataFiles> => listDataFiles(files.path(name));

async function written(name: string, select: string, how = ''): Promise<DataFiles> {
  await duckdb(`COPY (${select}) TO '${files.path(name)}' (FORMAT parquet${how === '' ? '' : `, ${how}`})`);
  return at(name);
}

const MIXED = `SELECT i AS id, (i * 7) % 5 AS small, 'word ' || (i % 3) AS word, i / 4 AS half, i % 2 = 0 AS even,
  CASE WHEN i % 4 = 0 THEN NULL ELSE i::INTEGER END AS hole, ['a', 'b ' || i] AS tags, [0.5::DOUBLE, i::DOUBLE] AS vector,
  [i, i + 1] AS numbers, TIMESTAMP '2024-01-01 00:00:00.000001' + INTERVAL (i) SECOND AS at, DATE '2024-01-02' AS day,
  i::UTINYINT AS tiny, i::FLOAT AS single, (18446744073709551615::UBIGINT - i::UBIGINT)::UBIGINT AS unsigned
  FROM range(10) t(i)`;

describe('readParquetFiles', () => {
  it.each(['uncompressed', 'snappy', 'gzip', 'zstd', 'lz4_raw', 'brotli'])(
    'reads what DuckDB writes with %s',
    async (codec) => {
      const table = await readParquetFiles(
        await written(`${codec}.parquet`, MIXED, `COMPRESSION ${codec}, ROW_GROUP_SIZE 2048`),
      );
      expect(kindsOf(table)).toEqual({
        id: 'int64',
        small: 'int64',
        word: 'token',
        half: 'float',
        even: 'int64',
        hole: 'int64',
        tags: 'token_seq',
        vector: 'float_seq',
        numbers: 'token_seq',
        at: 'int64',
        day: 'int64',
        tiny: 'int64',
        single: 'float',
        unsigned: 'uint64',
      });
      const rows = Array.from({ length: 10 }, (_, i) => i);
      expect(valuesOf(table, 'id')).toEqual(rows.map(BigInt));
      expect(valuesOf(table, 'word')).toEqual(rows.map((i) => `word ${i % 3}`));
      expect(valuesOf(table, 'half')).toEqual(rows.map((i) => i / 4));
      expect(valuesOf(table, 'even')).toEqual(rows.map((i) => (i % 2 === 0 ? 1n : 0n)));
      expect(valuesOf(table, 'hole')).toEqual(rows.map((i) => (i % 4 === 0 ? null : BigInt(i))));
      expect(valuesOf(table, 'tags')).toEqual(rows.map((i) => ['a', `b ${i}`]));
      expect(valuesOf(table, 'vector')).toEqual(rows.map((i) => [0.5, i]));
      expect(valuesOf(table, 'numbers')).toEqual(rows.map((i) => [String(i), String(i + 1)]));
      expect(valuesOf(table, 'at')).toEqual(rows.map((i) => 1704067200000001n + 1_000_000n * BigInt(i)));
      expect(valuesOf(table, 'day')).toEqual(rows.map(() => 19724n));
      expect(valuesOf(table, 'unsigned')).toEqual(rows.map((i) => 2n ** 64n - 1n - BigInt(i)));
      expect(table.counters.missing).toEqual({ hole: 3 });
    },
  );

  it('F17, F19: int64 stays int64, dictionary coded or plain, with and without null', async () => {
    const list = EXTREME_IDS.map((id) => `('${id}'::BIGINT)`).join(', ');
    const source = await written(
      'ids.parquet',
      `SELECT id, CASE WHEN id = 0 THEN NULL ELSE id END AS hole FROM (VALUES ${list}) t(id), range(300)`,
    );
    const table = await readParquetFiles(source);
    expect(new Set(valuesOf(table, 'id'))).toEqual(new Set(EXTREME_IDS));
    expect(valuesOf(table, 'hole')).toEqual(valuesOf(table, 'id').map((id) => (id === 0n ? null : id)));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n), { minLength: 1 }), async (ids) => {
        const bytes = parquetWriteBuffer({ columnData: [{ name: 'id', data: ids, type: 'INT64' }] });
        const read = await readParquetFiles(await files.write('parquet', new Uint8Array(bytes)));
        expect(valuesOf(read, 'id')).toEqual(ids);
      }),
      { numRuns: 50 },
    );
  });

  it('reads many row groups and many files in name order, and only the columns asked for', async () => {
    await written('parts/b.parquet', 'SELECT i + 5000 AS id, 1 AS other FROM range(5000) t(i)', 'ROW_GROUP_SIZE 2048');
    await written('parts/a.parquet', 'SELECT i AS id, 1 AS other FROM range(5000) t(i)', 'ROW_GROUP_SIZE 2048');
    const table = await readParquetFiles(await at('parts'), { columns: ['id', 'absent'] });
    expect(table.name).toBe('parts');
    expect([...table.columns.keys()]).toEqual(['id']);
    expect(valuesOf(table, 'id')).toEqual(Array.from({ length: 10_000 }, (_, i) => BigInt(i)));
  });

  it('reads folders of column=value that DuckDB writes', async () => {
    await duckdb(
      `COPY (SELECT i AS id, 'a b/' || (i % 2) AS country, 2020 + i % 3 AS year FROM range(6) t(i)) TO '${files.path('hive')}' (FORMAT parquet, PARTITION_BY (year, country))`,
    );
    const table = await readParquetFiles(await at('hive'));
    expect(kindsOf(table)).toEqual({ id: 'int64', year: 'int64', country: 'token' });
    const rows = valuesOf(table, 'id').map((id, i) => [id, valuesOf(table, 'year')[i], valuesOf(table, 'country')[i]]);
    expect(rows.sort((a, b) => Number(a[0]) - Number(b[0]))).toEqual(
      [0, 1, 2, 3, 4, 5].map((i) => [BigInt(i), BigInt(2020 + (i % 3)), `a b/${i % 2}`]),
    );
  });

  it('refuses structs, maps and decimals by column name, all in one error', async () => {
    const source = await written(
      'nested.parquet',
      "SELECT 1 AS id, {'a': 1} AS pair, MAP {'k': 1} AS lookup, 1.5::DECIMAL(9, 2) AS money, [[1]] AS deep, 'x'::BLOB AS raw",
    );
    const error = await faultOf(readParquetFiles(source));
    expect(error.code).toBe('DATA_SCHEMA');
    expect(error.fields.columns).toEqual(expect.arrayContaining(['pair', 'lookup', 'money', 'deep']));
    expect(error.message).toMatch(/"pair" is struct, "lookup" is map, "money" is decimal/);
    expect(valuesOf(await readParquetFiles(source, { columns: ['id'] }), 'id')).toEqual([1n]);
  });

  it('F12: one error lists every column in which files differ', async () => {
    await written('drift/a.parquet', 'SELECT 1::BIGINT AS user, 2::BIGINT AS item, 1.5::DOUBLE AS x');
    await written('drift/b.parquet', "SELECT '1' AS user, 2::BIGINT AS item, 3 AS extra");
    const error = await faultOf(readParquetFiles(await at('drift')));
    expect(error.message).toContain('b.parquet ("user" is string, not int64; no "x"; "extra" is only here)');
    expect(error.fields).toMatchObject({ reason: 'schema_drift', columns: ['user', 'x', 'extra'] });
  });

  it('F18: a missing id names file, row group and row, or is left out', async () => {
    const source = await written(
      'hole.parquet',
      'SELECT CASE WHEN i = 3000 THEN NULL ELSE i END AS id, i AS row, [i::DOUBLE] AS v, i::VARCHAR AS s FROM range(5000) t(i)',
      'ROW_GROUP_SIZE 2048',
    );
    const error = await faultOf(readParquetFiles(source, { required: ['id'] }));
    expect(error.fields).toMatchObject({ reason: 'missing', rowGroup: 1, row: 3000, column: 'id' });
    const table = await readParquetFiles(source, { required: ['id'], onBadRow: 'skip', maxBadFraction: 0.01 });
    const expected = Array.from({ length: 5000 }, (_, i) => i).filter((i) => i !== 3000);
    expect(valuesOf(table, 'row')).toEqual(expected.map(BigInt));
    expect(valuesOf(table, 'v')).toEqual(expected.map((i) => [i]));
    expect(valuesOf(table, 's')).toEqual(expected.map(String));
    expect(table.counters.skipped).toEqual({ missing: 1 });
  });

  it('F10: a broken row group fails, or is left out whole and counted', async () => {
    const source = await written(
      'broken.parquet',
      'SELECT i AS id, i * 3 AS x FROM range(6000) t(i)',
      'ROW_GROUP_SIZE 2048, COMPRESSION zstd',
    );
    const bytes = readFileSync(source.files[0]!.path);
    const { row_groups: groups } = parquetMetadata(bytes);
    const page = Number(groups[1]!.columns[1]!.meta_data!.data_page_offset);
    bytes.fill(0xff, page, page + 8);
    writeFileSync(source.files[0]!.path, bytes);
    const error = await faultOf(readParquetFiles(source));
    expect(error.fields).toMatchObject({ reason: 'row_group', rowGroup: 1, column: 'x' });
    expect((await faultOf(readParquetFiles(source, { onBadRow: 'skip', maxBadFraction: 1 }))).fields.rowGroup).toBe(1);
    const table = await readParquetFiles(source, { onBadRow: 'skip_row_group', maxBadFraction: 0.5 });
    expect(table.counters.skipped).toEqual({ row_group: 2048 });
    expect(valuesOf(table, 'id')).toEqual(
      [...Array(2048).keys(), ...Array.from({ length: 1904 }, (_, i) => 4096 + i)].map(BigInt),
    );
    expect(
      (await faultOf(readParquetFiles(source, { onBadRow: 'skip_row_group', maxBadFraction: 0.1 }))).message,
    ).toMatch(/2048 of 6000 rows/);
  });

  it('F10: cut at every byte it is an error; every seventh byte flipped is an error or a whole table', async () => {
    const source = await written(
      'small.parquet',
      "SELECT i AS id, 'w' || i AS w, [i] AS l FROM range(40) t(i)",
      'COMPRESSION snappy',
    );
    const bytes = readFileSync(source.files[0]!.path);
    const cut = { ...source, files: [{ ...source.files[0]!, path: files.path('cut.parquet') }] };
    const read = async (content: Uint8Array, options: TableReadOptions = {}) => {
      writeFileSync(cut.files[0]!.path, content);
      return readParquetFiles(cut, options).catch((error: unknown) => {
        if (!(error instanceof DataError)) throw error;
        return null;
      });
    };
    for (let end = 0; end < bytes.length; end++) expect(await read(bytes.subarray(0, end))).toBeNull();
    for (let i = 0; i < bytes.length; i += 7) {
      const flipped = Buffer.from(bytes);
      flipped[i]! ^= 0xff;
      const table = await read(flipped);
      if (table !== null) expect([table.rows, table.columns.get('id')?.values.length]).toEqual([40, 40]);
    }
  });
});
