/**
 * From columns to features: vocabularies, means and deviations from the train part only (data.md, rule L4), everything else
 * follows by row. Row 0 of every vocabulary stands for ids never seen in train, seen too rarely, or missing.
 */

import { DataError } from '../errors.js';
import type { Entity } from './entity.js';
import { UNKNOWN_ROW, Vocabulary } from './ids.js';
import type {
  BatchColumns,
  CategoricalColumn,
  IdHistoryColumn,
  NumericColumn,
  SequenceColumn,
} from './loader/batch_source.js';
import { sharedFloat32 } from './loader/shared_memory.js';
import type { Feature, FeatureSource } from './schema.js';
import { DenseCodes } from './tables/id_codes.js';
import { sharedInt32 } from './text/token_store.js';
import { inTurns, type Pass, slices } from './turns.js';

interface SpecBase {
  readonly name: string;
  /** Default `item` for texts, pictures and vectors, else `inter`. Ids of users and items belong to their tables whatever is said here. */
  readonly source?: FeatureSource;
}

interface TableSpec {
  /** Width of the embedding; null or absent leaves it to the model. */
  readonly embeddingDim?: number | null;
  /** Ids with fewer train events share row 0. Default 1. */
  readonly minCount?: number;
  /** Categorical feature whose table and vocabulary are used. */
  readonly shareEmbedding?: string | null;
}

/** What a user asks for, by column name; `schema.ts` is what it became. */
export type FeatureSpec =
  | (SpecBase & TableSpec & { readonly type: 'categorical' })
  | (SpecBase & { readonly type: 'numeric'; readonly transform?: 'none' | 'log1p' | 'standardize' })
  | (SpecBase &
      TableSpec & {
        readonly type: 'sequence';
        /** The categorical feature whose earlier ids these are, oldest first: its vocabulary, and its table unless `shareEmbedding` is null. */
        readonly of?: string | undefined;
        readonly splitter?: string;
        readonly maxLen: number;
        /** Default first, of earlier ids last. */
        readonly keep?: 'first' | 'last' | undefined;
      })
  | (SpecBase & TableSpec & { readonly type: 'history'; readonly of: string; readonly maxLen: number })
  /** Fields of one source are laid out in one text, in this order. */
  | (SpecBase & { readonly type: 'text'; readonly maxLen: number })
  | (SpecBase & { readonly type: 'image'; readonly size: number })
  /** Given vectors of items in a `.npy`; `ids` names the list of ids beside it, else `ids.npy` or `ids.txt`, else row = item row. */
  | (SpecBase & { readonly type: 'embedding'; readonly file: string; readonly ids?: string | null })
  | (SpecBase & { readonly type: 'meta' });

/** The source of a feature, default filled in. */
export function sourceOf(spec: FeatureSpec): FeatureSource {
  return spec.source ?? (spec.type === 'text' || spec.type === 'image' || spec.type === 'embedding' ? 'item' : 'inter');
}

export type SpecOf<T extends FeatureSpec['type']> = Extract<FeatureSpec, { type: T }>;

/** What resolving needs to know. `joined(source)[event]` is the row of that source for an event. */
export interface ResolveContext {
  readonly entities: Readonly<Record<FeatureSource, Entity | null>>;
  /** Event numbers of the train part, ascending. */
  readonly train: Int32Array;
  readonly joined: (source: FeatureSource) => Int32Array;
  readonly userId: string;
  readonly itemId: string;
  readonly userIds: readonly string[];
  readonly itemIds: readonly string[];
  readonly counters: Record<string, number>;
}

export interface ResolvedTables {
  readonly features: ReadonlyMap<string, Feature>;
  readonly vocabularies: ReadonlyMap<string, Vocabulary>;
  readonly columns: Pick<BatchColumns, 'categorical' | 'numeric' | 'sequences' | 'idHistories'>;
}

/** Resolves ids, numbers, sequences and histories in turns of the event loop; texts, pictures and vectors are the data set's own. */
export function resolveTables(
  specs: readonly FeatureSpec[],
  context: ResolveContext,
  signal?: AbortSignal,
): Promise<ResolvedTables> {
  return inTurns(resolveTablesPass(specs, context), signal);
}

