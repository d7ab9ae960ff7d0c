/**
 * RecBole atomic files: UTF-8, tab separated, a first line of `name:type` cells, no quoting and no escaping. A folder holds
 * `<stem>.inter` and perhaps `<stem>.item` and `<stem>.user`. Rules: data.md, sections 1 and 2.
 */
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { DataError } from '../../errors.js';
import { type ColumnBuilder, type ColumnKind, columnBuilder, isLongInteger } from './column_builders.js';
import { type Line, readLines } from './lines.js';
import type { Table } from './table.js';

export type AtomicType = 'token' | 'token_seq' | 'float' | 'float_seq';

export interface AtomicOptions {
  /** Default tab. */
  fieldSeparator?: string;
  /** Between the members of `token_seq` and `float_seq` fields; default one space. */
  seqSeparator?: string;
  /** Types of columns whose header cell has none (MMRec files). Without it such a header is refused. */
  types?: Readonly<Record<string, AtomicType>>;
  /** Further rules of columns: given a field, what was expected of it, or null where it is right. */
  checks?: Readonly<Record<string, (text: string) => string | null>>;
  /** `float` columns whose integers must keep every digit: times. */
  exact?: readonly string[];
  /** `token` columns that hold 64-bit integers. Others stay strings. */
  dtypes?: Readonly<Record<string, 'int64' | 'uint64'>>;
  /** Columns to keep; default all. */
  columns?: readonly string[];
  /** Columns that must exist and may not have an empty field: ids, label, time. */
  required?: readonly string[];
  /** `fail` (default) at the first bad row, or `skip` and count it. */
  onBadRow?: 'fail' | 'skip';
  /** Largest share of bad rows that `skip` accepts; default 0. */
  maxBadFraction?: number;
  /** Default 1 MiB. */
  maxRowBytes?: number;
  /** Default 4,096. */
  maxColumns?: number;
  /** Bytes read at a time; default 256 KiB. */
  chunkBytes?: number;
  signal?: AbortSignal;
}

interface HeaderCell {
  readonly name: string;
  readonly kind: ColumnKind;
}

const TYPES: ReadonlySet<string> = new Set<AtomicType>(['token', 'token_seq', 'float', 'float_seq']);
const FAULTS = {
  utf8: 'expected UTF-8, got a byte that is not',
  nul: 'expected text, got a NUL byte',
  giant_row: 'row is longer than the limit',
} as const;

/**
 * Reads one atomic file. Faults of the header are DataError DATA_SCHEMA, faults of a row DATA_ROW with file, line (from 1), byte
 * (offset in the file), column and reason; under `onBadRow: 'skip'` bad rows are left out and counted by reason.
 */
export async function readAtomicFile(path: string, options: AtomicOptions = {}): Promise<Table> {
  let reader: RowReader | null = null;
  for await (const lines of readLines(path, options)) {
    for (const line of lines) {
      if (reader) reader.read(line);
      else reader = new RowReader(path, parseHeader(path, line, options), options);
    }
  }
  if (!reader) throw schemaError(path, 'empty_file', 'expected a header line, the file is empty');
  return reader.finish((await stat(path)).size);
}

/** Names of the header's columns, whether they state a type or not. Throws as `readAtomicFile`. */
export async function readAtomicHeader(path: string, options: AtomicOptions = {}): Promise<string[]> {
  for await (const [line] of readLines(path, options)) {
    if (line === undefined) continue;
    if (line.fault) throw schemaError(path, line.fault, `header at byte ${line.byte}: ${FAULTS[line.fault]}`);
    return line.text.split(options.fieldSeparator ?? '\t').map((cell) => cell.replace(/:[^:]*$/, ''));
  }
  throw schemaError(path, 'empty_file', 'expected a header line, the file is empty');
}

function schemaError(file: string, reason: string, message: string, fields: Record<string, unknown> = {}): DataError {
  return new DataError('DATA_SCHEMA', `readAtomicFile: ${file}: ${message}`, { file, line: 1, reason, ...fields });
}

