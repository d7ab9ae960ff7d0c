/** What holds for every ranker. */
import { afterAll, describe, expect, it } from 'vitest';
import type { Schema } from '../../src/data/schema.js';
import { defaultDlrm } from '../../src/models/dlrm.js';
import { FeatureEmbedder } from '../../src/models/feature_embedder.js';
import { makeHistory } from '../../src/models/history.js';
import type { LongerOptions } from '../../src/models/longer.js';
import { makeRanker, type RankerName } from '../../src/models/make_ranker.js';
import { defaultRankMixer, type RankMixerOptions } from '../../src/models/rank_mixer.js';
import type { HistoryInput, RankerOptions } from '../../src/models/ranker.js';
import { defaultSim, type SimOptions } from '../../src/models/sim.js';
import { Initializer, type Module } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { expectGradients } from '../module_gradients.js';
import { valuesOf, worstDifference } from '../values.js';
import { amazonSchema, batchOf, columnSchema, rowsWith, smallSchema } from './small_batch.js';

const init = new Initializer(3, 'float64');
const evaluation = { training: false };
const names = ['dnn', 'din', 'dcnv2', 'fm', 'rankmixer', 'dlrm', 'longer', 'sim', 'mmoe'] as const;

const longer: LongerOptions = { width: 8, heads: 2, merge: 2, latest: 2, layers: 2, ffn: 6, positions: 4, gapDim: 2 };
const rankMixer: RankMixerOptions = { ...defaultRankMixer, tokens: 4, width: 12 };
const sim: SimOptions = { ...defaultSim, topK: 2 };
const small: RankerOptions = {
  mlp: [6, 5],
  dropout: 0,
  crossLayers: 2,
  attentionMlp: [4],
  rankMixer,
  dlrm: { bottomMlp: [5], topMlp: [6], interaction: 'dot', width: null },
  longer,
  sim,
  mmoe: { experts: 2, expertMlp: [5], towerMlp: [4], taskWeight: 1 },
};
const groups = [['user', 'numeric'], ['item', 'category', 'tags'], ['ids history']];
const variants: readonly { title: string; name: RankerName; options: RankerOptions; schema?: Schema }[] = [
  ...names.map((name) => ({ title: name, name, options: small })),
  { title: 'dnn, batch norm', name: 'dnn', options: { ...small, batchNorm: true } },
  { title: 'din, softmax, Dice', name: 'din', options: { ...small, attentionSoftmax: true, activation: 'dice' } },
  { title: 'dcnv2, stacked, low rank', name: 'dcnv2', options: { ...small, crossStructure: 'stacked', crossRank: 2 } },
  {
    title: 'rankmixer over longer',
    name: 'rankmixer',
    options: { ...small, rankMixer: { ...rankMixer, sequence: 'longer' } },
  },
  { title: 'rankmixer, groups', name: 'rankmixer', options: { ...small, rankMixer: { ...rankMixer, groups } } },
  { title: 'dlrm, concat', name: 'dlrm', options: { ...small, dlrm: { ...defaultDlrm, interaction: 'concat' } } },
  {
    title: 'dlrm, width 4',
    name: 'dlrm',
    options: { ...small, dlrm: { ...defaultDlrm, bottomMlp: [5], topMlp: [6], width: 4 } },
  },
  {
    title: 'longer, one layer, three to a token',
    name: 'longer',
    options: { ...small, longer: { ...longer, layers: 1, merge: 3, width: 6 } },
  },
  { title: 'sim, hard', name: 'sim', options: { ...small, sim: { ...sim, search: 'hard' } } },
  { title: 'sim, no gaps', name: 'sim', options: { ...small, sim: { ...sim, timeGaps: false } } },
  ...names.map((name) => ({ title: `${name}, sequence columns`, name, options: small, schema: columnSchema })),
  {
    title: 'sim, hard, sequence columns',
    name: 'sim',
    options: { ...small, sim: { ...sim, search: 'hard', hardFeature: 'clicked_categories' } },
    schema: columnSchema,
  },
];

function built(name: RankerName, options: RankerOptions, schema = smallSchema) {
  const embedder = new FeatureEmbedder(init.at('features'), schema, { embeddingDim: 3, std: 0.5 });
  const ranker = makeRanker(name, init.at('ranker'), embedder.spec(), options);
  return { embedder, ranker };
}

