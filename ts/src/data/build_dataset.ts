/** From tables to a data set: numbers rows, splits, then resolves every feature with the train part's statistics. */

import { ArgumentError, DataError, OutOfMemoryError } from '../errors.js';
import { type PictureSource, resolvePictures, resolveTexts, type TextOptions } from './content.js';
import { type Dataset, openDataset } from './dataset.js';
import { digestOf, manifestOf } from './digest.js';
import { Entity } from './entity.js';
import {
  type Events,
  forgetOrders,
  groupRowsPass,
  holdTimeOrder,
  rankTimesPass,
  rowNumbers,
  rowNumbersPass,
  rowsKept,
  rowsWherePass,
  TEST,
  TRAIN,
  VALID,
} from './events.js';
import { type FeatureSpec, type ResolveContext, resolveTables, sourceOf } from './features.js';
import { buildHistoriesPass, type HistoryParts } from './history.js';
import { digestibleImages } from './images/image_store.js';
import { checkLeaksPass } from './leak_check.js';
import type { BatchColumns } from './loader/batch_source.js';
import type { BatchMakerOptions } from './loader/loader.js';
import { type NegativeOptions, negativeTablePass } from './loader/negatives.js';
import { shared, sharedFloat32 } from './loader/shared_memory.js';
import type { Feature, FeatureSource, Schema } from './schema.js';
import { type SplitRule, splitEventsPass } from './split.js';
import { DenseCodes } from './tables/id_codes.js';
import type { Table } from './tables/table.js';
import { findVectors, loadVectors, type VectorFile, type VectorStore } from './tables/vectors.js';
import { sharedInt32 } from './text/token_store.js';
import { inTurns, type Pass, slices, zeroed } from './turns.js';

/** What a reader or generator brings. */
export interface DataSource {
  readonly name: string;
  readonly inter: Table;
  readonly item: Table | null;
  readonly user: Table | null;
  /** Makes the pictures when the schema has an image feature; null where the data have none. */
  readonly pictures: PictureSource | null;
  /** Bytes that `count` pictures of side `size` take in memory; default: all pixels. */
  readonly pictureMemory?: (count: number, size: number) => number;
  /** Where the `.npy` files of embedding features are; absent: only absolute paths are read. */
  readonly folder?: string;
  /** SHA-256 (hex) of the input files by name. */
  readonly files: Readonly<Record<string, string>>;
}

export interface LabelSpec {
  readonly column: string;
  /** Name in `Batch.labels`; default the column. */
  readonly name?: string;
  /** Label 1 where the column is at least this; null or absent: the column is 0 or 1. */
  readonly atLeast?: number | null;
}

export interface DatasetOptions extends BatchMakerOptions {
  readonly userId?: string;
  readonly itemId?: string;
  /** Column of the event time; null: rows are in order of time. Default `timestamp`. */
  readonly time?: string | null;
  /** Column of the request that a row belongs to. */
  readonly session?: string | null;
  /** Interaction column that tells queries apart; default the first query field. */
  readonly query?: string | null;
  /** The first is the main label. None: every event is a positive, under the name `label`. */
  readonly labels?: readonly LabelSpec[];
  readonly features: readonly FeatureSpec[];
  readonly split: SplitRule;
  /** Ids of items that are new items whatever the rule: all their events are test. */
  readonly coldItems?: readonly string[];
  /** Keys split, shuffle and negatives. Default 0. */
  readonly seed?: number;
  readonly history?: {
    /** Default: `train` for RO and CS, `earlier` else (rule L2). */
    readonly parts?: HistoryParts | null;
    readonly ties?: 'strict' | 'order';
    readonly where?: 'positives' | 'all';
    /** Items kept in `Batch.history`, 0 for none; default the longest history feature. */
    readonly maxLen?: number;
  };
  readonly negatives?: NegativeOptions | null;
  readonly allowDuplicates?: boolean;
  /** Bytes that all columns together may take; null: no check. Checked by estimate, before texts are tokenised and pictures decoded. */
  readonly maxMemory?: number | null;
  readonly text?: TextOptions;
  /** Whether batches carry the given vectors of their items. Default true; false for models that read them from the data set. */
  readonly vectorsInBatches?: boolean;
  readonly signal?: AbortSignal;
}

