import { describe, expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { Din } from '../../src/models/din.js';
import { makeHistory, timeGaps } from '../../src/models/history.js';
import type { RankerInput, RankerOptions, RankerSpec } from '../../src/models/ranker.js';
import { chooseRows, defaultSim, Sim, type SimOptions } from '../../src/models/sim.js';
import { Initializer } from '../../src/nn/module.js';
import { sum } from '../../src/ops/reduce.js';
import { normals } from '../../src/random.js';
import { type Tensor, tensor } from '../../src/tensor.js';
import { denseGrad } from '../harness.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(29, 'float64');
const D = 4;
const context = { training: false };

interface Given {
  readonly lengths: readonly number[];
  readonly name?: string;
  readonly width?: number;
  readonly mask?: Tensor;
  readonly rows?: Tensor;
  readonly same?: readonly number[];
}

function historyOf({ lengths, name = 'ids', width = D, same, ...rest }: Given) {
  const offsets = new Int32Array(lengths.length + 1);
  lengths.forEach((length, b) => {
    offsets[b + 1] = offsets[b]! + length;
  });
  const T = offsets.at(-1)!;
  return makeHistory({
    name,
    target: tensor(normals(lengths.length * width, 1, 1), [lengths.length, width]),
    rows: tensor(normals(T * width, 2, 2), [T, width]),
    offsets,
    gaps: Float32Array.from({ length: T }, (_, i) => 100 * i),
    ...(same === undefined ? {} : { same: () => tensor(Float64Array.from(same)) }),
    ...rest,
  });
}

/** Places of the k best of each row: by score, then the more recent. */
function best(scores: readonly number[], offsets: Int32Array, k: number): number[][] {
  return Array.from({ length: offsets.length - 1 }, (_, b) =>
    scores
      .map((score, at) => ({ score, at }))
      .slice(offsets[b], offsets[b + 1])
      .sort((x, y) => y.score - x.score || y.at - x.at)
      .slice(0, k)
      .map(({ at }) => at),
  );
}

describe('chooseRows', () => {
  it.each([1, 2, 3])('keeps the %i best of each history, ties to the more recent', async (k) => {
    const scores = [3, 1, 3, 2, 3, /* second */ 5, /* fourth */ -1, -2, -1, -1];
    const history = historyOf({ lengths: [5, 1, 0, 4] });
    const chosen = chooseRows({ ...history, scores: tensor(Float64Array.from(scores)) }, k);
    const places = best(scores, history.hostOffsets, k);
    const rows = rowsOf(await valuesOf(history.rows), D);
    expect([...(await valuesOf(chosen.offsets))]).toEqual([0, k, k + 1, k + 1, 2 * k + 1]);
    expect(rowsOf(await valuesOf(chosen.rows), D)).toEqual(places.flat().map((at) => rows[at]));
    expect([...(await valuesOf(chosen.segments))]).toEqual(places.flatMap((list, b) => list.map(() => b)));
  });

  it('takes hidden rows last', async () => {
    const mask = tensor(Int32Array.of(1, -1, 1, -1, -1, -1));
    const history = historyOf({ lengths: [3, 3], mask });
    const chosen = chooseRows({ ...history, scores: tensor(Float64Array.of(1, 9, 2, 7, 8, 9)) }, 2);
    expect([...(await valuesOf(chosen.visible!))]).toEqual([1, 1, 0, 0]);
    const rows = rowsOf(await valuesOf(history.rows), D);
    expect(rowsOf(await valuesOf(chosen.rows), D).slice(0, 2)).toEqual([rows[2], rows[0]]);
  });

  it('passes gradients to the chosen rows alone, none through the scores', async () => {
    const rows = parameter(tensor(normals(5 * D, 1, 3), [5, D]));
    const history = historyOf({ lengths: [5], rows });
    backward(sum(chooseRows({ ...history, scores: tensor(Float64Array.of(1, 5, 2, 4, 3)) }, 2).rows));
    const reached = rowsOf(await denseGrad(rows), D).map((row) => [...row]);
    expect(reached).toEqual([0, 1, 0, 1, 0].map((x) => new Array(D).fill(x)));
  });

  it('leaves a history of at most k as it is', () => {
    const history = { ...historyOf({ lengths: [3, 2] }), scores: tensor(new Float64Array(5)) };
    expect(chooseRows(history, 3).rows).toBe(history.rows);
  });
});

describe('Sim over sequence columns', () => {
  const options: RankerOptions = { mlp: [6], dropout: 0, crossLayers: 1, attentionMlp: [5] };
  const column = (name: string) => ({ name, width: D, ids: [name], timed: false });
  const events = { name: 'ids', width: D, ids: ['items', 'categories'], timed: true };
  const make = (histories: RankerSpec['histories'], sim: Partial<SimOptions>) =>
    new Sim(
      init,
      { vectors: new Map([['user', 3]]), histories, ids: new Map() },
      { ...options, sim: { ...defaultSim, ...sim } },
    );

  it('has no vectors of times', () => {
    using sim = make([column('clicks')], { search: 'soft' });
    expect(sim.attention.map(({ gaps }) => gaps)).toEqual([null]);
  });

  it('refuses to choose clicks of a column by the places of others', () => {
    const hard = { search: 'hard', hardFeature: 'categories' } as const;
    using columns = make([column('clicks'), column('categories')], hard);
    expect(columns.attention).toHaveLength(2);
    expect(() => make([column('clicks')], { search: 'hard' })).toThrow(
      /an id history with a category but .* clicks of/,
    );
    expect(() => make([events, column('clicks')], hard)).toThrow(
      /search hard: expected histories of events alone, or sequence columns alone but received ids of .*; clicks of clicks/,
    );
    const content = { name: 'content', width: 3, timed: true };
    expect(() => make([column('clicks'), content], { search: 'content' })).toThrow(/histories of events alone/);
  });
});

describe('Sim', () => {
  const options: RankerOptions = { mlp: [6], dropout: 0, crossLayers: 1, attentionMlp: [5] };
  const spec: RankerSpec = {
    vectors: new Map([['user', 3]]),
    histories: [
      { name: 'ids', width: D, ids: ['items', 'categories'], timed: true },
      { name: 'content', width: 3, timed: true },
    ],
    ids: new Map(),
  };
  const make = (sim: Partial<SimOptions>) =>
    new Sim(init, spec, { ...options, sim: { ...defaultSim, timeGaps: false, ...sim } });
  const inputOf = (ids: Given, content: Given): RankerInput => ({
    vectors: new Map([['user', tensor(normals(3 * ids.lengths.length, 1, 9), [ids.lengths.length, 3])]]),
    histories: [historyOf(ids), historyOf({ name: 'content', width: 3, ...content })],
    ids: new Map(),
  });
  const din = new Din(init, spec, options);
  /** A SIM with the weights of `din`. */
  const withWeightsOfDin = async (changes: Partial<SimOptions>): Promise<Sim> => {
    const sim = make(changes);
    const values = [...din.state()].map(async ([name, x]) => {
      const path = name.replace(/^(attention\.\d+)\./, '$1.attention.');
      return [path, { data: await valuesOf(x), shape: x.shape }] as const;
    });
    sim.load(new Map(await Promise.all(values)));
    return sim;
  };

  it.each(['hard', 'soft', 'content'] as const)('with k of all rows and without gaps is DIN: %s', async (search) => {
    using sim = await withWeightsOfDin({ search, topK: 4 });
    const input = inputOf({ lengths: [4, 0, 3], same: [1, 0, 0, 1, 1, 0, 1] }, { lengths: [3, 1, 2] });
    expect(await valuesOf(sim.forward(input, context))).toEqual(await valuesOf(din.forward(input, context)));
  });

  it.each([
    ['hard', [3, 1]], // the latest of category 1, then the next one
    ['soft', null],
    ['content', null],
  ] as const)('is DIN over the rows that the search finds: %s', async (search, expected) => {
    using sim = await withWeightsOfDin({ search, topK: 2 });
    const lengths = [5];
    const same = [0, 1, 0, 1, 0];
    const input = inputOf({ lengths, same }, { lengths: [5] });
    const dots = async (i: number, cosine: boolean): Promise<number[]> => {
      const { target, rows } = input.histories[i]!;
      const t = await valuesOf(target);
      const norm = (x: Float64Array): number => (cosine ? Math.hypot(...x) : 1);
      return rowsOf(await valuesOf(rows), t.length).map((row) => row.reduce((s, x, d) => s + x * t[d]!, 0) / norm(row));
    };
    const kept = await Promise.all(
      [0, 1].map(async (i) => {
        if (search === 'hard') return best(same, Int32Array.of(0, 5), 2)[0]!;
        return best(await dots(search === 'content' ? 1 : i, search === 'content'), Int32Array.of(0, 5), 2)[0]!;
      }),
    );
    if (expected !== null) expect(kept[0]).toEqual(expected);
    const histories = await Promise.all(
      input.histories.map(async ({ name, rows }, i) => {
        const width = rows.shape[1]!;
        const all = rowsOf(await valuesOf(rows), width);
        const chosen = Float64Array.from(kept[i]!.flatMap((at) => [...all[at]!]));
        return historyOf({ lengths: [2], name, width, rows: tensor(chosen, [2, width]) });
      }),
    );
    const wanted = await valuesOf(din.forward({ ...input, histories }, context));
    expect(worstDifference(await valuesOf(sim.forward(input, context)), wanted)).toBeLessThan(1e-12);
  });

  it('matches content with ids from the latest event where their lengths differ', async () => {
    using sim = make({ search: 'content', topK: 1 });
    const logits = await valuesOf(sim.forward(inputOf({ lengths: [6, 0, 2] }, { lengths: [3, 0, 4] }), context));
    expect(logits.every(Number.isFinite)).toBe(true);
  });

  it('adds the vector of the time gap', async () => {
    using timed = make({ timeGaps: true });
    using untimed = make({ timeGaps: false });
    const input = inputOf({ lengths: [4] }, { lengths: [0] });
    expect(await valuesOf(timed.forward(input, context))).not.toEqual(await valuesOf(untimed.forward(input, context)));
    const gaps = timeGaps({ ...historyOf({ lengths: [6] }), gaps: Float32Array.of(-5, 0, 1, 2, 3, 1e20) });
    expect([...(await valuesOf(gaps))]).toEqual([0, 0, 1, 1, 2, 31]);
  });

  it('refuses searches that the histories do not allow', () => {
    const only = (histories: RankerSpec['histories'], sim: Partial<SimOptions>) => () =>
      new Sim(init, { ...spec, histories }, { ...options, sim: { ...defaultSim, ...sim } });
    const items = { name: 'ids', width: D, ids: ['items'] };
    expect(only([items], { search: 'hard' })).toThrow(
      /expected an id history with a category but received ids of items/,
    );
    expect(only([items], { search: 'hard', hardFeature: 'brands' })).toThrow(/expected an id history of brands/);
    expect(only([items], { search: 'content' })).toThrow(/expected a content history but received ids of items/);
    expect(only([], { search: 'content' })).toThrow(/received no history/);
    expect(only([items], { search: 'hard', hardFeature: 'items' })).not.toThrow();
  });
});
