/** Raw values of requests and of the tables behind them to what a batch holds, as training resolved them. */
import { type Id, UNKNOWN_ROW, type Vocabulary } from '../data/ids.js';
import type { Feature, FeatureSource, Schema } from '../data/schema.js';
import { ArgumentError, IdError } from '../errors.js';
import { type HostTensor, viewAs } from '../io/safetensors.js';

/** An id of a request: a string, a 64-bit integer or a safe integer. */
export type IdValue = string | number | bigint;

/** A value of a field: an id or word, a number, several ids or words, or nothing. */
export type FieldValue = IdValue | readonly IdValue[] | null;
export type Fields = Readonly<Record<string, FieldValue>>;

/** The text of an id, exact. Throws IdError. */
export function idText(value: IdValue | FieldValue, column: string): string {
  if (typeof value === 'string') return value;
  if (typeof value === 'bigint' || Number.isSafeInteger(value)) return String(value);
  throw new IdError(`ids of ${column}: expected a string, a bigint or a safe integer but received ${String(value)}`, {
    value,
    column,
  });
}

/** The value of a field; null where it is not given. */
export function fieldOf(fields: Fields, name: string): FieldValue {
  return Object.hasOwn(fields, name) ? (fields[name] ?? null) : null;
}

/** Values of one row by feature name. */
export interface FeatureRow {
  readonly categorical: ReadonlyMap<string, number>;
  readonly numeric: ReadonlyMap<string, number>;
  readonly sequences: ReadonlyMap<string, Int32Array>;
}

/** What a batch holds of ids, numbers and lists. */
type TableFeature = Extract<Feature, { type: 'categorical' | 'numeric' | 'sequence' }>;

export function tableFeatures({ features }: Schema, source: FeatureSource): TableFeature[] {
  return features.filter(
    (feature): feature is TableFeature =>
      feature.source === source &&
      (feature.type === 'categorical' || feature.type === 'numeric' || feature.type === 'sequence'),
  );
}

/** Resolves values with the vocabularies, means and deviations of training. */
export class FeatureResolver {
  /** Values that training had not seen, or that were absent. */
  unknown = 0;

  constructor(
    readonly schema: Schema,
    readonly vocabularies: ReadonlyMap<string, Vocabulary>,
    /** What an absent number becomes, by feature. */
    readonly fills: Readonly<Record<string, number>>,
  ) {}

  private vocabularyRow(feature: string, id: Id): number {
    const row = this.vocabularies.get(feature)?.row(id) ?? UNKNOWN_ROW;
    if (row === UNKNOWN_ROW) this.unknown++;
    return row;
  }

  /** These features from `fields`; what is not given is unknown, or the train mean. ArgumentError for a value of another kind. */
  resolve(features: readonly TableFeature[], fields: Fields): FeatureRow {
    const row = {
      categorical: new Map<string, number>(),
      numeric: new Map<string, number>(),
      sequences: new Map<string, Int32Array>(),
    };
    for (const feature of features) {
      const value = fieldOf(fields, feature.name);
      if (feature.type === 'numeric') row.numeric.set(feature.name, this.number(feature, value));
      else if (feature.type === 'sequence') {
        const words = value === null ? [] : value;
        if (!Array.isArray(words)) throw wrongKind(feature.name, 'a list of words', value);
        row.sequences.set(
          feature.name,
          Int32Array.from(keptWords(feature, words as readonly IdValue[]), (word) =>
            this.vocabularyRow(feature.name, idText(word, feature.name)),
          ),
        );
      } else {
        if (value === null || value === '') this.unknown++;
        row.categorical.set(
          feature.name,
          value === null || value === '' ? UNKNOWN_ROW : this.vocabularyRow(feature.name, idText(value, feature.name)),
        );
      }
    }
    return row;
  }

  private number(
    { name, transform, mean, deviation }: Extract<Feature, { type: 'numeric' }>,
    value: FieldValue,
  ): number {
    if (value === null) {
      this.unknown++;
      return this.fills[name] ?? 0;
    }
    if (typeof value !== 'number' || !Number.isFinite(value)) throw wrongKind(name, 'a finite number', value);
    if (transform === 'log1p' && value <= -1) throw wrongKind(name, 'a number above -1', value);
    return ((transform === 'log1p' ? Math.log1p(value) : value) - mean) / deviation;
  }

  /** Throws ArgumentError for a name that is no feature of `sources`; texts and pictures count where `content` is true. */
  checkNames(who: string, fields: Fields, sources: readonly FeatureSource[], content: readonly string[] = []): void {
    const known = sources.flatMap((source) => tableFeatures(this.schema, source).map(({ name }) => name));
    for (const name of Object.keys(fields)) {
      if (!known.includes(name) && !content.includes(name))
        throw new ArgumentError(
          `${who}: expected fields ${[...known, ...content].join(', ') || '(none)'} but received ${name}`,
          { op: who, argument: name },
        );
    }
  }
}

