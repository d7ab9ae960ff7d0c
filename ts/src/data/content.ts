/** Texts and pictures of a data set: resolved features, token stores and image stores. */

import { ArgumentError, DataError } from '../errors.js';
import type { Entity } from './entity.js';
import { type FeatureSpec, type ResolveContext, type SpecOf, sourceOf } from './features.js';
import type { ImageReader } from './images/image_reader.js';
import type { ImageStore } from './images/image_store.js';
import type { Feature } from './schema.js';
import {
  openLayout,
  type TextColumns,
  type TextLayout,
  type TextPipeline,
  type TextStatistics,
  type TextStore,
  textPipeline,
} from './text/text.js';
import { tokenizeAside } from './text/text_aside.js';
import { openTextCache } from './text/text_cache.js';
import type { TokenStore } from './text/token_store.js';
import { loadTokenizer, type TextTokenizer } from './text/tokenizer.js';
import { buildWordVocabularyPass } from './text/word_vocabulary.js';
import { inTurns, type Pass, slices } from './turns.js';

export interface TextOptions {
  /** `word` (default): a vocabulary of the train part's texts; or a path; or a tokenizer. */
  readonly tokenizer?: string | TextTokenizer;
  /** Words seen less often are unknown. */
  readonly minCount?: number;
  /** The most frequent words kept. */
  readonly maxWords?: number;
  readonly positions?: 'global' | 'per_field';
  /** Of item texts; default `openLayout`. */
  readonly layout?: TextLayout;
  /** Folder of tokenised texts, so that a second load of the same data tokenises nothing; null (default): none. */
  readonly cacheDir?: string | null;
  /** Compiled `text_worker.js`; default: beside this code. */
  readonly workerUrl?: URL;
}

/** Pictures of all item rows. `skip`: rows whose samples are to be dropped (`on_bad_image: skip`). */
export interface Pictures {
  readonly store: ImageStore;
  /** Reads the pixels of a paged store; null where the store has them. */
  readonly reader: ImageReader | null;
  readonly skip: readonly number[];
  readonly counters: Readonly<Record<string, number>>;
}

/** All item rows: their ids, and what the item table says of them. */
export interface ItemRows {
  readonly ids: readonly string[];
  readonly entity: Entity;
}

/** Makes the pictures of all item rows. */
export type PictureSource = (items: ItemRows, spec: SpecOf<'image'>) => Promise<Pictures>;

export interface ResolvedText {
  readonly pipeline: TextPipeline;
  readonly store: TokenStore;
  readonly statistics: TextStatistics;
}

/** One text per item and per query: the text features of that source are its fields. */
export async function resolveTexts(
  specs: readonly FeatureSpec[],
  context: ResolveContext,
  text: TextOptions,
  signal: AbortSignal | undefined,
): Promise<{ item: ResolvedText | null; query: ResolvedText | null; features: Feature[] }> {
  const all = specs.filter((spec): spec is SpecOf<'text'> => spec.type === 'text');
  const stray = all.find((spec) => sourceOf(spec) !== 'item' && sourceOf(spec) !== 'query');
  if (stray !== undefined)
    throw new ArgumentError(
      `feature ${stray.name}: expected a text of source item or query but received ${sourceOf(stray)}`,
      { argument: stray.name },
    );
  const out: { item: ResolvedText | null; query: ResolvedText | null; features: Feature[] } = {
    item: null,
    query: null,
    features: [],
  };
  if (all.length === 0) return out;

  const columnsOf = async (source: 'item' | 'query'): Promise<Record<string, string[]>> => {
    const fields = all.filter((spec) => sourceOf(spec) === source);
    const entity = context.entities[source];
    if (fields.length > 0 && entity === null)
      throw new DataError(
        'DATA_SCHEMA',
        `feature ${fields[0]!.name}: expected ${source} fields but the data have none`,
      );
    const columns: Record<string, string[]> = {};
    for (const { name } of fields) columns[name] = await inTurns(entity!.stringsPass(name), signal);
    return columns;
  };
  const columns = { item: await columnsOf('item'), query: await columnsOf('query') };
  const tokenizer = await tokenizerOf(text, columns, context, signal);
  for (const source of ['item', 'query'] as const) {
    const fields = all.filter((spec) => sourceOf(spec) === source).map(({ name, maxLen }) => ({ name, maxLen }));
    if (fields.length === 0) continue;
    // Query texts have an encoder of ours, which needs a first token and no padding.
    const ofQueries = tokenizer.special.cls === null ? { separator: false, end: true } : openLayout;
    const layout = source === 'item' ? text.layout : ofQueries;
    const pipeline = textPipeline({ tokenizer, fields, positions: text.positions, layout });
    const { store, statistics } = await tokenized(pipeline, columns[source], { source, text, context, signal });
    out[source] = { pipeline, store, statistics };
    context.counters[`missingText:${source}`] = statistics.missing;
    for (const field of statistics.fields)
      context.counters[`truncated:${field.name}`] = Math.round(field.truncated * field.filled);
    out.features.push({
      name: fields.length === 1 ? fields[0]!.name : `${source}_text`,
      source,
      type: 'text',
      fields,
      vocabularySize: tokenizer.size,
      maxTokens: pipeline.maxLength,
      positions: pipeline.positionCount,
      types: fields.length,
    });
  }
  return out;
}