/** Builds a data set. DataError for data that break a rule (DATA_LEAK for the no-leak rules), ArgumentError for options that make no sense. */
export async function buildDataset(source: DataSource, options: DatasetOptions): Promise<Dataset> {
  const opened: AsyncDisposable[] = [];
  try {
    return await built(source, options, opened);
  } catch (error) {
    for (const reader of opened) await reader[Symbol.asyncDispose]();
    throw error;
  }
}

/** `opened` is told what a data set closes, for the case that there will be none. */
async function built(source: DataSource, options: DatasetOptions, opened: AsyncDisposable[]): Promise<Dataset> {
  const {
    userId = 'user_id',
    itemId = 'item_id',
    seed = 0,
    features: specs,
    allowDuplicates = false,
    signal,
  } = options;
  const counters: Record<string, number> = {};
  const run = <T>(pass: Pass<T>): Promise<T> => inTurns(pass, signal);
  checkNames(specs);

  // ---- rows and numbers
  const inter = new Entity('inter', source.inter.rows, source.inter);
  const users = await run(numberRows(inter, userId, source.user, 'user', counters));
  const items = await run(numberRows(inter, itemId, source.item, 'item', counters));
  const { labels, positive, labelColumns } = await run(readLabels(inter, options.labels ?? []));
  const events = await run(readEvents(inter, users, items, options.time === undefined ? 'timestamp' : options.time));
  const session = options.session == null ? null : (await run(inter.codesPass(options.session))).codes;
  const queries = await run(numberQueries(inter, source.inter, specs, options.query ?? null));
  for (const [table, read] of [
    ['inter', source.inter],
    ['item', source.item],
    ['user', source.user],
  ] as const) {
    if (read !== null)
      for (const [reason, count] of Object.entries(read.counters.skipped))
        counters[`skipped:${table}:${reason}`] = count;
  }

  // ---- parts and histories
  const split = await run(
    splitEventsPass(events, options.split, { seed, itemIds: items.ids, coldItems: options.coldItems }),
  );
  for (const [name, count] of Object.entries(split.counters)) counters[`split:${name}`] = count;
  const rowsOf = (code: number): Promise<Int32Array> => run(rowsWherePass(split.part, code));
  const train = await rowsOf(TRAIN);
  if (train.length === 0)
    throw new DataError(
      'DATA_SCHEMA',
      `data ${source.name}: expected train events but the split ${split.text} leaves none of ${events.count}`,
    );
  const trainCount = new Int32Array(events.items);
  await run(
    slices(train.length, (from, to) => {
      for (let i = from; i < to; i++) trainCount[events.item[train[i]!]!]!++;
    }),
  );

  // ---- features
  const entities = { inter, user: users.entity, item: items.entity, query: queries?.entity ?? null };
  const joined = (of: FeatureSource): Int32Array => {
    if (of === 'inter') return rowNumbers(events.count);
    return of === 'user' ? events.user : of === 'item' ? events.item : queries!.row;
  };
  const context: ResolveContext = {
    entities,
    train,
    joined,
    userId,
    itemId,
    userIds: users.ids,
    itemIds: items.ids,
    counters,
  };
  const vectorFiles = await findVectors(specs, source.folder ?? null);
  checkMemory(
    memoryEstimate(specs, context, labels.length, events, vectorFiles, source.pictureMemory),
    options.maxMemory ?? null,
  );
  const resolved = await resolveTables(specs, context, signal);
  const features = new Map(resolved.features);
  const texts = await resolveTexts(specs, context, options.text ?? {}, signal);
  for (const feature of texts.features) features.set(feature.name, feature);
  const pictures = await resolvePictures(specs, source.pictures, items, counters);
  if (pictures !== null) features.set(pictures.feature.name, pictures.feature);
  if (pictures?.reader != null) opened.push(pictures.reader);
  const itemVectors: VectorStore[] = [];
  for (const file of vectorFiles) {
    const { store, feature } = await loadVectors(file, items.ids, counters, signal);
    itemVectors.push(store);
    features.set(feature.name, feature);
  }
  signal?.throwIfAborted();

  // ---- columns of the batches
  const { parts, ties, where = 'positives', maxLen } = options.history ?? {};
  const byChance = options.split.kind === 'CS' || split.order === 'RO';
  const historyParts = parts ?? (byChance ? 'train' : 'earlier');
  const historyLen = maxLen ?? Math.max(0, ...resolved.columns.idHistories.map((history) => history.maxLen));
  const skip = new Set(pictures?.skip ?? []);
  const samples = async (rows: Int32Array): Promise<Int32Array> =>
    skip.size === 0 ? rows : run(rowsKept(rows, (row) => !skip.has(events.item[row]!)));
  const trainSamples = await samples(train);
  const negatives =
    options.negatives == null ? null : await run(negativeTablePass(events, split.part, positive, options.negatives));
  const columns: BatchColumns = {
    user: shared(events.user),
    item: shared(events.item),
    time: shared(events.time),
    times: await run(clockOf(events)),
    session: session && shared(session),
    query: queries && shared(queries.row),
    items: events.items,
    labels,
    ...resolved.columns,
    histories:
      historyLen === 0 && resolved.columns.idHistories.length === 0
        ? null
        : shared(
            await run(
              buildHistoriesPass(events, split.part, {
                parts: historyParts,
                ties,
                where: where === 'all' ? null : positive,
                cold: split.cold,
              }),
            ),
          ),
    historyLen,
    itemText: texts.item?.store ?? null,
    itemImage: pictures?.store ?? null,
    queryText: texts.query?.store ?? null,
    ...(itemVectors.length === 0 ? {} : { itemVectors, vectorsInBatches: options.vectorsInBatches ?? true }),
    parts: shared({
      train: negatives === null ? trainSamples : await run(rowsKept(trainSamples, (row) => positive[row] === 1)),
      valid: await samples(await rowsOf(VALID)),
      test: await samples(await rowsOf(TEST)),
    }),
    sessions: session && negatives === null ? shared(await run(trainSessions(session, trainSamples))) : null,
    negatives: negatives && shared(negatives),
  };
  counters.samplesSkippedForPictures =
    skip.size === 0 ? 0 : events.item.reduce((sum, item) => sum + (skip.has(item) ? 1 : 0), 0);
  if (negatives !== null) counters.trainRowsWithoutPositive = trainSamples.length - columns.parts.train.length;

  const schema: Schema = {
    features: orderedFeatures(specs, features),
    userId: features.has(userId) ? userId : null,
    itemId: features.has(itemId) ? itemId : null,
    labels: labels.map(({ name }) => name),
    users: events.users,
    items: events.items,
    queries: queries?.entity.rows ?? 0,
  };
  const subject = { events, split, schema, columns, historyParts, positive, labelColumns, allowDuplicates };
  const leakChecks = await run(checkLeaksPass(subject));
  forgetOrders(events);
  const splitManifest = await manifestOf(split.text, seed, source.files, columns.parts, events, split.cold, signal);
  const digest = await digestOf({
    schema,
    columns: { ...columns, itemImage: columns.itemImage && digestibleImages(columns.itemImage) },
    cold: split.cold,
    signal,
  });
  return openDataset(
    {
      ...subject,
      name: source.name,
      seed,
      items: { ids: items.ids, fields: items.entity, trainCount, cold: split.cold },
      userIds: users.ids,
      vocabularies: resolved.vocabularies,
      text: { item: texts.item?.pipeline ?? null, query: texts.query?.pipeline ?? null },
      textStatistics: { item: texts.item?.statistics ?? null, query: texts.query?.statistics ?? null },
      counters,
      imageReader: pictures?.reader ?? null,
      digest,
      splitManifest,
      leakChecks,
    },
    options,
  );
}

