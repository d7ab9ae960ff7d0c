/**
 * From the config.json of a Hugging Face folder to what our encoders are built of. What is absent has the default of its family; an option
 * that we do not implement is refused by name. Dropout rates are those of the folder's own training and are not read.
 */
import { ModelFileError } from '../errors.js';
import type { HuggingFaceFolder, JsonObject, JsonValue } from '../io/hugging_face.js';
import type { FeedForwardActivation } from '../nn/attention.js';
import type { PretrainedImageOptions } from '../nn/pretrained_image_encoder.js';
import type { PooledToken, PretrainedTextOptions } from '../nn/pretrained_text_encoder.js';
import type { ImageFamily, TextFamily } from './pretrained_names.js';

export interface TextArchitecture {
  readonly family: TextFamily;
  readonly options: PretrainedTextOptions;
}

export interface ImageArchitecture {
  readonly family: ImageFamily;
  readonly options: PretrainedImageOptions;
  /** How a picture becomes the square that the encoder reads. */
  readonly fit: 'cover' | 'fill';
}

/** The encoders of a folder; null where it has none of that kind, or none is wanted. */
export interface Architecture {
  readonly text: TextArchitecture | null;
  readonly image: ImageArchitecture | null;
}

const ACTIVATIONS: Readonly<Record<string, FeedForwardActivation>> = {
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
  tanh: 'tanh',
};

/** Keys of one JSON object with their kinds, defaults and place in messages. */
class Options {
  constructor(
    readonly json: JsonObject,
    readonly file: string,
    readonly path = '',
  ) {}

  fail(key: string, expected: string, value: JsonValue | undefined = this.json[key]): never {
    const name = this.path + key;
    throw new ModelFileError(
      `hugging face folder: ${this.file}: expected ${name} to be ${expected} but received ${value === undefined ? 'nothing' : JSON.stringify(value)}`,
      { file: this.file, key: name },
    );
  }

  count(key: string, otherwise: number, least = 1): number {
    const value = this.json[key] ?? otherwise;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < least)
      this.fail(key, `an integer of at least ${least}`);
    return value;
  }

  eps(key: string, otherwise: number): number {
    const value = this.json[key] ?? otherwise;
    if (typeof value !== 'number' || !(value > 0 && value < 1)) this.fail(key, 'a number between 0 and 1');
    return value;
  }

  activation(key: string, otherwise: string): FeedForwardActivation {
    const value = this.json[key] ?? otherwise;
    const known = typeof value === 'string' ? ACTIVATIONS[value] : undefined;
    return known ?? this.fail(key, `one of ${Object.keys(ACTIVATIONS).join(', ')}`, value);
  }

  /** Refuses another value than those that we implement; absent, null and equal pass. */
  only(key: string, ...values: readonly JsonValue[]): void {
    const value = this.json[key] ?? null;
    if (value !== null && !values.includes(value)) this.fail(key, values.map((v) => JSON.stringify(v)).join(' or '));
  }

  object(key: string): Options {
    const value = this.json[key] ?? {};
    if (!isObject(value)) this.fail(key, 'an object');
    return new Options(value, this.file, `${this.path}${key}.`);
  }

  /** The object of one encoder; a second copy of it, as some folders have, must not say anything else. */
  tower(key: 'text_config' | 'vision_config'): Options {
    const options = this.object(key);
    const copy = this.json[`${key}_dict`] ?? null;
    if (copy !== null && !isObject(copy)) this.fail(`${key}_dict`, 'an object');
    for (const [name, value] of Object.entries((copy ?? {}) as JsonObject))
      if (Object.hasOwn(options.json, name) && JSON.stringify(value) !== JSON.stringify(options.json[name]))
        this.fail(`${key}_dict`, `like ${key}`, { [name]: value });
    return options;
  }

  /** Width and heads, which must divide it. */
  heads(width: number, otherwise: number): number {
    const heads = this.count('num_attention_heads', otherwise);
    if (width % heads !== 0) this.fail('num_attention_heads', `a divisor of hidden_size ${width}`, heads);
    return heads;
  }
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

interface Readers {
  readonly text?: (config: Options) => TextArchitecture;
  readonly image?: (config: Options, pictures: PictureReader) => ImageArchitecture;
}

const projection = (config: Options): number => config.count('projection_dim', 512);

