/** Where data sets come from: Parquet, CSV or JSONL, a folder of RecBole atomic or MMRec files, or the generated shop. */

import { basename, join, relative } from 'node:path';
import { ArgumentError, ConfigError } from '../errors.js';
import { buildDataset, type DataSource, type DatasetOptions, type LabelSpec } from './build_dataset.js';
import type { Dataset } from './dataset.js';
import { type FeatureSpec, sourceOf } from './features.js';
import { emptyImageStore, type ImageStore } from './images/image_store.js';
import { type ImageOptions, loadImages, pictureMemory } from './images/load_images.js';
import { digestsOf, inputFiles } from './input_files.js';
import { generateShopAside, type Shop, type ShopOptions } from './shop/shop.js';
import { PICTURE_SIZE } from './shop/shop_pictures.js';
import { LONG_DOCUMENT_WORDS } from './shop/shop_words.js';
import type { SplitRule } from './split.js';
import { type AtomicFolderOptions, findStem, readAtomicFolder } from './tables/atomic.js';
import { concatTablesPass } from './tables/concat_tables.js';
import type { DataFiles } from './tables/data_files.js';
import { isMmrec, mmrecVectors, PART_COLUMN, readMmrec } from './tables/mmrec.js';
import { type ReadTableOptions, readTable } from './tables/read_table.js';
import type { Column, Table } from './tables/table.js';
import { findTables, type TableFolder, type TableNames } from './tables/table_folder.js';
import type { TableReadOptions } from './tables/table_schema.js';
import { findVectors } from './tables/vectors.js';
import { inTurns } from './turns.js';

type FileOptions = Pick<
  AtomicFolderOptions,
  'fieldSeparator' | 'seqSeparator' | 'benchmarkFilename' | 'dtypes' | 'onBadRow' | 'maxBadFraction'
>;

export interface LoadOptions extends Partial<Omit<DatasetOptions, 'split'>> {
  /** `given`: the parts that the data bring, ConfigError where they bring none. Such parts win over any other rule too. */
  readonly split?: SplitRule | 'given';
  /** Pictures: a folder of files, a tar or a folder of tars, or an LMDB, told apart by content; default `images` in the data folder. */
  readonly imageRoot?: string | null;
  readonly images?: ImageOptions;
  /** How rows are read; `onBadRow`, `maxBadFraction` and `dtypes` mean the same for every format, the rest is for atomic files. */
  readonly files?: Omit<FileOptions, 'onBadRow' | 'dtypes'> & Pick<TableReadOptions, 'onBadRow' | 'dtypes'>;
  /** Files of the tables where their names do not say it. */
  readonly tables?: TableNames;
  /** Who decodes Parquet (`ReadTableOptions.engine`); default `auto`. */
  readonly engine?: ReadTableOptions['engine'];
}

/**
 * Loads `where`: a Parquet, CSV or JSONL file or a folder of them (`findTables` says which file is what), a RecBole or MMRec folder (or
 * `folder/stem`), or `{ shop: options }`, the generated shop. What is not said is chosen from the columns: time `timestamp`; label
 * `label`, `click` or `rating` (at least 4); features by `defaultFeatures`; split .8/.1/.1 at random.
 * Throws DataError for data that break their contract (DATA_LEAK for a violated no-leak rule), ArgumentError for wrong options.
 */
export async function loadDataset(
  where: string | { readonly shop: ShopOptions },
  options: LoadOptions = {},
): Promise<Dataset> {
  if (typeof where !== 'string') return datasetFromShop(await generateShopAside(where.shop, options.signal), options);
  const tables = await findTables(where, options.tables);
  return tables === null ? datasetFromFolder(where, options) : datasetFromTables(tables, options);
}

// ---- Parquet, CSV, JSONL

