import { readFileSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import type { FeatureSpec } from '../data/features.js';
import type { AugmentOptions } from '../data/images/image_augment.js';
import type { LoadOptions } from '../data/load_dataset.js';
import type { ShopOptions } from '../data/shop/shop.js';
import type { SplitRule } from '../data/split.js';
import { idLines } from '../data/tables/id_list.js';
import { ConfigError } from '../errors.js';
import type { Config, FeatureColumn } from './config_schema.js';
import { encoderSources, layoutFor, weightsKeys } from './published_encoders.js';

/** What `loadDataset` is called with. */
export interface DatasetRequest {
  readonly where: string | { readonly shop: ShopOptions };
  readonly options: LoadOptions;
}

/** Side of a picture where neither the configuration nor an encoder's weights say one. */
const DEFAULT_SIZE = 224;

/** Ratios of the warm events under `CS`. */
const warmRatios = [0.8, 0.1, 0.1] as const;

/** Translates a configuration into the call of `loadDataset`. Errors: `ConfigError` without data, or for a list of items that cannot be read, `DataError` for one that is no UTF-8. */
export function datasetRequest(config: Config): DatasetRequest {
  const { data, text, image, train } = config;
  const where = data.shop === null ? data.path : { shop: data.shop };
  if (where === null)
    throw new ConfigError('config: expected data.path or data.shop but received neither', { key: 'data' });
  const { kind, n, alpha } = train.negatives;
  const published = encoderSources(weightsKeys(config.model));
  const features = config.feature_cols
    .filter((column) => isRead(column, config))
    .map((column) => featureSpec(column, published.image?.options.size ?? DEFAULT_SIZE));
  if (features.length === 0 && config.feature_cols.length > 0) {
    const names = config.feature_cols.map(({ name }) => name).join(', ');
    throw new ConfigError(
      `config: expected feature_cols of which the model reads some but received ${names}, all texts or pictures that are none of its modalities`,
      { key: 'feature_cols' },
    );
  }
  const options: LoadOptions = {
    userId: data.user_id,
    itemId: data.item_id,
    time: data.time,
    session: data.session,
    query: data.query_id,
    labels: [
      ...(data.label.column === null ? [] : [{ column: data.label.column, atLeast: data.label.at_least }]),
      ...data.more_labels.map(({ column, at_least: atLeast, name }) => ({ column, atLeast, ...(name && { name }) })),
    ],
    ...(config.feature_cols.length > 0 ? { features } : {}),
    split: splitRule(config),
    ...(data.cold_items === null ? {} : { coldItems: itemList(data.cold_items, 'data.cold_items', data.path) }),
    seed: train.seed,
    history: {
      parts: data.history_parts,
      ties: data.history_ties,
      where: data.history_where,
      maxLen: clicksKept(config.model),
    },
    negatives: kind === 'uniform' || kind === 'popularity' ? { kind, n, alpha } : null,
    allowDuplicates: data.allow_duplicates,
    maxMemory: data.max_memory,
    workers: train.loader_workers,
    ...(config.model.name === 'freedom' || config.model.name === 'em3_release' ? { vectorsInBatches: false } : {}),
    text: {
      tokenizer: text.tokenizer,
      minCount: text.min_count,
      maxWords: text.max_words,
      positions: text.positions,
      ...(published.text === null ? {} : { layout: layoutFor(published.text) }),
      cacheDir: text.cache_dir,
    },
    imageRoot: data.image_root,
    images: {
      fit: image.fit,
      onBadImage: image.on_bad_image,
      maxBadFraction: image.max_bad_fraction,
      maxDecodeBytes: image.max_decode_bytes,
      augment: imageAugment(config),
      cache: image.cache,
    },
    files: fileOptions(data),
    engine: data.engine,
    tables: {
      interactions: data.interactions,
      items: data.items,
      users: data.users,
      parts: data.parts && [
        data.parts.train,
        data.parts.valid,
        ...(data.parts.test === undefined ? [] : [data.parts.test]),
      ],
    },
  };
  return { where, options };
}

/** Texts and pictures of items are read where they are modalities of the model; pictures also where bad ones take their rows out of the data. */
function isRead(column: FeatureColumn, { model, image }: Config): boolean {
  const modalities = model.training === 'id_only' ? [] : model.modalities;
  if (column.type === 'image') return modalities.includes('image') || image.on_bad_image === 'skip';
  return column.type !== 'text' || column.source !== 'item' || modalities.includes('text');
}

/** How files of data are read. */
export function fileOptions(data: Config['data']): NonNullable<LoadOptions['files']> {
  return {
    onBadRow: data.on_bad_row,
    maxBadFraction: data.max_bad_fraction,
    dtypes: Object.fromEntries(data.dtypes.map(({ column, dtype }) => [column, dtype])),
    ...(data.field_separator === undefined ? {} : { fieldSeparator: data.field_separator }),
    ...(data.seq_separator === undefined ? {} : { seqSeparator: data.seq_separator }),
    ...(data.benchmark_filename === undefined ? {} : { benchmarkFilename: data.benchmark_filename }),
  };
}

/** How training pictures differ. */
export function imageAugment({ image: { augment } }: Config): AugmentOptions | null {
  return augment && { minArea: augment.min_area, flip: augment.flip };
}

/** Clicks that the longest content history holds. */
function clicksKept({ name, history_len: length, sequences }: Config['model']): number {
  return name === 'lemur' ? Math.max(sequences.short, sequences.long) : length;
}

function featureSpec(column: FeatureColumn, pictureSize: number): FeatureSpec {
  const { name, type } = column;
  switch (type) {
    case 'categorical': {
      const { source, embedding_dim: embeddingDim, min_count: minCount, share_embedding: shareEmbedding } = column;
      return { name, type, source, embeddingDim, minCount, shareEmbedding };
    }
    case 'numeric':
      return { name, type, source: column.source, transform: column.transform };
    case 'sequence': {
      const { source, of, splitter, embedding_dim: embeddingDim, min_count: minCount } = column;
      const { padding, share_embedding: shareEmbedding } = column;
      const maxLen = column.max_len ?? (of === undefined ? 8 : 50);
      const keep = padding === null ? undefined : padding === 'pre' ? 'last' : 'first';
      return { name, type, source, of, splitter, maxLen, keep, embeddingDim, minCount, shareEmbedding };
    }
    case 'history':
      return { name, type, of: column.of, shareEmbedding: column.share_embedding, maxLen: column.max_len };
    case 'text':
      return { name, type, source: column.source, maxLen: column.max_len };
    case 'image':
      return { name, type, source: column.source, size: column.size ?? pictureSize };
    case 'meta':
      return { name, type, source: column.source };
    case 'embedding':
      if (!column.freeze_emb)
        throw new ConfigError(
          `config: feature ${name}: expected freeze_emb true, the only kind of given vectors there is`,
          {
            key: name,
          },
        );
      return { name, type, source: column.source, file: column.file, ids: column.ids };
  }
}

/** The rule of `eval.split`. */
function splitRule({ data, eval: { split, order, ties, group_by: groupBy } }: Config): SplitRule | 'given' {
  if ('RS' in split) {
    const [train, valid, test] = split.RS as [number, number, number];
    return { kind: 'RS', ratios: [train, valid, test], order, ties, ...(groupBy === 'user' ? { groupBy } : {}) };
  }
  if ('LS' in split) return { kind: 'LS' };
  if ('TS' in split) return { kind: 'TS', validFrom: split.TS.valid_from, testFrom: split.TS.test_from };
  if ('CS' in split) {
    const warm = { ratios: warmRatios, order, ties };
    return 'file' in split.CS
      ? { kind: 'CS', testItems: itemList(split.CS.file, 'eval.split.CS.file', data.path), ...warm }
      : { kind: 'CS', test: split.CS.test, valid: split.CS.valid, ...warm };
  }
  return 'given';
}

/** One item id per line; empty lines are left out. A relative path starts at the data folder (of `folder/stem`, at `folder`). */
function itemList(name: string, key: string, dataPath: string | null): string[] {
  const file = isAbsolute(name) || dataPath === null ? name : join(dataFolder(dataPath), name);
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new ConfigError(`config: ${key}: cannot read ${file}`, { key, file }, { cause: error });
  }
  return idLines(bytes, file).filter((line) => line !== '');
}

function dataFolder(path: string): string {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true ? path : dirname(path);
}
