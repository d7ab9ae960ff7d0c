/**
 * Ids: 64-bit integers or strings, exact from end to end. They never pass through a double, and every value is legal: padding is
 * a length or a mask, never a magic id. Rules: data.md, section 2; faults F17 to F19.
 */
import { DataError, IdError } from '../errors.js';
import { DenseCodes } from './tables/id_codes.js';
import type { Column } from './tables/table.js';
import { type Pass, slices } from './turns.js';

/** What an API accepts as ids. Plain numbers only if they are safe integers. */
export type IdInput = BigInt64Array | BigUint64Array | Int32Array | Uint32Array | readonly string[] | readonly number[];

export type IdKind = 'int64' | 'uint64' | 'string';

/** Checked ids of one column, all of one kind. */
export type Ids =
  | { readonly kind: 'int64'; readonly values: BigInt64Array }
  | { readonly kind: 'uint64'; readonly values: BigUint64Array }
  | { readonly kind: 'string'; readonly values: readonly string[] };

export type Id = string | bigint;

const LONE_SURROGATE = /\p{Surrogate}/u;

/**
 * Checks ids from outside. 64-bit and string arrays come back as they are (not copied), 32-bit arrays and plain numbers as int64.
 * Throws IdError, with column, index and value, for float arrays, NaN, Infinity, fractions, unsafe integers, null, undefined,
 * mixed kinds and strings that are no Unicode text.
 */
export function checkIds(input: unknown, column: string): Ids {
  if (input instanceof BigInt64Array) return { kind: 'int64', values: input };
  if (input instanceof BigUint64Array) return { kind: 'uint64', values: input };
  if (input instanceof Int32Array || input instanceof Uint32Array)
    return { kind: 'int64', values: BigInt64Array.from(input, BigInt) };
  if (!Array.isArray(input))
    throw refusal(column, 'a BigInt64Array, an Int32Array or strings', typeName(input), input, null);
  const values: readonly unknown[] = input;
  return typeof values[0] === 'number' ? checkNumbers(values, column) : checkStrings(values, column);
}

/** Ids of a column that was read. Throws IdError for columns of other kinds and for rows without an id. */
export function columnIds(column: Column): Ids {
  const missing = column.missing?.indexOf(1) ?? -1;
  if (missing >= 0) throw refusal(column.name, 'an id', 'an empty field', '', missing);
  switch (column.kind) {
    case 'token':
      return { kind: 'string', values: column.values };
    case 'int64':
      return { kind: 'int64', values: column.values };
    case 'uint64':
      return { kind: 'uint64', values: column.values };
    default:
      throw refusal(column.name, 'a column of type token', `one of type ${column.kind}`, column.kind, null);
  }
}

function checkNumbers(values: readonly unknown[], column: string): Ids {
  const ids = new BigInt64Array(values.length);
  // By index, not forEach: holes of a sparse array must be seen.
  for (let index = 0; index < values.length; index++) {
    const value = values[index];
    if (!Number.isSafeInteger(value)) throw refusal(column, 'a safe integer', describe(value), value, index);
    ids[index] = BigInt(value as number);
  }
  return { kind: 'int64', values: ids };
}

function checkStrings(values: readonly unknown[], column: string): Ids {
  for (let index = 0; index < values.length; index++) {
    const value = values[index];
    if (typeof value !== 'string') throw refusal(column, 'a string', describe(value), value, index);
    if (LONE_SURROGATE.test(value)) throw refusal(column, 'Unicode text', 'a lone surrogate', value, index);
  }
  return { kind: 'string', values: values as readonly string[] };
}

function refusal(column: string, expected: string, got: string, value: unknown, index: number | null): IdError {
  const place = index === null ? '' : ` at index ${index}`;
  return new IdError(`ids of ${column}: expected ${expected}, got ${got}${place}`, { value, index, column });
}

function describe(value: unknown): string {
  if (typeof value === 'number' && Number.isInteger(value)) return `${value}, beyond 2^53 (use a BigInt64Array)`;
  if (typeof value === 'bigint') return `${value}n in a plain array (use a BigInt64Array)`;
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 80));
  return typeof value === 'number' ? String(value) : typeName(value);
}

function typeName(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  return typeof value === 'object' ? (value.constructor?.name ?? 'an object') : typeof value;
}

/** Row of every id that the vocabulary does not hold: never seen in training, or seen less than `minCount` times. */
export const UNKNOWN_ROW = 0;

export interface VocabularyOptions {
  /** Ids that occur less often share the unknown row; default 1. */
  minCount?: number;
  /** Row numbers of the train part; default all rows. */
  trainRows?: Int32Array | null;
}

/** What a checkpoint stores. Integers are decimal strings. */
export interface VocabularyJson {
  readonly format: 'galago-vocabulary-1';
  readonly kind: IdKind;
  readonly minCount: number;
  readonly ids: readonly string[];
  readonly counts: readonly number[];
  readonly rareIds: number;
}

/** Static vocabulary: ids of the train part to rows 1 .. size-1, in order of first appearance; row 0 stands for all others. */
export class Vocabulary {
  private held: DenseCodes<Id> | null = null;

  private constructor(
    /** Name of the column, for messages. */
    readonly column: string,
    readonly kind: IdKind,
    readonly minCount: number,
    private readonly ids: readonly Id[],
    private readonly counts: readonly number[],
    /** Distinct train ids below `minCount`. */
    readonly rareIds: number,
  ) {}

  /** Codes of the ids, one below their rows; made when they are first asked for. */
  private get codes(): DenseCodes<Id> {
    if (this.held === null) {
      this.held = new DenseCodes();
      for (const id of this.ids) this.held.code(id);
    }
    return this.held;
  }

