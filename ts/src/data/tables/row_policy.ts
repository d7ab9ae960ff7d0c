/** What happens to rows that break a rule: the same policy, counters and errors for every reader of rows. */
import { DataError } from '../../errors.js';
import type { Column, Table } from './table.js';

export interface RowPolicyOptions {
  /** `fail` (default) at the first bad row; `skip` leaves it out and counts it; `skip_row_group` does so with unreadable row groups of Parquet too. */
  readonly onBadRow?: 'fail' | 'skip' | 'skip_row_group';
  /** Largest share of bad rows that skipping accepts; default 0. */
  readonly maxBadFraction?: number;
}

/** Where a row is. `byte` is an offset in the file, `line` counts from 1. */
export interface RowPlace {
  readonly file: string;
  readonly line?: number;
  readonly byte?: number;
  readonly rowGroup?: number;
  readonly row?: number;
}

export class RowPolicy {
  readonly skipped: Record<string, number> = {};
  private bad = 0;
  private first: DataError | null = null;

  constructor(
    private readonly reader: string,
    private readonly options: RowPolicyOptions,
  ) {}

  /** Counts `rows` bad rows, or throws DataError DATA_ROW with their place. */
  reject(place: RowPlace, reason: string, message: string, column?: string, rows = 1, cause?: unknown): void {
    const { file, line, byte, rowGroup, row } = place;
    const parts = [
      ...(line === undefined ? [] : [` line ${line}`]),
      ...(rowGroup === undefined ? [] : [` row group ${rowGroup}`]),
      ...(row === undefined ? [] : [` row ${row}`]),
      ...(byte === undefined ? [] : [` (byte ${byte})`]),
    ];
    const fields = Object.fromEntries(
      Object.entries({ ...place, column, reason }).filter(([, value]) => value !== undefined),
    );
    const error = new DataError('DATA_ROW', `${this.reader}: ${file}${parts.join('')}: ${message}`, fields, { cause });
    if ((this.options.onBadRow ?? 'fail') === 'fail') throw error;
    if (rowGroup !== undefined && row === undefined && this.options.onBadRow === 'skip') throw error;
    this.bad += rows;
    this.skipped[reason] = (this.skipped[reason] ?? 0) + rows;
    this.first ??= error;
  }

  /** Throws DataError when more rows were bad than `maxBadFraction` of all. */
  check(name: string, rows: number): void {
    const { maxBadFraction = 0 } = this.options;
    if (this.bad <= maxBadFraction * (rows + this.bad)) return;
    throw new DataError(
      'DATA_ROW',
      `${this.reader}: ${name}: ${this.bad} of ${rows + this.bad} rows are bad, at most ${maxBadFraction} of them may be; the first: ${this.first?.message}`,
      { ...this.first?.fields, bad: this.bad, rows: rows + this.bad },
    );
  }
}

/** A finished table: columns by name, missing fields counted. */
export function tableOf(
  name: string,
  rows: number,
  columns: readonly Column[],
  { bytes, skipped = {}, emptyLines = 0 }: { bytes: number; skipped?: Record<string, number>; emptyLines?: number },
): Table {
  const missing: Record<string, number> = {};
  for (const column of columns) {
    let count = 0;
    for (const flag of column.missing ?? []) count += flag;
    if (count > 0) missing[column.name] = count;
  }
  return {
    name,
    rows,
    columns: new Map(columns.map((column) => [column.name, column])),
    counters: { bytes, skipped, emptyLines, missing },
  };
}
