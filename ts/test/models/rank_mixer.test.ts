import { describe, expect, it } from 'vitest';
import { defaultRankMixer, RankMixer } from '../../src/models/rank_mixer.js';
import type { RankerOptions, RankerSpec } from '../../src/models/ranker.js';
import { Initializer, type Module } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { valuesOf } from '../values.js';

const init = new Initializer(13);
const count = (module: Module): number => [...module.parameters().values()].reduce((total, x) => total + x.size, 0);
const options: RankerOptions = { mlp: [6], dropout: 0, crossLayers: 1, attentionMlp: [4] };
const spec: RankerSpec = {
  vectors: new Map([
    ['user', 3],
    ['item', 4],
  ]),
  histories: [],
  ids: new Map(),
};
const make = (changes: Partial<RankerOptions['rankMixer']>) =>
  new RankMixer(init, spec, { ...options, rankMixer: { ...defaultRankMixer, tokens: 4, width: 8, ...changes } });

describe('RankMixer', () => {
  it('has 2 k L T W² parameters in its blocks, beside biases and norms', () => {
    const [T, W, L, k] = [4, 8, 3, 2];
    using ranker = make({ layers: L, expansion: k });
    const blocks = 2 * k * L * T * W ** 2 + L * (T * (k + 1) * W + 4 * W);
    expect(ranker.blocks.reduce((total, block) => total + count(block), 0)).toBe(blocks);
    const cut = T * (2 * W + W); // seven columns in four pieces of two, the last padded
    const head = (W + 1) * 6 + 7;
    expect(count(ranker)).toBe(blocks + cut + head);
  });

  it('makes one token of each group', async () => {
    using ranker = make({ groups: [['item'], ['user']] });
    expect(ranker.tokens.groups.map((linear) => linear.inFeatures)).toEqual([4, 3]);
    const vectors = new Map(
      [...spec.vectors].map(([name, w], i) => [name, tensor(Float32Array.from(normals(2 * w, 1, i)), [2, w])]),
    );
    const logits = await valuesOf(ranker.forward({ vectors, histories: [], ids: new Map() }, { training: false }));
    expect(logits.length).toBe(2);
    expect(logits.every(Number.isFinite)).toBe(true);
  });

  it('refuses widths and groups that do not fit', () => {
    expect(() => make({ tokens: 3 })).toThrow(/a width that 3 tokens divide but received 8/);
    for (const groups of [
      [['item']],
      [['item', 'user'], ['user']],
      [['item', 'user'], ['price']],
      [['item', 'user'], []],
    ])
      expect(() => make({ groups })).toThrow(/groups that name each of user, item once but received/);
  });
});