  static build(column: string, ids: Ids, { minCount = 1, trainRows = null }: VocabularyOptions = {}): Vocabulary {
    const known = new DenseCodes<Id>();
    const counts: number[] = [];
    const length = trainRows?.length ?? ids.values.length;
    for (let i = 0; i < length; i++) {
      const code = known.code(ids.values[trainRows ? trainRows[i]! : i]!);
      counts[code] = (counts[code] ?? 0) + 1;
    }
    return Vocabulary.ofCounts(column, ids.kind, known.ids, counts, minCount);
  }

  /** The vocabulary of distinct train ids, in order of first appearance, and how often each occurs. */
  static ofCounts(
    column: string,
    kind: IdKind,
    ids: readonly Id[],
    counts: readonly number[],
    minCount = 1,
  ): Vocabulary {
    const isKept = (_: unknown, i: number): boolean => counts[i]! >= minCount;
    const kept = ids.filter(isKept);
    return new Vocabulary(column, kind, minCount, kept, counts.filter(isKept), ids.length - kept.length);
  }

  /**
   * As `build`, of string ids by code: `codes` holds the code of each row (-1 for none; null: row and code are one), `rows` the row of
   * each event, `events` the numbers of the train events. Beside it the vocabulary's row of each code.
   */
  static *ofCodes(
    column: string,
    ids: readonly string[],
    {
      codes,
      rows,
      events,
      minCount = 1,
    }: { codes: Int32Array | null; rows: Int32Array; events: Int32Array; minCount?: number },
  ): Pass<{ vocabulary: Vocabulary; rowOfCode: Int32Array }> {
    const countOf = new Int32Array(ids.length);
    const seen = new Int32Array(ids.length); // codes in order of first appearance
    let distinct = 0;
    yield* slices(events.length, (from, to) => {
      for (let i = from; i < to; i++) {
        const row = rows[events[i]!]!;
        const code = codes === null ? row : codes[row]!;
        if (code >= 0 && countOf[code]!++ === 0) seen[distinct++] = code;
      }
    });
    const kept = new Array<string>(distinct); // at once: a large array that grows is copied again and again
    yield;
    const counts = new Array<number>(distinct);
    const rowOfCode = new Int32Array(ids.length);
    let size = 0;
    yield* slices(distinct, (from, to) => {
      for (let i = from; i < to; i++) {
        const code = seen[i]!;
        if (countOf[code]! < minCount) continue;
        kept[size] = ids[code]!;
        counts[size] = countOf[code]!;
        rowOfCode[code] = ++size;
      }
    });
    kept.length = size;
    counts.length = size;
    const vocabulary = new Vocabulary(column, 'string', minCount, kept, counts, distinct - size);
    return { vocabulary, rowOfCode };
  }

  /** Rows of the embedding table, the unknown row included. */
  get size(): number {
    return this.ids.length + 1;
  }

  /** Row of one id; UNKNOWN_ROW if it is not held. */
  row(id: Id): number {
    return this.codes.find(id) + 1; // UNKNOWN_ROW for -1
  }

  /** Id of a row as it came in; null for the unknown row. */
  id(row: number): Id | null {
    return this.ids[row - 1] ?? null;
  }

  /** Occurrences of the row's id in the train part; 0 for the unknown row. */
  count(row: number): number {
    return this.counts[row - 1] ?? 0;
  }

  /** Rows (n) of ids (n). Throws IdError for another kind of id than the vocabulary was built from. */
  encode(ids: Ids): Int32Array {
    if (ids.kind !== this.kind)
      throw refusal(
        this.column,
        `${this.kind} ids as in training`,
        ids.kind,
        ids.values[0],
        ids.values.length ? 0 : null,
      );
    const rows = new Int32Array(ids.values.length);
    for (let i = 0; i < rows.length; i++) rows[i] = this.row(ids.values[i]!);
    return rows;
  }

  toJSON(): VocabularyJson {
    const { kind, minCount, counts, rareIds } = this;
    return { format: 'galago-vocabulary-1', kind, minCount, ids: this.ids.map(String), counts, rareIds };
  }

  /** The vocabulary that `toJSON` described. Throws DataError for anything else. */
  static fromJSON(column: string, json: VocabularyJson): Vocabulary {
    const fail = (message: string) =>
      new DataError('DATA_SCHEMA', `Vocabulary of ${column}: ${message}`, { column, reason: 'vocabulary' });
    if (json.format !== 'galago-vocabulary-1') throw fail(`expected galago-vocabulary-1, got ${String(json.format)}`);
    if (!['int64', 'uint64', 'string'].includes(json.kind)) throw fail(`unknown kind ${String(json.kind)}`);
    if (json.counts.length !== json.ids.length)
      throw fail(`expected a count per id, got ${json.counts.length} for ${json.ids.length}`);
    const ids = json.ids.map((text): Id => {
      if (typeof text !== 'string') throw fail(`expected ids as strings, got ${typeName(text)}`);
      if (json.kind === 'string') return text;
      if (!/^-?\d{1,20}$/.test(text)) throw fail(`expected an integer, got ${text.slice(0, 80)}`);
      const id = BigInt(text);
      if ((json.kind === 'int64' ? BigInt.asIntN(64, id) : BigInt.asUintN(64, id)) !== id)
        throw fail(`${text} is no ${json.kind}`);
      return id;
    });
    const vocabulary = new Vocabulary(column, json.kind, json.minCount, ids, [...json.counts], json.rareIds);
    if (vocabulary.codes.ids.length !== ids.length) throw fail('an id occurs twice');
    return vocabulary;
  }
}
