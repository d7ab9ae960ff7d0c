import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import type { Em3 } from '../../src/models/em3.js';
import { device } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { encodeItems } from '../../src/train/evaluate.js';
import { denseGrad } from '../harness.js';
import { bytesOf, valuesOf, worstDifference } from '../values.js';
import { batches, bytesByName, fillTable, Steps, tinyData, tinyEm3 } from './tiny_em3.js';

const ranker = { training: true, step: 1, stage: 'ranker' } as const;
let data: Dataset;
let some: Batch[];
beforeAll(async () => {
  data = await tinyData();
  some = await batches(data, 6);
});
afterAll(() => data[Symbol.asyncDispose]());

/** Every trained tensor but those of the content part. */
const outside = (model: Em3) => new Map([...model.parameters()].filter(([name]) => !name.startsWith('content.')));

describe('training modes', () => {
  it.each(['none', 'lora_cached', 'lora_block', 'shared'] as const)(
    'end_to_end with a still encoder and a full table, and stop_gradient without contrast, are frozen bit for bit: %s',
    async (mode) => {
      const runs: unknown[] = [];
      for (const training of ['frozen', 'stop_gradient', 'end_to_end'] as const) {
        using model = tinyEm3(data, { training, content: { lora: { mode } } });
        using steps = new Steps(model, { dense: 0.01, encoder: 0 });
        await fillTable(model, data);
        const losses = await steps.takeAll(some);
        expect(new Set(losses).size).toBe(some.length);
        runs.push({ losses, weights: await bytesByName(outside(model)) });
      }
      expect(runs[1]).toEqual(runs[0]);
      expect(runs[2]).toEqual(runs[0]);
    },
  );

  it('keeps the encoders of frozen content unchanged, whatever adapts the history, and trains them end to end', async () => {
    for (const training of ['frozen', 'two_stage', 'stop_gradient', 'end_to_end'] as const)
      for (const mode of ['none', 'lora_cached', 'lora_block', 'shared'] as const) {
        using model = tinyEm3(data, {
          training,
          content: { lora: { mode } },
          cic: { weight: training === 'frozen' ? 0.1 : 0 },
        });
        using steps = new Steps(model);
        await fillTable(model, data);
        const { encoder, encoderSparse } = model.groups();
        const encoders = new Map([...encoder, ...encoderSparse]);
        const before = await bytesByName(encoders);
        await steps.takeAll(some.slice(0, 2));
        const after = await bytesByName(encoders);
        const changed = Object.keys(before).filter((name) => before[name] !== after[name]);
        if (training === 'end_to_end') expect(changed.length).toBeGreaterThan(0.9 * encoders.size);
        else expect([training, mode, changed]).toEqual([training, mode, []]);
      }
  });

  it('id_only reads neither texts nor pictures', async () => {
    const garbage = some.map(
      (batch): Batch => ({
        ...batch,
        items: {
          ...batch.items,
          text: batch.items.text && { ...batch.items.text, tokens: batch.items.text.tokens.slice().reverse() },
          image: batch.items.image && { ...batch.items.image, pixels: batch.items.image.pixels.map((p) => 255 - p) },
        },
        queries: batch.queries && {
          ...batch.queries,
          text: { ...batch.queries.text, tokens: batch.queries.text.tokens.slice().reverse() },
        },
      }),
    );
    const run = async (training: 'id_only' | 'end_to_end', list: Batch[]) => {
      using model = tinyEm3(data, { training });
      using steps = new Steps(model);
      return { losses: await steps.takeAll(list), state: await bytesByName(model.state()) };
    };
    expect(await run('id_only', garbage)).toEqual(await run('id_only', some));
    expect((await run('end_to_end', garbage)).losses).not.toEqual((await run('end_to_end', some)).losses);
  });

  it('starts from the same ranker in all modes with content, and from the same tables in all modes', async () => {
    const starts = [];
    for (const training of ['frozen', 'two_stage', 'stop_gradient', 'end_to_end', 'id_only'] as const) {
      using model = tinyEm3(data, { training });
      const bytes = await bytesByName(outside(model));
      starts.push(bytes);
    }
    for (const start of starts.slice(1, 4)) expect(start).toEqual(starts[0]);
    const tables = (bytes: Record<string, string>) =>
      Object.entries(bytes).filter(([name]) => name.startsWith('features.'));
    expect(tables(starts[4]!)).toEqual(tables(starts[0]!));
  });

  it.each([
    ['alike', false],
    ['live', true],
  ] as const)('trains the query encoder of a frozen run: %s %s', async (queryEncoder, trained) => {
    using model = tinyEm3(data, { training: 'frozen', queryEncoder, sqdc: { weight: 0.1 } });
    await fillTable(model, data);
    tidy(() => backward(model.graph(some[0]!, ranker).loss));
    const reached = [...model.content!.query!.parameters().values()].some((x) => x.grad !== null);
    expect(reached).toBe(trained);
    expect([...model.content!.fusion.parameters().values()].every((x) => x.grad === null)).toBe(true);
    zeroGrad(model.parameters().values());
  });

  it('stop_gradient lets contrast alone reach the encoders', async () => {
    const reached = async (changes: Parameters<typeof tinyEm3>[1]): Promise<string[]> => {
      using model = tinyEm3(data, { training: 'stop_gradient', ...changes });
      tidy(() => backward(model.graph(some[0]!, ranker).loss));
      const found = [...model.parameters()].filter(([name, x]) => name.startsWith('content.') && x.grad !== null);
      zeroGrad(model.parameters().values());
      return found.map(([name]) => name.split('.')[1]!);
    };
    expect(await reached({})).toEqual([]);
    expect(new Set(await reached({ sqdc: { weight: 0.1 } }))).toEqual(new Set(['text', 'image', 'query', 'fusion']));
    expect(new Set(await reached({ cic: { weight: 0.1 } }))).toEqual(new Set(['text', 'image', 'fusion']));
  });

  it('the first stage of two_stage trains encoders alone', async () => {
    using model = tinyEm3(data, { training: 'two_stage' });
    tidy(() => backward(model.graph(some[0]!, { ...ranker, stage: 'encoder' }).loss));
    const names = [...model.parameters()]
      .filter(([, x]) => x.grad !== null)
      .map(([name]) => name.split('.').slice(0, 2).join('.'));
    expect(new Set(names)).toEqual(new Set(['content.text', 'content.image', 'content.query', 'content.fusion']));
    zeroGrad(model.parameters().values());
  });

  it.each(['none', 'lora_cached', 'lora_block'] as const)(
    'without queries, the first stage pairs the latest click with the clicked item: %s',
    async (mode) => {
      using model = tinyEm3(data, { training: 'two_stage', content: { lora: { mode } } });
      await fillTable(model, data);
      const batch: Batch = { ...some[4]!, queries: null };
      // By hand, in plain numbers: anchors are the vectors of the last history items.
      const vectors = tidy(
        () =>
          model.contentVectors(
            Int32Array.from({ length: 60 }, (_, i) => i),
            1,
          )!,
      );
      const of = await valuesOf(vectors);
      vectors.dispose();
      const W = model.content!.width;
      const unit = (item: number): number[] => {
        const row = [...of.slice(item * W, (item + 1) * W)];
        const length = Math.hypot(...row);
        return row.map((x) => x / length);
      };
      const itemOf = Array.from(batch.items.index, (i) => batch.items.rows[i]!);
      const latest = Array.from({ length: batch.size }, (_, b) => {
        const { values, offsets } = batch.history!;
        return offsets[b + 1]! > offsets[b]! ? values[offsets[b + 1]! - 1]! : -1;
      });
      const anchors = [...itemOf.keys()].filter(
        (b) => batch.labels['click']![b] === 1 && latest[b]! >= 0 && latest[b] !== itemOf[b],
      );
      expect(anchors.length).toBeGreaterThan(1);
      let expected = 0;
      for (const i of anchors) {
        const q = unit(latest[i]!);
        const score = (j: number): number => 50 * unit(itemOf[j]!).reduce((sum, x, d) => sum + x * q[d]!, 0);
        let negatives = 0;
        for (const j of anchors) if (batch.user[j] !== batch.user[i]) negatives += Math.exp(score(j) - score(i));
        expected += Math.log1p(negatives) / anchors.length;
      }
      const loss = tidy(() => model.graph(batch, { ...ranker, stage: 'encoder' }).loss);
      expect(Math.abs((await loss.item()) - expected)).toBeLessThan(1e-3 * (1 + expected));
      loss.dispose();
    },
  );

  it('equal items encoded once per row and once per batch give equal losses and gradients', async () => {
    const batch = some[0]!;
    const order = [...batch.items.index.keys()].sort((a, b) => batch.items.index[a]! - batch.items.index[b]!);
    const rows = Int32Array.from(order, (b) => batch.items.rows[batch.items.index[b]!]!);
    const index = new Int32Array(batch.size);
    order.forEach((b, place) => {
      index[b] = place;
    });
    const repeated: Batch = { ...batch, items: { rows, index, ...(await data.itemContent(rows)) } };
    expect(rows.length).toBeGreaterThan(batch.items.rows.length);
    const run = async (given: Batch) => {
      using model = tinyEm3(data, { dtype: 'float64', sqdc: { weight: 0.1 }, rankerOptions: { dropout: 0 } });
      const loss = tidy(() => {
        const graph = model.graph(given, ranker);
        backward(graph.loss);
        return graph.loss;
      });
      const gradients = new Map<string, Float64Array>();
      for (const [name, x] of model.parameters()) gradients.set(name, await denseGrad(x));
      zeroGrad(model.parameters().values());
      const value = await loss.item();
      loss.dispose();
      return { value, gradients };
    };
    const [once, often] = [await run(batch), await run(repeated)];
    expect(Math.abs(once.value - often.value)).toBeLessThan(1e-10);
    for (const [name, gradient] of once.gradients)
      expect([name, worstDifference(often.gradients.get(name)!, gradient) < 1e-8]).toEqual([name, true]);
  });
});