async function datasetFromTables(tables: TableFolder, options: LoadOptions): Promise<Dataset> {
  const atomic = ['fieldSeparator', 'seqSeparator', 'benchmarkFilename'] as const;
  const stray = atomic.find((name) => options.files?.[name] !== undefined);
  if (stray !== undefined)
    throw new ArgumentError(
      `data ${tables.folder}: expected RecBole atomic files for ${stray} but found other tables`,
      {
        argument: stray,
      },
    );
  const { userId = 'user_id', itemId = 'item_id' } = options;
  const read = (source: DataFiles, required: readonly string[], columns: readonly string[] | null): Promise<Table> =>
    readTable(source, {
      onBadRow: options.files?.onBadRow,
      maxBadFraction: options.files?.maxBadFraction,
      dtypes: options.files?.dtypes,
      maxMemory: options.maxMemory,
      engine: options.engine,
      signal: options.signal,
      required,
      columns,
    });
  const { session, query, labels = [], features = [] } = options;
  const required = [userId, itemId, ...askedFor(options)];
  // Of interactions only what is used is read: they are the long table.
  const fields = features.filter((spec) => ['inter', 'query'].includes(sourceOf(spec))).map(({ name }) => name);
  const defaults = labels.length > 0 ? [] : DEFAULT_LABELS.map(({ column }) => column);
  const used = [...required, ...fields, ...defaults, 'timestamp', session, query].filter((name) => name != null);
  const all = [...(tables.parts ?? [tables.interactions]), tables.items, tables.users];
  const looked = await inputFiles(all.flatMap((table) => table?.files.map(({ path }) => path) ?? []));
  const parts: Table[] = [];
  for (const part of tables.parts ?? [tables.interactions]) parts.push(await read(part, required, used));
  const inter =
    parts.length === 1 ? parts[0]! : await inTurns(concatTablesPass(basename(tables.folder), parts), options.signal);
  const item = tables.items && (await read(tables.items, [itemId], null));
  const user = tables.users && (await read(tables.users, [userId], null));
  return datasetOf(
    {
      name: basename(tables.folder),
      inter,
      item,
      user,
      folder: tables.folder,
      pictures: (items, spec) => loadImages(items, spec, tables.folder, options),
      pictureMemory: pictureMemory(options.images),
      files: await digestsOf(looked, (path) => relative(tables.folder, path), options.signal),
    },
    options,
    tables.parts === null ? null : { kind: 'given', part: partCodes(parts), text: 'as given by a file per part' },
  );
}

// ---- folders of files

async function datasetFromFolder(path: string, options: LoadOptions): Promise<Dataset> {
  if ((options.files?.benchmarkFilename ?? []).length === 0) {
    const { folder, stem, files } = await findStem(path);
    if (await isMmrec(join(folder, `${stem}.inter`), atomicOptions(options.files)))
      return datasetFromMmrec(folder, stem, files, options);
  }
  const { userId = 'user_id', itemId = 'item_id' } = options;
  const { benchmarkFilename = [] } = options.files ?? {};
  const { folder, stem } = await findStem(path, benchmarkFilename);
  const inters = benchmarkFilename.length === 0 ? ['.inter'] : benchmarkFilename.map((part) => `.${part}.inter`);
  const looked = await inputFiles([...inters, '.item', '.user'].map((suffix) => join(folder, stem + suffix)));
  const files = await readAtomicFolder(path, {
    ...atomicOptions(options.files),
    signal: options.signal,
    required: { inter: [userId, itemId, ...askedFor(options)], item: [itemId], user: [userId] },
    exact: [options.time ?? 'timestamp'],
  });
  const parts = [...files.parts.values()];
  const inter = files.inter ?? (await inTurns(concatTablesPass(files.stem, parts), options.signal));
  const given: SplitRule | null = files.inter === null ? { kind: 'given', part: partCodes(parts) } : null;
  const source: DataSource = {
    name: files.stem,
    inter,
    item: files.item,
    user: files.user,
    folder: files.folder,
    pictures: (items, spec) => loadImages(items, spec, files.folder, options),
    pictureMemory: pictureMemory(options.images),
    files: await digestsOf(looked, (file) => basename(file), options.signal),
  };
  return datasetOf(source, options, given);
}