function checkNames(specs: readonly FeatureSpec[]): void {
  const seen = new Set<string>();
  for (const { name } of specs) {
    if (seen.has(name))
      throw new ArgumentError(`features: expected ${name} once but it stands twice`, { argument: name });
    seen.add(name);
  }
}

// ---- rows and numbers

interface NumberedRows {
  readonly entity: Entity;
  readonly ids: readonly string[];
  /** (n) row of each event. */
  readonly row: Int32Array;
}

/** Rows of items (or users): those of their table, then ids that only interactions name. Users without a table: by first appearance. */
function* numberRows(
  inter: Entity,
  name: string,
  table: Table | null,
  source: 'user' | 'item',
  counters: Record<string, number>,
): Pass<NumberedRows> {
  const { codes, ids } = yield* inter.codesPass(name);
  const missing = codes.indexOf(-1);
  if (missing >= 0)
    throw new DataError('DATA_ROW', `interactions: expected an id in ${name} but row ${missing} has none`, {
      row: missing,
    });
  if (table === null) {
    const entity = new Entity(source, ids.length, null, new Int32Array(ids.length).fill(-1));
    return { entity, ids, row: shared(codes) };
  }
  const rowOf = new DenseCodes<string>();
  const known = yield* new Entity(source, table.rows, table).stringsPass(name);
  yield* slices(known.length, (from, to) => {
    for (let row = from; row < to; row++) {
      const id = known[row]!;
      if (id === '')
        throw new DataError('DATA_ROW', `${source} table: expected an id in ${name} but row ${row} has none`, { row });
      if (rowOf.code(id) !== row)
        throw new DataError('DATA_ROW', `${source} table: expected ${name} ${id} once but row ${row} repeats it`, {
          row,
        });
    }
  });
  const all = [...known]; // then the ids that have no row
  const rowOfCode = new Int32Array(ids.length);
  yield* slices(ids.length, (from, to) => {
    for (let code = from; code < to; code++) {
      const row = rowOf.find(ids[code]!);
      rowOfCode[code] = row >= 0 ? row : all.push(ids[code]!) - 1;
    }
  });
  counters[`${source}sWithoutRow`] = all.length - known.length;
  const row = sharedInt32(codes.length);
  yield* slices(codes.length, (from, to) => {
    for (let i = from; i < to; i++) row[i] = rowOfCode[codes[i]!]!;
  });
  const index = rowNumbers(all.length).fill(-1, known.length);
  return { entity: new Entity(source, all.length, table, index), ids: all, row };
}

