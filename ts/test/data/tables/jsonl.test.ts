import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { listDataFiles } from '../../../src/data/tables/data_files.js';
import { readJsonlFiles } from '../../../src/data/tables/jsonl.js';
import type { TableReadOptions } from '../../../src/data/tables/table_schema.js';
import { DataError } from '../../../src/errors.js';
import { duckdb, EXTREME_IDS, faultOf, kindsOf, scratch, valuesOf } from './tables_written.js';

const files = scratch('jsonl');
const read = async (content: string | Uint8Array, options?: TableReadOptions) =>
  readJsonlFiles(await files.write('jsonl', content), options);

describe('readJsonlFiles', () => {
  it('reads scalars and lists; null and absent keys are missing', async () => {
    const table = await read(
      '{"id": 7305112233445566778, "price": 2, "title": "a \\"b\\" \\u00e9", "tags": ["x y", "z"], "v": [1, 2], "ok": true}\n' +
        '{"id": -1, "price": 2.5, "title": null, "tags": [], "v": [0.5], "late": "w"}\r\n',
    );
    expect(kindsOf(table)).toEqual({
      id: 'int64',
      price: 'float',
      title: 'token',
      tags: 'token_seq',
      v: 'float_seq',
      ok: 'int64',
      late: 'token',
    });
    expect(valuesOf(table, 'id')).toEqual([7305112233445566778n, -1n]);
    expect(valuesOf(table, 'price')).toEqual([2, 2.5]);
    expect(valuesOf(table, 'title')).toEqual(['a "b" é', null]);
    expect(valuesOf(table, 'tags')).toEqual([['x y', 'z'], []]);
    expect(valuesOf(table, 'v')).toEqual([[1, 2], [0.5]]);
    expect(valuesOf(table, 'ok')).toEqual([1n, null]);
    expect(valuesOf(table, 'late')).toEqual([null, 'w']);
    expect(table.counters.missing).toEqual({ title: 1, ok: 1, late: 1 });
  });

  it('reads what DuckDB writes', async () => {
    await duckdb(
      `COPY (SELECT unnest([${EXTREME_IDS.map((id) => `'${id}'::BIGINT`).join(', ')}]) AS id, 'say "hi"' AS text, [1.5, 2] AS v, NULL::INT AS none)
       TO '${files.path('duck.jsonl')}' (FORMAT json)`,
    );
    const table = await readJsonlFiles(await listDataFiles(files.path('duck.jsonl')));
    expect(valuesOf(table, 'id')).toEqual(EXTREME_IDS);
    expect(valuesOf(table, 'text')[0]).toBe('say "hi"');
    expect(valuesOf(table, 'v')[0]).toEqual([1.5, 2]);
    expect(table.counters.missing).toEqual({ none: EXTREME_IDS.length });
  });

  it('F17, F19: 64-bit ids come back as they were written', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n), { minLength: 1 }), async (ids) => {
        expect(valuesOf(await read(ids.map((id) => `{"id":${id}}`).join('\n')), 'id')).toEqual(ids);
      }),
      { numRuns: 50 },
    );
    const error = await faultOf(read(`{"id":${2n ** 63n}}\n`));
    expect(error.fields).toMatchObject({ reason: 'integer', line: 1, column: 'id' });
    expect(valuesOf(await read(`{"id":${2n ** 64n - 1n}}\n`, { dtypes: { id: 'uint64' } }), 'id')).toEqual([
      2n ** 64n - 1n,
    ]);
    // An integer that no double holds does not slip into a column of fractions.
    expect((await faultOf(read('{"x":0.5}\n{"x":9007199254740993}\n'))).fields).toMatchObject({
      reason: 'type',
      line: 2,
    });
  });

  it.each([
    ['no JSON', '{"a":1}\n{"a":\n', 'json', 2, 8],
    ['an array', '[1]\n', 'json', 1, 0],
    ['a duplicate key', '{"a":1,"a":2}\n', 'json', 1, 0],
    ['a prototype key', '{"__proto__":{"a":1}}\n', 'json', 1, 0],
    ['a number beyond float64', '{"a":1e999}\n', 'json', 1, 0],
    ['deep nesting', `{"a":${'['.repeat(100_000)}\n`, 'json', 1, 0],
    ['an object in a column', '{"a":{"b":1}}\n', 'type', 1, 0],
    ['a nested list', '{"a":[[1]]}\n', 'type', 1, 0],
    ['a string among numbers', '{"a":1}\n{"a":"x"}\n', 'type', 2, 8],
    ['a NUL', '{"a":"\0"}\n', 'nul', 1, 6],
    ['bad UTF-8', Buffer.from([0x7b, 0xff, 0x7d, 0x0a]), 'utf8', 1, 1],
    ['a giant row', `{"a":"${'x'.repeat(300_000)}"}\n{"a":"y"}\n`, 'giant_row', 1, 0],
  ])('F11: %s is named with line and byte, and can be skipped', async (_, content, reason, line, byte) => {
    const options = { maxRowBytes: 200_000 };
    const error = await faultOf(read(content, options));
    expect(error.code).toBe('DATA_ROW');
    expect(error.fields).toMatchObject({ reason, line, byte });
    const table = await read(content, { ...options, onBadRow: 'skip', maxBadFraction: 1 });
    expect(table.counters.skipped).toEqual({ [reason]: 1 });
  });

  it('F11: a row that is left out decides nothing about the rows after it', async () => {
    const skip = { onBadRow: 'skip', maxBadFraction: 0.5 } as const;
    const first = '{"a":0}\n'.repeat(100); // the schema is that of these rows
    const keys = await read(`${first}{"a":2,"b":3}\n{"a":4}\n{"a":5}\n`, { ...skip, maxColumns: 1 });
    expect([valuesOf(keys, 'a').slice(100), keys.counters.skipped]).toEqual([[4n, 5n], { too_many_columns: 1 }]);
    const integers = await read(`{"a":${2n ** 64n}}\n{"a":"x"}\n{"a":"y"}\n`, skip);
    expect(valuesOf(integers, 'a')).toEqual(['x', 'y']);
    const lists = await read('{"a":[1]}\n{"a":[0.5,9007199254740993]}\n{"a":["x"]}\n', skip);
    expect([kindsOf(lists).a, valuesOf(lists, 'a')]).toEqual(['token_seq', [['1'], ['x']]]);
  });

  it('F12: types that differ between files are one error with all columns', async () => {
    await files.write('jsonl', '{"user":1,"item":"a","x":1.5}\n', 'drift/a.jsonl');
    await files.write('jsonl', '{"item":2,"user":"b"}\n', 'drift/b.jsonl');
    const error = await faultOf(readJsonlFiles(await listDataFiles(files.path('drift'))));
    expect(error.message).toContain('b.jsonl ("user" is a string, not a number; "item" is a number, not a string)');
    expect((await faultOf(read('\n\n'))).fields.reason).toBe('empty_file');
    expect((await faultOf(read('{"a":1}\n', { required: ['user_id'] }))).message).toMatch(/expected columns user_id/);
    expect((await faultOf(read('{"a":1}\n{"a":null}\n', { required: ['a'] }))).fields).toMatchObject({
      reason: 'missing',
      line: 2,
      column: 'a',
    });
  });

  it('F11: cut at every byte it is fewer whole rows or an error', async () => {
    const bytes = Buffer.from('{"id":123,"t":"é"}\n{"id":45,"t":"x"}\n');
    for (let end = 0; end < bytes.length; end++) {
      const table = await read(bytes.subarray(0, end)).catch((error: unknown) => {
        expect(error).toBeInstanceOf(DataError);
        return null;
      });
      if (table !== null) expect(valuesOf(table, 'id')).toEqual([123n, 45n].slice(0, table.rows));
    }
  });
});
