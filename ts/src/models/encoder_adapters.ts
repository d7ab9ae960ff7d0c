/** Low-rank adaptation of content encoders (LoRA on their linear layers), and PEFT folders of it, in and out. */
import { join } from 'node:path';
import { ConfigError, ModelFileError } from '../errors.js';
import { nodeEnv, systemCode } from '../io/env.js';
import { floatValues } from '../io/float_values.js';
import { type PeftAdapter, type PeftLayer, peftFiles, readPeft, writePeft } from '../io/peft.js';
import { type HostTensor, hostTensor } from '../io/safetensors.js';
import {
  injectLora,
  isLoraTarget,
  type LayerNames,
  type LoraAdapterOptions,
  type LoraAdapters,
  linearsOf,
} from '../nn/lora_adapters.js';
import type { ForwardContext, Initializer } from '../nn/module.js';
import type { BlockEncoder } from '../nn/tune_last.js';
import { assign, type Tensor } from '../tensor.js';

export type EncoderName = 'text' | 'image';

/** Adapters of the item encoders that have some. */
export type EncoderAdapters = ReadonlyMap<EncoderName, LoraAdapters>;

/** An encoder whose blocks can be left out of training, and what its layers are called elsewhere. */
export interface AdaptedEncoder {
  readonly module: BlockEncoder;
  readonly nameOf?: LayerNames | undefined;
  /** Parameters that nothing reads. */
  readonly unused?: RegExp | undefined;
}

/** What encoders call the projections of queries and values. */
const QUERIES_AND_VALUES = ['query', 'value', 'q_proj', 'v_proj'];

/** `LoraAdapterOptions` whose targets may be null: queries and values of attention, whatever the encoders call them. */
export interface EncoderLoraOptions extends Omit<LoraAdapterOptions, 'targets'> {
  readonly targets: LoraAdapterOptions['targets'] | null;
}

/**
 * Puts low-rank updates on the targets in each encoder. Errors: `ConfigError` that names the targets which no encoder has, and the layers
 * that there are.
 */
export function adaptEncoders(
  encoders: ReadonlyMap<EncoderName, AdaptedEncoder>,
  init: Initializer,
  { targets: asked, ...options }: EncoderLoraOptions,
): EncoderAdapters {
  const names = [...encoders.values()].flatMap(({ module, nameOf }) => [...linearsOf(module, nameOf).keys()]);
  const targets = asked ?? QUERIES_AND_VALUES.filter((target) => names.some((name) => isLoraTarget(name, [target])));
  const wanted = typeof targets === 'string' ? [targets] : targets.map((target) => [target]);
  const unknown = wanted.filter((target) => !names.some((name) => isLoraTarget(name, target)));
  if (unknown.length > 0 || wanted.length === 0) {
    const ends = [...new Set(names.map((name) => name.split('.').at(-1)!))].join(', ') || 'there are none';
    throw new ConfigError(
      `model.encoder.lora.targets: expected names of linear layers, or their ends (${ends}), but received ${unknown.flat().join(', ') || 'none'}`,
      { key: 'model.encoder.lora.targets', layers: names },
    );
  }
  const adapted = new Map<EncoderName, LoraAdapters>();
  for (const [name, { module, nameOf }] of encoders) {
    const adapters = injectLora(module, init.at(name), { ...options, targets }, nameOf);
    if (adapters.layers.size > 0) adapted.set(name, adapters);
  }
  return adapted;
}

/** Tells the adapters whether what follows is training. */
export function setMode(adapters: EncoderAdapters, { training }: ForwardContext): void {
  for (const one of adapters.values()) one.training = training;
}

/**
 * Adapters of a folder by encoder: a PEFT folder is that of the first of `encoders`; one that holds folders `text` or `image` has one for each of
 * these. Errors: `ConfigError` where there is none for any of `encoders`, and what `readPeft` throws.
 */
export async function readEncoderAdapters(
  folder: string,
  encoders: readonly EncoderName[],
): Promise<Map<EncoderName, PeftAdapter>> {
  const [first] = encoders;
  const found = new Map<EncoderName, PeftAdapter>();
  if (first !== undefined && (await isThere(folder))) found.set(first, await readPeft(folder));
  else
    for (const name of encoders)
      if (await isThere(join(folder, name))) found.set(name, await readPeft(join(folder, name)));
  if (found.size === 0)
    throw new ConfigError(
      `model.encoder.adapter: expected ${peftFiles.config} in ${folder}, or in a folder ${encoders.join(' or ') || 'of an encoder'} in it, but there is none`,
      { key: 'model.encoder.adapter', folder },
    );
  return found;
}

