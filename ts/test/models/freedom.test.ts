import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { ArgumentError, ConfigError } from '../../src/errors.js';
import { em3Release, type Freedom, type FreedomOptions, freedom } from '../../src/models/freedom.js';
import { distinctEdges, itemGraph, keptEdges, nearestItems, userItemGraph } from '../../src/models/item_graph.js';
import type { SparseEntries } from '../../src/ops/sparse_matmul.js';
import { assign, device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { encodeItems } from '../../src/train/evaluate.js';
import { denseGrad } from '../harness.js';
import { valuesOf } from '../values.js';
import { topKData } from './top_k_data.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-freedom-'));
const context = { training: true, step: 1, stage: 'ranker' } as const;
let data: Dataset;
let batch: Batch;
beforeAll(async () => {
  data = await topKData(folder, { users: 8, items: 14, events: 70 });
  for await (const one of data.loader({ part: 'train', batchSize: 10 })) {
    batch = one;
    break;
  }
});
afterAll(async () => {
  await data[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

type Matrix = number[][];

function dense({ rows, columns, row, column, value }: SparseEntries): Matrix {
  const out = Array.from({ length: rows }, () => new Array<number>(columns).fill(0));
  row.forEach((r, i) => {
    out[r]![column[i]!]! += value[i]!;
  });
  return out;
}
const times = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((sum, x, k) => sum + x * b[k]![j]!, 0)));
const plus = (a: Matrix, b: Matrix): Matrix => a.map((row, i) => row.map((x, j) => x + b[i]![j]!));
const matrixOf = async (x: Parameters<typeof valuesOf>[0]): Promise<Matrix> => {
  const values = await valuesOf(x);
  const width = x.shape[1]!;
  return Array.from({ length: x.shape[0]! }, (_, i) => [...values.slice(i * width, (i + 1) * width)].map(Number));
};

/** Cosine neighbours by the definition. */
function cosines(vectors: Matrix): Matrix {
  const unit = vectors.map((row) => row.map((x) => x / Math.hypot(...row)));
  return unit.map((a) => unit.map((b) => a.reduce((sum, x, d) => sum + x * b[d]!, 0)));
}

const givenOf = (name: string): Matrix => {
  const { values, dim, present } = data.columns.itemVectors!.find((one) => one.name === name)!;
  return Array.from(present, (_, i) => [...values.slice(i * dim, (i + 1) * dim)]);
};

/** Item graph and graph of users and items by their definitions (models.md 7), of the train clicks. */
function graphs(k = 10): { items: Matrix; all: Matrix } {
  const { events, split, schema } = data;
  const items = Array.from({ length: schema.items }, () => new Array<number>(schema.items).fill(0));
  for (const [name, weight] of [
    ['image', 0.1],
    ['text', 0.9],
  ] as const)
    cosines(givenOf(name)).forEach((row, i) => {
      const nearest = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, k);
      expect(nearest).toContain(i);
      for (const j of nearest) items[i]![j]! += weight / k;
    });
  const n = schema.users + schema.items;
  const adjacency = Array.from({ length: n }, () => new Array<number>(n).fill(0));
  events.user.forEach((u, row) => {
    if (split.part[row] !== 0) return;
    const i = schema.users + events.item[row]!;
    adjacency[u]![i] = adjacency[i]![u] = 1;
  });
  const degree = adjacency.map((row) => row.reduce((sum, x) => sum + x, 1e-7));
  return { items, all: adjacency.map((row, a) => row.map((x, b) => x / Math.sqrt(degree[a]! * degree[b]!))) };
}

function expectClose(a: Matrix, b: Matrix, digits = 10): void {
  expect(a.length).toBe(b.length);
  a.forEach((row, i) => row.forEach((x, j) => expect(x).toBeCloseTo(b[i]![j]!, digits)));
}