describe('model memory', () => {
  it.each(['none', 'lora_cached', 'lora_block', 'shared'] as const)('returns all of it: %s', async (mode) => {
    await device().synchronize();
    const before = device().memory().live;
    for (const training of ['end_to_end', 'frozen'] as const) {
      const model = tinyEm3(data, { training, content: { lora: { mode } }, cic: { weight: 0.1 } });
      {
        using steps = new Steps(model);
        await fillTable(model, data);
        await steps.takeAll(some.slice(0, 2));
        await encodeItems(model, data, 'overlay', Int32Array.of(1, 2, 3), 2);
        model.dropOverlay();
      }
      model.dispose();
      await device().synchronize();
      expect(device().memory().live).toBe(before);
    }
  });
});

describe('missing content', () => {
  it('ignores what lies behind a missing flag, in every modality', async () => {
    const image = some[0]!.items.image!;
    const text = some[0]!.items.text!;
    const n = some[0]!.items.rows.length;
    const present = image.present.map((p, i) => (i % 3 === 0 ? 0 : p));
    const blank = (fill: number): Batch => ({
      ...some[0]!,
      items: {
        ...some[0]!.items,
        text: {
          ...text,
          offsets: new Int32Array(n + 1),
          tokens: new Int32Array(0),
          types: new Int32Array(0),
          positions: new Int32Array(0),
        },
        image: {
          ...image,
          present,
          pixels: image.pixels.map((p, at) => (present[Math.floor(at / (32 * 32 * 3))] ? p : fill)),
        },
      },
    });
    using model = tinyEm3(data);
    const logits = async (batch: Batch) =>
      bytesOf(tidy(() => model.graph(batch, { ...ranker, training: false }).logits));
    expect((await logits(blank(0))).equals(await logits(blank(200)))).toBe(true);
  });
});