/** Encoders of these model types are read. */
const READERS: Readonly<Record<string, Readers>> = {
  bert: { text: (config) => bert(config, 'bert') },
  roberta: { text: (config) => bert(config, 'roberta') },
  vit: { image: vit },
  clip: {
    text: (config) => clipText(config.tower('text_config'), projection(config)),
    image: (config, pictures) => clipImage(config.tower('vision_config'), projection(config), pictures),
  },
  clip_text_model: { text: (config) => clipText(config, projection(config)) },
  clip_vision_model: { image: (config, pictures) => clipImage(config, projection(config), pictures) },
  siglip: {
    text: (config) => siglipText(config.tower('text_config')),
    image: (config, pictures) => siglipImage(config.tower('vision_config'), pictures),
  },
  siglip_text_model: { text: siglipText },
  siglip_vision_model: { image: siglipImage },
};

/** Which encoders of a folder are wanted. */
export type Tower = 'text' | 'image';

/** The encoders that a folder's config.json describes, of those that are wanted. Throws `ModelFileError` naming the key. */
export function readArchitecture(
  { path, config, preprocessor }: HuggingFaceFolder,
  towers: readonly Tower[],
): Architecture {
  const options = new Options(config, `${path}/config.json`);
  const type = config['model_type'];
  const readers = typeof type === 'string' && Object.hasOwn(READERS, type) ? READERS[type] : undefined;
  const { text, image } = readers ?? options.fail('model_type', `one of ${Object.keys(READERS).join(', ')}`);
  return {
    text: towers.includes('text') ? (text?.(options) ?? null) : null,
    image: towers.includes('image')
      ? (image?.(options, (size) => readPreprocessor(preprocessor, path, size)) ?? null)
      : null,
  };
}

// ---- text

function bert(config: Options, family: 'bert' | 'roberta'): TextArchitecture {
  config.only('position_embedding_type', 'absolute');
  config.only('is_decoder', false);
  config.only('add_cross_attention', false);
  const width = config.count('hidden_size', 768);
  const roberta = family === 'roberta';
  const positions = config.count('max_position_embeddings', 512);
  const firstPosition = roberta ? config.count('pad_token_id', 1, 0) + 1 : 0;
  if (positions <= firstPosition) config.fail('max_position_embeddings', `above ${firstPosition}`, positions);
  return {
    family,
    options: {
      vocabularySize: config.count('vocab_size', roberta ? 50265 : 30522),
      positions,
      firstPosition,
      types: config.count('type_vocab_size', 2),
      width,
      layers: config.count('num_hidden_layers', 12),
      heads: config.heads(width, 12),
      ffn: config.count('intermediate_size', 3072),
      activation: config.activation('hidden_act', 'gelu'),
      norm: 'post',
      eps: config.eps('layer_norm_eps', 1e-12),
      causal: false,
      pooled: 'first',
      head: { out: width, bias: true, activation: 'tanh' },
    },
  };
}

function clipText(config: Options, out: number): TextArchitecture {
  const width = config.count('hidden_size', 512);
  const vocabularySize = config.count('vocab_size', 49408);
  const end = config.count('eos_token_id', 49407, 0);
  // Configurations that say 2 are from before the id was read: the end of a text was its largest id, CLIP's last one.
  const pooled: PooledToken = { id: end === 2 ? vocabularySize - 1 : end };
  return {
    family: 'clip_text',
    options: {
      vocabularySize,
      positions: config.count('max_position_embeddings', 77),
      firstPosition: 0,
      types: 0,
      width,
      layers: config.count('num_hidden_layers', 12),
      heads: config.heads(width, 8),
      ffn: config.count('intermediate_size', 2048),
      activation: config.activation('hidden_act', 'quick_gelu'),
      norm: 'pre',
      eps: config.eps('layer_norm_eps', 1e-5),
      causal: true,
      pooled,
      head: { out, bias: false, activation: 'none' },
    },
  };
}

function siglipText(config: Options): TextArchitecture {
  const width = config.count('hidden_size', 768);
  return {
    family: 'siglip_text',
    options: {
      vocabularySize: config.count('vocab_size', 32000),
      positions: config.count('max_position_embeddings', 64),
      firstPosition: 0,
      types: 0,
      width,
      layers: config.count('num_hidden_layers', 12),
      heads: config.heads(width, 12),
      ffn: config.count('intermediate_size', 3072),
      activation: config.activation('hidden_act', 'gelu_pytorch_tanh'),
      norm: 'pre',
      eps: config.eps('layer_norm_eps', 1e-6),
      causal: false,
      pooled: 'last',
      head: { out: config.count('projection_size', width), bias: true, activation: 'none' },
    },
  };
}

// ---- pictures

type Channels = readonly [number, number, number];
interface Preprocessing {
  readonly mean: Channels;
  readonly std: Channels;
  readonly fit: 'cover' | 'fill';
}
/** What preprocessor_config.json says about pictures of this size. */
type PictureReader = (size: number) => Preprocessing;

