import { readAtomicFolder } from '../data/atomic.js';
import { rankTimes, rowNumbers } from '../data/events.js';
import { type Column, splitTokens, type Table } from '../data/table.js';
import { resolveConfig } from '../train/config.js';
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

function range(values: Float64Array | BigInt64Array | BigUint64Array): [number, number] | null {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    const number = Number(value);
    if (number < low) low = number;
    if (number > high) high = number;
  }
  return low <= high ? [low, high] : null;
}

/** Facts about one column of a table. */
export function columnReport(column: Column, rows: number): ColumnReport {
  const { name, kind } = column;
  const missing = column.missing?.reduce((sum, flag) => sum + flag, 0) ?? 0;
  const report = { name, kind, missing, distinct: null, range: null, lengths: null };
  switch (column.kind) {
    case 'token':
      return { ...report, distinct: new Set(column.values).size - (missing > 0 ? 1 : 0) };
    case 'token_seq': {
      const lengths = Int32Array.from({ length: rows }, (_, row) => splitTokens(column, row).length);
      return { ...report, distinct: new Set(column.values).size - (missing > 0 ? 1 : 0), lengths: quantiles(lengths) };
    }
    case 'float_seq': {
      const lengths = Int32Array.from({ length: rows }, (_, row) => column.offsets[row + 1]! - column.offsets[row]!);
      return { ...report, range: range(column.values), lengths: quantiles(lengths) };
    }
    case 'float':
      return { ...report, range: range(column.values) };
    case 'int64':
    case 'uint64':
      return { ...report, distinct: new Set<bigint>(column.values).size, range: range(column.values) };
  }
}

/** Users' events that share their time with another event of the same user: their order is that of the rows. */
function tiedEvents(users: readonly string[], times: Float64Array | null): number {
  const { time } = times === null ? { time: rowNumbers(users.length) } : rankTimes(times);
  const seen = new Map<string, number>();
  const keyOf = (row: number): string => `${users[row]}\t${time[row]}`;
  for (let row = 0; row < users.length; row++) seen.set(keyOf(row), (seen.get(keyOf(row)) ?? 0) + 1);
  let tied = 0;
  for (const count of seen.values()) if (count > 1) tied += count;
  return tied;
}

/** Facts that need several columns: who met what, when. Null where a column has another name: set data.user_id and the like. */
function interactionReport(
  inter: Table,
  item: Table | null,
  keys: { user: string; item: string; time: string | null },
): Record<string, number> | null {
  const user = inter.columns.get(keys.user);
  const target = inter.columns.get(keys.item);
  if (user?.kind !== 'token' || target?.kind !== 'token') return null;
  const time = keys.time === null ? undefined : inter.columns.get(keys.time);
  const pairs = new Set<string>();
  for (let row = 0; row < inter.rows; row++) pairs.add(`${user.values[row]}\t${target.values[row]}`);
  const described = item?.columns.get(keys.item);
  const known = described?.kind === 'token' ? new Set(described.values) : null;
  const used = new Set(target.values);
  return {
    users: new Set(user.values).size,
    items: used.size,
    repeated_pairs: inter.rows - pairs.size,
    events_with_tied_time: tiedEvents(user.values, time?.kind === 'float' ? time.values : null),
    items_without_description: known === null ? 0 : [...used].filter((id) => !known.has(id)).length,
    items_without_events: known === null ? 0 : [...known].filter((id) => !used.has(id)).length,
  };
}

/** Reads a RecBole atomic folder and prints what it holds: columns, missing fields, ranges, lengths, ties. */
export async function inspectData(
  path: string,
  overrides: readonly string[],
  { stdout }: Output,
): Promise<Record<string, unknown>> {
  const { data } = resolveConfig({ overrides }).config;
  const folder = await readAtomicFolder(path, { onBadRow: data.on_bad_row, maxBadFraction: data.max_bad_fraction });
  const tables = [folder.inter, ...folder.parts.values(), folder.user, folder.item].filter((table) => table !== null);
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
  const keys = { user: data.user_id, item: data.item_id, time: data.time };
  const interactions = folder.inter === null ? null : interactionReport(folder.inter, folder.item, keys);
  for (const [what, value] of Object.entries(interactions ?? {}))
    stdout.write(`${what.replaceAll('_', ' ')}: ${value}\n`);
  for (const file of folder.ignored) stdout.write(`not read: ${file}\n`);
  return { kind: 'data', path, stem: folder.stem, files, interactions, ignored: folder.ignored };
}
