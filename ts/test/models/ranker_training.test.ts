/** Every ranker learns beside the content parts of EM3 and LEMUR, gives equal bytes twice, and computes on devices what it computes on the CPU. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import { defaultDlrm } from '../../src/models/dlrm.js';
import { FeatureEmbedder } from '../../src/models/feature_embedder.js';
import { defaultLonger } from '../../src/models/longer.js';
import { makeRanker, type RankerName } from '../../src/models/make_ranker.js';
import { defaultMmoe } from '../../src/models/mmoe.js';
import { defaultRankMixer } from '../../src/models/rank_mixer.js';
import type { RankerOptions } from '../../src/models/ranker.js';
import { defaultSim } from '../../src/models/sim.js';
import { Initializer } from '../../src/nn/module.js';
import { stack } from '../../src/ops/concat.js';
import { mul } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { normals } from '../../src/random.js';
import { type DeviceName, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { denseGrad, expectClose, tolerances } from '../harness.js';
import { testDevices } from '../test_devices.js';
import { valuesOf } from '../values.js';
import { batchOf, rowsWith, smallSchema } from './small_batch.js';
import { batches, Steps, tinyData, tinyEm3 } from './tiny_em3.js';
import { tinyLemur } from './tiny_lemur.js';

const options: RankerOptions = {
  mlp: [12],
  dropout: 0,
  crossLayers: 1,
  attentionMlp: [6],
  rankMixer: { ...defaultRankMixer, tokens: 4, width: 16 },
  dlrm: { ...defaultDlrm, bottomMlp: [12], topMlp: [12] },
  longer: { ...defaultLonger, width: 8, heads: 2, latest: 3, ffn: 12, positions: 10, gapDim: 2 },
  sim: { ...defaultSim, topK: 3 },
  mmoe: { ...defaultMmoe, experts: 2, expertMlp: [12], towerMlp: [6] },
};
const { rankMixer, sim } = options;
const variants: readonly { title: string; ranker: RankerName; rankerOptions: RankerOptions }[] = [
  ...(['rankmixer', 'dlrm', 'longer', 'sim', 'mmoe'] as const).map((name) => ({
    title: name,
    ranker: name,
    rankerOptions: options,
  })),
  {
    title: 'rankmixer over longer',
    ranker: 'rankmixer',
    rankerOptions: { ...options, rankMixer: { ...rankMixer!, sequence: 'longer' } },
  },
  { title: 'sim, content search', ranker: 'sim', rankerOptions: { ...options, sim: { ...sim!, search: 'content' } } },
];

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

/** LEMUR gives its sequences as vectors, so no history is searched by content. */
const withLemur = variants.filter(({ title }) => title !== 'sim, content search');
const learners = [
  ...variants.map((variant) => ({ ...variant, preset: 'EM3', make: () => tinyEm3(data, variant) })),
  ...withLemur.map((variant) => ({ ...variant, preset: 'LEMUR', make: () => tinyLemur(data, variant) })),
];

describe.each(learners)('$title beside the content of $preset in the tiny shop', ({ make }) => {
  it('learns: the loss falls, and two runs give the same bytes', async () => {
    const [batch] = await batches(data, 1, 48);
    const run = async (steps: number): Promise<string[]> => {
      using model = make();
      using trained = new Steps(model);
      return await trained.takeAll(new Array(steps).fill(batch));
    };
    const losses = await run(12);
    const value = (bytes: string): number => Buffer.from(bytes, 'hex').readFloatLE(0);
    expect(value(losses.at(-1)!)).toBeLessThan(0.9 * value(losses[0]!));
    expect(await run(3)).toEqual(losses.slice(0, 3));
  });
});

describe.each(testDevices.filter((name) => name !== 'cpu'))('on %s', (name) => {
  it.each(withLemur)('has the logits and gradients of the CPU: $title', async ({ ranker: kind, rankerOptions }) => {
    const batch = batchOf(rowsWith([0, 3, 1, 6]));
    const evaluate = async (device: DeviceName): Promise<Map<string, Float64Array>> => {
      const init = new Initializer(3, 'float32', device);
      using embedder = new FeatureEmbedder(init.at('features'), smallSchema, { embeddingDim: 4, std: 0.5 });
      using ranker = makeRanker(kind, init.at('ranker'), { ...embedder.spec(), tasks: ['a', 'b'] }, rankerOptions);
      const parameters = new Map([...embedder.parameters(), ...ranker.parameters()]);
      const logits = tidy(() => {
        const out = stack(ranker.taskLogits(embedder.forward(batch), { training: true }));
        backward(sum(mul(out, tensor(Float32Array.from(normals(out.size, 1, 7)), out.shape, { device }))));
        return out;
      });
      const found = new Map([['logits', await valuesOf(logits)]]);
      for (const [path, x] of parameters) if (x.grad !== null) found.set(path, await denseGrad(x));
      zeroGrad(parameters.values());
      logits.dispose();
      return found;
    };
    const expected = await evaluate('cpu');
    const found = await evaluate(name);
    expect([...found.keys()]).toEqual([...expected.keys()]);
    for (const [path, values] of expected) expectClose(found.get(path)!, values, 10 * tolerances.device, path);
  });
});
