/** Folders of tiny encoders with random weights, and a vocab.txt that knows the words of the generated shop. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { FILLERS, MATERIALS, NOUNS, QUALITY_WORDS, SYLLABLES, TAGS } from '../../src/data/shop/shop_words.js';
import { openHuggingFaceFolder } from '../../src/io/hugging_face.js';
import { type HostTensor, hostTensor, safetensorsBytes } from '../../src/io/safetensors.js';
import { readArchitecture } from '../../src/models/pretrained_config.js';
import { shapeInFolder, spellings, tensorPlace } from '../../src/models/pretrained_names.js';
import { Initializer, type Module } from '../../src/nn/module.js';
import { PretrainedImageEncoder } from '../../src/nn/pretrained_image_encoder.js';
import { PretrainedTextEncoder } from '../../src/nn/pretrained_text_encoder.js';
import { temporaryFolder } from '../train/tiny_shop.js';

/** The shop's words (and its brands, by syllable); [SEP] ends a text. */
const words = [NOUNS, QUALITY_WORDS, FILLERS, MATERIALS, TAGS].flatMap((list) => list.flat());
const pieces = SYLLABLES.flatMap((syllable) => [syllable, `##${syllable}`]);
export const vocabulary = [
  ...new Set(['[PAD]', '[UNK]', '[CLS]', '[SEP]', ...words.flatMap((text) => text.split(' ')), ...pieces]),
].filter((word) => word !== '');

const sizes = { hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 24 };
const text = { ...sizes, vocab_size: vocabulary.length, max_position_embeddings: 24 };
const picture = { ...sizes, image_size: 32, patch_size: 16 };
const configs = {
  bert: { model_type: 'bert', ...text },
  roberta: { model_type: 'roberta', ...text, type_vocab_size: 1, pad_token_id: 0 },
  vit: { model_type: 'vit', ...picture },
  clip: {
    model_type: 'clip',
    projection_dim: 12,
    text_config: { ...text, eos_token_id: vocabulary.indexOf('[SEP]') },
    vision_config: picture,
  },
  siglip: { model_type: 'siglip', text_config: text, vision_config: picture },
} as const;
const preprocessor = {
  do_resize: true,
  size: { shortest_edge: 32 },
  do_center_crop: true,
  crop_size: { height: 32, width: 32 },
  image_mean: [0.5, 0.4, 0.5],
  image_std: [0.3, 0.25, 0.3],
};

/** A folder of each kind, under its name, below a temporary one, for the tests of one file; returns the path of a name in it. */
export function randomEncoderFolders(): (name: string) => string {
  let root: ReturnType<typeof temporaryFolder>;
  const path = (name: string): string => join(root.path, name);
  beforeAll(async () => {
    root = temporaryFolder();
    for (const kind of Object.keys(configs) as (keyof typeof configs)[]) await randomEncoderFolder(path(kind), kind);
  });
  afterAll(() => root[Symbol.dispose]());
  return path;
}

/** Writes the folder and returns its path. */
export async function randomEncoderFolder(path: string, kind: keyof typeof configs): Promise<string> {
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'config.json'), JSON.stringify(configs[kind]));
  writeFileSync(join(path, 'preprocessor_config.json'), JSON.stringify(preprocessor));
  writeFileSync(join(path, 'vocab.txt'), `${vocabulary.join('\n')}\n`);
  const architecture = readArchitecture(openHuggingFaceFolder(path), ['text', 'image']);
  const tensors = new Map<string, HostTensor>();
  for (const tower of ['text', 'image'] as const) {
    const described = architecture[tower];
    if (described === null) continue;
    const { family, options } = described;
    const init = new Initializer(11).at(tower);
    using encoder: Module =
      'patch' in options ? new PretrainedImageEncoder(init, options) : new PretrainedTextEncoder(init, options);
    const joined = new Map<string, number[][]>();
    for (const [ours, x] of encoder.state()) {
      const { name, part, of } = tensorPlace(family, ours)!;
      const parts = joined.get(name) ?? [];
      parts[part] = Array.from((await x.values()) as Float32Array);
      joined.set(name, parts);
      const patch = 'patch' in options ? options.patch : null;
      const shape = shapeInFolder(family, ours, { shape: x.shape, of, patch });
      if (parts.flat().length === shape.reduce((a, b) => a * b, 1))
        tensors.set(spellings(family, name)[0]!, hostTensor('F32', shape, Float32Array.from(parts.flat())));
    }
  }
  writeFileSync(join(path, 'model.safetensors'), safetensorsBytes(tensors));
  return path;
}
