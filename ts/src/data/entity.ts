/**
 * Columns of one side of the data (interactions, items, users, queries), by row number of that side. Item and user fields are stored
 * once and joined by row; a row that its table does not have is missing in every field.
 */

import { DataError, IdError } from '../errors.js';
import type { FeatureSource } from './schema.js';
import { isLongInteger, parseNumber } from './tables/column_builders.js';
import { type Codes, encodeColumnPass, encodeStringsPass } from './tables/id_codes.js';
import {
  type Column,
  type FloatColumn,
  type FloatSeqColumn,
  LIST_SEPARATOR,
  splitTokens,
  type Table,
} from './tables/table.js';
import { sharedInt32 } from './text/token_store.js';
import { atOnce, type Pass, slices } from './turns.js';

/** Whether the members came as a list, not as one text. */
function isList(column: Column): boolean {
  return column.kind === 'token_seq' && column.separator === LIST_SEPARATOR;
}

/** The number of a row; NaN where missing. */
function numberOf(column: Exclude<Column, FloatSeqColumn>, source: FeatureSource): (row: number) => number {
  const { kind, values, missing } = column;
  if (kind === 'float') return (row) => (missing?.[row] ? Number.NaN : values[row]!);
  if (kind === 'int64' || kind === 'uint64') {
    // From the halves, rounded once: without a bigint.
    const low = new Uint32Array(values.buffer, values.byteOffset, 2 * values.length);
    const high = kind === 'int64' ? new Int32Array(values.buffer, values.byteOffset, 2 * values.length) : low;
    return (row) => (missing?.[row] ? Number.NaN : high[2 * row + 1]! * 0x1_0000_0000 + low[2 * row]!);
  }
  return (row) => {
    const text = values[row]!;
    const value = parseNumber(text);
    if (text !== '' && Number.isNaN(value)) {
      throw new DataError(
        'DATA_ROW',
        `${source} column ${column.name}: expected a number but received ${JSON.stringify(text.slice(0, 80))} in row ${row}`,
        { column: column.name, row },
      );
    }
    return value;
  };
}

/** Words as integers of 64 bits; null where one is none. */
function* integersOf(words: readonly string[]): Pass<BigInt64Array | null> {
  const values = new BigInt64Array(words.length);
  let [row, held] = [0, true];
  yield* slices(words.length, (_, to) => {
    for (; held && row < to; row++) {
      held = /^-?\d{1,19}$/.test(words[row]!);
      if (!held) return;
      const value = BigInt(words[row]!);
      values[row] = value;
      held = values[row] === value;
    }
  });
  return held ? values : null;
}

/** One side of the data. Row r is row `index[r]` of `table` (-1: the table has none); without `index` row r itself. */
export class Entity {
  constructor(
    readonly source: FeatureSource,
    readonly rows: number,
    private readonly table: Table | null,
    private readonly index: Int32Array | null = null,
  ) {}

  has(name: string): boolean {
    return this.table?.columns.has(name) ?? false;
  }

  get columns(): readonly Column[] {
    return this.table === null ? [] : [...this.table.columns.values()];
  }

  /** Dense codes of ids or words, exact, by row; -1 where missing. IdError for a column of float64. */
  *codesPass(name: string): Pass<Codes> {
    const column = this.idColumn(name);
    if (isList(column)) return yield* encodeStringsPass(yield* this.stringsPass(name));
    const { codes, ids } = (yield* encodeColumnPass(column))!;
    const { index } = this;
    if (index === null) return { codes, ids };
    const joined = sharedInt32(index.length);
    yield* slices(index.length, (from, to) => {
      for (let i = from; i < to; i++) joined[i] = index[i]! < 0 ? -1 : codes[index[i]!]!;
    });
    return { codes: joined, ids };
  }

  /** Ids or words as text, exact; '' where missing. IdError for a column of float64. */
  strings(name: string): string[] {
    return atOnce(this.stringsPass(name));
  }

  *stringsPass(name: string): Pass<string[]> {
    const column = this.idColumn(name);
    const { values, missing } = column;
    const list = isList(column);
    return yield* this.gather((row) => {
      const text = row < 0 || missing?.[row] ? '' : String(values[row]);
      return list ? text.replaceAll(LIST_SEPARATOR, ' ') : text;
    });
  }

