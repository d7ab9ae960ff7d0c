import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { defaultMmoe, Mmoe } from '../../src/models/mmoe.js';
import type { RankerInput, RankerOptions, RankerSpec } from '../../src/models/ranker.js';
import { Initializer } from '../../src/nn/module.js';
import { stack } from '../../src/ops/concat.js';
import { reshape } from '../../src/ops/transpose.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { expectGradients } from '../module_gradients.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';
import { batches, tinyData, tinyEm3 } from './tiny_em3.js';

const init = new Initializer(19, 'float64');
const options: RankerOptions = { mlp: [6], dropout: 0, crossLayers: 1, attentionMlp: [4] };
const spec: RankerSpec = { vectors: new Map([['x', 3]]), histories: [], ids: new Map(), tasks: ['click', 'buy'] };
const x = tensor(normals(4 * 3, 1, 1), [4, 3]);
const input: RankerInput = { vectors: new Map([['x', x]]), histories: [], ids: new Map() };
const context = { training: false };
const make = (experts: number) =>
  new Mmoe(init, spec, { ...options, mmoe: { ...defaultMmoe, experts, expertMlp: [5], towerMlp: [4] } });

describe('Mmoe', () => {
  it('with one expert is a shared bottom, whatever the gates', async () => {
    using ranker = make(1);
    const logits = ranker.taskLogits(input, context);
    expect(logits).toHaveLength(2);
    const bottom = ranker.experts[0]!.forward(x, context);
    for (const [k, tower] of ranker.towers.entries()) {
      const expected = reshape(tower.forward(bottom, context), [4]);
      expect(worstDifference(await valuesOf(logits[k]!), await valuesOf(expected))).toBeLessThan(1e-13);
    }
  });

  it('weighs the experts of each row by the gate of the task', async () => {
    using ranker = make(3);
    const experts = await Promise.all(
      ranker.experts.map(async (e) => rowsOf(await valuesOf(e.forward(x, context)), 5)),
    );
    const logits = ranker.taskLogits(input, context);
    for (const [k, tower] of ranker.towers.entries()) {
      const scores = rowsOf(await valuesOf(ranker.gates[k]!.forward(x)), 3);
      const mixed = scores.flatMap((row, b) => {
        const weights = row.map(Math.exp);
        const total = weights.reduce((sum, w) => sum + w, 0);
        return Array.from({ length: 5 }, (_, d) =>
          weights.reduce((sum, w, e) => sum + (w / total) * experts[e]![b]![d]!, 0),
        );
      });
      const expected = await valuesOf(tower.forward(tensor(Float64Array.from(mixed), [4, 5]), context));
      expect(worstDifference(await valuesOf(logits[k]!), expected)).toBeLessThan(1e-12);
    }
    expect(await valuesOf(ranker.forward(input, context))).toEqual(await valuesOf(logits[0]!));
  });

  it('has the gradients of finite differences over all tasks', async () => {
    using ranker = make(2);
    await expectGradients(ranker.parameters(), () => stack(ranker.taskLogits(input, { training: true })));
  });
});

describe('several labels', () => {
  let data: Dataset;
  beforeAll(async () => {
    data = await tinyData();
  });
  afterAll(() => data[Symbol.asyncDispose]());

  it('add their weighted losses; rankers of one task learn the main label alone', async () => {
    expect(data.schema.labels).toEqual(['click', 'buy']);
    const [batch] = await batches(data, 1);
    const lossesOf = async (changes: Parameters<typeof tinyEm3>[1]): Promise<Record<string, number>> => {
      using model = tinyEm3(data, { training: 'id_only', ...changes });
      const graph = tidy(() => {
        const { loss, parts } = model.graph(batch!, { training: false, step: 1, stage: 'ranker' });
        return { loss, ...parts };
      });
      const values = Object.entries(graph).map(async ([name, value]) => [name, await value.item()] as const);
      return Object.fromEntries(await Promise.all(values));
    };
    const found = await lossesOf({ ranker: 'mmoe', rankerOptions: { mmoe: { ...defaultMmoe, taskWeight: 0.25 } } });
    expect(Object.keys(found).sort()).toEqual(['bce', 'bce.buy', 'loss']);
    expect(found['loss']).toBeCloseTo(found['bce']! + 0.25 * found['bce.buy']!, 5);
    expect(Object.keys(await lossesOf({ ranker: 'dnn' })).sort()).toEqual(['bce', 'loss']);
  });
});
