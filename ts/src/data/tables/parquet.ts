/**
 * Parquet files as a table, row group by row group and column by column: memory is the table and one column of one row group.
 * Rules: data.md, section 1; faults F10, F12.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetRead, parquetSchema } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { DataError, OutOfMemoryError, StorageError } from '../../errors.js';
import { rowsWhere } from '../events.js';
import { turns } from '../turns.js';
import { type ColumnSink, columnSink, type Decoded } from './column_sink.js';
import type { DataFile, DataFiles } from './data_files.js';
import { inferredBuilder } from './inferred_column.js';
import { type FlatChunk, readFlatChunk } from './parquet_pages.js';
import { type ParquetColumn, parquetColumns } from './parquet_schema.js';
import { RowPolicy, tableOf } from './row_policy.js';
import type { Column, Table } from './table.js';
import { bytesOf, checkSchemas, kept, type TableReadOptions } from './table_schema.js';

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Times stay the integers of the file; text must be UTF-8. */
const parsers = {
  timestampFromMilliseconds: (value: bigint) => value,
  timestampFromMicroseconds: (value: bigint) => value,
  timestampFromNanoseconds: (value: bigint) => value,
  dateFromDays: (days: number) => days,
  stringFromBytes: (bytes: Uint8Array | undefined) => bytes && utf8.decode(bytes),
  jsonFromBytes: (bytes: Uint8Array | undefined) => bytes && utf8.decode(bytes),
};

/** A file whose footer has been read and compared. */
export interface ParquetFooter {
  readonly file: DataFile;
  readonly metadata: FileMetaData;
  readonly rows: number;
}

/** What the footers of all files say: everything that is known before a page is read. */
export interface ParquetPlan {
  readonly footers: readonly ParquetFooter[];
  readonly columns: readonly (ParquetColumn & { readonly kind: NonNullable<ParquetColumn['kind']> })[];
  readonly rows: number;
  /** Bytes of the table by column: 8 a row, and for text the bytes of its pages. */
  readonly memory: Readonly<Record<string, number>>;
  /** Largest uncompressed size of one column of one row group, among those that are read. */
  readonly largestChunk: number;
}

/** Rows of a table are numbered in 32 bits. */
const MAX_ROWS = 0x7fff_ffff;

/** Reads every footer and compares the schemas (F12). Throws DataError for broken footers, for columns of other types and for refused ones. */
export async function planParquet(source: DataFiles, options: TableReadOptions = {}): Promise<ParquetPlan> {
  const footers: ParquetFooter[] = [];
  for (const file of source.files) {
    footers.push(
      await withFile(file, async (buffer) => {
        const metadata = await readFooter(file, buffer);
        return { file, metadata, rows: Number(metadata.num_rows) };
      }),
    );
    options.signal?.throwIfAborted();
  }
  const described = footers.map(({ file, metadata }) => ({ file, columns: parquetColumns(metadata) }));
  checkSchemas(
    'readParquet',
    described.map(({ file, columns }) => ({ file, columns: new Map(columns.map(({ name, type }) => [name, type])) })),
    options,
  );
  const wanted = described[0]!.columns.filter(({ name }) => kept(options, name));
  const refused = wanted.filter(({ kind }) => kind === null);
  if (refused.length > 0)
    throw new DataError(
      'DATA_SCHEMA',
      `readParquet: ${source.files[0]!.path}: expected flat columns and lists of scalars but ${refused.map(({ name, type }) => `"${name}" is ${type}`).join(', ')}`,
      { file: source.files[0]!.path, columns: refused.map(({ name }) => name), reason: 'type' },
    );
  const columns = wanted.filter((column): column is ParquetPlan['columns'][number] => column.kind !== null);
  const rows = footers.reduce((sum, footer) => sum + footer.rows, 0);
  if (rows > MAX_ROWS)
    throw new DataError('DATA_SCHEMA', `readParquet: ${source.name}: expected at most ${MAX_ROWS} rows, got ${rows}`, {
      file: source.files[0]!.path,
      reason: 'too_many_rows',
    });
  const memory: Record<string, number> = {};
  let largestChunk = 0;
  for (const { name, kind } of columns) {
    let text = 0;
    for (const { metadata } of footers)
      for (const group of metadata.row_groups)
        for (const { meta_data: chunk } of group.columns) {
          if (chunk?.path_in_schema[0] !== name) continue;
          const bytes = Number(chunk.total_uncompressed_size);
          text += bytes;
          largestChunk = Math.max(largestChunk, bytes);
        }
    memory[name] = 8 * rows + (kind === 'int64' || kind === 'uint64' || kind === 'float' ? 0 : text);
  }
  return { footers, columns, rows, memory, largestChunk };
}

/** Rows [from, to) of the table are rows `start ..` of a file: one of its row groups. */
export interface PlacedGroup {
  readonly footer: ParquetFooter;
  /** From 0, within the file. */
  readonly group: number;
  readonly start: number;
  readonly from: number;
  readonly to: number;
}

