/** Columns of a known number of rows that are filled from arrays, piece by piece: what a columnar file decodes to becomes a `Column`. */
import { type ColumnKind, interning, setInteger, withRoom } from './column_builders.js';
import { type Column, LIST_SEPARATOR } from './table.js';

/** Values as a decoder makes them: typed arrays, or an array with null (or undefined) where a field is missing. */
export type Decoded = ArrayLike<unknown>;

export interface ColumnSink {
  readonly name: string;
  /** Writes `values` as rows `row ..`. Throws RangeError for a value that the kind does not hold. */
  write(row: number, values: Decoded): void;
  /** The column of the rows in `keep`, ascending; null: the first `rows`. */
  finish(rows: number, keep: Int32Array | null): Column;
}

/** A sink for `rows` rows. Bytes are allocated at once: 8 per row. */
export function columnSink(name: string, kind: ColumnKind, rows: number): ColumnSink {
  switch (kind) {
    case 'int64':
    case 'uint64':
      return integerSink(name, kind, rows);
    case 'float':
      return floatSink(name, rows);
    case 'token':
      return tokenSink(name, rows);
    case 'token_seq':
      return tokenSeqSink(name, rows);
    case 'float_seq':
      return floatSeqSink(name, rows);
  }
}

/** One flag per row, made when the first row is missing. */
class Missing {
  private flags: Uint8Array | null = null;

  constructor(private readonly rows: number) {}

  mark(row: number): void {
    this.flags ??= new Uint8Array(this.rows);
    this.flags[row] = 1;
  }

  /** A row group that is read again is not missing. */
  clear(from: number, to: number): void {
    this.flags?.fill(0, from, to);
  }

  finish(rows: number, keep: Int32Array | null): Uint8Array | null {
    if (this.flags === null) return null;
    const flags = picked(this.flags, rows, keep);
    return flags.includes(1) ? flags : null;
  }
}

type Picked = BigInt64Array | BigUint64Array | Float64Array | Uint8Array;

/** The rows in `keep`, in place; or the first `rows`. */
function picked<T extends Picked>(values: T, rows: number, keep: Int32Array | null): T {
  if (keep !== null) for (let i = 0; i < keep.length; i++) values[i] = values[keep[i]!]!;
  const length = keep?.length ?? rows;
  return (length === values.length ? values : values.slice(0, length)) as T;
}

function integerSink(name: string, kind: 'int64' | 'uint64', rows: number): ColumnSink {
  const values = new BigInt64Array(rows);
  const unsigned = new BigUint64Array(values.buffer);
  const halves = new Int32Array(values.buffer);
  const missing = new Missing(rows);
  return {
    name,
    write(row, from) {
      missing.clear(row, row + from.length);
      if (from instanceof BigInt64Array) values.set(from, row);
      else if (from instanceof BigUint64Array) unsigned.set(from, row);
      else if (from instanceof Int32Array || from instanceof Uint32Array) widen(from, halves, row);
      else
        for (let i = 0; i < from.length; i++) {
          const value = from[i];
          if (typeof value === 'bigint') {
            if (BigInt.asIntN(64, value) !== value && (kind === 'int64' || BigInt.asUintN(64, value) !== value))
              throw new RangeError(`${value} is no ${kind}`);
            values[row + i] = value;
          } else if (typeof value === 'number' || typeof value === 'boolean') {
            const number = Number(value);
            if (!Number.isSafeInteger(number)) throw new RangeError(`${number} is no integer`);
            setInteger(halves, row + i, number);
          } else if (value == null) {
            values[row + i] = 0n;
            missing.mark(row + i);
          } else throw new RangeError(`expected an integer, got ${typeof value}`);
        }
    },
    finish(count, keep) {
      const flags = missing.finish(count, keep);
      return kind === 'int64'
        ? { kind, name, values: picked(values, count, keep), missing: flags }
        : { kind, name, values: picked(unsigned, count, keep), missing: flags };
    },
  };
}

/** Integers of 32 bits as integers of 64. */
function widen(from: Int32Array | Uint32Array, halves: Int32Array, row: number): void {
  const isSigned = from instanceof Int32Array;
  for (let i = 0, to = 2 * row; i < from.length; i++, to += 2) {
    const value = from[i]!;
    halves[to] = value;
    halves[to + 1] = isSigned ? value >> 31 : 0;
  }
}