async function isThere(folder: string): Promise<boolean> {
  try {
    return (await nodeEnv.list(folder)).some(({ name }) => name === peftFiles.config);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Options with which all of these adapters load. Errors: `ConfigError` where they ask for different ones. */
export function adapterOptions(adapters: ReadonlyMap<EncoderName, PeftAdapter>): LoraAdapterOptions {
  const [first, ...others] = [...adapters.values()].map(({ rank, alpha, dropout, targets }) => ({
    rank,
    alpha,
    dropout,
    targets: typeof targets === 'string' ? targets : [...targets].sort(),
  }));
  for (const other of others)
    if (JSON.stringify(other) !== JSON.stringify(first))
      throw new ConfigError(
        `model.encoder.adapter: expected adapters of all encoders to agree but received ${JSON.stringify(first)} and ${JSON.stringify(other)}`,
        { key: 'model.encoder.adapter' },
      );
  return first!;
}

/**
 * Writes the matrices of read adapters over those of a model, as float32 (float64 where the model is). Errors: `ModelFileError` that lists every
 * layer that is missing, extra or of another shape, and rank and alpha where they differ.
 */
export function loadEncoderAdapters(adapters: EncoderAdapters, given: ReadonlyMap<EncoderName, PeftAdapter>): void {
  const differences: string[] = [];
  const pairs: [Tensor, HostTensor][] = [];
  const spelled = (shape: readonly number[]): string => `(${shape.join(', ')})`;
  for (const [encoder, { rank, alpha, layers }] of given) {
    const own = adapters.get(encoder);
    const options = own?.options;
    if (options !== undefined && (options.rank !== rank || options.alpha !== alpha))
      differences.push(
        `${encoder}: expected rank ${options.rank} and alpha ${options.alpha} but received ${rank} and ${alpha}`,
      );
    for (const [layer, update] of own?.layers ?? []) {
      const matrices = layers.get(layer);
      if (matrices === undefined) {
        differences.push(`missing ${encoder} layer ${layer}`);
        continue;
      }
      for (const half of ['a', 'b'] as const) {
        const [expected, received] = [spelled(update[half].shape), spelled(matrices[half].shape)];
        if (expected !== received)
          differences.push(`${encoder} layer ${layer}, ${half}: expected ${expected} but received ${received}`);
        pairs.push([update[half], matrices[half]]);
      }
    }
    for (const layer of layers.keys())
      if (!own?.layers.has(layer)) differences.push(`unexpected ${encoder} layer ${layer}`);
  }
  if (differences.length > 0)
    throw new ModelFileError(`adapter: expected one for these encoders but: ${differences.join('; ')}`, {
      differences,
    });
  for (const [target, matrix] of pairs) {
    const values = floatValues(matrix);
    assign(target, target.dtype === 'float64' ? Float64Array.from(values) : values);
  }
}

/**
 * Writes the adapters of a model as PEFT folders `text` and `image` in `folder`, in float32. `like`: adapters they were loaded from, whose other settings
 * are kept. Waits for the device. Errors: `StorageError`.
 */
export async function saveEncoderAdapters(
  adapters: EncoderAdapters,
  folder: string,
  like: ReadonlyMap<EncoderName, PeftAdapter> = new Map(),
): Promise<void> {
  for (const [encoder, { options, layers }] of adapters) {
    const { rank, alpha, dropout = 0, targets } = options;
    const matrices = new Map<string, PeftLayer>();
    for (const layer of [...layers.keys()].sort()) {
      const { a, b } = layers.get(layer)!;
      matrices.set(layer, { a: await float32Of(a), b: await float32Of(b) });
    }
    const { config, metadata } = like.get(encoder) ?? {};
    await writePeft(join(folder, encoder), {
      rank,
      alpha,
      dropout,
      targets,
      layers: matrices,
      ...(config === undefined ? {} : { config }),
      ...(metadata === undefined ? {} : { metadata }),
    });
  }
}

async function float32Of(x: Tensor): Promise<HostTensor> {
  return hostTensor('F32', x.shape, Float32Array.from((await x.values()) as Float32Array));
}
