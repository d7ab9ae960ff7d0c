/** Folders of published encoders that a configuration names: what they decide about data and model, and their weights. */
import { join } from 'node:path';
import type { TextLayout } from '../data/text/text.js';
import { ConfigError } from '../errors.js';
import { openHuggingFaceFolder } from '../io/hugging_face.js';
import type { RecommenderModel } from '../models/model.js';
import { fillEncoders, readPretrained, savePretrained } from '../models/pretrained.js';
import {
  type ImageArchitecture,
  readArchitecture,
  type TextArchitecture,
  type Tower,
} from '../models/pretrained_config.js';
import type { Config, ConfigInput } from './config_schema.js';

/** Values of `model.encoder.weights`, `model.encoder.image.weights` and `model.modalities`. */
export interface WeightsKeys {
  readonly weights: string | null;
  readonly imageWeights: string | null;
  readonly modalities: readonly string[];
}

export function weightsKeys({ encoder, modalities }: Config['model']): WeightsKeys {
  return { weights: encoder.weights, imageWeights: encoder.image.weights, modalities };
}

/** What the folders hold for the modalities of a model. */
export interface EncoderSources {
  readonly text: TextArchitecture | null;
  readonly image: ImageArchitecture | null;
  readonly folders: readonly { readonly path: string; readonly towers: readonly Tower[] }[];
}

/**
 * Reads the configurations of the folders, not their weights. One folder serves both modalities where it has both encoders (CLIP, SigLIP) and
 * no other is named for pictures. Throws `ConfigError` for a folder without the encoder that it is named for, `ModelFileError` for one that is wrong.
 */
export function encoderSources({ weights, imageWeights, modalities }: WeightsKeys): EncoderSources {
  const wanted = (tower: Tower): boolean => modalities.includes(tower);
  const read = (path: string, towers: readonly Tower[]) => readArchitecture(openHuggingFaceFolder(path), towers);
  const missing = (tower: Tower, path: string, key: string): never => {
    throw new ConfigError(
      `config: ${key}: expected a folder with a ${tower === 'text' ? 'text' : 'picture'} encoder but ${path} has none`,
      { key },
    );
  };
  const towers = (['text', 'image'] as const).filter(
    (tower) => wanted(tower) && (tower === 'text' || imageWeights === null),
  );
  const main = weights === null ? { text: null, image: null } : read(weights, towers);
  if (weights !== null && wanted('text') && main.text === null) missing('text', weights, 'model.encoder.weights');
  if (weights !== null && !wanted('text') && imageWeights === null && wanted('image') && main.image === null)
    missing('image', weights, 'model.encoder.weights');
  const pictures = imageWeights === null || !wanted('image') ? null : read(imageWeights, ['image']).image;
  if (imageWeights !== null && wanted('image') && pictures === null)
    missing('image', imageWeights, 'model.encoder.image.weights');
  const held = towers.filter((tower) => main[tower] !== null);
  return {
    text: main.text,
    image: pictures ?? main.image,
    folders: [
      ...(weights === null || held.length === 0 ? [] : [{ path: weights, towers: held }]),
      ...(pictures === null ? [] : [{ path: imageWeights!, towers: ['image' as const] }]),
    ],
  };
}

/** How texts are put together for an encoder, as in its own training. */
export function layoutFor({ family, options }: TextArchitecture): TextLayout {
  if (family === 'clip_text') return { separator: false, end: true };
  // SigLIP was trained on texts that all have as many tokens.
  if (family === 'siglip_text') return { separator: false, end: true, padTo: options.positions };
  return { separator: true, end: true };
}

/** What the folders decide where a configuration says nothing: the tokenizer of texts, and how pictures meet their square. */
export function publishedDefaults(keys: WeightsKeys): ConfigInput {
  const { text, image } = encoderSources(keys);
  return {
    ...(text === null ? {} : { text: { tokenizer: keys.weights! } }),
    ...(image === null ? {} : { image: { fit: image.fit } }),
  };
}

/** The encoders of a model that come from one of the folders. */
function* encodersByFolder(model: RecommenderModel, { folders }: EncoderSources) {
  const { text = null, image = null } = model.pretrained ?? {};
  for (const { path, towers } of folders) {
    const encoders = { text: towers.includes('text') ? text : null, image: towers.includes('image') ? image : null };
    const filled = (['text', 'image'] as const).filter((tower) => encoders[tower] !== null);
    if (filled.length > 0) yield { path, towers: filled, encoders };
  }
}

/** Fills the published encoders of a model with the weights of their folders. Throws `ModelFileError`, `StorageError`. */
export async function fillFromFolders(model: RecommenderModel, sources: EncoderSources): Promise<void> {
  for (const { path, towers, encoders } of encodersByFolder(model, sources))
    fillEncoders(await readPretrained(path, { towers }), encoders);
}

/**
 * Writes the published encoders of a model, as trained, to folders `text` and `image` in `folder`, or to one, `encoder`, where both came from
 * one; low-rank updates are merged into the model first. Their sources must still be there. Throws `ConfigError` for a model without any.
 */
export async function saveToFolders(model: RecommenderModel, sources: EncoderSources, folder: string): Promise<void> {
  const all = [...encodersByFolder(model, sources)];
  if (all.length === 0)
    throw new ConfigError(
      'export: expected a model with encoders of a Hugging Face folder (model.encoder.weights) but this one has none',
      { key: 'to' },
    );
  for (const adapters of model.adapters.values()) adapters.merge();
  for (const { path, towers, encoders } of all) {
    const name = towers.length > 1 ? 'encoder' : towers[0]!;
    await savePretrained(join(folder, name), await readPretrained(path, { towers }), encoders);
  }
}
