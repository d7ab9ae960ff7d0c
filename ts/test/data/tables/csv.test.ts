import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readCsvFiles } from '../../../src/data/tables/csv.js';
import { listDataFiles } from '../../../src/data/tables/data_files.js';
import type { TableReadOptions } from '../../../src/data/tables/table_schema.js';
import { DataError } from '../../../src/errors.js';
import { duckdb, EXTREME_IDS, faultOf, kindsOf, scratch, valuesOf } from './tables_written.js';

const files = scratch('csv');
const read = async (content: string | Uint8Array, options?: TableReadOptions) =>
  readCsvFiles(await files.write('csv', content), options);

describe('readCsvFiles', () => {
  it('reads fields and takes the narrowest kind that loses nothing', async () => {
    const table = await read(
      'id,code,price,rating,title,big\n' +
        '1,007,2.5,4.0,"Good, ""old"" film",1\n' +
        '-1,12,3,5.0,"two\nlines",18446744073709551615\n' +
        '9223372036854775807,3,,3.5,plain,2\n',
    );
    expect(kindsOf(table)).toEqual({
      id: 'int64',
      code: 'token',
      price: 'float',
      rating: 'float',
      title: 'token',
      big: 'token',
    });
    expect(valuesOf(table, 'id')).toEqual([1n, -1n, 9223372036854775807n]);
    expect(valuesOf(table, 'code')).toEqual(['007', '12', '3']);
    expect(valuesOf(table, 'price')).toEqual([2.5, 3, null]);
    expect(valuesOf(table, 'title')).toEqual(['Good, "old" film', 'two\nlines', 'plain']);
    expect(valuesOf(table, 'big')).toEqual(['1', '18446744073709551615', '2']);
    expect(table.counters.missing).toEqual({ price: 1 });
  });

  it('reads what DuckDB writes, quoted everywhere or not, with the same bytes', async () => {
    const list =
      "['plain', 'a,b', 'say \"hi\"', 'line' || chr(10) || 'end', 'cr' || chr(13) || chr(10) || 'lf', ' é ', '']";
    const texts = `SELECT row_number() OVER () AS n, text FROM (SELECT unnest(${list}) AS text)`;
    await duckdb(
      `COPY (${texts}) TO '${files.path('a.csv')}' (HEADER)`,
      `COPY (${texts}) TO '${files.path('b.csv')}' (HEADER, FORCE_QUOTE *)`,
    );
    for (const name of ['a.csv', 'b.csv']) {
      const table = await readCsvFiles(await listDataFiles(files.path(name)));
      expect(valuesOf(table, 'n')).toEqual([1n, 2n, 3n, 4n, 5n, 6n, 7n]);
      expect(valuesOf(table, 'text')).toEqual(['plain', 'a,b', 'say "hi"', 'line\nend', 'cr\r\nlf', ' é ', null]);
    }
  });

  it('F17, F19: 64-bit ids come back as they were written', async () => {
    const table = await read(`id\n${EXTREME_IDS.join('\r\n')}\r\n`);
    expect(valuesOf(table, 'id')).toEqual(EXTREME_IDS);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n), { minLength: 1 }), async (ids) => {
        expect(valuesOf(await read(`id\n${ids.join('\n')}`), 'id')).toEqual(ids);
      }),
      { numRuns: 50 },
    );
  });

  it('any text comes back from quotes, in one record or several lines', async () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 12 }).filter((value) => !value.includes('\0'));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 20 }), async (rows) => {
        const quoted = (value: string): string => `"${value.replaceAll('"', '""')}"`;
        const table = await read(`a,b\n${rows.map((row) => row.map(quoted).join(',')).join('\n')}\n`, {
          dtypes: { a: 'token', b: 'token' },
        });
        expect(valuesOf(table, 'a')).toEqual(rows.map(([a]) => (a === '' ? null : a)));
        expect(valuesOf(table, 'b')).toEqual(rows.map(([, b]) => (b === '' ? null : b)));
      }),
      { numRuns: 100 },
    );
  });

  it('F11: byte-order mark, CRLF, empty lines, no line end at the end', async () => {
    const table = await read('\ufeffuser,item\r\n1,a\r\n\r\n2,b');
    expect(valuesOf(table, 'user')).toEqual([1n, 2n]);
    expect(valuesOf(table, 'item')).toEqual(['a', 'b']);
    expect(table.counters.emptyLines).toBe(1);
  });

  it.each([
    ['an open quote', 'a,b\n1,x\n2,"y\n3,z\n', 'open_quote', 3, 8],
    ['a quote inside a field', 'a,b\n1,x"y"\n', 'quote', 2, 4],
    ['text after a quote', 'a,b\n1,"x"y\n2,"z\n"\n', 'quote', 2, 4],
    ['too few fields', 'a,b\n1,x\n2\n', 'ragged', 3, 8],
    ['bad UTF-8', Buffer.concat([Buffer.from('a,b\n1,'), Buffer.from([0xff]), Buffer.from('\n')]), 'utf8', 2, 6],
    ['a NUL', 'a,b\n1,x\0\n', 'nul', 2, 7],
    ['a giant row', `a,b\n1,${'x'.repeat(2000)}\n2,y\n`, 'giant_row', 2, 4],
    ['a giant quoted field', `a,b\n1,"${'x\n'.repeat(1000)}`, 'open_quote', 2, 4],
    ['a word among inexact numbers', 'a,b\n1,4.0\n2,none\n', 'number', 3, 10],
  ])('F11: %s is named with line and byte, and can be skipped', async (_, content, reason, line, byte) => {
    const options = { maxRowBytes: 1000 };
    const error = await faultOf(read(content, options));
    expect(error.code).toBe('DATA_ROW');
    expect(error.fields).toMatchObject({ reason, line, byte });
    expect(error.message).toContain(`line ${line} (byte ${byte})`);
    const lines = content.toString().split('\n').length;
    const table = await read(content, { ...options, onBadRow: 'skip', maxBadFraction: 1 });
    expect(table.counters.skipped[reason]).toBeGreaterThanOrEqual(1);
    expect(table.rows).toBeLessThan(lines);
  });

  it('F11: an open quote costs one line, not the rest of the file', async () => {
    const table = await read('a,b\n1,x\n2,"y\n3,z\n4,w\n', { onBadRow: 'skip', maxBadFraction: 0.5 });
    expect(valuesOf(table, 'a')).toEqual([1n, 3n, 4n]);
    expect(table.counters.skipped).toEqual({ open_quote: 1 });
    const error = await faultOf(read('a,b\n1,x\n2,"y\n3,z\n', { onBadRow: 'skip', maxBadFraction: 0.1 }));
    expect(error.message).toMatch(/1 of 3 rows are bad, at most 0\.1/);
  });

  it.each([
    ['', 'empty_file'],
    ['\n', 'empty_header'],
    ['a,,b\n', 'header_name'],
    ['a,b,a\n', 'duplicate_column'],
    ['a,"b\n', 'open_quote'],
  ])('refuses the header %j', async (content, reason) => {
    expect((await faultOf(read(content))).fields.reason).toBe(reason);
  });

  it('F12: one error lists every column in which files differ; another order is no difference', async () => {
    await files.write('csv', 'user,item,time\n1,2,3\n', 'drift/a.csv');
    await files.write('csv', 'time,user,item\n6,4,5\n', 'drift/b.csv');
    const table = await readCsvFiles(await listDataFiles(files.path('drift')));
    expect(valuesOf(table, 'time')).toEqual([3n, 6n]);
    await files.write('csv', 'user,ts,item,label\n1,2,3,4\n', 'drift/c.csv');
    const error = await faultOf(readCsvFiles(await listDataFiles(files.path('drift'))));
    expect(error.code).toBe('DATA_SCHEMA');
    expect(error.message).toContain('c.csv (no "time"; "ts" is only here; "label" is only here)');
    const absent = await faultOf(read('a,b\n1,2\n', { required: ['a', 'user_id', 'item_id'] }));
    expect(absent.message).toMatch(/expected columns user_id, item_id, the file has a, b/);
    expect((await faultOf(read(`${'a'.repeat(3)},b,c\n`, { maxColumns: 2 }))).fields.reason).toBe('too_many_columns');
  });

  it('F12: counts the columns of a header before it compares them', async () => {
    const error = await faultOf(read(`${Array.from({ length: 5000 }, (_, i) => `c${i % 4999}`).join(',')}\n`));
    expect(error.fields.reason).toBe('too_many_columns');
  });

  it('F18: a missing id, label or time is an error with its line', async () => {
    const error = await faultOf(read('user,item\n1,2\n,3\n', { required: ['user'] }));
    expect(error.fields).toMatchObject({ reason: 'missing', line: 3, column: 'user' });
  });

  it('declared kinds win', async () => {
    const table = await read('a,b,c\n1,2,3\n', { dtypes: { a: 'token', b: 'float', c: 'uint64' } });
    expect(kindsOf(table)).toEqual({ a: 'token', b: 'float', c: 'uint64' });
    const error = await faultOf(read('a\n1\nx\n', { dtypes: { a: 'int64' } }));
    expect(error.fields).toMatchObject({ reason: 'integer', line: 3 });
  });

  it('F11: cut at every byte it is a whole table or an error, never another value', async () => {
    const whole = 'user,title\n123,"a ""b"", c"\n45,é\n6,"x\ny"\n';
    const bytes = Buffer.from(whole);
    const full = valuesOf(await read(bytes), 'title');
    for (let end = 0; end < bytes.length; end++) {
      const table = await read(bytes.subarray(0, end)).catch((error: unknown) => {
        expect(error).toBeInstanceOf(DataError);
        return null;
      });
      // Only the last row may be cut, and then it is shorter text: a text file does not say where it ends.
      if (table !== null && table.columns.has('title'))
        expect(valuesOf(table, 'title').slice(0, -1)).toEqual(full.slice(0, Math.max(0, table.rows - 1)));
    }
  });
});