function* resolveTablesPass(specs: readonly FeatureSpec[], context: ResolveContext): Pass<ResolvedTables> {
  const features = new Map<string, Feature>();
  const vocabularies = new Map<string, Vocabulary>();
  const categorical: CategoricalColumn[] = [];
  const numeric: NumericColumn[] = [];
  const sequences: SequenceColumn[] = [];
  const idHistories: IdHistoryColumn[] = [];

  /** The vocabulary of another feature that this one shares; null for one of its own. */
  const sharedVocabulary = (spec: SpecOf<'categorical' | 'sequence'>): Vocabulary | null => {
    if (spec.shareEmbedding == null) return null;
    const shared = vocabularies.get(spec.shareEmbedding);
    if (shared === undefined) throw unknownFeature(spec.name, 'share_embedding', spec.shareEmbedding);
    return shared;
  };
  /** The vocabulary of the categorical feature `of`, whose table is the only one that the feature may share. */
  const vocabularyOf = (name: string, of: string, shareEmbedding: string | null): Vocabulary => {
    if (features.get(of)?.type !== 'categorical') throw unknownFeature(name, 'of', of);
    if (shareEmbedding !== null && !sameTable(features, shareEmbedding, of))
      throw new DataError(
        'DATA_SCHEMA',
        `feature ${name}: expected share_embedding to name the table of ${of} but received ${shareEmbedding}`,
        { feature: name },
      );
    return vocabularies.get(of)!;
  };

  // Tables that others share come first; histories need the column they are of.
  const order = {
    categorical: 0,
    sequence: 1,
    numeric: 1,
    history: 2,
    text: 3,
    image: 3,
    embedding: 3,
    meta: 3,
  } as const;
  const shares = (spec: FeatureSpec): number => ('shareEmbedding' in spec && spec.shareEmbedding != null ? 0.5 : 0);
  for (const spec of specs.toSorted((a, b) => order[a.type] + shares(a) - (order[b.type] + shares(b)))) {
    if (spec.type === 'categorical') {
      const { source, codes, ids } = yield* idColumn(spec, context);
      const { minCount = 1 } = spec;
      let vocabulary = sharedVocabulary(spec);
      let rowOfCode: Int32Array;
      if (vocabulary === null) {
        const rows = context.joined(source);
        const own = yield* Vocabulary.ofCodes(spec.name, ids, { codes, rows, events: context.train, minCount });
        ({ vocabulary, rowOfCode } = own);
      } else {
        const shared = vocabulary;
        rowOfCode = new Int32Array(ids.length);
        yield* slices(ids.length, (from, to) => {
          for (let code = from; code < to; code++) rowOfCode[code] = shared.row(ids[code]!);
        });
      }
      vocabularies.set(spec.name, vocabulary);
      const rows = sharedInt32(codes?.length ?? ids.length);
      yield* slices(rows.length, (from, to) => {
        for (let i = from; i < to; i++) {
          const code = codes === null ? i : codes[i]!;
          rows[i] = code < 0 ? UNKNOWN_ROW : rowOfCode[code]!;
        }
      });
      categorical.push({ name: spec.name, source, rows });
      features.set(spec.name, {
        name: spec.name,
        source,
        type: 'categorical',
        vocabularySize: vocabulary.size,
        embeddingDim: spec.embeddingDim ?? null,
        shareEmbedding: spec.shareEmbedding ?? null,
      });
    } else if (spec.type === 'sequence') {
      const { source, entity } = entityOf(spec, context);
      const { of, maxLen, minCount = 1, keep = of === undefined ? 'first' : 'last' } = spec;
      const { shareEmbedding = of ?? null } = spec;
      const lists = yield* entity.wordsPass(spec.name, spec.splitter ?? null);
      let truncated = 0;
      yield* slices(lists.length, (from, to) => {
        for (let i = from; i < to; i++) {
          const words = lists[i]!;
          if (words.length <= maxLen) continue;
          truncated++;
          lists[i] = keep === 'last' ? words.slice(-maxLen) : words.slice(0, maxLen);
        }
      });
      const shared = of === undefined ? sharedVocabulary(spec) : vocabularyOf(spec.name, of, shareEmbedding);
      const vocabulary =
        shared ?? (yield* vocabularyOfLists(spec.name, lists, context.joined(source), context.train, minCount));
      vocabularies.set(spec.name, vocabulary);
      const offsets = sharedInt32(lists.length + 1);
      yield* slices(lists.length, (from, to) => {
        for (let i = from; i < to; i++) offsets[i + 1] = offsets[i]! + lists[i]!.length;
      });
      const values = sharedInt32(offsets[lists.length]!);
      yield* slices(lists.length, (from, to) => {
        for (let i = from; i < to; i++)
          for (const [k, word] of lists[i]!.entries()) values[offsets[i]! + k] = vocabulary.row(word);
      });
      context.counters[`truncated:${spec.name}`] = truncated;
      sequences.push({ name: spec.name, source, values, offsets });
      features.set(spec.name, {
        name: spec.name,
        source,
        type: 'sequence',
        ...(of === undefined ? {} : { of }),
        vocabularySize: vocabulary.size,
        embeddingDim: spec.embeddingDim ?? null,
        shareEmbedding,
        maxLen,
        ...(keep === 'last' ? { keep } : {}),
      });
    } else if (spec.type === 'numeric') {
      const { source, entity } = entityOf(spec, context);
      const { values, mean, deviation, missing } = yield* standardised(spec, entity, context);
      context.counters[`missing:${spec.name}`] = missing;
      numeric.push({ name: spec.name, source, values });
      features.set(spec.name, {
        name: spec.name,
        source,
        type: 'numeric',
        transform: spec.transform ?? 'standardize',
        mean,
        deviation,
      });
    } else if (spec.type === 'history') {
      const of = categorical.find((column) => column.name === spec.of && column.source === 'item');
      if (of === undefined) throw unknownFeature(spec.name, 'of', spec.of);
      const vocabulary = vocabularyOf(spec.name, spec.of, spec.shareEmbedding ?? null);
      idHistories.push({ name: spec.name, rows: of.rows, maxLen: spec.maxLen });
      features.set(spec.name, {
        name: spec.name,
        source: 'inter',
        type: 'history',
        of: spec.of,
        vocabularySize: vocabulary.size,
        embeddingDim: spec.embeddingDim ?? null,
        shareEmbedding: spec.shareEmbedding ?? null,
        maxLen: spec.maxLen,
      });
    } else if (spec.type === 'meta') {
      features.set(spec.name, { name: spec.name, source: sourceOf(spec), type: 'meta' });
    }
  }
  return { features, vocabularies, columns: { categorical, numeric, sequences, idHistories } };
}

