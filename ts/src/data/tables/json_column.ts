/** Columns of JSON values while they grow: strings, numbers, booleans, lists of them; null is a missing field. */
import {
  type ColumnBuilder,
  type FieldFault,
  interning,
  MissingMask,
  setInteger,
  withRoom,
} from './column_builders.js';
import { type Column, LIST_SEPARATOR } from './table.js';

/** As `ColumnBuilder`, for values: integers of the source text come as bigint, other numbers as number. */
export interface JsonColumn {
  readonly name: string;
  /** Writes `value` as row `row`, which is the next row or the last one again. Returns a fault and writes nothing, or null. */
  set(row: number, value: unknown): FieldFault | null;
  finish(rows: number): Column;
}

type Kind = 'token' | 'int64' | 'float' | 'token_seq' | 'float_seq';

/** What a value can be in; null for an object, a nested list and other things that no column holds. */
function kindOf(value: unknown): Kind | null {
  if (typeof value === 'string') return 'token';
  if (typeof value === 'bigint' || typeof value === 'boolean') return 'int64';
  if (typeof value === 'number') return 'float';
  if (!Array.isArray(value)) return null;
  const members = new Set(value.map((member) => (Array.isArray(member) ? null : kindOf(member))));
  if (members.has(null)) return null;
  return members.has('float') && !members.has('token') ? 'float_seq' : 'token_seq';
}

const WORDS: Readonly<Record<Kind, string>> = {
  token: 'a string',
  int64: 'an integer',
  float: 'a number',
  token_seq: 'a list',
  float_seq: 'a list of numbers',
};

const isSafe = (value: bigint): boolean => BigInt.asIntN(54, value) === value;

const isNumbers = (list: readonly unknown[]): boolean =>
  list.every((member) => typeof member === 'number' || (typeof member === 'bigint' && isSafe(member)));

/** The kind follows from the values: integers until a fraction comes, then float64; strings and numbers do not mix. Booleans are 0 and 1. */
export function jsonColumn(name: string): JsonColumn {
  const missing = new MissingMask();
  const one = interning();
  let kind: Kind | null = null;
  let words: string[] = [];
  let integers = new BigInt64Array(0);
  let halves = new Int32Array(0);
  let numbers = new Float64Array(0);
  let lists: (readonly number[])[] = [];
  let plain = true; // every list so far holds integers of a double, and no words

  const differ = (): FieldFault => ({ reason: 'type', expected: `${WORDS[kind!]} as in the rows before` });

  /** The column turns from `kind` into `wanted`, or the value does not fit. */
  const turn = (wanted: Kind, rows: number): boolean => {
    if (kind === null || kind === wanted) {
      kind = wanted;
      return true;
    }
    if (kind === 'int64' && wanted === 'float') {
      for (let row = 0; row < rows; row++) if (!isSafe(integers[row] ?? 0n)) return false;
      numbers = Float64Array.from({ length: rows }, (_, row) => Number(integers[row] ?? 0n));
      integers = new BigInt64Array(0);
      kind = 'float';
      return true;
    }
    if (kind === 'token_seq' && wanted === 'float_seq' && plain) {
      lists = Array.from({ length: rows }, (_, row) =>
        (words[row] ?? '') === '' ? [] : words[row]!.split(LIST_SEPARATOR).map(Number),
      );
      words = [];
      kind = 'float_seq';
      return true;
    }
    return (kind === 'float' && wanted === 'int64') || (kind === 'float_seq' && wanted === 'token_seq');
  };

  const setScalar = (row: number, value: bigint | number | boolean): FieldFault | null => {
    if (kind === 'float') {
      if (typeof value === 'bigint' && !isSafe(value)) return differ();
      numbers = withRoom(numbers, row + 1);
      numbers[row] = Number(value);
      return null;
    }
    if (row >= integers.length) {
      integers = withRoom(integers, Math.max(row + 1, 1024));
      halves = new Int32Array(integers.buffer);
    }
    if (typeof value !== 'bigint') setInteger(halves, row, Number(value));
    else if (BigInt.asIntN(64, value) !== value) return { reason: 'integer', expected: 'an integer of 64 bits' };
    else integers[row] = value;
    return null;
  };

  const setList = (row: number, value: readonly unknown[]): FieldFault | null => {
    if (kind === 'float_seq') {
      if (!isNumbers(value)) return differ();
      lists[row] = value.map(Number);
      return null;
    }
    const members = value.map((member) => (typeof member === 'boolean' ? String(Number(member)) : String(member)));
    if (members.some((member) => member.includes(LIST_SEPARATOR) || member === ''))
      return { reason: 'list', expected: 'members that are not empty and without U+001F' };
    plain &&= value.every((member) => typeof member === 'bigint' && isSafe(member));
    words[row] = members.join(LIST_SEPARATOR);
    return null;
  };

  return {
    name,
    set(row, value) {
      if (value === null || value === undefined) {
        missing.mark(row, true);
        if (kind === 'float') {
          numbers = withRoom(numbers, row + 1);
          numbers[row] = Number.NaN;
        } else if (kind === 'int64') setScalar(row, 0n);
        else if (kind === 'float_seq') lists[row] = [];
        else if (kind !== null) words[row] = '';
        return null;
      }
      const wanted = kindOf(value);
      if (wanted === null) return { reason: 'type', expected: 'a string, a number, a boolean or a flat list of them' };
      if (wanted === 'float_seq' && !isNumbers(value as readonly unknown[]))
        return { reason: 'type', expected: 'a list of numbers that float64 holds' };
      const before = kind;
      if (!turn(wanted, row)) return differ();
      const fault = Array.isArray(value)
        ? setList(row, value)
        : typeof value === 'string'
          ? ((words[row] = one(value)), null)
          : setScalar(row, value as bigint | number | boolean);
      if (fault === null) missing.mark(row, value === '');
      else if (before === null) kind = null; // a value that is refused says nothing about the column
      return fault;
    },
    finish(rows) {
      const flags = missing.finish(rows);
      const texts = (): string[] => Array.from({ length: rows }, (_, row) => words[row] ?? '');
      switch (kind) {
        case 'int64':
          return { kind, name, values: withRoom(integers, rows).slice(0, rows), missing: flags };
        case 'float': {
          const values = withRoom(numbers, rows).slice(0, rows);
          flags?.forEach((flag, row) => {
            if (flag === 1) values[row] = Number.NaN;
          });
          return { kind, name, values, missing: flags };
        }
        case 'token_seq':
          return { kind, name, values: texts(), separator: LIST_SEPARATOR, missing: flags };
        case 'float_seq': {
          const offsets = new Int32Array(rows + 1);
          for (let row = 0; row < rows; row++) offsets[row + 1] = offsets[row]! + (lists[row]?.length ?? 0);
          const values = new Float64Array(offsets[rows]!);
          for (let row = 0; row < rows; row++) values.set(lists[row] ?? [], offsets[row]);
          return { kind, name, values, offsets, missing: flags };
        }
        default:
          return { kind: 'token', name, values: texts(), missing: flags };
      }
    },
  };
}

/** A column whose kind the user declared: values go to `builder` as text. */
export function declaredJsonColumn(builder: ColumnBuilder): JsonColumn {
  return {
    name: builder.name,
    set(row, value) {
      if (value === null || value === undefined) return builder.set(row, '');
      if (typeof value === 'boolean') return builder.set(row, value ? '1' : '0');
      if (typeof value === 'object') return { reason: 'type', expected: 'a string or a number' };
      return builder.set(row, String(value));
    },
    finish: (rows) => builder.finish(rows),
  };
}
