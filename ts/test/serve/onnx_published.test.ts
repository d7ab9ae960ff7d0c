/** Published encoders as ONNX graphs, one export per architecture and per option that changes what they compute. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openOnnxRuntime, type RuntimeTensor } from '../../src/io/onnx_runtime.js';
import type { ItemContent } from '../../src/models/content.js';
import { uniforms } from '../../src/random.js';
import { exportRun } from '../../src/serve/export_run.js';
import { textFeeds } from '../../src/serve/onnx_encoders.js';
import { tidy } from '../../src/tidy.js';
import { type ConfigInput, resolveConfig } from '../../src/train/config.js';
import { openRun } from '../../src/train/open_run.js';
import { trainRun } from '../../src/train/run.js';
import { randomEncoderFolders } from '../models/random_encoder_folder.js';
import { valuesOf } from '../values.js';

const runtime = await openOnnxRuntime();
const why = runtime === null ? ' (skipped: the package onnxruntime-node is not installed)' : '';

type ModelInput = NonNullable<ConfigInput['model']>;
type EncoderInput = NonNullable<ModelInput['encoder']>;

const folder = randomEncoderFolders();

const shop = { seed: 1, items: 40, users: 12, sessions: 100 };
let runs = 0;

/** Trains an epoch of a model with these encoders and exports it. */
async function exported({ encoder, ...model }: ModelInput): Promise<{
  readonly run: string;
  readonly out: string;
  readonly differences: Readonly<Record<string, number>>;
}> {
  const run = folder(`run${runs++}`);
  const config = resolveConfig({
    object: {
      data: { shop },
      model: {
        history_len: 12,
        mlp: [16],
        embedding_dim: 16,
        ...model,
        encoder: { width: 16, layers: 1, heads: 2, ffn: 16, ...encoder },
        fusion: { width: 16, heads: 2, layers: 1, queries: 2, dropout: 0, ...model.fusion },
      },
      // Fast, so that what an epoch trains is far from where it began.
      train: { epochs: 1, train_batch_size: 32, learning_rate: { encoder: 0.01, lora: 0.05 } },
    },
  });
  (await trainRun(config, { runDir: run })).model.dispose();
  const out = `${run}.onnx`;
  const { parity } = await exportRun({ run, out, to: ['onnx'], device: 'cpu' });
  if (parity === null || parity === 'not run') throw new Error(`expected a comparison but received ${String(parity)}`);
  return { run, out, differences: parity.max_difference };
}

const bertAndVit = (): EncoderInput => ({ weights: folder('bert'), image: { weights: folder('vit') } });
const exact = { mode: 'exact', ffn: 0 } as const;
const lemur = { name: 'lemur', sequences: { short: 4, long: 12 } } as const;
const lora = { rank: 2, targets: 'all-linear' };

const cases: [string, () => ModelInput][] = [
  ['BERT and ViT', () => ({ encoder: bertAndVit() })],
  ['BERT and ViT, one token per modality', () => ({ encoder: bertAndVit(), fusion: exact })],
  ['RoBERTa, pictures of our own', () => ({ encoder: { weights: folder('roberta'), image: { width: 8, heads: 2 } } })],
  ['CLIP', () => ({ encoder: { weights: folder('clip') } })],
  ['CLIP, one token per modality', () => ({ encoder: { weights: folder('clip') }, fusion: exact })],
  ['SigLIP', () => ({ encoder: { weights: folder('siglip') } })],
  ['SigLIP, one token per modality', () => ({ encoder: { weights: folder('siglip') }, fusion: exact })],
  [
    'pooled patches, lora_block',
    () => ({ encoder: { weights: folder('clip'), cache_tokens: 1 }, lora: { mode: 'lora_block', rank: 2 } }),
  ],
  ['LoRA on CLIP', () => ({ encoder: { weights: folder('clip'), lora } })],
  ['LoRA on SigLIP and its probe', () => ({ encoder: { weights: folder('siglip'), lora }, fusion: exact })],
  ['tune_layers 0', () => ({ encoder: { ...bertAndVit(), tune_layers: 0 } })],
  ['tune_layers 1', () => ({ encoder: { ...bertAndVit(), tune_layers: 1 } })],
  ['frozen', () => ({ training: 'frozen', encoder: { weights: folder('clip') } })],
  ['two_stage', () => ({ training: 'two_stage', encoder: { weights: folder('clip') } })],
  ['lemur, BERT', () => ({ ...lemur, modalities: ['text'], encoder: { weights: folder('bert') } })],
  [
    'lemur, BERT, pictures of our own',
    () => ({ ...lemur, encoder: { weights: folder('bert'), image: { width: 8, heads: 2 } } }),
  ],
  ['lemur, texts of our own, SigLIP pictures', () => ({ ...lemur, encoder: { image: { weights: folder('siglip') } } })],
  ['lemur, LoRA on CLIP', () => ({ ...lemur, encoder: { weights: folder('clip'), lora } })],
];