function parseHeader(file: string, line: Line, options: AtomicOptions): HeaderCell[] {
  const { fieldSeparator = '\t', types = {}, dtypes = {}, required = [], columns = [], maxColumns = 4096 } = options;
  if (line.fault)
    throw schemaError(file, line.fault, `header at byte ${line.byte}: ${FAULTS[line.fault]}`, { byte: line.byte });
  if (line.text.trim() === '') throw schemaError(file, 'empty_header', 'expected a header line, got an empty one');
  const cells = line.text.split(fieldSeparator);
  if (cells.length > maxColumns)
    throw schemaError(file, 'too_many_columns', `expected at most ${maxColumns} columns, got ${cells.length}`);
  const seen = new Set<string>();
  const header = cells.map((cell, index): HeaderCell => {
    const colon = cell.lastIndexOf(':');
    const name = colon < 0 ? cell : cell.slice(0, colon);
    const type = colon < 0 ? (Object.hasOwn(types, cell) ? types[cell] : undefined) : cell.slice(colon + 1);
    if (name === '')
      throw schemaError(file, 'header_name', `column ${index + 1} has no name, got "${cell}"`, { column: cell });
    if (type === undefined || !TYPES.has(type)) {
      const expected = [...TYPES].join(', ');
      throw schemaError(file, 'header_type', `expected name:type with type one of ${expected}, got "${cell}"`, {
        column: name,
      });
    }
    if (seen.has(name)) throw schemaError(file, 'duplicate_column', `column "${name}" occurs twice`, { column: name });
    seen.add(name);
    if (!Object.hasOwn(dtypes, name)) return { name, kind: type as AtomicType };
    if (type !== 'token')
      throw schemaError(file, 'dtype', `dtype ${dtypes[name]} is for token columns, "${name}" is ${type}`, {
        column: name,
      });
    return { name, kind: dtypes[name]! };
  });
  const absent = [...new Set([...required, ...columns])].filter((name) => !seen.has(name));
  if (absent.length > 0) {
    const message = `expected columns ${absent.join(', ')}, the header has ${[...seen].join(', ')}`;
    throw schemaError(file, 'missing_column', message, { columns: absent });
  }
  return header;
}

/** Says what is wrong with an integer that float64 would round. */
function exactNumber(name: string): (text: string) => string | null {
  return (text) =>
    isLongInteger(text) ? `an integer below 2^53 (or the type ${name}:token, which keeps all digits)` : null;
}

/** Turns lines into columns, one row at a time. */
class RowReader {
  private readonly separator: string;
  private readonly maxRowBytes: number;
  private readonly skip: boolean;
  private readonly maxBadFraction: number;
  /** Builder of each field; null for a column that is not kept. */
  private readonly builders: readonly (ColumnBuilder | null)[];
  private readonly required: readonly boolean[];
  private readonly checks: readonly (((text: string) => string | null) | null)[];
  private readonly skipped: Record<string, number> = {};
  private firstFault: DataError | null = null;
  private rows = 0;
  private bad = 0;
  private emptyLines = 0;

  constructor(
    private readonly file: string,
    private readonly header: readonly HeaderCell[],
    options: AtomicOptions,
  ) {
    const { columns, required = [], seqSeparator = ' ' } = options;
    this.separator = options.fieldSeparator ?? '\t';
    this.maxRowBytes = options.maxRowBytes ?? 1 << 20;
    this.skip = options.onBadRow === 'skip';
    this.maxBadFraction = options.maxBadFraction ?? 0;
    this.builders = header.map(({ name, kind }) =>
      !columns || columns.includes(name) || required.includes(name) ? columnBuilder(name, kind, seqSeparator) : null,
    );
    this.required = header.map(({ name }) => required.includes(name));
    const { checks = {}, exact = [] } = options;
    this.checks = header.map(({ name, kind }) => {
      if (Object.hasOwn(checks, name)) return checks[name]!;
      return kind === 'float' && exact.includes(name) ? exactNumber(name) : null;
    });
  }

  read(line: Line): void {
    if (line.fault) {
      const limit = line.fault === 'giant_row' ? ` of ${this.maxRowBytes} bytes` : '';
      this.reject(line, line.fault, FAULTS[line.fault] + limit);
      return;
    }
    if (line.text === '') {
      this.emptyLines++;
      return;
    }
    const fields = line.text.split(this.separator);
    if (fields.length !== this.header.length) {
      this.reject(line, 'ragged', `expected ${this.header.length} fields, got ${fields.length}`);
      return;
    }
    for (let index = 0; index < fields.length; index++) {
      const text = fields[index]!;
      const { name } = this.header[index]!;
      if (text === '' && this.required[index]) {
        this.reject(line, 'missing', `expected a value of "${name}", got an empty field`, name);
        return;
      }
      const expected = this.checks[index]?.(text) ?? null;
      if (expected !== null) {
        this.reject(line, 'value', `expected ${expected} in "${name}", got "${text.slice(0, 80)}"`, name);
        return;
      }
      const fault = this.builders[index]?.set(this.rows, text);
      if (fault) {
        this.reject(line, fault.reason, `expected ${fault.expected} in "${name}", got "${text.slice(0, 80)}"`, name);
        return;
      }
    }
    this.rows++;
  }

  private reject(line: Line, reason: string, message: string, column?: string): void {
    const { file } = this;
    const error = new DataError(
      'DATA_ROW',
      `readAtomicFile: ${file} line ${line.number} (byte ${line.byte}): ${message}`,
      { file, line: line.number, byte: line.byte, column, reason },
    );
    if (!this.skip) throw error;
    this.bad++;
    this.skipped[reason] = (this.skipped[reason] ?? 0) + 1;
    this.firstFault ??= error;
  }

