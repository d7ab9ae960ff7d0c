/**
 * Columns in memory: what every reader returns. One table holds one file (or one part), row numbers join everything.
 * `missing` has one byte per row (1 = the field was empty) and is null when no row is missing.
 */

/** Ids and other words, compared byte for byte. A missing field is ''. */
export interface TokenColumn {
  readonly kind: 'token';
  readonly name: string;
  readonly values: string[];
  readonly missing: Uint8Array | null;
}

/** Between the members of lists that came as lists (Parquet, JSON): such a column is never cut at anything else. */
export const LIST_SEPARATOR = '\u001f';

/** Text and lists of words, kept as the text that was read: `splitTokens` cuts one row at `separator` when it is needed. */
export interface TokenSeqColumn {
  readonly kind: 'token_seq';
  readonly name: string;
  readonly values: string[];
  readonly separator: string;
  readonly missing: Uint8Array | null;
}

/** Numbers, float64 so that times keep their seconds. A missing field is NaN. */
export interface FloatColumn {
  readonly kind: 'float';
  readonly name: string;
  readonly values: Float64Array;
  readonly missing: Uint8Array | null;
}

/** Lists of numbers: row r is `values[offsets[r] .. offsets[r+1])`. offsets (rows+1). A missing field is an empty list. */
export interface FloatSeqColumn {
  readonly kind: 'float_seq';
  readonly name: string;
  readonly values: Float64Array;
  readonly offsets: Int32Array;
  readonly missing: Uint8Array | null;
}

/** Signed 64-bit integers, exact. A missing field is 0n and marked. */
export interface Int64Column {
  readonly kind: 'int64';
  readonly name: string;
  readonly values: BigInt64Array;
  readonly missing: Uint8Array | null;
}

/** Unsigned 64-bit integers, exact. A missing field is 0n and marked. */
export interface Uint64Column {
  readonly kind: 'uint64';
  readonly name: string;
  readonly values: BigUint64Array;
  readonly missing: Uint8Array | null;
}

export type Column = TokenColumn | TokenSeqColumn | FloatColumn | FloatSeqColumn | Int64Column | Uint64Column;

/** What a reader did besides reading: nothing is dropped or filled without a number here. */
export interface TableCounters {
  /** Bytes read. */
  readonly bytes: number;
  /** Rows left out under `onBadRow: 'skip'`, by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  /** Empty lines, which hold no row. */
  readonly emptyLines: number;
  /** Empty fields by column; columns without any are not listed. */
  readonly missing: Readonly<Record<string, number>>;
}

/** Columns of equal length, in file order. */
export interface Table {
  /** File name or part that the rows came from. */
  readonly name: string;
  readonly rows: number;
  readonly columns: ReadonlyMap<string, Column>;
  readonly counters: TableCounters;
}

/** The words of one row; a missing field has none. */
export function splitTokens(column: TokenSeqColumn, row: number): string[] {
  const text = column.values[row]!;
  return text === '' ? [] : text.split(column.separator);
}