function sameTable(features: ReadonlyMap<string, Feature>, a: string, b: string): boolean {
  const root = (name: string): string => {
    const feature = features.get(name);
    return feature?.type === 'categorical' && feature.shareEmbedding !== null ? root(feature.shareEmbedding) : name;
  };
  return root(a) === root(b);
}

function unknownFeature(name: string, key: string, value: string): DataError {
  return new DataError(
    'DATA_SCHEMA',
    `feature ${name}: expected ${key} to name a categorical feature (of the items for a history) but received ${value}`,
    {
      feature: name,
      key,
    },
  );
}

export function entityOf(
  spec: FeatureSpec,
  { entities }: Pick<ResolveContext, 'entities'>,
): { source: FeatureSource; entity: Entity } {
  const source = sourceOf(spec);
  const entity = entities[source];
  if (entity === null)
    throw new DataError('DATA_SCHEMA', `feature ${spec.name}: expected a ${source} table but the data have none`, {
      feature: spec.name,
    });
  return { source, entity };
}

/** The vocabulary of the words of the train events: `rows` holds the row of each event, `lists` the words of a row. */
function* vocabularyOfLists(
  name: string,
  lists: readonly (readonly string[])[],
  rows: Int32Array,
  train: Int32Array,
  minCount: number,
): Pass<Vocabulary> {
  const eventsOf = new Int32Array(lists.length);
  const seen = new Int32Array(lists.length); // rows in order of first appearance
  let distinct = 0;
  yield* slices(train.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const row = rows[train[i]!]!;
      if (eventsOf[row]!++ === 0) seen[distinct++] = row;
    }
  });
  const words = new DenseCodes<string>();
  const counts: number[] = [];
  yield* slices(distinct, (from, to) => {
    for (let i = from; i < to; i++)
      for (const word of lists[seen[i]!]!) {
        const code = words.code(word);
        counts[code] = (counts[code] ?? 0) + eventsOf[seen[i]!]!;
      }
  });
  return Vocabulary.ofCounts(name, 'string', words.ids, counts, minCount);
}

