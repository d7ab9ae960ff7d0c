/** Tables of the same columns, one below the other. */
import { DataError } from '../../errors.js';
import { type Pass, SLICE, slices } from '../turns.js';
import type { ColumnKind } from './column_builders.js';
import type { Column, Table } from './table.js';

/**
 * Tables below each other; they must have the same columns. Where some parts hold integers and others fractions the column is float64; a
 * part without a value fits every kind. DataError DATA_SCHEMA for other differences, and for integers that float64 does not hold.
 */
export function* concatTablesPass(name: string, tables: readonly Table[]): Pass<Table> {
  const columns = new Map<string, Column>();
  for (const column of tables[0]!.columns.keys()) columns.set(column, yield* concatColumn(column, tables));
  return {
    name,
    rows: tables.reduce((sum, { rows }) => sum + rows, 0),
    columns,
    counters: {
      bytes: tables.reduce((sum, { counters }) => sum + counters.bytes, 0),
      skipped: sums(tables.map(({ counters }) => counters.skipped)),
      emptyLines: tables.reduce((sum, { counters }) => sum + counters.emptyLines, 0),
      missing: sums(tables.map(({ counters }) => counters.missing)),
    },
  };
}

/** The column of one part: rows `start ..` of the whole. */
interface Part {
  readonly table: Table;
  readonly column: Column;
  readonly start: number;
  /** Whether no row has a value. */
  readonly isEmpty: boolean;
}

function* concatColumn(name: string, tables: readonly Table[]): Pass<Column> {
  const parts: Part[] = [];
  let rows = 0;
  for (const table of tables) {
    const column = table.columns.get(name);
    if (column === undefined) throw differ(name, table, 'none', tables[0]!, tables[0]!.columns.get(name)!.kind);
    parts.push({ table, column, start: rows, isEmpty: column.missing?.includes(0) === false || table.rows === 0 });
    rows += table.rows;
  }
  const kind = kindOf(name, parts);
  const filled = parts.filter(({ isEmpty }) => !isEmpty);
  const missing = parts.some(({ column }) => column.missing !== null) ? new Uint8Array(rows) : null;
  for (const { column, start } of parts) if (column.missing !== null) yield* copied(column.missing, missing!, start);
  switch (kind) {
    case 'token':
    case 'token_seq': {
      const values = new Array<string>(rows);
      for (const part of parts) {
        const words = part.isEmpty ? null : (part.column.values as string[]);
        yield* slices(part.table.rows, (from, to) => {
          for (let row = from; row < to; row++) values[part.start + row] = words === null ? '' : words[row]!;
        });
      }
      return kind === 'token'
        ? { kind, name, values, missing }
        : { kind, name, values, separator: separatorOf(name, filled), missing };
    }
    case 'int64': {
      const values = new BigInt64Array(rows);
      for (const { column, start } of filled) yield* copied(column.values as BigInt64Array, values, start);
      return { kind, name, values, missing };
    }
    case 'uint64': {
      const values = new BigUint64Array(rows);
      for (const { column, start } of filled) yield* copied(column.values as BigUint64Array, values, start);
      return { kind, name, values, missing };
    }
    case 'float': {
      const values = new Float64Array(rows).fill(Number.NaN);
      for (const part of filled) yield* copied(yield* floatsOf(part), values, part.start);
      return { kind, name, values, missing };
    }
    case 'float_seq':
      return yield* concatLists(name, parts, rows, missing);
  }
}

/** The kind that holds the values of all parts. */
function kindOf(name: string, parts: readonly Part[]): ColumnKind {
  const [first = parts[0]!, ...others] = parts.filter(({ isEmpty }) => !isEmpty);
  let { kind } = first.column;
  for (const { table, column } of others) {
    if (column.kind === kind) continue;
    const isNumbers = [kind, column.kind].every((one) => one === 'float' || one === 'int64' || one === 'uint64');
    if (!isNumbers || (kind !== 'float' && column.kind !== 'float'))
      throw differ(name, table, column.kind, first.table, first.column.kind);
    kind = 'float';
  }
  return kind;
}

function* floatsOf({ table, column: { name, values, missing } }: Part): Pass<Float64Array> {
  if (values instanceof Float64Array) return values;
  const floats = new Float64Array(table.rows);
  yield* slices(table.rows, (from, to) => {
    for (let row = from; row < to; row++) {
      floats[row] = missing?.[row] === 1 ? Number.NaN : Number(values[row]);
      if (Math.abs(floats[row]!) > Number.MAX_SAFE_INTEGER)
        throw new DataError(
          'DATA_SCHEMA',
          `${table.name}: expected numbers that float64 holds in ${name}, which has fractions in another part, but received ${String(values[row])} in row ${row}`,
          { file: table.name, column: name, row },
        );
    }
  });
  return floats;
}

function separatorOf(name: string, parts: readonly Part[]): string {
  const separators = parts.flatMap(({ table, column }) =>
    column.kind === 'token_seq' ? [{ table, separator: column.separator }] : [],
  );
  const [first, ...others] = separators;
  for (const { table, separator } of others)
    if (separator !== first!.separator) throw differ(name, table, 'text', first!.table, 'list');
  return first?.separator ?? ' ';
}

function* concatLists(name: string, parts: readonly Part[], rows: number, missing: Uint8Array | null): Pass<Column> {
  const lists = parts.map(({ isEmpty, column }) => (!isEmpty && column.kind === 'float_seq' ? column : null));
  const total = lists.reduce((sum, list) => sum + (list?.values.length ?? 0), 0);
  if (total > 0x7fff_ffff)
    throw new DataError(
      'DATA_SCHEMA',
      `column ${name}: expected at most 2^31 - 1 numbers in lists but there are ${total}`,
      {
        column: name,
      },
    );
  const values = new Float64Array(total);
  const offsets = new Int32Array(rows + 1);
  let at = 0;
  for (const [i, { start, table }] of parts.entries()) {
    const list = lists[i]!;
    yield* slices(table.rows, (from, to) => {
      for (let row = from; row < to; row++) offsets[start + row + 1] = at + (list?.offsets[row + 1] ?? 0);
    });
    if (list === null) continue;
    yield* copied(list.values, values, at);
    at += list.values.length;
  }
  return { kind: 'float_seq', name, values, offsets, missing };
}

/** Copies `from` to `to[at ..]`. */
function copied<T extends Uint8Array | Float64Array | BigInt64Array | BigUint64Array>(
  from: T,
  to: T,
  at: number,
): Pass<void> {
  return slices(from.length, (start, end) => to.set(from.subarray(start, end) as never, at + start), 4 * SLICE);
}

function differ(column: string, table: Table, found: string, first: Table, kind: string): DataError {
  return new DataError(
    'DATA_SCHEMA',
    `${table.name}: expected column ${column} of type ${kind} as in ${first.name} but found ${found}`,
    { file: table.name, column },
  );
}

function sums(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const out: Record<string, number> = {};
  for (const record of records) for (const [key, value] of Object.entries(record)) out[key] = (out[key] ?? 0) + value;
  return out;
}