function floatSink(name: string, rows: number): ColumnSink {
  const values = new Float64Array(rows);
  const missing = new Missing(rows);
  return {
    name,
    write(row, from) {
      missing.clear(row, row + from.length);
      if (from instanceof Float64Array || from instanceof Float32Array) {
        values.set(from, row);
        for (let i = 0; i < from.length; i++) if (Number.isNaN(from[i])) missing.mark(row + i);
        return;
      }
      for (let i = 0; i < from.length; i++) {
        const value = from[i];
        // NaN is how data frames write a missing number.
        if (value == null || Number.isNaN(value)) {
          values[row + i] = Number.NaN;
          missing.mark(row + i);
        } else if (typeof value === 'number') values[row + i] = value;
        else throw new RangeError(`expected a number, got ${typeof value}`);
      }
    },
    finish: (count, keep) => ({
      kind: 'float',
      name,
      values: picked(values, count, keep),
      missing: missing.finish(count, keep),
    }),
  };
}

function wordsOf(words: readonly string[], rows: number, keep: Int32Array | null): string[] {
  return keep === null ? words.slice(0, rows) : Array.from(keep, (row) => words[row]!);
}

function tokenSink(name: string, rows: number): ColumnSink {
  const words: string[] = [];
  const missing = new Missing(rows);
  const one = interning();
  return {
    name,
    write(row, from) {
      missing.clear(row, row + from.length);
      while (words.length < row) words.push(''); // rows of a group that was left out
      for (let i = 0; i < from.length; i++) {
        const value = from[i];
        if (value == null || value === '') {
          words[row + i] = '';
          missing.mark(row + i);
        } else if (typeof value === 'string') words[row + i] = one(value);
        else throw new RangeError(`expected a string, got ${typeof value}`);
      }
    },
    finish: (count, keep) => ({
      kind: 'token',
      name,
      values: wordsOf(words, count, keep),
      missing: missing.finish(count, keep),
    }),
  };
}

function tokenSeqSink(name: string, rows: number): ColumnSink {
  const words: string[] = [];
  const missing = new Missing(rows);
  return {
    name,
    write(row, from) {
      missing.clear(row, row + from.length);
      while (words.length < row) words.push('');
      for (let i = 0; i < from.length; i++) {
        const list = from[i];
        if (list == null) {
          words[row + i] = '';
          missing.mark(row + i);
          continue;
        }
        words[row + i] = Array.from(list as ArrayLike<unknown>, (member) => {
          const text = typeof member === 'boolean' ? String(Number(member)) : String(member ?? '');
          if (text === '' || text.includes(LIST_SEPARATOR))
            throw new RangeError('a member of a list is null, empty or holds U+001F');
          return text;
        }).join(LIST_SEPARATOR);
      }
    },
    finish: (count, keep) => ({
      kind: 'token_seq',
      name,
      values: wordsOf(words, count, keep),
      separator: LIST_SEPARATOR,
      missing: missing.finish(count, keep),
    }),
  };
}

function floatSeqSink(name: string, rows: number): ColumnSink {
  let values = new Float64Array(rows);
  const starts = new Int32Array(rows);
  const lengths = new Int32Array(rows);
  const missing = new Missing(rows);
  let end = 0;
  return {
    name,
    write(row, from) {
      missing.clear(row, row + from.length);
      for (let i = 0; i < from.length; i++) {
        const list = from[i];
        starts[row + i] = end;
        lengths[row + i] = 0;
        if (list == null) {
          missing.mark(row + i);
          continue;
        }
        const members = list as ArrayLike<unknown>;
        if (end + members.length > 0x7fff_ffff)
          throw new RangeError('a column of lists holds at most 2^31 - 1 numbers');
        values = withRoom(values, end + members.length);
        for (let k = 0; k < members.length; k++) {
          const member = members[k];
          if (typeof member !== 'number' || !Number.isFinite(member))
            throw new RangeError(`expected finite numbers in a list, got ${String(member)}`);
          values[end + k] = member;
        }
        lengths[row + i] = members.length;
        end += members.length;
      }
    },
    finish(count, keep) {
      const of = (i: number): number => keep?.[i] ?? i;
      const length = keep?.length ?? count;
      const offsets = new Int32Array(length + 1);
      for (let i = 0; i < length; i++) offsets[i + 1] = offsets[i]! + lengths[of(i)]!;
      const out = new Float64Array(offsets[length]!);
      for (let i = 0; i < length; i++) {
        const start = starts[of(i)]!;
        out.set(values.subarray(start, start + lengths[of(i)]!), offsets[i]);
      }
      return { kind: 'float_seq', name, values: out, offsets, missing: missing.finish(count, keep) };
    },
  };
}
