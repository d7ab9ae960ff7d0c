import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { type AtomicOptions, readAtomicFile, readAtomicFolder } from '../../../src/data/tables/atomic.js';
import { splitTokens, type Table } from '../../../src/data/tables/table.js';
import { DataError, StorageError } from '../../../src/errors.js';
import { sharedData } from '../../shared_data.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-atomic-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
function fileOf(content: string | Uint8Array): string {
  const path = join(folder, `f${files++}.inter`);
  writeFileSync(path, content);
  return path;
}

const read = (content: string | Uint8Array, options?: AtomicOptions): Promise<Table> =>
  readAtomicFile(fileOf(content), options);

/** Values of a column as plain values, whatever its kind. */
function valuesOf(table: Table, name: string): unknown[] {
  const column = table.columns.get(name)!;
  if (column.kind !== 'float_seq') return [...(column.values as ArrayLike<unknown> & Iterable<unknown>)];
  return Array.from({ length: table.rows }, (_, row) => [
    ...column.values.slice(column.offsets[row], column.offsets[row + 1]),
  ]);
}

async function faultOf(promise: Promise<unknown>): Promise<DataError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(DataError);
  return error as DataError;
}

const HEADER = 'user_id:token\titem_id:token\trating:float\n';

describe('readAtomicFile', () => {
  it('reads every type and keeps missing fields apart', async () => {
    const table = await read(
      'id:token\ttitle:token_seq\tprice:float\tvector:float_seq\n' +
        '007\t"Quoted, not\t1.5e1\t1 -2 .5\n' +
        '7305112233445566778\t\t\t\n' +
        'x\tdouble  space\t-0\t3\n',
    );
    expect(table.rows).toBe(3);
    expect(valuesOf(table, 'id')).toEqual(['007', '7305112233445566778', 'x']);
    expect(valuesOf(table, 'title')).toEqual(['"Quoted, not', '', 'double  space']);
    expect(valuesOf(table, 'price')).toEqual([15, NaN, -0]);
    expect(valuesOf(table, 'vector')).toEqual([[1, -2, 0.5], [], [3]]);
    expect(table.columns.get('id')!.missing).toBeNull();
    expect(table.columns.get('title')!.missing).toEqual(Uint8Array.of(0, 1, 0));
    expect(table.counters.missing).toEqual({ title: 1, price: 1, vector: 1 });
    const title = table.columns.get('title')!;
    if (title.kind !== 'token_seq') throw new Error('kind');
    expect(splitTokens(title, 0)).toEqual(['"Quoted,', 'not']);
    expect(splitTokens(title, 1)).toEqual([]);
  });

  it('F17: reads 64-bit integers exactly where asked', async () => {
    const content = 'a:token\tb:token\n-9223372036854775808\t18446744073709551615\n7305112233445566778\t0\n';
    const table = await read(content, { dtypes: { a: 'int64', b: 'uint64' } });
    expect(valuesOf(table, 'a')).toEqual([-(2n ** 63n), 7305112233445566778n]);
    expect(valuesOf(table, 'b')).toEqual([2n ** 64n - 1n, 0n]);
    for (const bad of ['9223372036854775808', '1.0', '1e3', '0x10', ' 1']) {
      const fault = await faultOf(read(`a:token\n${bad}\n`, { dtypes: { a: 'int64' } }));
      expect(fault.fields).toMatchObject({ reason: 'integer', line: 2, column: 'a' });
    }
    const negative = await faultOf(read('a:token\n-1\n', { dtypes: { a: 'uint64' } }));
    expect(negative.fields['reason']).toBe('integer');
  });

  it('F11: byte-order mark, CRLF, a last line without end and empty lines change nothing', async () => {
    const plain = await read(`${HEADER}1\t2\t3\n4\t5\t6\n`);
    const odd = await read(`\ufeff${HEADER.replace('\n', '\r\n')}1\t2\t3\r\n\r\n\n4\t5\t6`);
    expect(odd.columns).toEqual(plain.columns);
    expect(odd.counters.emptyLines).toBe(2);
  });

  it('is the same for every chunk size', async () => {
    const field = fc.string({ unit: 'grapheme', maxLength: 6 }).map((text) => text.replace(/[\t\n\r\0]/g, '_'));
    const anyTable = fc.record({
      rows: fc.array(fc.tuple(field, field, fc.double({ noNaN: true, noDefaultInfinity: true })), { maxLength: 8 }),
      chunkBytes: fc.integer({ min: 1, max: 40 }),
      end: fc.constantFrom('\n', '\r\n'),
    });
    await fc.assert(
      fc.asyncProperty(anyTable, async ({ rows, chunkBytes, end }) => {
        const lines = ['a:token', ...rows.map((row) => row.join('\t'))];
        lines[0] = 'a:token\tb:token_seq\tc:float';
        const table = await read(lines.join(end) + end, { chunkBytes });
        expect(table.rows).toBe(rows.length);
        expect(valuesOf(table, 'a')).toEqual(rows.map(([a]) => a));
        expect(valuesOf(table, 'b')).toEqual(rows.map(([, b]) => b));
        expect(valuesOf(table, 'c')).toEqual(rows.map(([, , c]) => c + 0)); // -0 is written as 0
      }),
      { numRuns: 60 },
    );
  });

  it('keeps only the columns asked for', async () => {
    const table = await read(`${HEADER}1\t2\tnot a number\n`, { columns: ['item_id'] });
    expect([...table.columns.keys()]).toEqual(['item_id']);
  });

  it('uses other separators and types from outside', async () => {
    const table = await read('u,i:token_seq\n1,a|b\n', {
      fieldSeparator: ',',
      seqSeparator: '|',
      types: { u: 'float' },
    });
    expect(valuesOf(table, 'u')).toEqual([1]);
    expect(table.columns.get('i')).toMatchObject({ separator: '|' });
  });
});

