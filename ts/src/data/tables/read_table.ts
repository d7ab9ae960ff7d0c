/** One table from files of any format. */
import { OutOfMemoryError } from '../../errors.js';
import { readCsvFiles } from './csv.js';
import type { DataFiles } from './data_files.js';
import { fillByDuckdb } from './duckdb.js';
import { readJsonlFiles } from './jsonl.js';
import { planParquet, readPlannedParquet } from './parquet.js';
import type { Table } from './table.js';
import { bytesOf, type TableReadOptions } from './table_schema.js';

export interface ReadTableOptions extends TableReadOptions {
  /** Bytes that the table may take; null: no check. Parquet says its size before it is read, text files take about their own. */
  readonly maxMemory?: number | null;
  /**
   * Who decodes Parquet: `own`; `duckdb`, the optional package @duckdb/node-api; or `auto` (default): DuckDB where one column of one row
   * group is larger than 512 MiB when it is unpacked. CSV and JSONL are read in chunks whatever their size.
   */
  readonly engine?: 'auto' | 'own' | 'duckdb';
}

/** Largest column of one row group that the own reader takes under `auto`, in bytes. */
const LARGEST_CHUNK = 1 << 29;

/** Reads the files below each other into one table; every format follows the same rules (`readParquetFiles`, `readCsvFiles`, `readJsonlFiles`). */
export async function readTable(source: DataFiles, options: ReadTableOptions = {}): Promise<Table> {
  const { maxMemory = null, engine = 'auto' } = options;
  if (source.format === 'parquet') {
    const plan = await planParquet(source, options);
    checkTableMemory(source, plan.memory, maxMemory);
    if (engine === 'own' || (engine === 'auto' && plan.largestChunk <= LARGEST_CHUNK))
      return readPlannedParquet(source, plan, options);
    const why =
      engine === 'duckdb'
        ? 'engine duckdb'
        : `${source.name}, with ${plan.largestChunk} bytes in one column of a row group,`;
    return readPlannedParquet(source, plan, options, fillByDuckdb(why));
  }
  checkTableMemory(source, { text: bytesOf(source) }, maxMemory);
  return source.format === 'csv' ? readCsvFiles(source, options) : readJsonlFiles(source, options);
}

function checkTableMemory(source: DataFiles, memory: Readonly<Record<string, number>>, maxMemory: number | null): void {
  const total = Object.values(memory).reduce((sum, bytes) => sum + bytes, 0);
  if (maxMemory === null || total <= maxMemory) return;
  const largest = Object.entries(memory).toSorted((a, b) => b[1] - a[1]);
  const list = largest.slice(0, 5).map(([name, bytes]) => `${name} ${bytes}`);
  throw new OutOfMemoryError(
    'HOST_MEMORY',
    `data: expected columns of at most ${maxMemory} bytes (max_memory) but ${source.name} needs ${total}: ${list.join(', ')}`,
    { requested: total, largest: Object.fromEntries(largest) },
  );
}
