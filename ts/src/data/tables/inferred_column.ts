/**
 * Columns of text whose header names no type (CSV, partition folders): the kind is the narrowest that holds every field, and never
 * one that loses a digit of an id.
 */
import {
  type ColumnBuilder,
  type FieldFault,
  interning,
  MissingMask,
  parseInteger,
  setInteger,
  withRoom,
} from './column_builders.js';

const PLAIN_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const PLAIN_INTEGER = /^(0|-?[1-9]\d*)$/;

/**
 * `int64` while every field is an integer as a program writes one (no sign but a minus, no leading zero), because integer and text
 * then stand for each other; `float` where some have a fraction; else `token`, the text itself: `007` and integers beyond 64 bits are
 * words. Empty fields are missing in every kind. A word after numbers that cannot be written back as they were (`4.0`) is a fault.
 */
export function inferredBuilder(name: string): ColumnBuilder {
  const missing = new MissingMask();
  const one = interning();
  let kind: 'int64' | 'float' | 'token' = 'int64';
  let integers = new BigInt64Array(1024);
  let halves = new Int32Array(integers.buffer);
  let numbers = new Float64Array(0);
  let words: string[] = [];
  let exact = true; // every number so far reads back as its text
  let safe = true; // every integer so far is one of a double

  const toNumbers = (rows: number): void => {
    numbers = withRoom(numbers, Math.max(rows, 1024));
    for (let row = 0; row < rows; row++) numbers[row] = missing.has(row) ? Number.NaN : Number(integers[row]);
    integers = new BigInt64Array(0);
    kind = 'float';
  };
  const toWords = (rows: number): void => {
    const held = kind === 'float' ? numbers : integers;
    words = Array.from({ length: rows }, (_, row) => (missing.has(row) ? '' : one(String(held[row]))));
    integers = new BigInt64Array(0);
    numbers = new Float64Array(0);
    kind = 'token';
  };
  const fault: FieldFault = {
    reason: 'number',
    expected: `a finite number as in the rows before (or dtypes: { ${name}: token })`,
  };

  const set = (row: number, text: string): FieldFault | null => {
    const empty = missing.set(row, text);
    if (kind === 'token') {
      words[row] = one(text);
      return null;
    }
    if (kind === 'int64') {
      if (row >= integers.length) {
        integers = withRoom(integers, row + 1);
        halves = new Int32Array(integers.buffer);
      }
      if (empty) {
        integers[row] = 0n;
        return null;
      }
      const small = parseInteger(text);
      if (!Number.isNaN(small)) {
        setInteger(halves, row, small);
        return null;
      }
      if (PLAIN_INTEGER.test(text)) {
        const value = BigInt(text);
        if (BigInt.asIntN(64, value) === value) {
          integers[row] = value;
          safe &&= Number.isSafeInteger(Number(text));
          return null;
        }
        toWords(row);
      } else if (safe && PLAIN_NUMBER.test(text)) toNumbers(row);
      else toWords(row);
      return set(row, text);
    }
    numbers = withRoom(numbers, row + 1);
    const value = empty || !PLAIN_NUMBER.test(text) ? Number.NaN : Number(text);
    const held = PLAIN_INTEGER.test(text) ? Number.isSafeInteger(value) : Number.isFinite(value);
    if (empty || held) {
      exact &&= empty || String(value) === text;
      numbers[row] = value;
      return null;
    }
    if (!exact) return fault;
    toWords(row);
    return set(row, text);
  };

  return {
    name,
    set,
    finish(rows) {
      const flags = missing.finish(rows);
      if (kind === 'token') return { kind, name, values: words.slice(0, rows), missing: flags };
      if (kind === 'float') return { kind, name, values: numbers.slice(0, rows), missing: flags };
      return { kind, name, values: integers.slice(0, rows), missing: flags };
    },
  };
}