/** Fills the sinks with all row groups; returns those that could not be read and that `policy` let pass. */
export type FillGroups = (
  groups: readonly PlacedGroup[],
  sinks: readonly ColumnSink[],
  policy: RowPolicy,
  plan: ParquetPlan,
  signal: AbortSignal | undefined,
) => Promise<ReadonlySet<PlacedGroup>>;

/**
 * Reads Parquet files below each other into one table: flat columns and lists of scalars, uncompressed, snappy, gzip, zstd, lz4 or
 * brotli. 64-bit integers stay 64 bits; booleans are 0 and 1; dates and times are the integers of the file, in its unit; null and
 * NaN are missing fields. DataError DATA_SCHEMA for footers and columns, DATA_ROW for pages and rows, with file, rowGroup (from 0),
 * row (of the file), column and reason. A broken row group fails, or is left out whole under `onBadRow: 'skip_row_group'`.
 */
export async function readParquetFiles(source: DataFiles, options: TableReadOptions = {}): Promise<Table> {
  return readPlannedParquet(source, await planParquet(source, options), options);
}

/** The table of a plan. `fill`: who decodes the pages. */
export async function readPlannedParquet(
  source: DataFiles,
  plan: ParquetPlan,
  options: TableReadOptions,
  fill: FillGroups = fillByRowGroup,
): Promise<Table> {
  const { footers, columns, rows } = plan;
  const { required = [], signal } = options;
  const paths = pathColumns(footers, options);
  const policy = new RowPolicy('readParquet', options);
  const sinks = allocate(columns, rows);
  const groups = placedGroups(footers);
  const unreadable = await fill(groups, sinks, policy, plan, signal);

  // Rows without an id, label or time; a row group that was left out has no rows.
  let keep: Int32Array | null = null;
  let all = sinks.map((sink) => sink.finish(rows, null));
  const holes = all.filter(({ name, missing }) => missing !== null && required.includes(name));
  if (unreadable.size > 0 || holes.length > 0) {
    const out = new Uint8Array(rows);
    for (const { from, to } of unreadable) out.fill(1, from, to);
    for (const { name, missing } of holes)
      for (const { footer, group, start, from, to } of groups)
        for (let row = from; row < to; row++) {
          if (missing![row] === 0 || out[row] === 1) continue;
          const place = { file: footer.file.path, rowGroup: group, row: start + row - from };
          policy.reject(place, 'missing', `expected a value of "${name}", got none`, name);
          out[row] = 1;
        }
    keep = rowsWhere(out, 0);
    all = sinks.map((sink) => sink.finish(rows, keep));
  }
  const count = keep?.length ?? rows;
  policy.check(source.name, count);
  return tableOf(source.name, count, [...all, ...paths(keep)], { bytes: bytesOf(source), skipped: policy.skipped });
}

function placedGroups(footers: readonly ParquetFooter[]): PlacedGroup[] {
  const groups: PlacedGroup[] = [];
  let from = 0;
  for (const footer of footers) {
    let start = 0;
    for (const [group, { num_rows: count }] of footer.metadata.row_groups.entries()) {
      const rows = Number(count);
      groups.push({ footer, group, start, from, to: from + rows });
      start += rows;
      from += rows;
    }
  }
  return groups;
}

/** One column of one row group at a time: flat ones page by page, lists at once. */
const fillByRowGroup: FillGroups = async (groups, sinks, policy, { footers, columns }, signal) => {
  const turn = turns(signal);
  const unreadable = new Set<PlacedGroup>();
  for (const footer of footers)
    await withFile(footer.file, async (buffer) => {
      for (const place of groups) {
        if (place.footer !== footer) continue;
        for (const [at, sink] of sinks.entries()) {
          signal?.throwIfAborted();
          try {
            if (columns[at]!.list) await readListChunk(buffer, sink, place);
            else await readFlatChunk(buffer, flatChunk(sink, place), turn);
          } catch (error) {
            if (error instanceof StorageError || signal?.aborted === true) throw error;
            const { from, to, group } = place;
            const message = `column "${sink.name}": ${messageOf(error)}`;
            policy.reject(
              { file: footer.file.path, rowGroup: group },
              'row_group',
              message,
              sink.name,
              to - from,
              error,
            );
            unreadable.add(place);
            break;
          }
          await turn();
        }
      }
    });
  return unreadable;
};

function allocate(columns: ParquetPlan['columns'], rows: number): ColumnSink[] {
  try {
    return columns.map(({ name, kind }) => columnSink(name, kind, rows));
  } catch (error) {
    throw new OutOfMemoryError(
      'HOST_MEMORY',
      `readParquet: expected memory for ${rows} rows of ${columns.length} columns`,
      { requested: 8 * rows * columns.length },
      { cause: error },
    );
  }
}

