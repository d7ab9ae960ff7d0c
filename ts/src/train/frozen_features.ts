/** Features of frozen item encoders: computed once for all items, kept on disk block by block, and read by training and evaluation. */
import { createHash } from 'node:crypto';
import { toBfloat16 } from '../bfloat16.js';
import type { Dataset } from '../data/dataset.js';
import { digestOf } from '../data/digest.js';
import { ConfigError } from '../errors.js';
import type { Env } from '../io/env.js';
import { type FeatureCache, openFeatureCache } from '../io/feature_cache.js';
import { type HostTensor, hostTensor, viewAs } from '../io/safetensors.js';
import {
  type BlockRows,
  FEATURE_BLOCK,
  type FeatureSize,
  type FrozenEncoders,
  FrozenFeatures,
} from '../models/frozen_features.js';
import type { RecommenderModel } from '../models/model.js';
import type { Tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import type { Config } from './config.js';
import { inPrecision, type Precision } from './evaluate.js';
import { readTensors } from './state.js';

export interface CachedFeatureOptions {
  /** Folder of the cache. */
  readonly directory: string;
  /** What the features are rounded to. Default bfloat16. */
  readonly dtype?: 'bfloat16' | 'float32';
  /** Most bytes that they may take, in memory and on disk. Default 8 GiB. */
  readonly maxBytes?: number;
  /** What they are computed in. */
  readonly precision?: Precision;
  readonly signal?: AbortSignal;
  readonly env?: Env;
}

/** What became of the blocks of a cache. */
export interface CachedFeatureCounts {
  readonly folder: string;
  readonly blocks: number;
  /** Bytes that the features take, at most. */
  readonly bytes: number;
  readonly read: number;
  readonly computed: number;
  readonly corrupt: number;
  readonly failedWrites: number;
}

const bytesPer = { bfloat16: 2, float32: 4 } as const;

/** Bytes that the features of all items take, at most: texts count their own tokens. */
function estimate(data: Dataset, sizes: ReadonlyMap<string, FeatureSize>, dtype: 'bfloat16' | 'float32'): number {
  const items = data.items.ids.length;
  const tokens = data.columns.itemText?.offsets.at(-1);
  let numbers = 0;
  for (const [name, { most, width }] of sizes) {
    const rows = name === 'text' && most > 1 && tokens !== undefined ? Math.min(tokens, items * most) : items * most;
    numbers += rows * width;
  }
  return numbers * bytesPer[dtype];
}

/**
 * Gives `model` the features of its frozen item encoders: those of the cache, and for blocks that it lacks the computed ones, which it then
 * holds. A call that ends early leaves whole blocks behind, with which the next goes on. Other weights, encoders, content or precision have another
 * key. Errors: `ConfigError` where an encoder trains (key model.encoder.cache_dir), or the features take more than `maxBytes` (key
 * model.encoder.cache_max_bytes; before anything is computed); `StorageError` for a block that cannot be read.
 */
export async function useCachedFeatures(
  model: RecommenderModel,
  data: Dataset,
  options: CachedFeatureOptions,
): Promise<CachedFeatureCounts> {
  const { directory, dtype = 'bfloat16', maxBytes = 8 * 2 ** 30, precision = 'float32', signal, env } = options;
  const encoders = model.frozenEncoders;
  if (encoders === null)
    throw new ConfigError(
      'model.encoder.cache_dir: expected item encoders that do not train (model.training frozen, or model.encoder.tune_layers 0 without lora) but these do',
      { key: 'model.encoder.cache_dir' },
    );
  const items = data.items.ids.length;
  const bytes = estimate(data, encoders.sizes, dtype);
  if (bytes > maxBytes) {
    const sizes = [...encoders.sizes].map(([name, { most, width }]) => `${name} up to ${most} x ${width}`);
    throw new ConfigError(
      `model.encoder.cache_max_bytes: expected features of at most ${maxBytes} bytes but ${items} items (${sizes.join(', ')}) take ${bytes} in ${dtype}; ` +
        'give more, or pool pictures by model.encoder.cache_tokens',
      { key: 'model.encoder.cache_max_bytes', expected: maxBytes, received: bytes },
    );
  }
  const key = await featureKey(model, data, encoders, { dtype, precision, signal });
  const cache = openFeatureCache(directory, key, env);
  const features = new FrozenFeatures(encoders.sizes);
  const blocks = Math.ceil(items / FEATURE_BLOCK);
  let read = 0;
  for (let block = 0; block < blocks; block++) {
    signal?.throwIfAborted();
    const keys = Int32Array.from(
      { length: Math.min(FEATURE_BLOCK, items - block * FEATURE_BLOCK) },
      (_, i) => block * FEATURE_BLOCK + i,
    );
    const held = await cache.read(block);
    if (held !== null) read++;
    features.put(
      block,
      held === null
        ? await compute({ data, encoders, dtype, precision, cache, block }, keys)
        : fromTensors(held, encoders.sizes, dtype),
    );
  }
  encoders.use(features);
  const { folder, corrupt, failedWrites } = cache;
  return { folder, blocks, bytes, read, computed: blocks - read, corrupt, failedWrites };
}

/** A digest of everything that decides features: encoders and their weights, content, arithmetic. */
async function featureKey(
  { device }: RecommenderModel,
  data: Dataset,
  { identity, sizes, state }: FrozenEncoders,
  { dtype, precision, signal }: { dtype: string; precision: Precision; signal: AbortSignal | undefined },
): Promise<string> {
  const weights = Object.fromEntries(
    [...(await readTensors(state))].map(([name, { dtype: stored, shape, data: values }]) => [
      name,
      { stored, shape, values },
    ]),
  );
  const digest = await digestOf({ weights, ...(signal === undefined ? {} : { signal }) });
  const parts = {
    format: 1,
    block: FEATURE_BLOCK,
    identity,
    sizes: [...sizes],
    weights: digest,
    data: data.digest,
    dtype,
    precision,
    arithmetic: device.replace(/:\d+$/, ''),
  };
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

/** Encodes one block and writes it. */
async function compute(
  given: {
    data: Dataset;
    encoders: FrozenEncoders;
    dtype: 'bfloat16' | 'float32';
    precision: Precision;
    cache: FeatureCache;
    block: number;
  },
  keys: Int32Array,
): Promise<Map<string, BlockRows>> {
  const { data, encoders, dtype, precision, cache, block } = given;
  const content = await data.itemContent(keys);
  const encoded = tidy(() => inPrecision(precision, () => encoders.encode(content)));
  const rows = new Map<string, BlockRows>();
  const tensors = new Map<string, HostTensor>();
  try {
    for (const [name, { width }] of encoders.sizes) {
      const { rows: tensor, starts, counts } = encoded.get(name)!;
      const values = packed(await numbers(tensor), starts, counts, width);
      const stored = dtype === 'bfloat16' ? toBfloat16(values) : values;
      rows.set(name, { counts, values: stored });
      tensors.set(`${name}.counts`, hostTensor('I32', [counts.length], counts));
      const shape = [values.length / width, width];
      tensors.set(
        `${name}.rows`,
        stored instanceof Uint16Array ? hostTensor('BF16', shape, stored) : hostTensor('F32', shape, stored),
      );
    }
  } finally {
    for (const { rows: tensor } of encoded.values()) tensor.dispose();
  }
  await cache.write(block, tensors);
  return rows;
}

async function numbers(tensor: Tensor): Promise<Float32Array> {
  const values = await tensor.values();
  return values instanceof Float32Array ? values : Float32Array.from(values as Float64Array);
}

/** Rows of items that have any, one item after the other. */
function packed(values: Float32Array, starts: Int32Array, counts: Int32Array, width: number): Float32Array {
  const out = new Float32Array(counts.reduce((total, count) => total + count, 0) * width);
  let at = 0;
  counts.forEach((count, i) => {
    out.set(values.subarray(starts[i]! * width, (starts[i]! + count) * width), at);
    at += count * width;
  });
  return out;
}

function fromTensors(
  tensors: ReadonlyMap<string, HostTensor>,
  sizes: ReadonlyMap<string, FeatureSize>,
  dtype: 'bfloat16' | 'float32',
): Map<string, BlockRows> {
  const rows = new Map<string, BlockRows>();
  for (const name of sizes.keys()) {
    const values = tensors.get(`${name}.rows`)!;
    rows.set(name, {
      counts: viewAs(tensors.get(`${name}.counts`)!, 'I32'),
      values: dtype === 'bfloat16' ? viewAs(values, 'BF16') : viewAs(values, 'F32'),
    });
  }
  return rows;
}

/** `useCachedFeatures` as a configuration asks for it, told in one line; without a cache folder, or content, nothing happens. */
export async function useConfiguredFeatures(
  model: RecommenderModel,
  data: Dataset,
  { model: { encoder, training }, train }: Pick<Config, 'model' | 'train'>,
  { signal, onNote = () => undefined }: { signal?: AbortSignal; onNote?: (line: string) => void } = {},
): Promise<void> {
  if (encoder.cache_dir === null || training === 'id_only') return;
  const { folder, blocks, bytes, read, computed, corrupt, failedWrites } = await useCachedFeatures(model, data, {
    directory: encoder.cache_dir,
    dtype: encoder.cache_dtype,
    maxBytes: encoder.cache_max_bytes,
    precision: train.precision === 'bf16' ? 'bf16' : 'float32',
    ...(signal === undefined ? {} : { signal }),
  });
  const faults = [
    ...(corrupt > 0 ? [`${corrupt} were corrupt`] : []),
    ...(failedWrites > 0 ? [`${failedWrites} could not be written`] : []),
  ];
  const size = `${(bytes / 2 ** 20).toFixed(1)} MiB of ${encoder.cache_dtype}`;
  const told = [`${read} of ${blocks} blocks read`, `${computed} computed`, ...faults].join(', ');
  onNote(`features of frozen encoders: at most ${size} in ${folder}: ${told}`);
}