/** A data set of tables, with what the options do not say chosen from the columns. `given`: the parts that the files bring. */
function datasetOf(source: DataSource, options: LoadOptions, given: SplitRule | null): Promise<Dataset> {
  const { userId = 'user_id', itemId = 'item_id' } = options;
  const { inter } = source;
  const time = options.time === undefined ? (inter.columns.has('timestamp') ? 'timestamp' : null) : options.time;
  const labels = options.labels ?? defaultLabels(inter);
  const chosen = { ...options, userId, itemId, time, labels };
  const { split = { kind: 'RS', ratios: [0.8, 0.1, 0.1] } } = options;
  if (given === null && split === 'given')
    throw new ConfigError(
      `data ${source.name}: expected parts (data.parts, benchmark_filename or ${PART_COLUMN}) for eval.split given but the data bring no parts`,
      { key: 'eval.split' },
    );
  return buildDataset(source, {
    ...chosen,
    features: options.features ?? defaultFeatures(source, chosen),
    split: given ?? (split as SplitRule),
  });
}

/**
 * MMRec data: parts as given, items by number. Without features: both ids, and the vectors of `image_feat.npy` and `text_feat.npy` where
 * they are. Every row is a positive unless a label is asked for: ratings do not count.
 */
async function datasetFromMmrec(
  folder: string,
  stem: string,
  files: readonly string[],
  options: LoadOptions,
): Promise<Dataset> {
  const { userId = 'userID', itemId = 'itemID', labels = [] } = options;
  const features: readonly FeatureSpec[] = options.features ?? [
    { name: userId, type: 'categorical' },
    { name: itemId, type: 'categorical' },
    ...mmrecVectors(files),
  ];
  const vectors = await findVectors(features, folder);
  const looked = await inputFiles([
    join(folder, `${stem}.inter`),
    ...vectors.filter(({ ids }) => ids === null).map((file) => file.path),
  ]);
  const { inter, item, part } = await readMmrec(folder, stem, {
    ...atomicOptions(options.files),
    signal: options.signal,
    userId,
    itemId,
    required: askedFor(options),
    exact: [options.time ?? 'timestamp'],
    numbers: ['timestamp', 'rating', options.time ?? 'timestamp', ...labels.map(({ column }) => column)],
    vectors,
  });
  const source: DataSource = {
    name: stem,
    inter,
    item,
    user: null,
    folder,
    pictures: (items, spec) => loadImages(items, spec, folder, options),
    pictureMemory: pictureMemory(options.images),
    files: await digestsOf(looked, (file) => basename(file), options.signal),
  };
  return buildDataset(source, {
    ...options,
    userId,
    itemId,
    labels,
    features,
    time: options.time === undefined ? (inter.columns.has('timestamp') ? 'timestamp' : null) : options.time,
    split: { kind: 'given', part, text: `as given by ${PART_COLUMN}` },
  });
}

/** Columns that every row must have because the options name them: labels and the time. */
function askedFor({ labels = [], time }: LoadOptions): string[] {
  return [...labels.map(({ column }) => column), ...(time == null ? [] : [time])];
}

/** Atomic files name their types, a token may hold integers; they have no row groups. */
export function atomicOptions({
  onBadRow = 'fail',
  dtypes = {},
  ...others
}: NonNullable<LoadOptions['files']> = {}): FileOptions {
  const kinds: Record<string, 'int64' | 'uint64'> = {};
  for (const [name, kind] of Object.entries(dtypes)) if (kind === 'int64' || kind === 'uint64') kinds[name] = kind;
  return { ...others, onBadRow: onBadRow === 'fail' ? 'fail' : 'skip', dtypes: kinds };
}

const DEFAULT_LABELS: readonly LabelSpec[] = [
  { column: 'label' },
  { column: 'click' },
  { column: 'rating', atLeast: 4 },
];

