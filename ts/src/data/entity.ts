/**
 * Columns of one side of the data (interactions, items, users, queries), by row number of that side. Item and user fields are stored
 * once and joined by row; a row that its table does not have is missing in every field.
 */

import { DataError, IdError } from '../errors.js';
import type { FeatureSource } from './schema.js';
import { type Codes, encodeColumn, encodeStrings } from './tables/id_codes.js';
import {
  type Column,
  type FloatColumn,
  type FloatSeqColumn,
  LIST_SEPARATOR,
  splitTokens,
  type Table,
} from './tables/table.js';

/** Whether the members came as a list, not as one text. */
function isList(column: Column): boolean {
  return column.kind === 'token_seq' && column.separator === LIST_SEPARATOR;
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
  codes(name: string): Codes {
    const column = this.idColumn(name);
    if (isList(column)) return encodeStrings(this.strings(name));
    const { codes, ids } = encodeColumn(column)!;
    if (this.index === null) return { codes, ids };
    return { codes: Int32Array.from(this.index, (row) => (row < 0 ? -1 : codes[row]!)), ids };
  }

  /** Ids or words as text, exact; '' where missing. IdError for a column of float64. */
  strings(name: string): string[] {
    const column = this.idColumn(name);
    const { values, missing } = column;
    const texts = this.gather((row) => (row < 0 || missing?.[row] ? '' : String(values[row])));
    return isList(column) ? texts.map((text) => text.replaceAll(LIST_SEPARATOR, ' ')) : texts;
  }

  /** Numbers; NaN where missing. */
  numbers(name: string): Float64Array {
    const column = this.column(name);
    if (column.kind === 'float' || column.kind === 'int64' || column.kind === 'uint64') {
      const { values, missing } = column;
      const numbers = new Float64Array(this.rows);
      for (let r = 0; r < numbers.length; r++) {
        const row = this.index === null ? r : this.index[r]!;
        numbers[r] = row < 0 || missing?.[row] ? Number.NaN : Number(values[row]);
      }
      return numbers;
    }
    if (column.kind === 'float_seq') throw this.wrongKind(name, 'one number per row', column.kind);
    return Float64Array.from(
      this.gather((row) => {
        const text = row < 0 ? '' : column.values[row]!;
        const value = text === '' ? Number.NaN : Number(text);
        if (text !== '' && Number.isNaN(value)) {
          throw new DataError(
            'DATA_ROW',
            `${this.source} column ${name}: expected a number but received ${text} in row ${row}`,
            {
              column: name,
              row,
            },
          );
        }
        return value;
      }),
    );
  }

  /** Event times: exact 64-bit integers or float64. */
  times(name: string): Float64Array | BigInt64Array {
    const column = this.column(name);
    const held = column.kind === 'int64' || column.kind === 'float';
    return held && this.index === null && column.missing === null ? column.values : this.numbers(name);
  }

  /** Several words per row: the members of a list, else what stands between the splitters. */
  words(name: string, splitter: string | null): string[][] {
    const column = this.column(name);
    if (column.kind === 'token_seq' && isList(column))
      return this.gather((row) => (row < 0 ? [] : splitTokens(column, row)));
    const separator = splitter ?? (column.kind === 'token_seq' ? column.separator : ' ');
    return this.strings(name).map((text) => (text === '' ? [] : text.split(separator).filter((word) => word !== '')));
  }

  private gather<T>(value: (row: number) => T): T[] {
    const out: T[] = [];
    for (let r = 0; r < this.rows; r++) out.push(value(this.index === null ? r : this.index[r]!));
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

  private wrongKind(name: string, expected: string, kind: string): DataError {
    return new DataError('DATA_SCHEMA', `${this.source} column ${name}: expected ${expected} but received ${kind}`, {
      column: name,
    });
  }
}
