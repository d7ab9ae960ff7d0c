import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import type { Em3 } from '../../src/models/em3.js';
import { normals, streamOf } from '../../src/random.js';
import { assign, type HostArray, type Tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { denseGrad } from '../harness.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';
import { batches, bytesByName, fillTable, Steps, tinyData, tinyEm3 } from './tiny_em3.js';

const ranker = { training: true, step: 1, stage: 'ranker' } as const;
const modes = ['lora_cached', 'lora_block'] as const;
let data: Dataset;
let some: Batch[];
beforeAll(async () => {
  data = await tinyData();
  some = await batches(data, 4);
});
afterAll(() => data[Symbol.asyncDispose]());

const history = (model: Em3, keys: readonly number[]) => {
  const rows = tidy(() => model.content!.history(Int32Array.from(keys), 1, ranker, true).rows);
  return rows;
};
const loraOf = (model: Em3) => [...model.groups().lora];

async function random(x: Tensor, name: string): Promise<Float64Array> {
  const values = normals(x.size, 2, streamOf(name));
  assign(x, x.dtype === 'float64' ? values : Float32Array.from(values));
  return valuesOf(x);
}

describe.each(modes)('%s', (mode) => {
  const lora = { mode };

  it('equals the frozen path bit for bit at step 0', async () => {
    const keys = [3, 7, 3, 40, 12];
    using plain = tinyEm3(data);
    using adapted = tinyEm3(data, { content: { lora } });
    for (const model of [plain, adapted]) await fillTable(model, data);
    using expected = history(plain, keys);
    using actual = history(adapted, keys);
    expect((await bytesOf(actual)).equals(await bytesOf(expected))).toBe(true);
    const logits = async (model: Em3) => bytesOf(tidy(() => model.graph(some[1]!, ranker).logits));
    expect((await logits(adapted)).equals(await logits(plain))).toBe(true);
  });

  it('has dA exactly 0 and dB not at step 0, and no gradient of the frozen weights', async () => {
    using model = tinyEm3(data, { content: { lora } });
    await fillTable(model, data);
    tidy(() => backward(model.graph(some[1]!, ranker).loss));
    const found = loraOf(model);
    expect(found.length).toBe(mode === 'lora_cached' ? 2 : 2 * (2 * 2 + 2));
    for (const [name, x] of found) {
      const gradient = await denseGrad(x);
      expect([name, x.grad !== null, gradient.some((g) => g !== 0)]).toEqual([name, true, name.endsWith('.b')]);
    }
    const snapshots = [...model.state()].filter(
      ([name]) => name.startsWith('content.snapshot') && !name.includes('lora'),
    );
    expect(snapshots.length).toBeGreaterThan(1);
    for (const [name, x] of snapshots) expect([name, x.grad, x.requiresGrad]).toEqual([name, null, false]);
    const grouped = new Set(Object.values(model.groups()).flatMap((group) => [...group.values()]));
    for (const [, x] of snapshots) expect(grouped.has(x)).toBe(false);
    zeroGrad(model.parameters().values());
  });

  it('equals the snapshot with merged weights W0 + (alpha / r) B A', async () => {
    using model = tinyEm3(data, { dtype: 'float64', content: { lora } });
    await fillTable(model, data);
    const { snapshot, snapshotLast, update } = model.content!;
    const keys = [1, 2, 30];
    const pairs: [Tensor, { a: Tensor; b: Tensor }][] = [];
    if (update !== null) pairs.push([snapshotLast!.weight, update]);
    if (snapshot !== null) {
      for (const [name, layer] of snapshot.loraProject) pairs.push([snapshot.project.get(name)!.weight, layer]);
      for (const { attention, loraQuery, loraValue } of snapshot.layers)
        pairs.push([attention.query.weight, loraQuery!], [attention.value.weight, loraValue!]);
    }
    expect(pairs.length * 2).toBe(loraOf(model).length);
    using before = history(model, keys);
    const merged: [Tensor, Float64Array][] = [];
    for (const [i, [weight, { a, b }]] of pairs.entries()) {
      const [A, B, W] = [await random(a, `a${i}`), await random(b, `b${i}`), await valuesOf(weight)];
      const [rank, inputs] = a.shape as [number, number];
      merged.push([
        weight,
        W.map((w, at) => {
          const [o, k] = [Math.floor(at / inputs), at % inputs];
          let sum = 0;
          for (let r = 0; r < rank; r++) sum += B[o * rank + r]! * A[r * inputs + k]!;
          return w + 2 * sum; // alpha / r = 4 / 2
        }),
      ]);
    }
    using adapted = history(model, keys);
    for (const [weight, values] of merged) assign(weight, values);
    for (const [name, x] of loraOf(model)) if (name.endsWith('.b')) assign(x, new Float64Array(x.size));
    using whole = history(model, keys);
    expect(worstDifference(await valuesOf(adapted), await valuesOf(whole))).toBeLessThan(1e-12);
    expect(worstDifference(await valuesOf(adapted), await valuesOf(before))).toBeGreaterThan(1e-3);
  });

  it.each(['reset', 'keep'] as const)(
    'on refresh copies the live weights and says what becomes of B: %s',
    async (onRefresh) => {
      using model = tinyEm3(data, { content: { lora: { mode, onRefresh } } });
      using steps = new Steps(model);
      await steps.takeAll(some);
      const snapshotOf = () => {
        const { fusion, snapshot, snapshotLast } = model.content!;
        return snapshot === null ? ([fusion.last, snapshotLast!] as const) : ([fusion, snapshot] as const);
      };
      const [live, copy] = snapshotOf();
      const differing = async () => {
        const [of, frozen] = [await bytesByName(live.state()), await bytesByName(copy.state())];
        return Object.keys(of).filter((name) => of[name] !== frozen[name]).length;
      };
      expect(await differing()).toBeGreaterThan(0);
      const before = await bytesByName(new Map(loraOf(model)));
      model.refresh();
      expect(await differing()).toBe(0);
      const after = await bytesByName(new Map(loraOf(model)));
      for (const [name, bytes] of Object.entries(after)) {
        const cleared = onRefresh === 'reset' && name.endsWith('.b');
        expect([name, bytes]).toEqual([name, cleared ? '0'.repeat(bytes.length) : before[name]]);
        if (name.endsWith('.b')) expect(before[name]).toMatch(/[1-9a-f]/);
      }
    },
  );

  it('reads the same history after its state was loaded into a new model', async () => {
    using model = tinyEm3(data, { content: { lora } });
    using steps = new Steps(model);
    await steps.takeAll(some.slice(0, 2));
    const values = new Map<string, { data: HostArray; shape: readonly number[] }>();
    for (const [name, x] of model.state()) values.set(name, { data: await x.data(), shape: x.shape });
    using other = tinyEm3(data, { seed: 99, content: { lora } });
    other.load(values);
    const keys = Array.from({ length: data.items.ids.length }, (_, i) => i);
    for (const reading of [history, (m: Em3, k: number[]) => tidy(() => m.contentVectors(Int32Array.from(k), 2)!)]) {
      using expected = reading(model, keys);
      using actual = reading(other, keys);
      const { age } = tidy(() => model.content!.table.read(Int32Array.from(keys), 2));
      const ages = await valuesOf(age);
      expect(new Set(ages.map(Math.sign)).size).toBeGreaterThan(1); // some items are known, some are not
      const [a, e] = [rowsOf(await valuesOf(actual), 8), rowsOf(await valuesOf(expected), 8)];
      for (const [i, row] of e.entries()) if (ages[i]! >= 0) expect([...a[i]!]).toEqual([...row]);
      age.dispose();
    }
  });
});

describe('lora_cached', () => {
  it('after a step equals recomputing from u', async () => {
    using model = tinyEm3(data, { dtype: 'float64', content: { lora: { mode: 'lora_cached' } } });
    using steps = new Steps(model);
    await fillTable(model, data);
    await steps.takeAll(some.slice(0, 2));
    const { table, snapshotLast, update } = model.content!;
    const keys = [0, 5, 9, 31];
    const [u, W, bias, A, B] = await Promise.all(
      [table.rows, snapshotLast!.weight, snapshotLast!.bias!, update!.a, update!.b].map(valuesOf),
    );
    expect(B!.some((x) => x !== 0)).toBe(true);
    const flat = table.width;
    using rows = history(model, keys);
    const expected = keys.flatMap((key) => {
      const of = u!.subarray(key * flat, (key + 1) * flat);
      const dot = (matrix: Float64Array, row: number): number =>
        of.reduce((sum, x, k) => sum + x * matrix[row * flat + k]!, 0);
      const low = [dot(A!, 0), dot(A!, 1)];
      return Array.from(
        { length: 8 },
        (_, o) => dot(W!, o) + bias![o]! + 2 * (B![o * 2]! * low[0]! + B![o * 2 + 1]! * low[1]!),
      );
    });
    expect(worstDifference(await valuesOf(rows), expected)).toBeLessThan(1e-12);
  });
});

describe('shared', () => {
  it('passes gradient from the history to the live FusionQFormer, and only end to end', async () => {
    const gradient = async (mode: 'none' | 'shared') => {
      using model = tinyEm3(data, { content: { lora: { mode } } });
      await fillTable(model, data);
      tidy(() => backward(model.graph(some[1]!, ranker).loss));
      const value = await denseGrad(model.content!.fusion.query);
      zeroGrad(model.parameters().values());
      return value;
    };
    expect(worstDifference(await gradient('shared'), await gradient('none'))).toBeGreaterThan(1e-6);
    using frozen = tinyEm3(data, { training: 'frozen', content: { lora: { mode: 'shared' } } });
    await fillTable(frozen, data);
    tidy(() => backward(frozen.graph(some[1]!, ranker).loss));
    expect(frozen.content!.fusion.query.grad).toBe(null);
    zeroGrad(frozen.parameters().values());
  });

  it('reads equal vectors for target and history while the encoder stands still', async () => {
    using model = tinyEm3(data, { content: { lora: { mode: 'shared' } } });
    await fillTable(model, data);
    const keys = [4, 8, 15];
    using h = history(model, keys);
    using d = tidy(() => model.contentVectors(Int32Array.from(keys), 1)!);
    expect((await bytesOf(h)).equals(await bytesOf(d))).toBe(true);
  });
});