describe('graphs of FREEDOM', () => {
  it('item neighbours: cosine top k with the item itself, rows of sum 1', async () => {
    const places = await Promise.all(
      ['image', 'text'].map(async (name) => {
        const rows = givenOf(name);
        return nearestItems(tensor(Float64Array.from(rows.flat()), [rows.length, rows[0]!.length]), 10);
      }),
    );
    const graph = dense(
      itemGraph(data.schema.items, [
        { places: places[0]!, weight: 0.1 },
        { places: places[1]!, weight: 0.9 },
      ]),
    );
    expectClose(graph, graphs().items);
    for (const row of graph) expect(row.reduce((sum, x) => sum + x, 0)).toBeCloseTo(1, 12);
  });

  it('leave nothing behind of the search for neighbours', async () => {
    const vectors = tensor(
      Float32Array.from({ length: 21 }, (_, i) => Math.sin(i)),
      [7, 3],
    );
    await nearestItems(vectors, 2);
    await device('cpu').synchronize();
    const { live } = device('cpu').memory();
    await nearestItems(vectors, 2);
    await device('cpu').synchronize();
    expect(device('cpu').memory().live).toBeLessThanOrEqual(live);
    vectors.dispose();
  });

  it('users and items: symmetric, scaled by degrees, an edge once however often it was clicked', () => {
    const train = Int32Array.from(data.events.user.keys()).filter((row) => data.split.part[row] === 0);
    const edges = distinctEdges(data.events, train);
    expect(edges.user.length).toBeLessThan(train.length); // the set repeats pairs
    const graph = dense(userItemGraph(edges));
    expectClose(graph, graphs().all);
    graph.forEach((row, a) => row.forEach((x, b) => expect(x).toBe(graph[b]![a])));
  });

  it('keeps int(share E) edges, rare ones rather than popular ones, by (seed, epoch) alone', () => {
    // user 0 met items 0 .. 29; item 30 and user 1 have one edge
    const edges = {
      users: 2,
      items: 31,
      user: Int32Array.from({ length: 31 }, (_, e) => (e === 30 ? 1 : 0)),
      item: Int32Array.from({ length: 31 }, (_, e) => e),
    };
    let rare = 0;
    const epochs = 600;
    for (let epoch = 0; epoch < epochs; epoch++) {
      const kept = keptEdges(edges, { share: 0.2, seed: 5, epoch });
      expect(kept.user.length).toBe(6);
      expect(new Set(kept.item).size).toBe(6);
      if (kept.item.includes(30)) rare++;
    }
    // Weights 1 against 1 / sqrt(30): drawing 6 of 31 one after the other leaves the heavy one out with probability
    // prod over j < 6 of 1 - 1 / (1 + (30 - j) / sqrt(30)).
    const weight = 1 / Math.sqrt(30);
    let out = 1;
    for (let j = 0; j < 6; j++) out *= 1 - 1 / (1 + (30 - j) * weight);
    expect(Math.abs(rare / epochs - (1 - out))).toBeLessThan(4 * Math.sqrt((out * (1 - out)) / epochs));
    const options = { share: 0.2, seed: 5, epoch: 3 };
    expect(keptEdges(edges, options)).toEqual(keptEdges(edges, options));
    expect(keptEdges(edges, options).item).not.toEqual(keptEdges(edges, { ...options, epoch: 4 }).item);
    expect(keptEdges(edges, { ...options, share: 1 })).toEqual(edges);
  });
});

const exactly = { dtype: 'float64', seed: 3 } as const;
const still = { content: { fusion: { dropout: 0 } } } as const;

async function lossOf(model: Freedom, of = batch): Promise<{ loss: number; parts: Record<string, number> }> {
  const { loss, parts } = tidy(() => {
    const graph = model.graph(of, context);
    return { loss: graph.loss, parts: graph.parts };
  });
  const values: Record<string, number> = {};
  for (const [name, x] of Object.entries(parts)) values[name] = await x.item();
  const value = await loss.item();
  for (const x of [loss, ...Object.values(parts)]) x.dispose();
  return { loss: value, parts: values };
}

