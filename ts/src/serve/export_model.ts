/** Writes what serving needs: weights that score, item vectors, tables, vocabularies, and the signature that ties them together. */
import { stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import type { ImageBatch, TokenBatch } from '../data/loader/batch.js';
import { featuresOf } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import { guard, nodeEnv, storageError, systemCode } from '../io/env.js';
import { packageVersion } from '../io/package_root.js';
import { type HostTensor, hostTensor } from '../io/safetensors.js';
import type { ItemContent } from '../models/content.js';
import type { RecommenderModel, StateUse } from '../models/model.js';
import { tidy } from '../tidy.js';
import { trainSettings } from '../train/build_model.js';
import { configDigest, type ResolvedConfig } from '../train/config.js';
import { encodeItems, inPrecision, type Precision } from '../train/evaluate.js';
import { readTensors } from '../train/state.js';
import {
  createFolder,
  exportFiles,
  type FileSignature,
  type Signature,
  signatureId,
  writeExportFile,
  writeTensors,
} from './export_files.js';
import { noRanker } from './export_formats.js';
import { tableFeatures } from './feature_values.js';
import { givenBatches, givenTensors } from './given_vectors.js';
import { packTexts } from './packed_text.js';
import type { ServingFile } from './served_model.js';

export interface ExportModelOptions {
  readonly config: ResolvedConfig;
  /** Step of the weights. */
  readonly step: number;
  /** A folder that is new or empty. */
  readonly out: string;
  /** Items that get a vector: all of the item table (default), or those with training events, so that others are new items in service. */
  readonly items?: 'all' | 'train';
}

/** An export that is on disk. */
export interface ExportedModel {
  readonly path: string;
  readonly step: number;
  /** SHA-256 over the signature. */
  readonly id: string;
  /** Items with a vector, and rows of the item table. */
  readonly vectors: number;
  readonly items: number;
  readonly bytes: number;
}

/**
 * Exports a model as it stands, with the vectors that an evaluation of it reads. The folder appears whole or not at all. Throws
 * `ArgumentError` for a folder that holds something, `ConfigError` for a model whose scores are products of vectors, `StorageError`.
 */
export async function exportModel(
  model: RecommenderModel,
  data: Dataset,
  { config, step, out, items: which = 'all' }: ExportModelOptions,
): Promise<ExportedModel> {
  if (model.rankingVectors !== undefined)
    throw new ConfigError(noRanker('serving', config.config.model.name), { key: 'model.name' });
  return createFolder(out, async (draft) => {
    const precision = trainSettings(config.config).precision;
    const files: Record<string, FileSignature> = {};
    const { score, encode } = await splitState(model);
    const base = { step: String(step) };
    files[exportFiles.model] = await writeTensors(nodeEnv, draft, exportFiles.model, score, base);
    const tied = { ...base, model: files[exportFiles.model]!.sha256 };
    if (encode.size > 0)
      files[exportFiles.encoder] = await writeTensors(nodeEnv, draft, exportFiles.encoder, encode, tied);
    const keys = exportedItems(data, which);
    const vectors = await itemVectors(model, data, keys, step, precision);
    if (vectors !== null)
      files[exportFiles.vectors] = await writeTensors(nodeEnv, draft, exportFiles.vectors, vectors, tied);
    files[exportFiles.items] = await writeTensors(nodeEnv, draft, exportFiles.items, entityTensors(data, 'item'), tied);
    files[exportFiles.users] = await writeTensors(nodeEnv, draft, exportFiles.users, entityTensors(data, 'user'), tied);
    const given = model.givenInputs ?? [];
    if (given.length > 0)
      files[exportFiles.given] = await writeTensors(
        nodeEnv,
        draft,
        exportFiles.given,
        givenTensors(data, given, keys),
        tied,
      );
    const text = (name: string, value: string): Promise<FileSignature> =>
      writeExportFile(nodeEnv, draft, name, [Buffer.from(value)]);
    const tokenizer = (data.text.item ?? data.text.query)?.tokenizer ?? null;
    const vocabularies = Object.fromEntries(data.vocabularies);
    const words = tokenizer?.kind === 'words' ? tokenizer : null;
    files[exportFiles.vocabulary] = await text(exportFiles.vocabulary, JSON.stringify({ vocabularies, words }));
    files[exportFiles.serving] = await text(exportFiles.serving, JSON.stringify(servingFile(data)));
    files[exportFiles.config] = await text(exportFiles.config, config.toYaml());
    const copy = async (folder: string, sources: Sources): Promise<void> =>
      void Object.assign(files, await copyPresent(draft, folder, sources));
    if (tokenizer !== null && words === null)
      await copy(exportFiles.tokenizer, await tokenizerFiles(config.config.text.tokenizer));
    const { encoder } = config.config.model;
    if (encoder.weights !== null) await copy(exportFiles.encoderConfig, architectureFiles(encoder.weights));
    if (encoder.image.weights !== null) await copy(exportFiles.pictureConfig, architectureFiles(encoder.image.weights));
    const signature: Signature = {
      format: 'galago-export-1',
      step,
      model: config.config.model.name,
      versions: { galago: packageVersion() },
      digests: { config: configDigest(config.config), data: data.digest, split: data.splitManifest.parts.train },
      files,
    };
    await text(exportFiles.signature, `${JSON.stringify(signature, null, 2)}\n`);
    return {
      path: out,
      step,
      id: signatureId(signature),
      vectors: vectors?.get('keys')?.shape[0] ?? 0,
      items: data.items.ids.length,
      bytes: Object.values(files).reduce((total, file) => total + file.bytes, 0),
    };
  });
}

/** Copies of the state that scores and of the state that encodes items. */
async function splitState(
  model: RecommenderModel,
): Promise<{ score: Map<string, HostTensor>; encode: Map<string, HostTensor> }> {
  const wanted = (use: StateUse): Map<string, HostTensor> =>
    new Map([...all].filter(([name]) => (model.served?.use(name) ?? 'score') === use));
  const state = [...model.state()].filter(([name]) => model.served?.use(name) !== 'neither');
  const all = await readTensors(new Map(state));
  return { score: wanted('score'), encode: wanted('encode') };
}

/** Rows of the items that an export gives vectors of. */
export function exportedItems({ items }: Dataset, which: 'all' | 'train'): Int32Array {
  const every = Int32Array.from(items.trainCount.keys());
  return which === 'all' ? every : every.filter((item) => items.trainCount[item]! > 0);
}

/** Vectors as an evaluation reads them, of items that have one; and the learned vector of an item that has no content. */
async function itemVectors(
  model: RecommenderModel,
  data: Dataset,
  keys: Int32Array,
  step: number,
  precision: Precision,
): Promise<Map<string, HostTensor> | null> {
  const { served } = model;
  if (served === null) return null;
  try {
    await encodeItems(model, data, 'overlay', keys, step, { precision });
    const table = served.table();
    const { width } = table;
    const trained = tidy(() => served.ages(keys, step));
    const [rows, steps, age] = (await Promise.all([table.rows.data(), table.steps.data(), trained.data()])) as [
      Float32Array,
      Int32Array,
      Int32Array,
    ];
    trained.dispose();
    const ageOf = new Map(Array.from(keys, (key, i) => [key, age[i]!]));
    // An item without any content has no vector: its row is zero and was refused.
    const held = keys.filter((key) => steps[key]! >= 0);
    const vectors = new Float32Array(held.length * width);
    held.forEach((key, i) => vectors.set(rows.subarray(key * width, (key + 1) * width), i * width));
    const missing = tidy(() => inPrecision(precision, () => served.encode(emptyContent(data))));
    const absent = (await missing.values()) as Float32Array;
    missing.dispose();
    return new Map([
      ['keys', hostTensor('I64', [held.length], BigInt64Array.from(held, BigInt))],
      ['vectors', hostTensor('F32', [held.length, width], vectors)],
      [
        'ages',
        hostTensor(
          'I32',
          [held.length],
          held.map((key) => Math.max(0, ageOf.get(key)!)),
        ),
      ],
      ['missing', hostTensor('F32', [width], Float32Array.from(absent))],
      ...presence(data.columns, served.modalities, held),
    ]);
  } finally {
    model.dropOverlay();
  }
}

/** Which items have a text, a picture and given vectors of these names: flags that rankers see. A given one goes before a raw one of its name. */
function presence(
  { itemText: text, itemImage: image, itemVectors = [] }: Dataset['columns'],
  modalities: readonly string[],
  keys: Int32Array,
): [string, HostTensor][] {
  const flag = (name: string, there: (key: number) => boolean): [string, HostTensor] => [
    `present.${name}`,
    hostTensor(
      'U8',
      [keys.length],
      Uint8Array.from(keys, (key) => (there(key) ? 1 : 0)),
    ),
  ];
  const flags: [string, HostTensor][] = [];
  if (text !== null) flags.push(flag('text', (key) => text.offsets[key + 1]! > text.offsets[key]!));
  if (image !== null) flags.push(flag('image', (key) => image.present[key] === 1));
  for (const { name, present } of itemVectors)
    if (modalities.includes(name)) flags.push(flag(name, (key) => present[key] === 1));
  return flags;
}

/** One item that has neither text nor picture nor given vector, in the form that the data have. */
function emptyContent({ columns, schema }: Dataset): ItemContent {
  const none = new Int32Array(0);
  const text: TokenBatch | null = columns.itemText && {
    tokens: none,
    types: none,
    positions: none,
    offsets: new Int32Array(2),
  };
  const size = columns.itemImage?.size ?? 0;
  const image: ImageBatch | null = columns.itemImage && {
    pixels: new Uint8Array(size * size * 3),
    present: new Uint8Array(1),
    size,
  };
  return { text, image, vectors: givenBatches('export', featuresOf(schema, 'embedding'), [{ id: '' }]) };
}

/** Ids of items or users, and their ids, numbers and lists as batches hold them. */
export function entityTensors(
  { schema, columns, items, userIds }: Dataset,
  source: 'item' | 'user',
): Map<string, HostTensor> {
  const ids = source === 'item' ? items.ids : userIds;
  const tensors = new Map<string, HostTensor>(packTexts('ids', ids));
  for (const { name, type } of tableFeatures(schema, source)) {
    if (type === 'categorical') {
      const { rows } = columns.categorical.find((column) => column.name === name)!;
      tensors.set(`categorical.${name}`, hostTensor('I32', [rows.length], rows));
    } else if (type === 'numeric') {
      const { values } = columns.numeric.find((column) => column.name === name)!;
      tensors.set(`numeric.${name}`, hostTensor('F32', [values.length], values));
    } else {
      const { values, offsets } = columns.sequences.find((column) => column.name === name)!;
      tensors.set(`sequence.${name}.values`, hostTensor('I32', [values.length], values));
      tensors.set(`sequence.${name}.offsets`, hostTensor('I32', [offsets.length], offsets));
    }
  }
  return tensors;
}

function servingFile(data: Dataset): ServingFile {
  const { schema, columns, text } = data;
  const layout = (source: 'item' | 'query'): ServingFile['text']['item'] =>
    text[source] && {
      fields: text[source].fields,
      positions: text[source].positions,
      layout: text[source].layout,
      digest: text[source].digest,
    };
  return {
    schema,
    historyLen: columns.historyLen,
    fills: Object.fromEntries(featuresOf(schema, 'numeric').map(({ name }) => [name, fillOf(data, name)])),
    text: { item: layout('item'), query: layout('query') },
    itemText: columns.itemText !== null,
    itemImage: columns.itemImage?.size ?? null,
    queries: columns.query !== null && columns.queryText !== null,
  };
}

/** The train mean of a feature in the form of a batch: what an absent number became. */
function fillOf({ columns }: Dataset, name: string): number {
  const column = columns.numeric.find((candidate) => candidate.name === name)!;
  const row = { inter: null, item: columns.item, user: columns.user, query: columns.query }[column.source];
  let total = 0;
  for (const event of columns.parts.train) total += column.values[row === null ? event : row[event]!]!;
  return columns.parts.train.length === 0 ? 0 : total / columns.parts.train.length;
}

/** Paths of files by the name of their copies. */
type Sources = Readonly<Record<string, string>>;

async function tokenizerFiles(source: string): Promise<Sources> {
  const whole = (await stat(source)).isDirectory();
  const folder = whole ? source : dirname(source);
  const from = (...names: string[]): Sources => Object.fromEntries(names.map((name) => [name, join(folder, name)]));
  if (whole) return from('tokenizer.json', 'vocab.txt', 'tokenizer_config.json');
  return {
    ...from('tokenizer_config.json'),
    [basename(source) === 'vocab.txt' ? 'vocab.txt' : 'tokenizer.json']: source,
  };
}

/** What a published encoder is made of, without its weights. */
function architectureFiles(folder: string): Sources {
  return Object.fromEntries(['config.json', 'preprocessor_config.json'].map((name) => [name, join(folder, name)]));
}

/** Copies those of the files that there are into a new folder of the draft. */
async function copyPresent(draft: string, folder: string, sources: Sources): Promise<Record<string, FileSignature>> {
  const path = join(draft, folder);
  await guard('mkdir', path, () => nodeEnv.makeDirectory(path));
  const files: Record<string, FileSignature> = {};
  for (const [name, source] of Object.entries(sources)) {
    const bytes = await nodeEnv.read(source).catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') return null;
      throw storageError('read', source, error);
    });
    if (bytes !== null)
      files[`${folder}/${name}`] = await writeExportFile(nodeEnv, draft, `${folder}/${name}`, [bytes]);
  }
  await guard('fsync', path, () => nodeEnv.syncDirectory(path));
  return files;
}