  finish(bytes: number): Table {
    const { file, rows, bad } = this;
    if (bad > this.maxBadFraction * (rows + bad)) {
      const message = `readAtomicFile: ${file}: ${bad} of ${rows + bad} rows are bad, at most ${this.maxBadFraction} of them may be; the first: ${this.firstFault?.message}`;
      throw new DataError('DATA_ROW', message, { ...this.firstFault?.fields, bad, rows: rows + bad });
    }
    const columns = this.builders.flatMap((builder) => (builder ? [builder.finish(rows)] : []));
    const missing: Record<string, number> = {};
    for (const column of columns) {
      const count = column.missing?.reduce((sum, flag) => sum + flag, 0) ?? 0;
      if (count > 0) missing[column.name] = count;
    }
    return {
      name: basename(file),
      rows,
      columns: new Map(columns.map((column) => [column.name, column])),
      counters: { bytes, skipped: this.skipped, emptyLines: this.emptyLines, missing },
    };
  }
}

export interface AtomicFolder {
  readonly folder: string;
  readonly stem: string;
  /** `<stem>.inter`; null when parts were asked for. */
  readonly inter: Table | null;
  /** `<stem>.<part>.inter` in the order of `benchmarkFilename`; empty without it. */
  readonly parts: ReadonlyMap<string, Table>;
  readonly item: Table | null;
  readonly user: Table | null;
  /** Files of the data set that are not read: `.kg`, `.link`, `.net`. */
  readonly ignored: readonly string[];
}

/** `exact` is about the interactions. */
export interface AtomicFolderOptions extends Omit<AtomicOptions, 'columns' | 'required'> {
  /** Names of the parts when the data come split: `['train', 'valid', 'test']`. */
  benchmarkFilename?: readonly string[];
  /** Required columns by kind of file. */
  required?: Readonly<Partial<Record<'inter' | 'item' | 'user', readonly string[]>>>;
}

const IGNORED = ['.kg', '.link', '.net'];

/**
 * Reads a data set. `path` is a folder, whose stem is the only one or the one named like the folder, or `folder/stem`. Throws
 * DataError when there is no such stem, with the list when there are several.
 */
export async function readAtomicFolder(path: string, options: AtomicFolderOptions = {}): Promise<AtomicFolder> {
  const { benchmarkFilename = [], required = {}, exact, ...shared } = options;
  const { folder, stem, files } = await findStem(path, benchmarkFilename);
  const read = (suffix: string, kind: 'inter' | 'item' | 'user') =>
    readAtomicFile(join(folder, stem + suffix), {
      ...shared,
      required: required[kind] ?? [],
      ...(kind === 'inter' ? { exact } : {}),
    });
  const optional = (kind: 'item' | 'user') => (files.includes(`${stem}.${kind}`) ? read(`.${kind}`, kind) : null);
  const parts = new Map<string, Table>();
  for (const part of benchmarkFilename) parts.set(part, await read(`.${part}.inter`, 'inter'));
  return {
    folder,
    stem,
    inter: benchmarkFilename.length > 0 ? null : await read('.inter', 'inter'),
    parts,
    item: await optional('item'),
    user: await optional('user'),
    ignored: IGNORED.map((suffix) => stem + suffix).filter((file) => files.includes(file)),
  };
}

/** Folder and stem of a data set, with the files of the folder. Throws as `readAtomicFolder`. */
export async function findStem(
  path: string,
  parts: readonly string[] = [],
): Promise<{ folder: string; stem: string; files: readonly string[] }> {
  const whole = resolve(path);
  const isFolder = await stat(whole).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const folder = isFolder ? whole : dirname(whole);
  const files = await readdir(folder).catch(() => [] as string[]);
  return { folder, stem: chooseStem(path, folder, files, isFolder ? null : basename(whole), parts), files };
}

function chooseStem(
  path: string,
  folder: string,
  files: readonly string[],
  wanted: string | null,
  parts: readonly string[],
): string {
  const suffix = parts.length > 0 ? `.${parts[0]}.inter` : '.inter';
  const stems = files.filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length));
  const named = wanted ?? basename(folder);
  if (stems.includes(named)) return named;
  if (wanted === null && stems.length === 1) return stems[0]!;
  const found = stems.length > 0 ? stems.sort().join(', ') : 'none';
  const expected = wanted === null ? 'one data set' : `a data set "${wanted}"`;
  const advice = wanted === null && stems.length > 1 ? '; choose with folder/stem' : '';
  throw new DataError(
    'DATA_SCHEMA',
    `readAtomicFolder: expected ${expected} (*${suffix}) in ${path}, found ${found}${advice}`,
    { file: path, reason: stems.length > 1 ? 'several_stems' : 'no_stem', stems },
  );
}