/** Ids by code, and the code of each row, -1 where missing. Those of users and items are their row's own (codes null); other columns are read. */
function* idColumn(
  spec: SpecOf<'categorical'>,
  context: ResolveContext,
): Pass<{ source: FeatureSource; codes: Int32Array | null; ids: readonly string[] }> {
  if (spec.name === context.userId) return { source: 'user', codes: null, ids: context.userIds };
  if (spec.name === context.itemId) return { source: 'item', codes: null, ids: context.itemIds };
  const { source, entity } = entityOf(spec, context);
  const { codes, ids } = yield* entity.codesPass(spec.name);
  let missing = 0;
  yield* slices(codes.length, (from, to) => {
    for (let i = from; i < to; i++) if (codes[i] === -1) missing++;
  });
  context.counters[`missing:${spec.name}`] = missing;
  return { source, codes, ids };
}

function* standardised(
  spec: SpecOf<'numeric'>,
  entity: Entity,
  context: ResolveContext,
): Pass<{ values: Float32Array; mean: number; deviation: number; missing: number }> {
  const { transform = 'standardize' } = spec;
  const raw = yield* entity.numbersPass(spec.name);
  yield* slices(raw.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const value = raw[i]!;
      if (transform === 'log1p' && value <= -1)
        throw new DataError(
          'DATA_ROW',
          `feature ${spec.name}: expected numbers above -1 for log1p but received ${value} in row ${i}`,
          { row: i },
        );
      if (value === Number.POSITIVE_INFINITY || value === Number.NEGATIVE_INFINITY)
        throw new DataError(
          'DATA_ROW',
          `feature ${spec.name}: expected finite numbers but received an infinity in row ${i}`,
          {
            feature: spec.name,
            row: i,
          },
        );
      if (transform === 'log1p') raw[i] = Math.log1p(value);
    }
  });
  const rowOfEvent = context.joined(sourceOf(spec));
  const { train } = context;
  let [count, sum, squares] = [0, 0, 0];
  yield* slices(train.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const value = raw[rowOfEvent[train[i]!]!]!;
      if (Number.isNaN(value)) continue;
      count++;
      sum += value;
    }
  });
  const trainMean = count === 0 ? 0 : sum / count;
  yield* slices(train.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const value = raw[rowOfEvent[train[i]!]!]!;
      if (!Number.isNaN(value)) squares += (value - trainMean) ** 2;
    }
  });
  const mean = transform === 'standardize' ? trainMean : 0;
  const deviation = transform === 'standardize' ? Math.sqrt(squares / count) || 1 : 1;
  if (!Number.isFinite(trainMean) || !Number.isFinite(deviation))
    throw new DataError(
      'DATA_ROW',
      `feature ${spec.name}: expected numbers whose mean and deviation are finite but they are ${trainMean} and ${deviation}`,
      { feature: spec.name },
    );
  const values = sharedFloat32(raw.length);
  let missing = 0;
  yield* slices(raw.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const value = raw[i]!;
      if (Number.isNaN(value)) missing++;
      values[i] = ((Number.isNaN(value) ? trainMean : value) - mean) / deviation;
      if (!Number.isFinite(values[i]))
        throw new DataError(
          'DATA_ROW',
          `feature ${spec.name}: expected numbers that float32 holds but received ${value} in row ${i}`,
          { feature: spec.name, row: i },
        );
    }
  });
  return { values, mean, deviation, missing };
}
