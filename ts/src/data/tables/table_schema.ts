/** What all readers of tables share: options, the columns that are kept, and the comparison of schemas. */
import { DataError } from '../../errors.js';
import type { ColumnKind } from './column_builders.js';
import type { DataFile, DataFiles } from './data_files.js';
import type { RowPolicyOptions } from './row_policy.js';

/** Kinds that a user may give to a column; without one the fields decide. */
export type DeclaredKind = Extract<ColumnKind, 'token' | 'token_seq' | 'float' | 'int64' | 'uint64'>;

export interface TableReadOptions extends RowPolicyOptions {
  /** Columns to keep where the files have them; default all. Those that are required are always kept. */
  readonly columns?: readonly string[] | null;
  /** Columns that must exist and may not have an empty field: ids, label, time. */
  readonly required?: readonly string[];
  readonly dtypes?: Readonly<Record<string, DeclaredKind>>;
  /** Longest row in bytes; default 1 MiB. */
  readonly maxRowBytes?: number;
  /** Default 4,096. */
  readonly maxColumns?: number;
  /** Bytes read at a time; default 256 KiB. */
  readonly chunkBytes?: number;
  readonly signal?: AbortSignal;
}

/** Whether a column is kept. */
export function kept({ columns, required = [] }: TableReadOptions, name: string): boolean {
  return columns == null || columns.includes(name) || required.includes(name);
}

/** What one file says its columns are: name to type, in words that a message can show. */
export interface FileSchema {
  readonly file: DataFile;
  readonly columns: ReadonlyMap<string, string>;
}

/**
 * Checks the schemas of all files against the first one before any row is read. One DataError DATA_SCHEMA lists every column that is
 * missing, extra or of another type, file by file (`optional`: missing and extra columns are no difference), and every required column that no file has.
 */
export function checkSchemas(
  reader: string,
  schemas: readonly FileSchema[],
  { required = [], maxColumns = 4096 }: TableReadOptions,
  optional = false,
): void {
  const [first] = schemas;
  const differences: string[] = [];
  const names: string[] = [];
  for (const { file, columns: own } of schemas) {
    if (own.size > maxColumns)
      throw new DataError(
        'DATA_SCHEMA',
        `${reader}: ${file.path}: expected at most ${maxColumns} columns, got ${own.size}`,
        {
          file: file.path,
          reason: 'too_many_columns',
        },
      );
    const twice = Object.keys(file.partition).find((name) => own.has(name));
    if (twice !== undefined)
      throw new DataError(
        'DATA_SCHEMA',
        `${reader}: ${file.path}: column "${twice}" stands in the file and in its path`,
        {
          file: file.path,
          column: twice,
          reason: 'duplicate_column',
        },
      );
    const here: string[] = [];
    const differ = (name: string, text: string): void => {
      here.push(text);
      names.push(name);
    };
    for (const [name, type] of first!.columns) {
      const other = own.get(name);
      if (other === undefined && !optional) differ(name, `no "${name}"`);
      else if (other !== undefined && other !== type) differ(name, `"${name}" is ${other}, not ${type}`);
    }
    if (!optional) for (const name of own.keys()) if (!first!.columns.has(name)) differ(name, `"${name}" is only here`);
    if (here.length > 0) differences.push(`${file.name} (${here.join('; ')})`);
  }
  if (differences.length > 0)
    throw new DataError(
      'DATA_SCHEMA',
      `${reader}: expected the columns of ${first!.file.name} in every file but found others in ${differences.join(', ')}`,
      { file: first!.file.path, columns: [...new Set(names)], reason: 'schema_drift' },
    );
  const all = new Set(schemas.flatMap(({ columns: own, file }) => [...own.keys(), ...Object.keys(file.partition)]));
  const absent = [...new Set(required)].filter((name) => !all.has(name));
  if (absent.length > 0)
    throw new DataError(
      'DATA_SCHEMA',
      `${reader}: ${first!.file.path}: expected columns ${absent.join(', ')}, the file has ${[...all].join(', ')}`,
      { file: first!.file.path, columns: absent, reason: 'missing_column' },
    );
}

/** Bytes of all files. */
export function bytesOf({ files }: DataFiles): number {
  return files.reduce((sum, { bytes }) => sum + bytes, 0);
}
