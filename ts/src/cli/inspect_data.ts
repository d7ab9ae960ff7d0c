import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { groupRows, rankTimes, rowNumbers } from '../data/events.js';
import { atomicOptions } from '../data/load_dataset.js';
import { findStem, readAtomicFolder, readAtomicHeader } from '../data/tables/atomic.js';
import type { DataFiles } from '../data/tables/data_files.js';
import { type Codes, encodeColumn } from '../data/tables/id_codes.js';
import { mmrecVectors, PART_COLUMN, readMmrec } from '../data/tables/mmrec.js';
import { readTable } from '../data/tables/read_table.js';
import { type Column, splitTokens, type Table } from '../data/tables/table.js';
import { findTables } from '../data/tables/table_folder.js';
import { findVectors } from '../data/tables/vectors.js';
import { resolveConfig } from '../train/config.js';
import type { Config } from '../train/config_schema.js';
import { fileOptions } from '../train/dataset_request.js';
import { inspectImages } from './inspect_images.js';
import { bytesText, textTable } from './text_table.js';
import type { Output } from './verb.js';

/** What a column holds, for people; the same facts go into the JSON result. */
interface ColumnReport {
  readonly name: string;
  readonly kind: Column['kind'];
  readonly missing: number;
  /** Distinct values, of ids and texts. */
  readonly distinct: number | null;
  /** Smallest and largest number. */
  readonly range: readonly [number, number] | null;
  /** Members per row of lists, words per row of texts: median, 95th percentile, maximum. */
  readonly lengths: readonly [number, number, number] | null;
}

function quantiles(values: Int32Array): [number, number, number] {
  const sorted = values.slice().sort();
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  return [at(0.5), at(0.95), at(1)];
}