/** Queries: one row per distinct key; their fields are those of the first event. null without query features. */
function* numberQueries(
  inter: Entity,
  table: Table,
  specs: readonly FeatureSpec[],
  column: string | null,
): Pass<NumberedRows | null> {
  const key = column ?? specs.find((spec) => sourceOf(spec) === 'query')?.name;
  if (key === undefined) return null;
  const { codes, ids } = yield* inter.codesPass(key);
  // An event without a query belongs to the query without a text.
  const none = ids.length;
  const first = new Int32Array(none + 1).fill(-1);
  yield* slices(codes.length, (from, to) => {
    for (let event = from; event < to; event++) {
      if (codes[event]! < 0) codes[event] = none;
      if (first[codes[event]!] === -1) first[codes[event]!] = event;
    }
  });
  const rows = first[none] === -1 ? none : none + 1;
  return {
    entity: new Entity('query', rows, table, first.slice(0, rows)),
    ids: rows > none ? [...ids, ''] : ids,
    row: codes,
  };
}

function* readEvents(inter: Entity, users: NumberedRows, items: NumberedRows, timeColumn: string | null): Pass<Events> {
  const ranked = timeColumn === null ? null : yield* rankTimesPass(yield* inter.timesPass(timeColumn));
  const events: Events = {
    count: inter.rows,
    users: users.ids.length,
    items: items.ids.length,
    user: users.row,
    item: items.row,
    time: shared(ranked?.time ?? (yield* rowNumbersPass(inter.rows))),
    times: ranked?.times ?? null,
  };
  if (ranked !== null) holdTimeOrder(events, ranked.order);
  return events;
}

interface ReadLabels {
  readonly labels: BatchColumns['labels'];
  readonly positive: Uint8Array;
  readonly labelColumns: readonly string[];
}

function* readLabels(inter: Entity, specs: readonly LabelSpec[]): Pass<ReadLabels> {
  const labels: { name: string; values: Float32Array }[] = [];
  for (const { column, name = column, atLeast = null } of specs) {
    const raw = yield* inter.numbersPass(column);
    const values = sharedFloat32(raw.length);
    yield* slices(raw.length, (from, to) => {
      for (let i = from; i < to; i++) {
        const value = raw[i]!;
        if (!Number.isFinite(value) || (atLeast === null && value !== 0 && value !== 1)) {
          const expected = atLeast === null ? '0 or 1 (or a threshold at_least)' : 'a finite number';
          throw new DataError('DATA_ROW', `label ${column}: expected ${expected} but received ${value} in row ${i}`, {
            column,
            row: i,
          });
        }
        values[i] = atLeast === null ? value : value >= atLeast ? 1 : 0;
      }
    });
    labels.push({ name, values });
  }
  if (labels.length === 0) labels.push({ name: 'label', values: sharedFloat32(inter.rows).fill(1) });
  const { values } = labels[0]!;
  const positive = new Uint8Array(values.length);
  yield* slices(values.length, (from, to) => {
    for (let i = from; i < to; i++) positive[i] = values[i]!;
  });
  return { labels, positive, labelColumns: specs.map(({ column }) => column) };
}

