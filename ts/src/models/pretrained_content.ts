/** Published encoders as the content encoders of a model: checked against the data, with texts and pictures as they expect them. */
import type { TokenBatch } from '../data/loader/batch.js';
import type { ImageFeature, TextFeature } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import type { LayerNames } from '../nn/lora_adapters.js';
import { BlankInitializer, type Initializer } from '../nn/module.js';
import { PretrainedImageEncoder } from '../nn/pretrained_image_encoder.js';
import { PretrainedTextEncoder } from '../nn/pretrained_text_encoder.js';
import type { ImageArchitecture, TextArchitecture } from './pretrained_config.js';
import { type EncoderFamily, huggingFaceModule } from './pretrained_names.js';

/** What a model's encoders are built of; null or absent: encoders of our own. */
export interface PretrainedOptions {
  readonly text?: TextArchitecture | null;
  readonly image?: ImageArchitecture | null;
}

/** Values come from a folder: 0 until they are filled in. */
const blank = (init: Initializer): Initializer => new BlankInitializer(init.seed, init.dtype, init.device, init.path);

/** A text encoder for this feature, without its head. Throws `ConfigError` where ids or lengths of the data do not fit. */
export function pretrainedText(
  init: Initializer,
  { options }: TextArchitecture,
  { vocabularySize, maxTokens }: TextFeature,
  dropout: number,
): PretrainedTextEncoder {
  const fail = (expected: string, came: string, key: string): never => {
    throw new ConfigError(`model.encoder.weights: expected ${expected} but received ${came}`, { key });
  };
  const most = options.positions - options.firstPosition;
  if (vocabularySize > options.vocabularySize)
    fail(`a tokenizer of at most ${options.vocabularySize} ids`, `one of ${vocabularySize}`, 'text.tokenizer');
  if (maxTokens > most)
    fail(`item texts of at most ${most} tokens (max_len of their fields)`, `up to ${maxTokens}`, 'feature_cols');
  return new PretrainedTextEncoder(blank(init), { ...options, head: null, dropout });
}

/** A picture encoder for this feature, without its head. Throws `ConfigError` for pictures of another size. */
export function pretrainedImage(
  init: Initializer,
  { options }: ImageArchitecture,
  { name, size }: ImageFeature,
  dropout: number,
): PretrainedImageEncoder {
  if (size !== options.size)
    throw new ConfigError(
      `model.encoder.image.weights: expected feature ${name} of size ${options.size}, which the encoder reads, but received ${size}`,
      { key: 'feature_cols' },
    );
  return new PretrainedImageEncoder(blank(init), { ...options, head: null, dropout });
}

/** The tower of a model of two towers is a module of it: PEFT's names begin there. */
const towers: Partial<Record<EncoderFamily, string>> = {
  clip_text: 'text_model.',
  clip_image: 'vision_model.',
  siglip_text: 'text_model.',
  siglip_image: 'vision_model.',
};

/** Names of a published encoder's layers in the model of its family, which adapters go by; undefined for an encoder of ours. */
export function layerNames(
  architecture: { readonly family: EncoderFamily } | null | undefined,
): LayerNames | undefined {
  if (!architecture) return undefined;
  const { family } = architecture;
  return (path) => {
    const name = huggingFaceModule(family, path);
    return name === null ? path : `${towers[family] ?? ''}${name}`;
  };
}

/** Tokens of all fields as those of one segment, the first: what BERT reads where there is no second sentence. */
export function singleSegment(text: TokenBatch): TokenBatch {
  return { ...text, types: new Int32Array(text.types.length) };
}
