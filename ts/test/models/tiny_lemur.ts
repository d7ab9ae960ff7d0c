/** LEMUR on the tiny shop: one step takes milliseconds. */
import type { Dataset } from '../../src/data/dataset.js';
import { defaultLemurOptions, Lemur, type LemurOptions } from '../../src/models/lemur.js';
import { mergeOptions, type Partially } from '../../src/models/options.js';

const tiny: LemurOptions = {
  ranker: 'dnn',
  training: 'end_to_end',
  queryEncoder: 'alike',
  twoStageEpochs: 1,
  content: {
    modalities: ['text', 'image'],
    width: 8,
    layers: 2,
    queryLayers: 1,
    heads: 2,
    ffn: 12,
    dropout: 0,
    tuneLayers: 'all',
    encoderLora: null,
    image: { width: 6, layers: 1, heads: 2, ffn: 8, patch: 16 },
    bank: { ...defaultLemurOptions.content.bank, p: 30, q: 30 },
  },
  sequences: { short: 4, long: 8, toRanker: 'none' },
  decoder: { layers: 1, queries: 1, heads: 2, ffn: 12, paperLiteral: false, positions: true, timeGaps: false },
  similarity: 'cosines',
  sqdc: defaultLemurOptions.sqdc,
  cic: defaultLemurOptions.cic,
  embeddingDim: 8,
  itemIdDropout: 0,
  features: null,
  rankerOptions: {
    ...defaultLemurOptions.rankerOptions,
    mlp: [16],
    dropout: 0.1,
    crossLayers: 2,
    attentionMlp: [8],
  },
  seed: 5,
};

export type LemurChanges = Partially<LemurOptions>;

export function tinyLemur(data: Dataset, changes: LemurChanges = {}): Lemur {
  return new Lemur(data.schema, mergeOptions(tiny, changes) as LemurOptions);
}

/** Options of the share of items that a step encodes. */
export function sampled(p: number, q: number = p): LemurChanges {
  return { content: { bank: { p, q } } };
}