/** `label`, `click` or `rating` (at least 4), whichever comes first; none otherwise: every row is a positive. */
function defaultLabels(inter: Table): LabelSpec[] {
  return DEFAULT_LABELS.filter(({ column }) => inter.columns.has(column)).slice(0, 1);
}

/**
 * Features from columns: both ids, the item history (last 50), of the items `genres` as a sequence, other `token_seq` columns as fields
 * of the text (32 tokens each), `image` as a picture of 64 pixels, numbers as they are, standardised. In files that do not name their
 * types, words of which most have a space are such a field, and integers are numbers unless the column's name ends in `id`.
 */
export function defaultFeatures(
  { item, pictures }: Pick<DataSource, 'item' | 'pictures'>,
  { userId, itemId }: { userId: string; itemId: string },
): FeatureSpec[] {
  const features: FeatureSpec[] = [
    { name: userId, type: 'categorical' },
    { name: itemId, type: 'categorical' },
    { name: 'history', type: 'history', of: itemId, shareEmbedding: itemId, maxLen: 50 },
  ];
  for (const column of item?.columns.values() ?? []) {
    const { name, kind } = column;
    if (name === itemId) continue;
    if (name === 'genres') features.push({ name, type: 'sequence', source: 'item', maxLen: 8 });
    else if (name === 'image' && pictures !== null) features.push({ name, type: 'image', source: 'item', size: 64 });
    else if (kind === 'token_seq' || (kind === 'token' && isProse(column.values)))
      features.push({ name, type: 'text', source: 'item', maxLen: 32 });
    else if (kind === 'float' || (kind === 'int64' && !/id$/i.test(name)))
      features.push({ name, type: 'numeric', source: 'item' });
  }
  return features;
}

/** Whether most of the words that are there have a space. */
function isProse(values: readonly string[]): boolean {
  const there = values.filter((text) => text !== '');
  return there.length > 0 && 2 * there.filter((text) => text.includes(' ')).length > there.length;
}

function partCodes(parts: readonly Table[]): Uint8Array {
  if (parts.length > 3)
    throw new ArgumentError(`benchmarkFilename: expected train, valid and test but received ${parts.length} parts`);
  const codes = new Uint8Array(parts.reduce((sum, { rows }) => sum + rows, 0));
  let at = 0;
  for (const [code, { rows }] of parts.entries()) codes.fill(code, at, (at += rows));
  return codes;
}

// ---- the generated shop

/** Features of models.md, section 12. */
export const SHOP_FEATURES: readonly FeatureSpec[] = [
  { name: 'user_id', type: 'categorical', embeddingDim: 32 },
  { name: 'item_id', type: 'categorical', embeddingDim: 32 },
  { name: 'query_id', type: 'categorical', source: 'query', embeddingDim: 16 },
  { name: 'history', type: 'history', of: 'item_id', shareEmbedding: 'item_id', maxLen: 20 },
  { name: 'price', type: 'numeric', source: 'item' },
  { name: 'query', type: 'text', source: 'query', maxLen: 8 },
  { name: 'title', type: 'text', source: 'item', maxLen: 8 },
  { name: 'tags', type: 'text', source: 'item', maxLen: 4 },
  { name: 'picture', type: 'image', source: 'item', size: PICTURE_SIZE },
];

/** Those of a shop with long documents: title, ocr, asr and cover at their full lengths make up to 183 tokens an item. */
export const LONG_SHOP_FEATURES: readonly FeatureSpec[] = [
  ...SHOP_FEATURES.filter(({ name }) => name !== 'title' && name !== 'tags'),
  ...Object.entries(LONG_DOCUMENT_WORDS).map(
    ([name, maxLen]): FeatureSpec => ({ name, type: 'text', source: 'item', maxLen }),
  ),
];

/**
 * The generated shop as a data set, with its own parts and new items; event numbers are those of `shop.events`. Labels `click` and
 * `buy`; histories hold the user's clicked items of earlier sessions. Options say what differs.
 */