describe.skipIf(runtime === null)(`graphs of published encoders${why}`, () => {
  it.each(cases)('%s', async (_name, model) => {
    const { differences } = await exported(model());
    expect(Object.keys(differences)).toEqual(['ranker.onnx', 'encoder.onnx', 'query_encoder.onnx']);
    for (const difference of Object.values(differences)) expect(difference).toBeLessThan(1e-5);
  });
});

// ---- items that no shop has

const size = 32;
/** Token ids of items; 3 is [SEP], which stands for a text in CLIP. */
const texts = [
  [2, 7, 9, 3],
  [],
  [5],
  [2, 6, 7, 8],
  [2, 3, 9, 3, 3],
  Array.from({ length: 14 }, (_, i) => 2 + i),
  [2, 3],
];

/** Texts above, pictures of noise, some of them missing; token types count the tokens, of which a published encoder sees nothing. */
function unusual(): ItemContent {
  const tokens = Int32Array.from(texts.flat());
  const positions = Int32Array.from(texts.flatMap((text) => [...text.keys()]));
  const offsets = Int32Array.from({ length: texts.length + 1 }, (_, i) => texts.slice(0, i).flat().length);
  const pixels = Uint8Array.from(uniforms(texts.length * size * size * 3, 5, 1), (u) => 256 * u);
  const present = Uint8Array.from([1, 0, 1, 0, 1, 1, 1]);
  return {
    text: { tokens, types: positions.map((at) => at % 2), positions, offsets },
    image: { pixels, present, size },
  };
}

const families: [string, () => ModelInput][] = [
  ['BERT and ViT', () => ({ encoder: bertAndVit(), fusion: exact, lora: { mode: 'none' } })],
  [
    'RoBERTa and CLIP',
    () => ({ encoder: { weights: folder('roberta'), image: { weights: folder('clip') } }, lora: { mode: 'none' } }),
  ],
  ['CLIP', () => ({ encoder: { weights: folder('clip') }, fusion: exact, lora: { mode: 'none' } })],
  ['SigLIP', () => ({ encoder: { weights: folder('siglip') }, fusion: exact, lora: { mode: 'none' } })],
  ['lemur, CLIP', () => ({ ...lemur, encoder: { weights: folder('clip') } })],
  ['lemur, texts of our own, CLIP pictures', () => ({ ...lemur, encoder: { image: { weights: folder('clip') } } })],
];

describe.skipIf(runtime === null)(`items as no shop has them${why}`, () => {
  it.each(families)(
    '%s: no text, one token, no end of the text, several, many tokens, no picture',
    async (_name, model) => {
      const { run, out } = await exported(model());
      const content = unusual();
      await using opened = await openRun(run, { device: 'cpu' });
      const encoded = tidy(() => opened.model.served!.encode(content));
      const expected = await valuesOf(encoded);
      encoded.dispose();
      const session = await runtime!.load(readFileSync(join(out, 'encoder.onnx')), 'encoder.onnx');
      const feeds = new Map<string, RuntimeTensor>([
        ...textFeeds('text', content.text!),
        ['image.pixels', { dtype: 'uint8', shape: [texts.length, size, size, 3], data: content.image!.pixels }],
        ['image.present', { dtype: 'bool', shape: [texts.length], data: content.image!.present }],
      ]);
      expect(session.inputs.includes('text.types')).toBe(_name.includes('of our own'));
      const found = await session.run(Object.fromEntries(session.inputs.map((name) => [name, feeds.get(name)!])));
      await session.close();
      const vectors = found['item_vector']!.data;
      expect(vectors.length).toBe(expected.length);
      expected.forEach((x, i) => expect(Number(vectors[i])).toBeCloseTo(Number(x), 5));
    },
  );
});
