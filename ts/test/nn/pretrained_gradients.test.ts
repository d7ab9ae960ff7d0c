import { describe, it } from 'vitest';
import type { Pictures } from '../../src/nn/image_encoder.js';
import { Initializer } from '../../src/nn/module.js';
import { PretrainedImageEncoder, type PretrainedImageOptions } from '../../src/nn/pretrained_image_encoder.js';
import { PretrainedTextEncoder, type PretrainedTextOptions } from '../../src/nn/pretrained_text_encoder.js';
import type { TokenSequences } from '../../src/nn/text_encoder.js';
import { add } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { expectGradients } from '../module_gradients.js';

const evaluation = { training: false };
const sizes = { width: 8, layers: 2, heads: 2, ffn: 6, eps: 1e-5 };
const bert: PretrainedTextOptions = {
  ...sizes,
  vocabularySize: 9,
  positions: 7,
  firstPosition: 2,
  types: 2,
  activation: 'gelu',
  norm: 'post',
  causal: false,
  pooled: 'first',
  head: { out: 8, bias: true, activation: 'tanh' },
};
const texts: TokenSequences = {
  tokens: Int32Array.of(1, 4, 8, 2, 3, 3),
  types: Int32Array.of(0, 0, 1, 0, 1, 0),
  positions: Int32Array.of(0, 1, 2, 3, 0, 1),
  offsets: Int32Array.of(0, 4, 4, 6),
};
const vit: PretrainedImageOptions = {
  ...sizes,
  size: 4,
  patch: 2,
  patchBias: true,
  activation: 'gelu',
  mean: [0.4, 0.5, 0.6],
  std: [0.2, 0.3, 0.25],
  pooling: 'class',
  normsInput: false,
  lastNorm: 'tokens',
  head: { out: 8, bias: true, activation: 'tanh' },
};
const pictures: Pictures = {
  pixels: Uint8Array.from({ length: 2 * 4 * 4 * 3 }, (_, i) => (i * 37) % 256),
  present: Uint8Array.of(1, 1),
  size: 4,
};

/** The key's bias moves every score of a query alike: its gradient is 0. It is in the graph all the same. */
describe('gradients of published encoders', () => {
  it.each<[string, Partial<PretrainedTextOptions>]>([
    ['bert', {}],
    [
      'clip text',
      { firstPosition: 0, types: 0, norm: 'pre', causal: true, activation: 'quick_gelu', pooled: { id: 3 } },
    ],
    ['siglip text', { firstPosition: 0, types: 0, norm: 'pre', activation: 'gelu_tanh', pooled: 'last' }],
  ])('%s', async (_, options) => {
    using encoder = new PretrainedTextEncoder(new Initializer(3, 'float64'), { ...bert, ...options });
    await expectGradients(
      encoder.parameters(),
      () =>
        add(
          sum(encoder.pooled(texts, evaluation), { axes: [0] }),
          sum(encoder.tokens(texts, evaluation).rows, { axes: [0] }),
        ),
      { perParameter: 3 },
    );
  });

  it.each<[string, Partial<PretrainedImageOptions>]>([
    ['vit', {}],
    ['clip image', { patchBias: false, normsInput: true, lastNorm: 'pooled', activation: 'quick_gelu' }],
    ['siglip image', { pooling: 'attention', activation: 'gelu_tanh', head: null }],
  ])('%s', async (_, options) => {
    using encoder = new PretrainedImageEncoder(new Initializer(3, 'float64'), { ...vit, ...options });
    await expectGradients(
      encoder.parameters(),
      () =>
        add(
          sum(encoder.pooled(pictures, evaluation), { axes: [0] }),
          sum(encoder.tokens(pictures, evaluation).rows, { axes: [0] }),
        ),
      { perParameter: 3 },
    );
  });
});
