/** CSV files as a table. Rules: data.md, section 1; faults F11, F12. */
import { DataError } from '../../errors.js';
import { type ColumnBuilder, columnBuilder } from './column_builders.js';
import { type CsvRecord, readCsvRecords } from './csv_records.js';
import type { DataFile, DataFiles } from './data_files.js';
import { inferredBuilder } from './inferred_column.js';
import { RowPolicy, tableOf } from './row_policy.js';
import type { Table } from './table.js';
import { bytesOf, checkSchemas, kept, type TableReadOptions } from './table_schema.js';

/**
 * Reads CSV files below each other into one table: UTF-8, comma, RFC 4180 quotes, LF or CRLF, byte-order mark allowed, a header line
 * required. Columns go by name and may stand in another order in each file. Kinds are those of `dtypes`, else what the fields are
 * (`inferredBuilder`). An empty field is missing, quoted or not. DataError DATA_SCHEMA for headers, DATA_ROW for rows, with file,
 * line, byte, column and reason.
 */
export async function readCsvFiles(source: DataFiles, options: TableReadOptions = {}): Promise<Table> {
  const headers = new Map<DataFile, readonly string[]>();
  for (const file of source.files) headers.set(file, await readHeader(file, options));
  checkSchemas(
    'readCsv',
    [...headers].map(([file, names]) => ({ file, columns: new Map(names.map((name) => [name, 'text'])) })),
    options,
  );
  const policy = new RowPolicy('readCsv', options);
  const builders = textBuilders(source, [...headers.values()][0]!, options);
  let rows = 0;
  let emptyLines = 0;
  for (const file of source.files) {
    const reader = new FileRows(file, headers.get(file)!, builders, policy, options);
    let header = true;
    for await (const records of readCsvRecords(file.path, options)) {
      for (const record of records) {
        if (header) header = false;
        else if (record.fields?.length === 1 && record.fields[0] === '') emptyLines++;
        else if (reader.read(record, rows)) rows++;
      }
    }
  }
  policy.check(source.name, rows);
  const columns = [...builders.values()].map((builder) => builder.finish(rows));
  return tableOf(source.name, rows, columns, { bytes: bytesOf(source), skipped: policy.skipped, emptyLines });
}

/** Builders of the columns that are kept: those of the files in their order, then those of the path. */
function textBuilders(
  { files }: DataFiles,
  names: readonly string[],
  options: TableReadOptions,
): ReadonlyMap<string, ColumnBuilder> {
  const { dtypes = {} } = options;
  const all = [...names, ...Object.keys(files[0]!.partition)].filter((name) => kept(options, name));
  return new Map(
    all.map((name) => [
      name,
      Object.hasOwn(dtypes, name) ? columnBuilder(name, dtypes[name]!, ' ') : inferredBuilder(name),
    ]),
  );
}

/** The records of one file, turned into rows. */
class FileRows {
  private readonly fields: readonly {
    readonly name: string;
    readonly builder: ColumnBuilder | null;
    readonly required: boolean;
  }[];
  private readonly fixed: readonly { readonly builder: ColumnBuilder; readonly text: string }[];

  constructor(
    private readonly file: DataFile,
    header: readonly string[],
    builders: ReadonlyMap<string, ColumnBuilder>,
    private readonly policy: RowPolicy,
    { required = [] }: TableReadOptions,
  ) {
    this.fields = header.map((name) => ({
      name,
      builder: builders.get(name) ?? null,
      required: required.includes(name),
    }));
    this.fixed = Object.entries(file.partition).flatMap(([name, text]) => {
      const builder = builders.get(name);
      if (text === '' && required.includes(name))
        throw new DataError('DATA_SCHEMA', `readCsv: ${file.path}: expected a value of "${name}" in the path`, {
          file: file.path,
          column: name,
          reason: 'missing',
        });
      return builder === undefined ? [] : [{ builder, text }];
    });
  }

  /** Writes a record as row `row`; false when it was left out. */
  read(record: CsvRecord, row: number): boolean {
    const place = { file: this.file.path, line: record.line, byte: record.byte };
    const { fields, fault } = record;
    if (fields === null) {
      this.policy.reject(place, fault!.reason, fault!.message);
      return false;
    }
    if (fields.length !== this.fields.length) {
      this.policy.reject(place, 'ragged', `expected ${this.fields.length} fields, got ${fields.length}`);
      return false;
    }
    for (let i = 0; i < fields.length; i++) {
      const text = fields[i]!;
      const { name, builder, required } = this.fields[i]!;
      if (text === '' && required) {
        this.policy.reject(place, 'missing', `expected a value of "${name}", got an empty field`, name);
        return false;
      }
      const bad = builder?.set(row, text);
      if (bad) {
        const message = `expected ${bad.expected} in "${name}", got "${text.slice(0, 80)}"`;
        this.policy.reject(place, bad.reason, message, name);
        return false;
      }
    }
    for (const { builder, text } of this.fixed) builder.set(row, text);
    return true;
  }
}

async function readHeader(file: DataFile, options: TableReadOptions): Promise<readonly string[]> {
  const fail = (reason: string, message: string, fields: object = {}): DataError =>
    new DataError('DATA_SCHEMA', `readCsv: ${file.path}: ${message}`, { file: file.path, line: 1, reason, ...fields });
  for await (const [record] of readCsvRecords(file.path, options)) {
    if (record === undefined) continue; // the header's end has not been read
    if (record.fault !== null)
      throw fail(record.fault.reason, `header at byte ${record.byte}: ${record.fault.message}`, { byte: record.byte });
    const names = record.fields!;
    if (names.length === 1 && names[0] === '') throw fail('empty_header', 'expected a header line, got an empty one');
    const unnamed = names.indexOf('');
    if (unnamed >= 0) throw fail('header_name', `expected a name of column ${unnamed + 1}, got an empty field`);
    const { maxColumns = 4096 } = options;
    if (names.length > maxColumns)
      throw fail('too_many_columns', `expected at most ${maxColumns} columns, got ${names.length}`);
    const seen = new Set<string>();
    for (const name of names) {
      if (seen.has(name)) throw fail('duplicate_column', `column "${name}" occurs twice`, { column: name });
      seen.add(name);
    }
    return names;
  }
  throw fail('empty_file', 'expected a header line, the file is empty');
}