function patches(config: Options, patch: number): { size: number; patch: number } {
  config.only('num_channels', 3);
  const size = config.count('image_size', 224);
  const side = config.count('patch_size', patch);
  if (size % side !== 0) config.fail('patch_size', `a divisor of image_size ${size}`, side);
  return { size, patch: side };
}

function imageArchitecture(
  config: Options,
  family: ImageFamily,
  pictures: PictureReader,
  defaults: { patch: number; activation: string; eps: number },
  rest: Pick<PretrainedImageOptions, 'patchBias' | 'pooling' | 'normsInput' | 'lastNorm' | 'head'>,
): ImageArchitecture {
  const { size, patch } = patches(config, defaults.patch);
  const { fit, mean, std } = pictures(size);
  const width = config.count('hidden_size', 768);
  return {
    family,
    fit,
    options: {
      size,
      patch,
      width,
      layers: config.count('num_hidden_layers', 12),
      heads: config.heads(width, 12),
      ffn: config.count('intermediate_size', 3072),
      activation: config.activation('hidden_act', defaults.activation),
      eps: config.eps('layer_norm_eps', defaults.eps),
      mean,
      std,
      ...rest,
    },
  };
}

function vit(config: Options, pictures: PictureReader): ImageArchitecture {
  config.only('qkv_bias', true);
  config.only('pooler_act', 'tanh');
  const out = config.count('pooler_output_size', config.count('hidden_size', 768));
  return imageArchitecture(
    config,
    'vit',
    pictures,
    { patch: 16, activation: 'gelu', eps: 1e-12 },
    {
      patchBias: true,
      pooling: 'class',
      normsInput: false,
      lastNorm: 'tokens',
      head: { out, bias: true, activation: 'tanh' },
    },
  );
}

function clipImage(config: Options, out: number, pictures: PictureReader): ImageArchitecture {
  return imageArchitecture(
    config,
    'clip_image',
    pictures,
    { patch: 32, activation: 'quick_gelu', eps: 1e-5 },
    {
      patchBias: false,
      pooling: 'class',
      normsInput: true,
      lastNorm: 'pooled',
      head: { out, bias: false, activation: 'none' },
    },
  );
}

function siglipImage(config: Options, pictures: PictureReader): ImageArchitecture {
  config.only('vision_use_head', true);
  return imageArchitecture(
    config,
    'siglip_image',
    pictures,
    { patch: 16, activation: 'gelu_pytorch_tanh', eps: 1e-6 },
    { patchBias: true, pooling: 'attention', normsInput: false, lastNorm: 'tokens', head: null },
  );
}

/** Mean, deviation and fit. Throws `ModelFileError` where the file is absent or asks for what our picture pipeline does not do. */
function readPreprocessor(json: JsonObject | null, folder: string, size: number): Preprocessing {
  const file = `${folder}/preprocessor_config.json`;
  if (json === null)
    throw new ModelFileError(`hugging face folder: expected preprocessor_config.json in ${folder} but found none`, {
      file,
    });
  const options = new Options(json, file);
  options.only('do_resize', true);
  options.only('do_rescale', true);
  const factor = json['rescale_factor'] ?? 1 / 255;
  if (typeof factor !== 'number' || Math.abs(factor * 255 - 1) > 1e-6) options.fail('rescale_factor', '1/255');
  const channels = (key: string, accept: (x: number) => boolean, what: string): Channels => {
    const value = json[key];
    if (!Array.isArray(value) || value.length !== 3 || !value.every((x) => typeof x === 'number' && accept(x)))
      options.fail(key, `three ${what} numbers`);
    return value as unknown as Channels;
  };
  const normalizes = json['do_normalize'] ?? true;
  const crops = json['do_center_crop'] === true;
  const side = (key: string): number => {
    const value = json[key];
    if (typeof value === 'number') return value;
    if (!isObject(value)) return options.fail(key, 'a number of pixels, or an object of them');
    const { height, width, shortest_edge: edge } = value;
    if (typeof edge === 'number' && height === undefined) {
      // Without a crop pictures would keep their shapes.
      return crops ? edge : options.fail(key, 'height and width where nothing is cropped');
    }
    return typeof height === 'number' && height === width ? height : options.fail(key, 'equal height and width');
  };
  for (const key of crops ? ['size', 'crop_size'] : ['size'])
    if (side(key) !== size) options.fail(key, `${size}, the image_size of config.json`);
  return {
    mean: normalizes === false ? [0, 0, 0] : channels('image_mean', Number.isFinite, 'finite'),
    std: normalizes === false ? [1, 1, 1] : channels('image_std', (x) => x > 0 && Number.isFinite(x), 'positive'),
    fit: crops ? 'cover' : 'fill',
  };
}