/** The end of a list that training kept. */
function keptWords({ keep, maxLen }: Extract<Feature, { type: 'sequence' }>, words: readonly IdValue[]) {
  return keep === 'last' ? words.slice(-maxLen) : words.slice(0, maxLen);
}

function wrongKind(name: string, expected: string, value: FieldValue): ArgumentError {
  return new ArgumentError(`feature ${name}: expected ${expected} but received ${String(value)}`, { argument: name });
}

/** Rows of items or users by id: those of the export, then those that were added. Number -1 stands for an id that is not held. */
export class EntityTable {
  readonly #numbers: Map<string, number>;
  readonly #base: number;
  readonly #columns: ReadonlyMap<string, Int32Array | Float32Array>;
  readonly #lists: ReadonlyMap<string, { readonly values: Int32Array; readonly offsets: Int32Array }>;
  readonly #added: FeatureRow[] = [];
  readonly #absent: FeatureRow;

  /** `numbers`: of the ids; `tensors`: columns `categorical.x`, `numeric.x`, `sequence.x.values` and `.offsets`. */
  constructor(
    readonly source: 'item' | 'user',
    numbers: Map<string, number>,
    tensors: ReadonlyMap<string, HostTensor>,
    readonly resolver: FeatureResolver,
  ) {
    this.#numbers = numbers;
    this.#base = numbers.size;
    const columns = new Map<string, Int32Array | Float32Array>();
    const lists = new Map<string, { values: Int32Array; offsets: Int32Array }>();
    for (const { name, type } of tableFeatures(resolver.schema, source)) {
      if (type === 'sequence')
        lists.set(name, {
          values: viewAs(tensors.get(`sequence.${name}.values`)!, 'I32'),
          offsets: viewAs(tensors.get(`sequence.${name}.offsets`)!, 'I32'),
        });
      else if (type === 'numeric') columns.set(name, viewAs(tensors.get(`numeric.${name}`)!, 'F32'));
      else columns.set(name, viewAs(tensors.get(`categorical.${name}`)!, 'I32'));
    }
    this.#columns = columns;
    this.#lists = lists;
    this.#absent = this.resolved({});
  }

  /** A row of its own, not of a request, whose unknown values are counted. */
  private resolved(fields: Fields): FeatureRow {
    const { resolver, source } = this;
    const { unknown } = resolver;
    try {
      return resolver.resolve(tableFeatures(resolver.schema, source), fields);
    } finally {
      resolver.unknown = unknown;
    }
  }

  /** Rows held. */
  get size(): number {
    return this.#base + this.#added.length;
  }

  numberOf(id: string): number {
    return this.#numbers.get(id) ?? -1;
  }

  /**
   * Takes in new ids with their fields, or new fields of added ones, all or none; returns their numbers. Rows of the export stay as they are.
   * ArgumentError that names the id, for a value of another kind.
   */
  put(entries: readonly { readonly id: string; readonly fields: Fields }[]): Int32Array {
    const { source } = this;
    const { itemId, userId } = this.resolver.schema;
    const feature = source === 'item' ? itemId : userId;
    const rows = entries.map(({ id, fields }) => {
      const known = this.numberOf(id);
      if (known >= 0 && known < this.#base) return null;
      try {
        return this.resolved(feature === null ? fields : { ...fields, [feature]: id });
      } catch (error) {
        if (!(error instanceof ArgumentError || error instanceof IdError)) throw error;
        throw new ArgumentError(
          `${source} ${id}: ${error.message}`,
          { ...error.fields, [source]: id },
          { cause: error },
        );
      }
    });
    return Int32Array.from(entries, ({ id }, i) => {
      const row = rows[i]!;
      const number = this.numberOf(id) < 0 ? this.size : this.numberOf(id);
      if (row === null) return number;
      this.#added[number - this.#base] = row;
      this.#numbers.set(id, number);
      return number;
    });
  }

  private other(number: number): FeatureRow {
    return number < 0 ? this.#absent : this.#added[number - this.#base]!;
  }

  categorical(name: string, number: number): number {
    return number >= 0 && number < this.#base
      ? this.#columns.get(name)![number]!
      : this.other(number).categorical.get(name)!;
  }

  numeric(name: string, number: number): number {
    return number >= 0 && number < this.#base
      ? this.#columns.get(name)![number]!
      : this.other(number).numeric.get(name)!;
  }

  sequence(name: string, number: number): Int32Array {
    if (number < 0 || number >= this.#base) return this.other(number).sequences.get(name)!;
    const { values, offsets } = this.#lists.get(name)!;
    return values.subarray(offsets[number], offsets[number + 1]);
  }
}
