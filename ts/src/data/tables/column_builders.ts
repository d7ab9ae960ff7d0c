/** Columns while they grow: fields arrive as text, one row at a time; a row that turns out bad is simply overwritten by the next. */
import type { Column } from './table.js';

export type ColumnKind = Column['kind'];

/** Why a field is unusable: a counter's name, and what was expected. */
export interface FieldFault {
  readonly reason: 'number' | 'integer' | 'type' | 'list';
  readonly expected: string;
}

export interface ColumnBuilder {
  readonly name: string;
  /** Writes field `text` as row `row`, which is the next row or the last one again. Returns a fault and writes nothing, or null. */
  set(row: number, text: string): FieldFault | null;
  finish(rows: number): Column;
}

export function columnBuilder(name: string, kind: ColumnKind, separator: string): ColumnBuilder {
  switch (kind) {
    case 'token':
      return tokenBuilder(name);
    case 'token_seq':
      return tokenSeqBuilder(name, separator);
    case 'float':
      return floatBuilder(name);
    case 'float_seq':
      return floatSeqBuilder(name, separator);
    case 'int64':
      return int64Builder(name);
    case 'uint64':
      return uint64Builder(name);
  }
}

const NOT_A_NUMBER: FieldFault = { reason: 'number', expected: 'a finite number' };
const NOT_INT64: FieldFault = { reason: 'integer', expected: 'an integer of 64 bits' };
const NOT_UINT64: FieldFault = { reason: 'integer', expected: 'an unsigned integer of 64 bits' };
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
const INTEGER = /^[+-]?\d{1,40}$/;

/** Number of a decimal text; NaN for anything else, also for hexadecimal, `nan`, `inf` and what overflows. */
export function parseNumber(text: string): number {
  const value = NUMBER.test(text) ? Number(text) : NaN;
  return Number.isFinite(value) ? value : NaN;
}

/** Whether a text is an integer that float64 rounds. */
export function isLongInteger(text: string): boolean {
  return text.length > 15 && /^[+-]?\d+$/.test(text) && !Number.isSafeInteger(Number(text));
}

type Growable = Float64Array | BigInt64Array | BigUint64Array | Int32Array | Uint8Array;

/** `array` itself, or a copy with room for `length` elements. */
export function withRoom<T extends Growable>(array: T, length: number): T {
  if (length <= array.length) return array;
  const larger = new (array.constructor as new (length: number) => T)(Math.max(length, 2 * array.length));
  larger.set(array as never);
  return larger;
}

/** One flag per row. */
export class MissingMask {
  private flags = new Uint8Array(1024);

  set(row: number, text: string): boolean {
    return this.mark(row, text === '');
  }

  mark(row: number, missing: boolean): boolean {
    this.flags = withRoom(this.flags, row + 1);
    this.flags[row] = missing ? 1 : 0;
    return missing;
  }

  has(row: number): boolean {
    return this.flags[row] === 1;
  }

  /** Null when no row is missing. */
  finish(rows: number): Uint8Array | null {
    const flags = this.flags.slice(0, rows);
    return flags.includes(1) ? flags : null;
  }
}

/** The integer that `text` is, if it has at most 15 digits, no sign but a minus and no leading zero; else NaN. */
export function parseInteger(text: string): number {
  const negative = text.charCodeAt(0) === 45;
  const first = negative ? 1 : 0;
  const digits = text.length - first;
  if (digits < 1 || digits > 15) return Number.NaN;
  let value = 0;
  for (let at = first; at < text.length; at++) {
    const digit = text.charCodeAt(at) - 48;
    if (digit < 0 || digit > 9) return Number.NaN;
    value = 10 * value + digit;
  }
  if (text.charCodeAt(first) === 48 && (digits > 1 || negative)) return Number.NaN;
  return negative ? -value : value;
}

/** Writes a safe integer into a BigInt64Array seen as its 32-bit halves (little-endian), without making a bigint. */
export function setInteger(halves: Int32Array, row: number, value: number): void {
  halves[2 * row] = value | 0;
  halves[2 * row + 1] = Math.floor(value / 0x1_0000_0000);
}

