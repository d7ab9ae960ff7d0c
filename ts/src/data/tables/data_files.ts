/** Which files make one table: a file, a folder of files in name order, or a folder of `column=value` folders. */
import { readdir, stat } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import { DataError } from '../../errors.js';
import { guard } from '../../io/env.js';

export type FileFormat = 'parquet' | 'csv' | 'jsonl';

const FORMATS: ReadonlyMap<string, FileFormat> = new Map([
  ['.parquet', 'parquet'],
  ['.pq', 'parquet'],
  ['.csv', 'csv'],
  ['.jsonl', 'jsonl'],
  ['.ndjson', 'jsonl'],
]);

/** One file. `partition`: the columns that its folders name, as text; '' for a missing value. */
export interface DataFile {
  readonly path: string;
  /** Path below the folder that was asked for, with `/`. */
  readonly name: string;
  readonly bytes: number;
  readonly partition: Readonly<Record<string, string>>;
}

/** The files of one table, in name order. */
export interface DataFiles {
  readonly name: string;
  readonly format: FileFormat;
  readonly files: readonly DataFile[];
}

/** The format that a file name says; null for another. */
export function formatOf(name: string): FileFormat | null {
  return FORMATS.get(extname(name).toLowerCase()) ?? null;
}

const MAX_DEPTH = 16;
/** What Hive, Spark and DuckDB write for a missing partition value. */
const NO_VALUE = '__HIVE_DEFAULT_PARTITION__';

/**
 * Files at `path`: the file itself, or every Parquet, CSV or JSONL file below the folder, ordered by name, level by level (`part-10`
 * comes before `part-2`). A folder `column=value` gives its files that column. Names that begin with `.` or `_` and other extensions
 * are not data, nor are the paths in `except`. Throws DataError for a path that is not there, a folder without data, two formats, or partitions that do not agree;
 * StorageError for what cannot be read, a link to nothing among it.
 */
export async function listDataFiles(path: string, except: ReadonlySet<string> = new Set()): Promise<DataFiles> {
  const root = resolve(path);
  const status = await stat(root).catch(() => null);
  if (status === null)
    throw new DataError('DATA_SCHEMA', `data: expected a file or folder ${path}, there is none`, {
      file: path,
      reason: 'missing_file',
    });
  const name = basename(root);
  if (!status.isDirectory()) {
    const format = formatOf(name);
    if (format === null)
      throw new DataError('DATA_SCHEMA', `data: expected ${[...FORMATS.keys()].join(', ')} but received ${path}`, {
        file: path,
        reason: 'format',
      });
    return { name, format, files: [{ path: root, name, bytes: status.size, partition: {} }] };
  }
  const found: DataFile[] = [];
  await walk(root, '', {}, 0, found);
  const files = found.filter((file) => !except.has(file.path));
  const formats = new Set(files.map((file) => formatOf(file.name)!));
  const [format] = formats;
  if (format === undefined || formats.size > 1)
    throw new DataError(
      'DATA_SCHEMA',
      `data: expected files of one of the formats parquet, csv, jsonl in ${path} but found ${[...formats].join(' and ') || 'none'}`,
      { file: path, reason: formats.size > 1 ? 'several_formats' : 'no_files' },
    );
  const keys = (file: DataFile): string => Object.keys(file.partition).join(', ');
  const other = files.find((file) => keys(file) !== keys(files[0]!));
  if (other !== undefined)
    throw new DataError(
      'DATA_SCHEMA',
      `data: expected the same partition columns in every path of ${path} but ${files[0]!.name} has (${keys(files[0]!)}) and ${other.name} has (${keys(other)})`,
      { file: other.path, reason: 'partition' },
    );
  return { name, format, files };
}

async function walk(
  folder: string,
  below: string,
  partition: Readonly<Record<string, string>>,
  depth: number,
  files: DataFile[],
): Promise<void> {
  if (depth > MAX_DEPTH)
    throw new DataError('DATA_SCHEMA', `data: expected at most ${MAX_DEPTH} folders above a file but found ${folder}`, {
      file: folder,
      reason: 'depth',
    });
  for (const name of (await guard('readdir', folder, () => readdir(folder))).sort()) {
    if (name.startsWith('.') || name.startsWith('_')) continue;
    const path = join(folder, name);
    const status = await guard('stat', path, () => stat(path));
    if (status.isDirectory()) {
      const equals = name.indexOf('=');
      const own = equals < 1 ? {} : { [decoded(name.slice(0, equals), path)]: decoded(name.slice(equals + 1), path) };
      await walk(path, `${below}${name}/`, { ...partition, ...own }, depth + 1, files);
    } else if (status.isFile() && formatOf(name) !== null)
      files.push({ path, name: below + name, bytes: status.size, partition });
  }
}

function decoded(text: string, path: string): string {
  if (text === NO_VALUE) return '';
  try {
    return decodeURIComponent(text);
  } catch {
    throw new DataError('DATA_SCHEMA', `data: expected %XX escapes of UTF-8 in the folder name ${path}`, {
      file: path,
      reason: 'partition',
    });
  }
}
