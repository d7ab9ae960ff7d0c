/**
 * Parquet through DuckDB, an optional package: row groups that are too large to decode at once stream by in chunks of 2,048 rows. Schema,
 * kinds and missing fields follow the rules of `readParquetFiles`.
 */
import { ConfigError, DataError } from '../../errors.js';
import type { Decoded } from './column_sink.js';
import type { FillGroups, ParquetPlan } from './parquet.js';

type PlannedColumn = ParquetPlan['columns'][number];
type Duckdb = typeof import('@duckdb/node-api');

/** Memory that DuckDB may take for its buffers. */
const MEMORY_LIMIT = '1GB';

/** The package, or null where it is not installed. */
export async function loadDuckdb(): Promise<Duckdb | null> {
  return import('@duckdb/node-api').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'MODULE_NOT_FOUND') return null;
    throw error;
  });
}

/**
 * Fills columns by a streaming scan of each file. ConfigError where the package is not installed, DataError for a file that DuckDB
 * cannot read: it knows no row groups, so none is left out.
 */
export function fillByDuckdb(why: string, load: () => Promise<Duckdb | null> = loadDuckdb): FillGroups {
  return async (_groups, sinks, _policy, { footers, columns }, signal) => {
    const duckdb = await load();
    if (duckdb === null)
      throw new ConfigError(
        `data: ${why} needs the package @duckdb/node-api, which is not installed (npm install @duckdb/node-api)`,
        {
          key: 'data.engine',
        },
      );
    const instance = await duckdb.DuckDBInstance.create(':memory:', { memory_limit: MEMORY_LIMIT });
    const connection = await instance.connect();
    try {
      let base = 0;
      for (const { file, rows } of footers) {
        const fail = (message: string, cause?: unknown): DataError =>
          new DataError(
            'DATA_ROW',
            `readParquet: ${file.path}: ${message}`,
            { file: file.path, reason: 'row_group' },
            { cause },
          );
        let row = 0;
        try {
          const result = await connection.stream(selectOf(file.path, columns));
          for (
            let chunk = await result.fetchChunk();
            chunk !== null && chunk.rowCount > 0;
            chunk = await result.fetchChunk()
          ) {
            signal?.throwIfAborted();
            const { rowCount } = chunk;
            if (row + rowCount > rows) throw fail(`expected ${rows} rows, got more`);
            for (const [at, sink] of sinks.entries()) {
              const values = chunk.getColumnValues(at);
              const { list } = columns[at]!;
              sink.write(base + row, list ? values.map((value) => membersOf(value)) : values);
            }
            row += rowCount;
          }
        } catch (error) {
          if (error instanceof DataError || signal?.aborted === true) throw error;
          throw fail(`DuckDB could not read it: ${error instanceof Error ? error.message : String(error)}`, error);
        }
        if (row !== rows) throw fail(`expected ${rows} rows, got ${row}`);
        base += rows;
      }
    } finally {
      connection.closeSync();
      instance.closeSync();
    }
    return new Set();
  };
}

function membersOf(value: unknown): Decoded | null {
  return value === null ? null : (value as { items: readonly unknown[] }).items;
}

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;

function selectOf(path: string, columns: readonly PlannedColumn[]): string {
  // A glob character in the name of a file is a character.
  const escaped = path.replace(/[*?[\]]/g, (character) => `[${character}]`);
  const list = columns.length === 0 ? '1' : columns.map(expression).join(', ');
  return `SELECT ${list} FROM read_parquet([${literal(escaped)}], hive_partitioning = false, binary_as_string = true)`;
}

/** What a column is cast to, so that the values are those of the own reader. */
function expression({ name, kind, type, unit, list }: PlannedColumn): string {
  const column = quoted(name);
  if (list) {
    const member = type.slice('list of '.length);
    const text = kind === 'float_seq' ? 'DOUBLE' : 'VARCHAR';
    return `list_transform(${column}, member -> ${cast('member', member)}::${text})`;
  }
  if (unit !== null) return cast(column, type);
  if (kind === 'float') return `${column}::DOUBLE`;
  if (kind === 'token') return `${column}::VARCHAR`;
  return kind === 'uint64' ? `${column}::UBIGINT` : `${cast(column, type)}::BIGINT`;
}

/** Booleans and times as integers; other types as they are. */
function cast(value: string, type: string): string {
  if (type === 'boolean') return `${value}::TINYINT`;
  if (type === 'date') return `(${value} - DATE '1970-01-01')::BIGINT`;
  const unit = /^timestamp \((\w+)\)$/.exec(type)?.[1];
  return unit === undefined ? value : `epoch_${unit}(${value})`;
}