  /** Numbers; NaN where missing. */
  *numbersPass(name: string): Pass<Float64Array> {
    const column = this.column(name);
    if (column.kind === 'float_seq') throw this.wrongKind(name, 'one number per row', column.kind);
    const numbers = new Float64Array(this.rows);
    const value = numberOf(column, this.source);
    yield* slices(numbers.length, (from, to) => {
      for (let r = from; r < to; r++) {
        const row = this.index === null ? r : this.index[r]!;
        numbers[r] = row < 0 ? Number.NaN : value(row);
      }
    });
    return numbers;
  }

  /** Event times: exact 64-bit integers, or float64 where some have a fraction. DataError for an integer that neither holds. */
  *timesPass(name: string): Pass<Float64Array | BigInt64Array> {
    const column = this.column(name);
    if (this.index !== null || column.missing !== null) return yield* this.numbersPass(name);
    if (column.kind === 'int64' || column.kind === 'float') return column.values;
    if (column.kind === 'uint64') {
      const { buffer, byteOffset, length } = column.values;
      return yield* this.signedTimes(name, new BigInt64Array(buffer, byteOffset, length));
    }
    if (column.kind !== 'token') return yield* this.numbersPass(name);
    return (yield* integersOf(column.values)) ?? (yield* this.roundedTimes(name, column.values));
  }

  private *signedTimes(name: string, values: BigInt64Array): Pass<BigInt64Array> {
    yield* slices(values.length, (from, to) => {
      for (let row = from; row < to; row++)
        if (values[row]! < 0n) throw this.wrongTime(name, String(BigInt.asUintN(64, values[row]!)), row);
    });
    return values;
  }

  /** Times of words as float64: none of them may be an integer that it does not hold. */
  private *roundedTimes(name: string, words: readonly string[]): Pass<Float64Array> {
    yield* slices(words.length, (from, to) => {
      for (let row = from; row < to; row++)
        if (isLongInteger(words[row]!)) throw this.wrongTime(name, words[row]!, row);
    });
    return yield* this.numbersPass(name);
  }

  /** Several words per row: the members of a list, else what stands between the splitters. */
  *wordsPass(name: string, splitter: string | null): Pass<string[][]> {
    const column = this.column(name);
    if (column.kind === 'token_seq' && isList(column))
      return yield* this.gather((row) => (row < 0 ? [] : splitTokens(column, row)));
    const separator = splitter ?? (column.kind === 'token_seq' ? column.separator : ' ');
    const texts = yield* this.stringsPass(name);
    const words: string[][] = [];
    yield* slices(texts.length, (from, to) => {
      for (let r = from; r < to; r++) words.push(texts[r]!.split(separator).filter((word) => word !== ''));
    });
    return words;
  }

  private *gather<T>(value: (row: number) => T): Pass<T[]> {
    const out: T[] = [];
    yield* slices(this.rows, (from, to) => {
      for (let r = from; r < to; r++) out.push(value(this.index === null ? r : this.index[r]!));
    });
    return out;
  }

  private idColumn(name: string): Exclude<Column, FloatColumn | FloatSeqColumn> {
    const column = this.column(name);
    if (column.kind !== 'float' && column.kind !== 'float_seq') return column;
    throw new IdError(
      `${this.source} column ${name}: expected ids or words (token) but received ${column.kind}: a 64-bit id does not survive a double`,
      { column: name },
    );
  }

  private column(name: string): Column {
    const column = this.table?.columns.get(name);
    if (column === undefined) {
      const names = this.columns.map((other) => other.name).join(', ') || 'none';
      throw new DataError('DATA_SCHEMA', `${this.source} column ${name}: expected one of ${names}`, { column: name });
    }
    return column;
  }

  private wrongTime(name: string, text: string, row: number): DataError {
    return new DataError(
      'DATA_ROW',
      `${this.source} column ${name}: expected times that are all integers of 64 bits, or all float64, but received ${text.slice(0, 80)} in row ${row}`,
      { column: name, row },
    );
  }

  private wrongKind(name: string, expected: string, kind: string): DataError {
    return new DataError('DATA_SCHEMA', `${this.source} column ${name}: expected ${expected} but received ${kind}`, {
      column: name,
    });
  }
}