describe('F11: bad rows', () => {
  const bytes = (...parts: (string | number[])[]) => Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  const start = HEADER.length;
  const cases: [string, Uint8Array, object][] = [
    ['too few fields', bytes(HEADER, '1\t2\t3\n', '1\t2\n'), { reason: 'ragged', line: 3, byte: start + 6 }],
    ['too many fields', bytes(HEADER, '1\t2\t3\t4\n'), { reason: 'ragged', line: 2, byte: start }],
    ['bad UTF-8', bytes(HEADER, 'é\t', [0xc3, 0x28], '\t3\n'), { reason: 'utf8', line: 2, byte: start + 3 }],
    ['a character cut at the end', bytes(HEADER, '1\t2\t', [0xe2, 0x82]), { reason: 'utf8', byte: start + 4 }],
    ['surrogates', bytes(HEADER, [0xed, 0xa0, 0x80], '\t2\t3\n'), { reason: 'utf8', byte: start }],
    ['NUL', bytes(HEADER, '1\t', [0], '\t3\n'), { reason: 'nul', line: 2, byte: start + 2 }],
    ['a word for a number', bytes(HEADER, '1\t2\tthree\n'), { reason: 'number', column: 'rating' }],
    ['hexadecimal', bytes(HEADER, '1\t2\t0x10\n'), { reason: 'number', column: 'rating' }],
    ['not a number', bytes(HEADER, '1\t2\tNaN\n'), { reason: 'number', column: 'rating' }],
    ['overflow', bytes(HEADER, '1\t2\t1e999\n'), { reason: 'number', column: 'rating' }],
    ['blank number', bytes(HEADER, '1\t2\t \n'), { reason: 'number', column: 'rating' }],
    ['no id', bytes(HEADER, '\t2\t3\n'), { reason: 'missing', column: 'user_id', line: 2 }],
  ];

  it.each(cases)('%s: fail names file, line, byte and column', async (_, content, fields) => {
    const file = fileOf(content);
    const fault = await faultOf(readAtomicFile(file, { required: ['user_id'] }));
    expect(fault.code).toBe('DATA_ROW');
    expect(fault.fields).toMatchObject({ file, ...fields });
    expect(fault.message).toContain(`line ${String(fault.fields['line'])} (byte ${String(fault.fields['byte'])})`);
  });

  it.each(cases)('%s: skip counts it and keeps the rest', async (_, content, fields) => {
    const more = Buffer.concat([content, Buffer.from('\n8\t9\t10\n')]);
    const table = await read(more, { required: ['user_id'], onBadRow: 'skip', maxBadFraction: 0.5 });
    expect(table.counters.skipped).toEqual({ [(fields as { reason: string }).reason]: 1 });
    expect(valuesOf(table, 'rating').at(-1)).toBe(10);
  });

  it.each([1, 7, 64, 1000])('a giant row, read %i bytes at a time', async (chunkBytes) => {
    const content = `${HEADER}1\t2\t3\n${'x'.repeat(300)}\t2\t3\n4\t5\t6\n`;
    const options = { maxRowBytes: 64, chunkBytes };
    const fault = await faultOf(read(content, options));
    expect(fault.fields).toMatchObject({ reason: 'giant_row', line: 3, byte: start + 6 });
    const table = await read(content, { ...options, onBadRow: 'skip', maxBadFraction: 0.4 });
    expect(valuesOf(table, 'user_id')).toEqual(['1', '4']);
    expect(table.counters.skipped).toEqual({ giant_row: 1 });
    const exact = await read(`a:token_seq\r\n${'x'.repeat(64)}\r\n`, options);
    expect(exact.rows).toBe(1);
  });

  it('a share of bad rows above the limit stops, and names the first', async () => {
    const content = `${HEADER}1\t2\t3\nbad\n4\t5\t6\nworse\n`;
    const fault = await faultOf(read(content, { onBadRow: 'skip', maxBadFraction: 0.49 }));
    expect(fault.fields).toMatchObject({ line: 3, bad: 2, rows: 4 });
    expect(fault.message).toContain('2 of 4 rows are bad');
    expect((await faultOf(read(content, { onBadRow: 'skip' }))).code).toBe('DATA_ROW');
    expect((await read(content, { onBadRow: 'skip', maxBadFraction: 0.5 })).rows).toBe(2);
  });
});

