import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { listDataFiles } from '../../../src/data/tables/data_files.js';
import { fillByDuckdb } from '../../../src/data/tables/duckdb.js';
import { planParquet, readPlannedParquet } from '../../../src/data/tables/parquet.js';
import { readTable } from '../../../src/data/tables/read_table.js';
import { ConfigError } from '../../../src/errors.js';
import { duckdb, EXTREME_IDS, faultOf, scratch, valuesOf } from './tables_written.js';

const files = scratch('duckdb');

const MIXED = `SELECT i AS id, i::USMALLINT AS small, 'word ' || (i % 3) AS word, i / 4 AS half, i % 2 = 0 AS even,
  CASE WHEN i % 4 = 0 THEN NULL ELSE i::INTEGER END AS hole, ['a', 'b ' || i] AS tags, [0.5::DOUBLE, i::DOUBLE] AS vector,
  CASE WHEN i % 5 = 0 THEN NULL ELSE [i, i + 1] END AS numbers, [i % 2 = 0] AS flags,
  TIMESTAMP '2024-01-01 00:00:00.000001' + INTERVAL (i) SECOND AS at, (TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND)::TIMESTAMP_MS AS ms,
  (TIMESTAMP '1960-01-01' + INTERVAL (i) SECOND)::TIMESTAMP_NS AS ns, (TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND)::TIMESTAMPTZ AS tz,
  DATE '2024-01-02' AS day, i::FLOAT AS single, (18446744073709551615::UBIGINT - i::UBIGINT)::UBIGINT AS unsigned,
  '00000000-0000-0000-0000-00000000000' || (i % 10) AS text, ('00000000-0000-0000-0000-00000000000' || (i % 10))::UUID AS uuid,
  'bytes'::BLOB AS "odd ""name"""
  FROM range(9000) t(i)`;

describe('Parquet through DuckDB', () => {
  it('gives the table that the own reader gives', async () => {
    const [a, b] = [files.path("m/it's [1].parquet"), files.path('m/2.parquet')];
    for (const path of [a, b])
      await duckdb(`COPY (${MIXED}) TO '${path.replaceAll("'", "''")}' (FORMAT parquet, ROW_GROUP_SIZE 2048)`);
    const source = await listDataFiles(files.path('m'));
    const options = { required: ['hole'], onBadRow: 'skip', maxBadFraction: 0.5 } as const;
    const own = await readTable(source, { ...options, engine: 'own' });
    const scanned = await readTable(source, { ...options, engine: 'duckdb' });
    expect([scanned.rows, scanned.counters]).toEqual([own.rows, own.counters]);
    expect(own.rows).toBe(13_500);
    for (const [name, column] of own.columns) expect([name, scanned.columns.get(name)]).toEqual([name, column]);
  });

  it('F17, F19: 64-bit ids are exact', async () => {
    const list = EXTREME_IDS.map((id) => `('${id}'::BIGINT)`).join(', ');
    await duckdb(`COPY (SELECT * FROM (VALUES ${list}) t(id)) TO '${files.path('ids.parquet')}' (FORMAT parquet)`);
    const table = await readTable(await listDataFiles(files.path('ids.parquet')), { engine: 'duckdb' });
    expect(valuesOf(table, 'id')).toEqual(EXTREME_IDS);
  });

  it('F10: a file that cannot be decoded is a DataError that names it', async () => {
    const path = files.path('broken.parquet');
    await duckdb(`COPY (SELECT hash(i) AS id FROM range(9000) t(i)) TO '${path}' (FORMAT parquet, COMPRESSION zstd)`);
    const bytes = readFileSync(path);
    bytes.fill(0xff, 20, 2000);
    writeFileSync(path, bytes);
    const error = await faultOf(readTable(await listDataFiles(path), { engine: 'duckdb' }));
    expect(error.fields).toMatchObject({ file: path, reason: 'row_group' });
  });

  it('names the package where it is not installed', async () => {
    const source = await listDataFiles(files.path('ids.parquet'));
    const plan = await planParquet(source);
    const error = await readPlannedParquet(
      source,
      plan,
      {},
      fillByDuckdb('engine duckdb', async () => null),
    ).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toMatch(
      /engine duckdb needs the package @duckdb\/node-api, which is not installed/,
    );
  });
});