/** The columns of partition folders, made when the rows are known. */
export function pathColumns(
  footers: readonly { readonly file: DataFile; readonly rows: number }[],
  options: TableReadOptions,
): (keep: Int32Array | null) => Column[] {
  const names = Object.keys(footers[0]!.file.partition).filter((name) => kept(options, name));
  for (const { file } of footers)
    for (const name of names)
      if (file.partition[name] === '' && options.required?.includes(name) === true)
        throw new DataError('DATA_SCHEMA', `readParquet: ${file.path}: expected a value of "${name}" in the path`, {
          file: file.path,
          column: name,
          reason: 'missing',
        });
  return (keep) =>
    names.map((name) => {
      const builder = inferredBuilder(name);
      let [base, at] = [0, 0];
      for (const { file, rows } of footers) {
        const text = file.partition[name]!;
        if (keep === null) for (let row = 0; row < rows; row++) builder.set(base + row, text);
        else while (at < keep.length && keep[at]! < base + rows) builder.set(at++, text);
        base += rows;
      }
      return builder.finish(keep?.length ?? base);
    });
}

function flatChunk(sink: ColumnSink, { footer, group, from, to }: PlacedGroup): FlatChunk {
  const root = parquetSchema(footer.metadata);
  const node = root.children.find(({ element }) => element.name === sink.name);
  const metadata = footer.metadata.row_groups[group]!.columns.find(
    (chunk) => chunk.meta_data?.path_in_schema[0] === sink.name,
  )?.meta_data;
  if (node === undefined || metadata === undefined) throw new RangeError('expected the column in every row group');
  return { schemaPath: [root, node], metadata, parsers, sink, first: from, rows: to - from };
}

/** Decodes a column of lists of one row group into the sink. */
async function readListChunk(
  file: AsyncBuffer,
  sink: ColumnSink,
  { footer, start, from, to }: PlacedGroup,
): Promise<void> {
  const end = start + to - from;
  const pieces: { readonly values: Decoded; readonly row: number }[] = [];
  await parquetRead({
    file,
    metadata: footer.metadata,
    compressors,
    parsers,
    columns: [sink.name],
    rowStart: start,
    rowEnd: end,
    onChunk: ({ columnData, rowStart }) => {
      pieces.push({ values: columnData, row: rowStart });
    },
  });
  let filled = 0;
  for (const { values, row } of pieces) {
    if (row !== start + filled || filled + values.length > end - start)
      throw new RangeError(`expected ${end - start} values, got others`);
    sink.write(from + filled, values);
    filled += values.length;
  }
  if (filled !== end - start) throw new RangeError(`expected ${end - start} values, got ${filled}`);
}

function messageOf(error: unknown): string {
  return `expected pages that can be decoded: ${error instanceof Error ? error.message : String(error)}`;
}

async function readFooter(file: DataFile, buffer: AsyncBuffer): Promise<FileMetaData> {
  try {
    const metadata = await parquetMetadataAsync(buffer, { parsers, geoparquet: false });
    const rows = metadata.row_groups.reduce((sum, { num_rows: count }) => sum + count, 0n);
    if (rows !== metadata.num_rows || metadata.row_groups.some(({ num_rows: count }) => count < 0n))
      throw new RangeError(`row groups of ${rows} rows do not make ${metadata.num_rows}`);
    parquetColumns(metadata);
    return metadata;
  } catch (error) {
    if (error instanceof StorageError) throw error;
    throw new DataError(
      'DATA_SCHEMA',
      `readParquet: ${file.path}: expected a Parquet file with a whole footer: ${error instanceof Error ? error.message : String(error)}`,
      { file: file.path, reason: 'footer' },
      { cause: error },
    );
  }
}

/** Runs `use` with the bytes of a file; the file is closed afterwards. */
async function withFile<T>(file: DataFile, use: (buffer: AsyncBuffer) => Promise<T>): Promise<T> {
  let handle: FileHandle;
  try {
    handle = await open(file.path, 'r');
  } catch (error) {
    throw storageError(error, file.path, 'open');
  }
  try {
    const { size } = await handle.stat();
    const read = async (start: number, end: number): Promise<ArrayBuffer> => {
      const length = end - start;
      if (!(start >= 0 && length >= 0 && end <= size))
        throw new RangeError(`expected bytes ${start} to ${end} within the ${size} of the file`);
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length; ) {
        const { bytesRead } = await handle.read(bytes, at, length - at, start + at).catch((error: unknown) => {
          throw storageError(error, file.path, 'read');
        });
        if (bytesRead === 0) throw new RangeError(`the file ended at byte ${start + at}`);
        at += bytesRead;
      }
      return bytes.buffer;
    };
    return await use({
      byteLength: size,
      slice(start, end = size) {
        const bytes = read(start, end);
        bytes.catch(() => undefined); // read ahead for a column that may fail before it waits for them
        return bytes;
      },
    });
  } finally {
    await handle.close();
  }
}

function storageError(error: unknown, path: string, call: string): StorageError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'EIO';
  return new StorageError(code, `readParquet: could not ${call} ${path}: ${code}`, { path, call }, { cause: error });
}
