/** Tables of the same columns, one below the other. */
import { DataError } from '../../errors.js';
import type { Column, Table } from './table.js';

/** Tables below each other; they must have the same columns. */
export function concatTables(name: string, tables: readonly Table[]): Table {
  const [first] = tables;
  const columns = [...first!.columns.values()].map((column): Column => {
    const all = tables.map((table) => {
      const other = table.columns.get(column.name);
      if (other?.kind !== column.kind) {
        throw new DataError(
          'DATA_SCHEMA',
          `${table.name}: expected column ${column.name} of type ${column.kind} as in ${first!.name} but found ${other?.kind ?? 'none'}`,
          {
            file: table.name,
            column: column.name,
          },
        );
      }
      return other;
    });
    const missing = all.some((part) => part.missing !== null)
      ? Uint8Array.from(all.flatMap((part, i) => [...(part.missing ?? new Uint8Array(tables[i]!.rows))]))
      : null;
    switch (column.kind) {
      case 'token':
      case 'token_seq':
        return { ...column, missing, values: all.flatMap((part) => part.values as string[]) };
      case 'float':
        return {
          ...column,
          missing,
          values: Float64Array.from(all.flatMap((part) => [...(part.values as Float64Array)])),
        };
      case 'int64':
        return {
          ...column,
          missing,
          values: BigInt64Array.from(all.flatMap((part) => [...(part.values as BigInt64Array)])),
        };
      default:
        throw new DataError(
          'DATA_SCHEMA',
          `${name}: expected token, token_seq, float or int64 columns in parts but ${column.name} is ${column.kind}`,
          {
            column: column.name,
          },
        );
    }
  });
  return {
    name,
    rows: tables.reduce((sum, { rows }) => sum + rows, 0),
    columns: new Map(columns.map((column) => [column.name, column])),
    counters: {
      bytes: tables.reduce((sum, { counters }) => sum + counters.bytes, 0),
      skipped: sums(tables.map(({ counters }) => counters.skipped)),
      emptyLines: tables.reduce((sum, { counters }) => sum + counters.emptyLines, 0),
      missing: sums(tables.map(({ counters }) => counters.missing)),
    },
  };
}

function sums(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const out: Record<string, number> = {};
  for (const record of records) for (const [key, value] of Object.entries(record)) out[key] = (out[key] ?? 0) + value;
  return out;
}