/** The highest of dense codes; -1 for none. */
function* highest(codes: Int32Array): Pass<number> {
  let most = -1;
  yield* slices(codes.length, (from, to) => {
    for (let i = from; i < to; i++) if (codes[i]! > most) most = codes[i]!;
  });
  return most;
}

/** Train samples by session; a sample without one is a session by itself. */
function* trainSessions(session: Int32Array, train: Int32Array): Pass<{ rows: Int32Array; offsets: Int32Array }> {
  const sessions = yield* highest(session);
  const numberOf = yield* zeroed(new Int32Array(sessions + 1)); // number + 1, 0 for none yet
  const group = new Int32Array(train.length);
  let count = 0;
  yield* slices(train.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const of = session[train[i]!]!;
      if (of < 0) group[i] = count++;
      else group[i] = (numberOf[of] ||= ++count) - 1;
    }
  });
  const { rows, offsets } = yield* groupRowsPass(group, count);
  yield* slices(rows.length, (from, to) => {
    for (let i = from; i < to; i++) rows[i] = train[rows[i]!]!;
  });
  return { rows, offsets };
}

// ---- memory and schema

/** Bytes by column, from sizes and schema: texts and lists at their longest. */
function memoryEstimate(
  specs: readonly FeatureSpec[],
  { entities }: ResolveContext,
  labels: number,
  { count }: Events,
  vectors: readonly VectorFile[],
  pictureMemory: DataSource['pictureMemory'] = (pictures, size) => pictures * size ** 2 * 3,
): Record<string, number> {
  const bytes: Record<string, number> = { events: 20 * count, labels: 4 * labels * count, parts: 8 * count };
  for (const spec of specs) {
    const rows = entities[sourceOf(spec)]?.rows ?? 0;
    if (spec.type === 'embedding') bytes[spec.name] = rows * 4 * (vectors.find((file) => file.spec === spec)?.dim ?? 0);
    else if (spec.type === 'image') bytes[spec.name] = pictureMemory(rows, spec.size);
    else if (spec.type === 'text') bytes[spec.name] = rows * (spec.maxLen + 1) * 12;
    else if (spec.type === 'sequence') bytes[spec.name] = rows * (spec.maxLen + 1) * 4;
    else if (spec.type === 'history') bytes.histories = 24 * count;
    else if (spec.type !== 'meta') bytes[spec.name] = rows * 4;
  }
  return bytes;
}

function checkMemory(estimate: Record<string, number>, maxMemory: number | null): void {
  const total = Object.values(estimate).reduce((sum, bytes) => sum + bytes, 0);
  if (maxMemory === null || total <= maxMemory) return;
  const largest = Object.entries(estimate).toSorted((a, b) => b[1] - a[1]);
  const list = largest.slice(0, 5).map(([name, bytes]) => `${name} ${bytes}`);
  throw new OutOfMemoryError(
    'HOST_MEMORY',
    `data: expected columns of at most ${maxMemory} bytes (max_memory) but they need ${total}: ${list.join(', ')}`,
    { requested: total, largest: Object.fromEntries(largest) },
  );
}

/** Features in the order of the specs; a text stands where its first field does. */
function orderedFeatures(specs: readonly FeatureSpec[], features: ReadonlyMap<string, Feature>): Feature[] {
  const place = (feature: Feature): number => {
    const first = feature.type === 'text' ? feature.fields[0]!.name : feature.name;
    return specs.findIndex((spec) => spec.name === first);
  };
  return [...features.values()].sort((a, b) => place(a) - place(b));
}

/** Times of the ranks, counted from the first: differences of them are exact where those of the data fit into 53 bits. */
function* clockOf({ times }: Events): Pass<Float64Array | null> {
  if (times === null) return null;
  const first = Number(times[0] ?? 0);
  const clock = new Float64Array(new SharedArrayBuffer(8 * times.length));
  yield* slices(clock.length, (from, to) => {
    for (let i = from; i < to; i++) clock[i] = Number(times[i]) - first;
  });
  return clock;
}
