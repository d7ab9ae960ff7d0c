/** JSONL files as a table: one object per line, read so that integers keep every digit. Rules: data.md, section 1; faults F11, F12, F17. */
import { parse } from 'lossless-json';
import { DataError } from '../../errors.js';
import { columnBuilder } from './column_builders.js';
import type { DataFile, DataFiles } from './data_files.js';
import { inferredBuilder } from './inferred_column.js';
import { declaredJsonColumn, type JsonColumn, jsonColumn } from './json_column.js';
import { type Line, readLines } from './lines.js';
import { RowPolicy, tableOf } from './row_policy.js';
import type { Table } from './table.js';
import { bytesOf, checkSchemas, kept, type TableReadOptions } from './table_schema.js';

/** Rows whose keys and types stand for their file in the comparison of schemas. */
const SAMPLE_ROWS = 100;

/**
 * Reads JSONL files below each other into one table. A key that a row does not have is a missing field, as null is; a key that only
 * later rows have makes a column that is missing before. Numbers without fraction or exponent are int64, others float64; strings and
 * numbers do not mix in a column. A key that a row has twice is refused unless both values are equal. DataError DATA_ROW with file, line, byte, column and reason.
 */
export async function readJsonlFiles(source: DataFiles, options: TableReadOptions = {}): Promise<Table> {
  const { required = [], maxColumns = 4096, maxRowBytes = 1 << 20, dtypes = {} } = options;
  const schemas = [];
  for (const file of source.files) schemas.push({ file, columns: await sampledTypes(file, options) });
  checkSchemas('readJsonl', schemas, options, true);
  const policy = new RowPolicy('readJsonl', options);
  const columns = new Map<string, JsonColumn>();
  let rows = 0;
  let emptyLines = 0;
  const columnFor = (name: string): JsonColumn => {
    const column = Object.hasOwn(dtypes, name)
      ? declaredJsonColumn(columnBuilder(name, dtypes[name]!, ' '))
      : jsonColumn(name);
    for (let row = 0; row < rows; row++) column.set(row, null);
    columns.set(name, column);
    return column;
  };
  const paths = new Map(Object.keys(source.files[0]!.partition).map((name) => [name, inferredBuilder(name)]));

  /** Writes a line as the next row; false when it was left out. */
  const read = (file: DataFile, line: Line): boolean => {
    const place = { file: file.path, line: line.number, byte: line.byte };
    const reject = (reason: string, message: string, column?: string): false => {
      policy.reject(place, reason, message, column);
      return false;
    };
    if (line.fault !== null)
      return reject(
        line.fault,
        line.fault === 'giant_row' ? `row is longer than the limit of ${maxRowBytes} bytes` : FAULTS[line.fault],
      );
    const row = parseRow(line.text);
    if (typeof row === 'string') return reject('json', row);
    for (const name of required)
      if (!Object.hasOwn(file.partition, name) && (row[name] ?? '') === '')
        return reject('missing', `expected a value of "${name}", got none`, name);
    for (const [name, value] of Object.entries(row)) {
      if (!kept(options, name)) continue;
      if (Object.hasOwn(file.partition, name)) return reject('duplicate_column', `"${name}" stands in the path`, name);
      if (columns.size === maxColumns && !columns.has(name))
        return reject('too_many_columns', `expected at most ${maxColumns} columns`, name);
      const column = columns.get(name) ?? columnFor(name);
      const fault = column.set(rows, value);
      if (fault !== null)
        return reject(fault.reason, `expected ${fault.expected} in "${name}", got ${shown(value)}`, name);
    }
    // Keys that this row lacks.
    for (const [name, column] of columns) if (!Object.hasOwn(row, name)) column.set(rows, null);
    for (const [name, builder] of paths) builder.set(rows, file.partition[name]!);
    return true;
  };

  for (const file of source.files)
    for await (const lines of readLines(file.path, options))
      for (const line of lines) {
        if (line.fault === null && line.text.trim() === '') emptyLines++;
        else if (read(file, line)) rows++;
      }
  policy.check(source.name, rows);
  const finished = [...columns.values(), ...[...paths.values()].filter(({ name }) => kept(options, name))];
  return tableOf(
    source.name,
    rows,
    finished.map((column) => column.finish(rows)),
    { bytes: bytesOf(source), skipped: policy.skipped, emptyLines },
  );
}

const FAULTS = {
  utf8: 'expected UTF-8, got a byte that is not',
  nul: 'expected text, got a NUL byte',
} as const;

const INTEGER = /^-?\d+$/;

/** The object of a line, or what is wrong with it. */
function parseRow(text: string): Record<string, unknown> | string {
  let value: unknown;
  try {
    value = parse(text, null, {
      parseNumber: (digits) => {
        if (INTEGER.test(digits)) return BigInt(digits);
        const number = Number(digits);
        if (!Number.isFinite(number)) throw new SyntaxError(`${digits.slice(0, 40)} is beyond float64`);
        return number;
      },
    });
  } catch (error) {
    // A deep nesting overflows the stack of the parser: RangeError.
    return `expected one JSON object, got ${error instanceof SyntaxError ? error.message : 'nested lists'}`;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return `expected one JSON object, got ${shown(value)}`;
  if (Object.hasOwn(value, '__proto__')) return 'expected no key "__proto__"';
  return value as Record<string, unknown>;
}

function shown(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : 'an object';
  return (typeof value === 'string' ? JSON.stringify(value) : String(value)).slice(0, 80);
}

/** Types of the first rows that can be read, by key. */
async function sampledTypes(file: DataFile, options: TableReadOptions): Promise<Map<string, string>> {
  const types = new Map<string, string>();
  let rows = 0;
  for await (const lines of readLines(file.path, options)) {
    for (const { text, fault } of lines) {
      if (rows === SAMPLE_ROWS) break;
      if (fault === null && text.trim() === '') continue;
      rows++;
      const row = fault === null ? parseRow(text) : fault;
      if (typeof row === 'string') continue; // the reader says what is wrong with it
      for (const [name, value] of Object.entries(row)) if (value !== null) types.set(name, typeText(value));
    }
    if (rows === SAMPLE_ROWS) break;
  }
  if (rows === 0)
    throw new DataError(
      'DATA_SCHEMA',
      `readJsonl: ${file.path}: expected one JSON object per line, the file has none`,
      {
        file: file.path,
        reason: 'empty_file',
      },
    );
  return types;
}

function typeText(value: unknown): string {
  if (typeof value === 'string') return 'a string';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : 'a number';
}