export async function datasetFromShop(shop: Shop, options: LoadOptions = {}): Promise<Dataset> {
  const { events, items, sessions } = shop;
  const token = (name: string, values: string[]): Column => ({ kind: 'token', name, values, missing: null });
  const texts = (name: string, values: string[]): Column => ({
    kind: 'token_seq',
    name,
    values,
    separator: ' ',
    missing: null,
  });
  const float = (name: string, values: Float64Array): Column => ({ kind: 'float', name, values, missing: null });
  const ofEvent = <T>(value: (event: number) => T): T[] =>
    Array.from({ length: events.count }, (_, event) => value(event));
  const ofSession = (values: readonly string[]): string[] => ofEvent((event) => values[events.session[event]!]!);
  const numbered = (count: number): string[] => Array.from({ length: count }, (_, i) => String(i));
  const [userNames, itemNames, sessionNames] = [
    numbered(shop.users.count),
    numbered(items.count),
    numbered(sessions.count),
  ];
  const source: DataSource = {
    name: 'shop',
    inter: table('shop.inter', events.count, [
      token(
        'user_id',
        ofEvent((event) => userNames[events.user[event]!]!),
      ),
      token(
        'item_id',
        ofEvent((event) => itemNames[events.item[event]!]!),
      ),
      token('session_id', ofSession(sessionNames)),
      token('query_id', ofSession(Array.from(sessions.queryId, String))),
      texts('query', ofSession(sessions.query)),
      float('timestamp', events.time),
      float('click', Float64Array.from(events.click)),
      float('buy', Float64Array.from(events.buy)),
    ]),
    item: table('shop.item', items.count, [
      token('item_id', itemNames),
      texts('title', items.title),
      texts('tags', items.tags),
      float('price', items.price),
      ...(['ocr', 'asr', 'cover'] as const).flatMap((field) =>
        items.documents === null
          ? []
          : [
              texts(
                field,
                items.documents.map((document) => document[field]),
              ),
            ],
      ),
    ]),
    user: table('shop.user', shop.users.count, [token('user_id', userNames)]),
    pictures: async (_, spec) => {
      if (spec.size !== PICTURE_SIZE) {
        throw new ArgumentError(
          `feature ${spec.name}: expected size ${PICTURE_SIZE}, the shop's pictures, but received ${spec.size}`,
          { argument: 'size' },
        );
      }
      const store = emptyImageStore(items.count, PICTURE_SIZE, augmentation(options.images));
      store.pixels.set(items.pictures);
      items.pictureMissing.forEach((missing, item) => {
        store.present[item] = missing ? 0 : 1;
      });
      return {
        store,
        reader: null,
        skip: [],
        counters: { missing: items.pictureMissing.reduce((sum, flag) => sum + flag, 0) },
      };
    },
    files: {},
  };
  const { split = 'given', ...chosen } = options;
  const ownParts = {
    kind: 'given',
    part: events.part,
    cold: items.cold,
    text: `by time .75/.10/.15, shop seed ${shop.seed}`,
  } as const;
  return buildDataset(source, {
    time: 'timestamp',
    session: 'session_id',
    query: 'query_id',
    labels: [{ column: 'click' }, { column: 'buy' }],
    features: items.documents === null ? SHOP_FEATURES : LONG_SHOP_FEATURES,
    split: split === 'given' ? ownParts : split,
    seed: shop.seed,
    ...given(chosen),
    history: { parts: 'past', ...given(options.history ?? {}) },
  });
}

/** How pictures that are given are augmented: they are stored as they are. */
function augmentation(images: ImageOptions | undefined): Pick<ImageStore, 'augment'> {
  return images?.augment == null ? {} : { augment: images.augment };
}

/** Options without those that are undefined, so that they do not hide defaults. */
function given<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

function table(name: string, rows: number, columns: readonly Column[]): Table {
  return {
    name,
    rows,
    columns: new Map(columns.map((column) => [column.name, column])),
    counters: { bytes: 0, skipped: {}, emptyLines: 0, missing: {} },
  };
}