function range(
  values: Float64Array | BigInt64Array | BigUint64Array,
  missing: Uint8Array | null = null,
): [number, number] | null {
  let low: number | bigint = Number.POSITIVE_INFINITY;
  let high: number | bigint = Number.NEGATIVE_INFINITY;
  for (let row = 0; row < values.length; row++) {
    const value = values[row]!;
    if (missing?.[row] === 1) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [Number(low), Number(high)] : null;
}

/** Facts about one column of a table. */
export function columnReport(column: Column, rows: number): ColumnReport {
  const { name, kind } = column;
  const missing = column.missing?.reduce((sum, flag) => sum + flag, 0) ?? 0;
  const report = { name, kind, missing, distinct: null, range: null, lengths: null };
  switch (column.kind) {
    case 'token':
      return { ...report, distinct: encodeColumn(column)!.ids.length };
    case 'token_seq': {
      const lengths = Int32Array.from({ length: rows }, (_, row) => splitTokens(column, row).length);
      return { ...report, distinct: encodeColumn(column)!.ids.length, lengths: quantiles(lengths) };
    }
    case 'float_seq': {
      const lengths = Int32Array.from({ length: rows }, (_, row) => column.offsets[row + 1]! - column.offsets[row]!);
      return { ...report, range: range(column.values), lengths: quantiles(lengths) };
    }
    case 'float':
      return { ...report, range: range(column.values) };
    case 'int64':
    case 'uint64':
      return { ...report, distinct: encodeColumn(column)!.ids.length, range: range(column.values, column.missing) };
  }
}

/** Facts that need several columns: who met what, when. Null where a column has another name: set data.user_id and the like. */
function interactionReport(
  inter: Table,
  item: Table | null,
  keys: { user: string; item: string; time: string | null },
): Record<string, number> | null {
  const codesOf = (table: Table | null, name: string): Codes | null => {
    const column = table?.columns.get(name);
    return column === undefined ? null : encodeColumn(column);
  };
  const user = codesOf(inter, keys.user);
  const target = codesOf(inter, keys.item);
  if (user === null || target === null) return null;
  const time = keys.time === null ? undefined : inter.columns.get(keys.time);
  const times = time?.kind === 'float' || time?.kind === 'int64' ? rankTimes(time.values).time : rowNumbers(inter.rows);
  const described = codesOf(item, keys.item);
  const [known, used] = [new Set(described?.ids), new Set(target.ids)];
  return {
    users: user.ids.length,
    items: target.ids.length,
    repeated_pairs: repeats(user, target.codes).again,
    events_with_tied_time: repeats(user, times).shared,
    items_without_description: described === null ? 0 : target.ids.filter((id) => !known.has(id)).length,
    items_without_events: described === null ? 0 : described.ids.filter((id) => !used.has(id)).length,
  };
}

/** Rows of a user whose value another row of the user has: all of them, and all but the first of each value. */
function repeats(user: Codes, value: Int32Array): { shared: number; again: number } {
  let [shared, again] = [0, 0];
  const there = user.codes.map((code) => (code < 0 ? user.ids.length : code));
  const { rows, offsets } = groupRows(there, user.ids.length + 1);
  for (let u = 0; u < user.ids.length; u++) {
    const own = Int32Array.from(rows.subarray(offsets[u], offsets[u + 1]), (row) => value[row]!).sort();
    for (let i = 0; i < own.length; i++) {
      const before = i > 0 && own[i - 1] === own[i];
      if (before) again++;
      if (before || own[i + 1] === own[i]) shared++;
    }
  }
  return { shared, again };
}

/** What a path holds, whatever its format. */
interface Found {
  readonly name: string;
  readonly folder: string;
  readonly inter: Table | null;
  readonly item: Table | null;
  readonly others: readonly Table[];
  /** Files beside the tables that are not read. */
  readonly ignored: readonly string[];
  readonly vectors: readonly { readonly file: string; readonly shape: readonly number[]; readonly dtype: string }[];
  readonly keys: { readonly user: string; readonly item: string; readonly time: string | null };
}

async function readTables(path: string, data: Config['data']): Promise<Found> {
  const keys = { user: data.user_id, item: data.item_id, time: data.time };
  const { interactions, items, users } = data;
  const options = fileOptions(data);
  const tables = await findTables(path, { interactions, items, users });
  if (tables === null) {
    const atomic = atomicOptions(options);
    if ((data.benchmark_filename ?? []).length === 0) {
      const { folder, stem, files } = await findStem(path);
      const columns = await readAtomicHeader(join(folder, `${stem}.inter`), atomic);
      if (columns.includes(PART_COLUMN)) return mmrecTables({ folder, stem, files, columns }, keys, atomic);
    }
    const folder = await readAtomicFolder(path, atomic);
    const others = [...folder.parts.values(), folder.user].filter((table) => table !== null);
    return { ...folder, name: folder.stem, others, vectors: [], keys };
  }
  const read = (source: DataFiles): Promise<Table> =>
    readTable(source, { ...options, maxMemory: data.max_memory, engine: data.engine });
  const inter = await read(tables.interactions);
  const item = tables.items && (await read(tables.items));
  const user = tables.users && (await read(tables.users));
  return {
    name: tables.interactions.name,
    folder: tables.folder,
    inter,
    item,
    others: user === null ? [] : [user],
    ignored: [],
    vectors: [],
    keys,
  };
}

/** MMRec data: its own names of the ids where the configuration's are not there, and the vectors that bring the items. */
async function mmrecTables(
  { folder, stem, files, columns }: Awaited<ReturnType<typeof findStem>> & { readonly columns: readonly string[] },
  keys: Found['keys'],
  options: ReturnType<typeof atomicOptions>,
): Promise<Found> {
  const user = columns.includes(keys.user) ? keys.user : 'userID';
  const item = columns.includes(keys.item) ? keys.item : 'itemID';
  const vectors = await findVectors(mmrecVectors(files), folder);
  const { inter, item: table } = await readMmrec(folder, stem, {
    ...options,
    userId: user,
    itemId: item,
    numbers: [PART_COLUMN, 'rating', keys.time ?? 'timestamp'],
    vectors,
  });
  return {
    ...{ name: stem, folder, inter, item: table, others: [], ignored: [] },
    vectors: vectors.map(({ spec, rows, dim, dtype }) => ({ file: spec.file, shape: [rows, dim], dtype })),
    keys: { ...keys, user, item },
  };
}

/** Reads a data file or folder and prints what it holds: columns, missing fields, ranges, lengths, ties, and which pictures decode. */
export async function inspectData(
  path: string,
  overrides: readonly string[],
  output: Output,
  allPictures = false,
): Promise<Record<string, unknown>> {
  const { stdout } = output;
  const { config } = resolveConfig({ overrides });
  const { data } = config;
  const { name: stem, folder, inter, item, others, ignored, vectors, keys } = await readTables(path, data);
  // MMRec's items are the rows of its vectors: no file of their own.
  const tables = [inter, ...others, item]
    .filter((table) => table !== null)
    .filter(({ counters }) => counters.bytes > 0);
  const files = tables.map((table) => ({
    name: table.name,
    rows: table.rows,
    bytes: table.counters.bytes,
    skipped: table.counters.skipped,
    empty_lines: table.counters.emptyLines,
    columns: [...table.columns.values()].map((column) => columnReport(column, table.rows)),
  }));
  for (const file of files) {
    const skipped = Object.entries(file.skipped).map(([reason, count]) => `, ${count} skipped: ${reason}`);
    stdout.write(`${file.name}: ${file.rows} rows, ${bytesText(file.bytes)}${skipped.join('')}\n`);
    stdout.write(
      textTable(
        ['column', 'kind', 'missing', 'distinct', 'from', 'to', 'p50', 'p95', 'longest'],
        file.columns.map(({ name, kind, missing, distinct, range, lengths }) => [
          `  ${name}`,
          kind,
          ...[missing, distinct, ...(range ?? [null, null]), ...(lengths ?? [null, null, null])].map((value) =>
            String(value ?? ''),
          ),
        ]),
      ),
    );
  }
  for (const { file, shape, dtype } of vectors) stdout.write(`${file}: ${shape.join(' x ')} ${dtype}\n`);
  const interactions = inter === null ? null : interactionReport(inter, item, keys);
  for (const [what, value] of Object.entries(interactions ?? {}))
    stdout.write(`${what.replaceAll('_', ' ')}: ${value}\n`);
  const hasPictures = item !== null && (data.image_root !== null || existsSync(join(folder, 'images')));
  const pictures = hasPictures ? await inspectImages({ item, folder, all: allPictures }, config, output) : null;
  for (const file of ignored) stdout.write(`not read: ${file}\n`);
  return { kind: 'data', path, stem, files, vectors, interactions, pictures, ignored };
}