describe('F12: bad headers', () => {
  const cases: [string, string | Uint8Array, AtomicOptions, string][] = [
    ['an empty file', '', {}, 'empty_file'],
    ['a byte-order mark alone', '\ufeff', {}, 'empty_file'],
    ['an empty first line', '\n1\t2\n', {}, 'empty_header'],
    ['a header without types', 'user_id\titem_id\n1\t2\n', {}, 'header_type'],
    ['an unknown type', 'user_id:word\n1\n', {}, 'header_type'],
    ['no name', ':token\n1\n', {}, 'header_name'],
    ['a name twice', 'a:token\ta:float\n1\t2\n', {}, 'duplicate_column'],
    ['missing columns', 'a:token\n1\n', { required: ['a', 'b', 'c'] }, 'missing_column'],
    ['too many columns', 'a:token\tb:token\n1\t2\n', { maxColumns: 1 }, 'too_many_columns'],
    ['an integer type for numbers', 'a:float\n1\n', { dtypes: { a: 'int64' } }, 'dtype'],
    ['bad UTF-8', Uint8Array.of(0x61, 0xff, 0x0a), {}, 'utf8'],
    ['a giant header', 'abcdefgh:token\n', { maxRowBytes: 8 }, 'giant_row'],
  ];

  it.each(cases)('%s', async (_, content, options, reason) => {
    const fault = await faultOf(read(content, options));
    expect(fault.code).toBe('DATA_SCHEMA');
    expect(fault.fields).toMatchObject({ reason });
  });

  it('one error lists every missing column', async () => {
    const fault = await faultOf(read('a:token\n1\n', { required: ['b'], columns: ['a', 'c'] }));
    expect(fault.fields['columns']).toEqual(['b', 'c']);
  });

  it('a header alone is a table without rows', async () => {
    const table = await read(HEADER);
    expect([table.rows, table.columns.size]).toEqual([0, 3]);
  });

  it('names a file that is not there, or cannot be read', async () => {
    expect((await faultOf(readAtomicFile(join(folder, 'none.inter')))).fields['reason']).toBe('missing_file');
    await expect(readAtomicFile(folder)).rejects.toBeInstanceOf(StorageError);
  });

  it('stops when aborted', async () => {
    await expect(read(HEADER, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
  });
});

describe('readAtomicFolder', () => {
  const dataset = (name: string, contents: Record<string, string>) => {
    const path = mkdtempSync(join(folder, `${name}-`));
    for (const [file, content] of Object.entries(contents)) writeFileSync(join(path, file), content);
    return path;
  };

  it('reads the only stem and reports what it ignores', async () => {
    const path = dataset('one', {
      'shop.inter': `${HEADER}1\t2\t3\n`,
      'shop.item': 'item_id:token\n2\n',
      'shop.kg': 'x',
      'shop.net': 'x',
    });
    const data = await readAtomicFolder(path);
    expect(data).toMatchObject({ stem: 'shop', user: null, ignored: ['shop.kg', 'shop.net'] });
    expect([data.inter!.rows, data.item!.rows, data.parts.size]).toEqual([1, 1, 0]);
  });

  it('of several stems takes the one named like the folder, else lists them', async () => {
    const path = dataset('many', { 'b.inter': HEADER, 'a.inter': HEADER });
    const fault = await faultOf(readAtomicFolder(path));
    expect(fault.fields).toMatchObject({ reason: 'several_stems', stems: ['a', 'b'] });
    expect((await readAtomicFolder(join(path, 'b'))).stem).toBe('b');
    const named = path.slice(path.lastIndexOf('/') + 1);
    writeFileSync(join(path, `${named}.inter`), HEADER);
    expect((await readAtomicFolder(path)).stem).toBe(named);
  });

  it('fails without a stem', async () => {
    expect((await faultOf(readAtomicFolder(dataset('none', {})))).fields['reason']).toBe('no_stem');
    expect((await faultOf(readAtomicFolder(join(folder, 'nowhere', 'x')))).fields['reason']).toBe('no_stem');
  });

  it('reads parts of a data set that comes split', async () => {
    const path = dataset('split', {
      's.train.inter': `${HEADER}1\t2\t3\n4\t5\t6\n`,
      's.valid.inter': `${HEADER}1\t2\t3\n`,
      's.test.inter': HEADER,
    });
    const { inter, parts } = await readAtomicFolder(path, { benchmarkFilename: ['train', 'valid', 'test'] });
    expect(inter).toBeNull();
    expect([...parts].map(([part, table]) => [part, table.rows])).toEqual([
      ['train', 2],
      ['valid', 1],
      ['test', 0],
    ]);
  });
});

const posters = sharedData('ml-latest-small-posters');
describe.skipIf(posters === null)('movie posters', () => {
  const required = { inter: ['user_id', 'item_id', 'rating', 'timestamp'], item: ['item_id'] };
  const distinct = (table: Table, column: string) => new Set(valuesOf(table, column)).size;
  const present = (table: Table, column: string) => table.rows - (table.counters.missing[column] ?? 0);

  it('core', async () => {
    const { inter, item } = await readAtomicFolder(join(posters!, 'ml-posters'), { required });
    expect([inter!.rows, distinct(inter!, 'user_id'), distinct(inter!, 'item_id')]).toEqual([62_444, 671, 1670]);
    expect([item!.rows, present(item!, 'image'), present(item!, 'plot')]).toEqual([1670, 1670, 1670]);
    expect(present(item!, 'overview')).toBe(1444);
  });

  it('full', async () => {
    const { inter, item } = await readAtomicFolder(join(posters!, 'ml-full'), { required });
    expect([inter!.rows, distinct(inter!, 'user_id'), distinct(inter!, 'item_id')]).toEqual([100_004, 671, 9066]);
    expect([item!.rows, present(item!, 'image')]).toEqual([9125, 1670]);
    expect([present(item!, 'plot'), present(item!, 'overview')]).toEqual([3152, 5299]);
  });

  it('asks which of the two', async () => {
    const fault = await faultOf(readAtomicFolder(posters!));
    expect(fault.fields['stems']).toEqual(['ml-full', 'ml-posters']);
  });
});