describe('Freedom', () => {
  it('alone: ids over both graphs in closed form', async () => {
    using model = freedom(data, { ...exactly, keepEdges: 1 });
    await model.ready();
    const { items: S, all: A } = graphs();
    const [user, item] = [await matrixOf(model.user), await matrixOf(model.item)];
    const first = [...user, ...item];
    const second = times(A, first);
    const spread = plus(plus(first, second), times(A, second)).map((row) => row.map((x) => x / 3));
    const U = data.schema.users;
    const vectors = model.rankingVectors();
    expectClose(await matrixOf(vectors.users), spread.slice(0, U));
    const items = plus(spread.slice(U), times(S, item));
    expectClose(await matrixOf(vectors.items), items);

    // BPR of every click with its negative, and the modality terms against the users' id vectors
    const dot = (a: number[], b: number[]): number => a.reduce((sum, x, d) => sum + x * b[d]!, 0);
    const rows = batch.items.index.map((index) => batch.items.rows[index]!);
    expect([...batch.labels['label']!].every((label, b) => label === (b % 2 === 0 ? 1 : 0))).toBe(true);
    const term = (of: Matrix): number => {
      let sum = 0;
      for (let b = 0; b < batch.size; b += 2) {
        const asking = spread[batch.user[b]!]!;
        sum += Math.log1p(Math.exp(-(dot(asking, of[rows[b]!]!) - dot(asking, of[rows[b + 1]!]!))));
      }
      return sum / (batch.size / 2);
    };
    const { loss, parts } = await lossOf(model);
    expect(parts['bpr']).toBeCloseTo(term(items), 10);
    let expected = term(items);
    for (const [name, linear] of model.project) {
      const [weight, bias] = [await matrixOf(linear.weight), [...(await valuesOf(linear.bias!))].map(Number)];
      const projected = givenOf(name).map((x) => weight.map((w, o) => dot(w, x) + bias[o]!));
      expect(parts[`bpr.${name}`]).toBeCloseTo(term(projected), 10);
      expected += 1e-3 * term(projected);
    }
    expect(loss).toBeCloseTo(expected, 10);
  });

  it("EM3's release: content goes through the same graphs with zero user vectors", async () => {
    using model = em3Release(data, { ...exactly, ...still });
    await model.ready();
    const { items: S, all: A } = graphs();
    const tokens = ['image', 'text'].map((name) => [name, givenOf(name)] as const);
    const m = await matrixOf(
      tidy(() =>
        model.fusion!.forward(
          Object.fromEntries(
            tokens.map(([name, rows]) => [
              name,
              {
                rows: tensor(Float64Array.from(rows.flat()), [rows.length, rows[0]!.length]),
                starts: Int32Array.from(rows.keys()),
                counts: new Int32Array(rows.length).fill(1),
              },
            ]),
          ),
          { training: false },
        ),
      ),
    );
    const U = data.schema.users;
    const first = [...Array.from({ length: U }, () => new Array<number>(64).fill(0)), ...m];
    const second = times(A, first);
    const spread = plus(plus(first, second), times(A, second)).map((row) => row.map((x) => x / 3));
    const vectors = model.rankingVectors();
    const half = (rows: Matrix): Matrix => rows.map((row) => row.slice(64));
    expectClose(half(await matrixOf(vectors.users)), spread.slice(0, U));
    expectClose(half(await matrixOf(vectors.items)), plus(spread.slice(U), times(S, m)));
    const { loss, parts } = await lossOf(model);
    expect(Object.keys(parts)).toEqual(['bpr', 'cic']);
    expect(loss).toBeCloseTo(parts['bpr']! + 1e-3 * parts['cic']!, 12);
  });

  it('has the parameters of the release', () => {
    using model = em3Release(data);
    const sizes = new Map([...model.parameters()].map(([name, x]) => [name, x.size]));
    const total = (part: RegExp): number => [...sizes].reduce((sum, [name, n]) => sum + (part.test(name) ? n : 0), 0);
    expect(total(/^fusion\.layers/)).toBe(16_640 + 128); // four linears, a norm
    expect(total(/^fusion\.last/)).toBe(4160);
    expect(total(/^fusion\.query/)).toBe(64);
    expect(total(/^fusion\.project\.image/)).toBe(64 * 6 + 64); // 262,208 at 4096
    expect(total(/^heads/)).toBe(2 * 4160);
    expect(total(/^(user|item)$/)).toBe(64 * (data.schema.users + data.schema.items));
    expect(total(/./)).toBe(16_768 + 4160 + 64 + 64 * 6 + 64 + 64 * 4 + 64 + 8320 + 64 * 22);
    expect([...model.groups().dense.keys()]).toEqual([...sizes.keys()]);
    const bound = Math.sqrt(6 / (64 * 2));
    return valuesOf(model.fusion!.query).then((values) => {
      for (const x of values) expect(Math.abs(Number(x))).toBeLessThanOrEqual(bound);
    });
  });

  it.each([
    ['freedom', freedom],
    ['em3_release', em3Release],
  ] as const)('%s has the gradients of finite differences in float64', async (_, make) => {
    const options = { ...exactly, width: 4, keepEdges: 0.6, modalityLoss: 0.3 };
    const content = { fusion: { dropout: 0, heads: 2 }, cic: { weight: 0.5, temperature: 0.5, negatives: 3 } };
    using model = make(data, { ...options, ...(make === freedom ? {} : { content }) } as Partial<FreedomOptions>);
    await model.ready();
    tidy(() => backward(model.graph(batch, context).loss));
    let checked = 0;
    for (const [name, x] of model.parameters()) {
      const grad = await denseGrad(x);
      const values = Float64Array.from(await valuesOf(x), Number);
      for (const at of [0, Math.floor(values.length / 2), values.length - 1]) {
        const shifted = async (by: number): Promise<number> => {
          assign(
            x,
            values.map((v, i) => (i === at ? v + by : v)),
          );
          return (await lossOf(model)).loss;
        };
        const numeric = ((await shifted(1e-5)) - (await shifted(-1e-5))) / 2e-5;
        assign(x, values);
        expect(Math.abs(grad[at]! - numeric), `${name}[${at}]: ${grad[at]} and ${numeric}`).toBeLessThan(
          1e-6 + 1e-4 * Math.abs(numeric),
        );
        checked++;
      }
    }
    zeroGrad(model.parameters().values());
    expect(checked).toBeGreaterThan(10);
  });

  it('scores pairs by the vectors that it ranks with, and drops them after an evaluation', async () => {
    using model = em3Release(data, still);
    await model.ready();
    const plain = tidy(() => model.predict(batch));
    await encodeItems(model, data, 'overlay', new Int32Array(0), 1);
    const { users, items } = model.rankingVectors();
    const cached = tidy(() => model.predict(batch));
    expect(await cached.values()).toEqual(await plain.values());
    const [u, i] = [await matrixOf(users), await matrixOf(items)];
    const logits = await valuesOf(cached);
    for (let b = 0; b < batch.size; b++) {
      const item = batch.items.rows[batch.items.index[b]!]!;
      const dot = u[batch.user[b]!]!.reduce((sum, x, d) => sum + x * i[item]![d]!, 0);
      expect(Math.abs(Number(logits[b]) - dot)).toBeLessThan(1e-5 * Math.max(1, Math.abs(dot)));
    }
    model.dropOverlay();
    expect(users.disposed && items.disposed).toBe(true);
    plain.dispose();
    cached.dispose();
  });

  it('refuses what it cannot be', async () => {
    expect(() => freedom(data, { modalities: ['image', 'sound'] })).toThrow(ConfigError);
    expect(() => freedom(data, { modalityWeights: [1] })).toThrow(
      'expected a weight for each of 2 modalities but received 1',
    );
    expect(() => freedom({ ...data, columns: { ...data.columns, negatives: null } })).toThrow(
      'expected train.negatives of kind uniform',
    );
    using model = freedom(data);
    expect(() => tidy(() => model.graph(batch, context))).toThrow('expected ready() to be awaited');
    await model.ready();
    for await (const valid of data.loader({ part: 'valid', batchSize: 4 }))
      expect(() => tidy(() => model.graph(valid, context))).toThrow(ArgumentError);
  });
});