/** Distinct strings kept: a Map holds no more than 2^24 keys. */
const MAX_INTERNED = 1 << 23;

/** One string per distinct token, however often it occurs. */
export function interning(): (text: string) => string {
  const known = new Map<string, string>();
  return (text) => {
    const token = known.get(text);
    if (token !== undefined) return token;
    if (known.size < MAX_INTERNED) known.set(text, text);
    return text;
  };
}

function tokenBuilder(name: string): ColumnBuilder {
  const values: string[] = [];
  const missing = new MissingMask();
  const one = interning();
  return {
    name,
    set(row, text) {
      missing.set(row, text);
      values[row] = one(text);
      return null;
    },
    finish: (rows) => ({ kind: 'token', name, values: values.slice(0, rows), missing: missing.finish(rows) }),
  };
}

function tokenSeqBuilder(name: string, separator: string): ColumnBuilder {
  const values: string[] = [];
  const missing = new MissingMask();
  return {
    name,
    set(row, text) {
      missing.set(row, text);
      values[row] = text;
      return null;
    },
    finish: (rows) => ({
      kind: 'token_seq',
      name,
      values: values.slice(0, rows),
      separator,
      missing: missing.finish(rows),
    }),
  };
}

function floatBuilder(name: string): ColumnBuilder {
  let values = new Float64Array(1024);
  const missing = new MissingMask();
  return {
    name,
    set(row, text) {
      values = withRoom(values, row + 1);
      const value = missing.set(row, text) ? NaN : parseNumber(text);
      if (text !== '' && Number.isNaN(value)) return NOT_A_NUMBER;
      values[row] = value;
      return null;
    },
    finish: (rows) => ({ kind: 'float', name, values: values.slice(0, rows), missing: missing.finish(rows) }),
  };
}

function floatSeqBuilder(name: string, separator: string): ColumnBuilder {
  let values = new Float64Array(1024);
  let offsets = new Int32Array(1024);
  const missing = new MissingMask();
  return {
    name,
    set(row, text) {
      offsets = withRoom(offsets, row + 2);
      let end = offsets[row]!;
      if (!missing.set(row, text)) {
        for (const part of text.split(separator)) {
          const value = parseNumber(part);
          if (Number.isNaN(value)) return NOT_A_NUMBER;
          values = withRoom(values, end + 1);
          values[end++] = value;
        }
      }
      offsets[row + 1] = end;
      return null;
    },
    finish: (rows) => ({
      kind: 'float_seq',
      name,
      values: values.slice(0, offsets[rows]),
      offsets: offsets.slice(0, rows + 1),
      missing: missing.finish(rows),
    }),
  };
}

/** Integers of 64 bits, exact: `wrap` keeps a value that fits and changes every other. */
function integerBuilder<T extends BigInt64Array | BigUint64Array>(
  first: T,
  wrap: (value: bigint) => bigint,
  fault: FieldFault,
  column: (values: T, missing: Column['missing']) => Column,
  name: string,
): ColumnBuilder {
  let values = first;
  const missing = new MissingMask();
  return {
    name,
    set(row, text) {
      values = withRoom(values, row + 1);
      values[row] = 0n;
      if (missing.set(row, text)) return null;
      if (!INTEGER.test(text)) return fault;
      const value = BigInt(text.startsWith('+') ? text.slice(1) : text);
      if (wrap(value) !== value) return fault;
      values[row] = value;
      return null;
    },
    finish: (rows) => column(values.slice(0, rows) as T, missing.finish(rows)),
  };
}

function int64Builder(name: string): ColumnBuilder {
  const wrap = (value: bigint) => BigInt.asIntN(64, value);
  return integerBuilder(
    new BigInt64Array(1024),
    wrap,
    NOT_INT64,
    (values, missing) => ({ kind: 'int64', name, values, missing }),
    name,
  );
}

function uint64Builder(name: string): ColumnBuilder {
  const wrap = (value: bigint) => BigInt.asUintN(64, value);
  return integerBuilder(
    new BigUint64Array(1024),
    wrap,
    NOT_UINT64,
    (values, missing) => ({ kind: 'uint64', name, values, missing }),
    name,
  );
}