/** From the cache, where there is one and it has them; what it did is counted. */
async function tokenized(
  pipeline: TextPipeline,
  columns: TextColumns,
  {
    source,
    text,
    context,
    signal,
  }: { source: string; text: TextOptions; context: ResolveContext; signal: AbortSignal | undefined },
): Promise<TextStore> {
  const { cacheDir = null, workerUrl } = text;
  const make = (): Promise<TextStore> => tokenizeAside(pipeline, columns, { signal, workerUrl });
  if (cacheDir === null) return make();
  const cache = openTextCache(cacheDir);
  const key = await cache.key(pipeline, columns);
  const known = await cache.read(key);
  const made = known ?? (await make());
  if (known === null) await cache.write(key, made);
  context.counters[`textFromCache:${source}`] = known === null ? 0 : made.statistics.texts;
  if (cache.corrupt > 0) context.counters[`textCacheCorrupt:${source}`] = cache.corrupt;
  if (cache.failedWrites > 0) context.counters[`textCacheFailedWrites:${source}`] = cache.failedWrites;
  return made;
}

async function tokenizerOf(
  { tokenizer = 'word', minCount, maxWords }: TextOptions,
  columns: Readonly<Record<'item' | 'query', Readonly<Record<string, readonly string[]>>>>,
  context: ResolveContext,
  signal: AbortSignal | undefined,
): Promise<TextTokenizer> {
  if (typeof tokenizer !== 'string') return tokenizer;
  if (tokenizer !== 'word') return loadTokenizer(tokenizer);
  const sources = (['item', 'query'] as const).filter((source) => Object.keys(columns[source]).length > 0);
  const inTrain: Record<'item' | 'query', Uint8Array> = { item: new Uint8Array(), query: new Uint8Array() };
  for (const source of sources) inTrain[source] = await inTurns(trainRows(source, context), signal);
  const trainTexts = function* (): Iterable<string> {
    for (const source of sources)
      for (const values of Object.values(columns[source]))
        for (const [row, value] of values.entries()) if (inTrain[source][row] === 1) yield value;
  };
  return inTurns(buildWordVocabularyPass(trainTexts(), { minCount, maxWords }), signal);
}

/** 1 for the rows of a source that train events name. */
function* trainRows(source: 'item' | 'query', { entities, joined, train }: ResolveContext): Pass<Uint8Array> {
  const rows = joined(source);
  const named = new Uint8Array(entities[source]!.rows);
  yield* slices(train.length, (from, to) => {
    for (let i = from; i < to; i++) named[rows[train[i]!]!] = 1;
  });
  return named;
}

export async function resolvePictures(
  specs: readonly FeatureSpec[],
  source: PictureSource | null,
  items: ItemRows,
  counters: Record<string, number>,
): Promise<(Pictures & { feature: Feature }) | null> {
  const wanted = specs.filter((spec): spec is SpecOf<'image'> => spec.type === 'image');
  if (wanted.length === 0) return null;
  const [spec] = wanted;
  if (wanted.length > 1 || sourceOf(spec!) !== 'item')
    throw new ArgumentError('features: expected at most one image feature, of source item', { argument: 'image' });
  if (source === null)
    throw new DataError('DATA_SCHEMA', `feature ${spec!.name}: expected pictures but the data have none`);
  const pictures = await source(items, spec!);
  for (const [name, count] of Object.entries(pictures.counters)) counters[`image:${name}`] = count;
  return { ...pictures, feature: { name: spec!.name, source: 'item', type: 'image', size: pictures.store.size } };
}