describe.each(variants)('$title', ({ name, options, schema }) => {
  const { embedder, ranker } = built(name, options, schema);
  afterAll(() => {
    embedder.dispose();
    ranker.dispose();
  });
  const logits = async (lengths: readonly number[], order?: readonly number[]): Promise<number[]> => {
    const rows = rowsWith(lengths);
    const batch = batchOf(order === undefined ? rows : order.map((b) => rows[b]!));
    const out = tidy(() => ranker.forward(embedder.forward(batch), evaluation));
    expect(out.shape).toEqual([batch.size]);
    return [...(await valuesOf(out))];
  };

  it('gives permuted logits for permuted rows', async () => {
    const lengths = [0, 3, 1, 9, 2];
    const order = [3, 0, 4, 2, 1];
    const straight = await logits(lengths);
    expect(new Set(straight).size).toBe(5);
    expect(
      worstDifference(
        await logits(lengths, order),
        order.map((b) => straight[b]!),
      ),
    ).toBeLessThan(1e-12);
  });

  it('scores one row, and rows without any history', async () => {
    const together = await logits([0, 3, 1]);
    expect(worstDifference(await logits([0, 3, 1], [1]), [together[1]!])).toBeLessThan(1e-12);
    expect((await logits([0, 0])).every(Number.isFinite)).toBe(true);
  });

  it('leaves no bytes behind', async () => {
    const batch = batchOf(rowsWith([0, 3, 1]));
    await device().synchronize();
    const before = device().memory().live;
    tidy(() => void ranker.forward(embedder.forward(batch), { training: true }));
    await device().synchronize();
    expect(device().memory().live).toBe(before);
  });

  it('has the gradients of finite differences, down to the tables', async () => {
    const parameters = new Map(
      [...embedder.parameters(), ...ranker.parameters()].map(([path, x], i) => [`${i} ${path}`, x]),
    );
    const batch = batchOf(rowsWith([0, 3, 1, 4]));
    await expectGradients(parameters, () => ranker.forward(embedder.forward(batch), { training: true }));
  });
});

describe('makeRanker', () => {
  const count = (module: Module): number => [...module.parameters().values()].reduce((total, x) => total + x.size, 0);

  it('counts the parameters of the AmazonElectronics recipes', () => {
    const float32 = new Initializer(1);
    using embedder = new FeatureEmbedder(float32, amazonSchema, { embeddingDim: 64 });
    expect(count(embedder)).toBe(63_806 * 64);
    const options = { mlp: [1024, 512, 256], attentionMlp: [512, 256], crossLayers: 2, dropout: 0.1, batchNorm: true };
    const total = (name: RankerName, more: Partial<RankerOptions> = {}): number => {
      using ranker = makeRanker(name, float32, embedder.spec(), { ...options, ...more });
      return count(embedder) + count(ranker);
    };
    expect(total('din', { activation: 'dice', attentionSoftmax: true })).toBe(5_403_522);
    expect(total('dcnv2')).toBe(5_138_561);
    expect(total('fm')).toBe(4_211_197);
    expect(total('dnn')).toBe(63_806 * 64 + 919_553 + 3_584);
  });

  it('refuses a name that is none', () => {
    const spec = { vectors: new Map<string, number>(), histories: [], ids: new Map<string, number>() };
    expect(() => makeRanker('gbdt' as RankerName, init, spec, small)).toThrow(
      /expected one of fm, dnn, .* but received gbdt/,
    );
  });
});

describe('hidden history rows', () => {
  const target = tensor(normals(3 * 4, 1, 1), [3, 4]);
  const seen = normals(4 * 4, 1, 2);
  const garbage = normals(3 * 4, 1, 3).map((x) => 100 * x);
  const rowAt = (source: Float64Array, i: number): number[] => [...source.slice(4 * i, 4 * i + 4)];
  /** Items own rows (0, 1), () and (2, 3). */
  const without = (): HistoryInput =>
    makeHistory({ name: 'h', target, rows: tensor(seen, [4, 4]), offsets: Int32Array.of(0, 2, 2, 4) });
  /** The same with a hidden row between the first two, and two in the history of item 1. */
  const withHidden = (): HistoryInput => {
    const rows = [rowAt(seen, 0), rowAt(garbage, 0), rowAt(seen, 1), rowAt(garbage, 1), rowAt(garbage, 2)];
    rows.push(rowAt(seen, 2), rowAt(seen, 3));
    const mask = tensor(Int32Array.of(7, -1, 0, -1, -1, 3, 12));
    const offsets = Int32Array.of(0, 3, 5, 7);
    return makeHistory({ name: 'h', target, rows: tensor(Float64Array.from(rows.flat()), [7, 4]), offsets, mask });
  };

  it.each([...names.map((name) => ({ name, softmax: false })), { name: 'din' as const, softmax: true }])(
    'change nothing: $name, softmax $softmax',
    async ({ name, softmax }) => {
      const spec = { vectors: new Map([['id', 4]]), ids: new Map([['id', 9]]), histories: [{ name: 'h', width: 4 }] };
      using ranker = makeRanker(name, init, spec, { ...small, attentionSoftmax: softmax });
      const ids = new Map([['id', { rows: tensor(Int32Array.of(1, 2, 3)), offsets: null }]]);
      const score = async (history: HistoryInput): Promise<Float64Array> =>
        valuesOf(ranker.forward({ vectors: new Map([['id', target]]), ids, histories: [history] }, evaluation));
      expect(worstDifference(await score(withHidden()), await score(without()))).toBeLessThan(1e-12);
    },
  );
});
