import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { ArgumentError } from '../../src/errors.js';
import type { Em3 } from '../../src/models/em3.js';
import type { StepContext } from '../../src/models/model.js';
import { assign, type Tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { predict } from '../../src/train/evaluate.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';
import { batches, bytesByName, fillTable, Steps, tinyData, tinyEm3 } from './tiny_em3.js';

const training = { training: true, step: 1, stage: 'ranker' } as const;
let data: Dataset;
let some: Batch[];
beforeAll(async () => {
  data = await tinyData();
  some = await batches(data, 4);
});
afterAll(() => data[Symbol.asyncDispose]());

/** `batch` with a history of these items in every row. */
function withHistory(batch: Batch, items: readonly number[]): Batch {
  return {
    ...batch,
    history: {
      values: Int32Array.from({ length: batch.size * items.length }, (_, i) => items[i % items.length]!),
      offsets: Int32Array.from({ length: batch.size + 1 }, (_, b) => b * items.length),
    },
  };
}

/** What the ranker of `model` is given for `batch`. */
async function seenBy(model: Em3, batch: Batch, names: readonly string[]): Promise<Float64Array[]> {
  const kept: Tensor[] = [];
  const forward = model.ranker.forward.bind(model.ranker);
  model.ranker.forward = (input, context) => {
    kept.push(...names.map((name) => input.vectors.get(name)!));
    return forward(input, context);
  };
  const result = tidy(() => {
    model.graph(batch, training);
    return kept;
  });
  model.ranker.forward = forward;
  const values = await Promise.all(result.map(valuesOf));
  for (const x of result) x.dispose();
  return values;
}

describe('a step of EM3', () => {
  it('reads what it encoded itself: items of the batch in histories, not older vectors', async () => {
    using model = tinyEm3(data);
    const batch = withHistory(some[0]!, [...some[0]!.items.rows.slice(0, 3)]);
    const [cosines, content] = await seenBy(model, batch, ['cosines', 'content']); // the table is still empty
    const unit = rowsOf(content!, model.content!.width).map((row) => row.map((x) => x / Math.hypot(...row)));
    for (let b = 0; b < batch.size; b++)
      for (let t = 0; t < 3; t++) {
        const shown = batch.items.index.indexOf(t);
        const expected = unit[b]!.reduce((sum, x, d) => sum + x * unit[shown]![d]!, 0);
        expect(Math.abs(cosines![b * 8 + t]! - expected)).toBeLessThan(1e-5);
      }
  });

  it('hides items that were never encoded: cosine 0, no part in attention', async () => {
    using model = tinyEm3(data);
    const unseen = [...data.items.ids.keys()].filter((item) => !some[0]!.items.rows.includes(item)).slice(0, 2);
    const known = some[0]!.items.rows[0]!;
    const names = ['cosines', 'sortedCosines', 'content*interest'];
    const alone = await seenBy(model, withHistory(some[0]!, [known]), names);
    const among = await seenBy(model, withHistory(some[0]!, [known, ...unseen]), names);
    expect(worstDifference(among[0]!, alone[0]!)).toBe(0);
    expect(worstDifference(among[2]!, alone[2]!)).toBeLessThan(1e-6);
    const none = await seenBy(model, withHistory(some[0]!, unseen), names);
    for (const values of none) expect(values.every((x) => x === 0)).toBe(true);
    const empty = await seenBy(model, withHistory(some[0]!, []), names);
    for (const values of empty) expect(values.every((x) => x === 0)).toBe(true);
  });

  it('sorts the cosines of the history', async () => {
    using model = tinyEm3(data);
    const batch = withHistory(some[0]!, [...some[0]!.items.rows.slice(0, 6)]);
    const [cosines, sorted] = await seenBy(model, batch, ['cosines', 'sortedCosines']);
    for (let b = 0; b < batch.size; b++) {
      const row = [...cosines!.slice(b * 8, b * 8 + 6)].sort((x, y) => y - x);
      expect([...sorted!.slice(b * 8, b * 8 + 8)]).toEqual([...row, 0, 0]);
    }
  });

  it.each(['none', 'lora_cached', 'lora_block'] as const)('takes histories that are all empty: %s', async (mode) => {
    for (const ranker of ['fm', 'dnn', 'dcnv2', 'din'] as const) {
      using model = tinyEm3(data, { ranker, content: { lora: { mode } } });
      using steps = new Steps(model);
      const loss = Buffer.from(await steps.take(withHistory(some[0]!, [])), 'hex').readFloatLE();
      expect(Number.isFinite(loss)).toBe(true);
    }
  });

  it.each(['none', 'lora_cached', 'lora_block', 'shared'] as const)(
    'that is not finite leaves weights, optimizer and table untouched bit for bit, and is counted: %s',
    async (mode) => {
      using model = tinyEm3(data, { content: { lora: { mode } }, sqdc: { weight: 0.1 }, cic: { weight: 0.1 } });
      using steps = new Steps(model);
      await steps.takeAll(some.slice(0, 2));
      const state = async () => ({
        model: await bytesByName(model.state()),
        optimizer: await bytesByName(steps.optimizer.state()),
      });
      const before = await state();
      const label = some[2]!.labels['click']!.slice();
      label[5] = Number.NaN;
      const bad: Batch = { ...some[2]!, labels: { ...some[2]!.labels, click: label } };
      const loss = Buffer.from(await steps.take(bad), 'hex').readFloatLE();
      expect(loss).toBe(Number.NaN);
      expect(await steps.optimizer.skippedSteps()).toBe(1);
      const after = await state();
      const { skipped_steps: count, ...rest } = after.optimizer;
      const { skipped_steps: countBefore, ...restBefore } = before.optimizer;
      expect([count, countBefore]).toEqual(['01000000', '00000000']);
      expect({ ...after, optimizer: rest }).toEqual({ ...before, optimizer: restBefore });
      // and the next step is that of a run which never saw the bad batch
      using twin = tinyEm3(data, { content: { lora: { mode } }, sqdc: { weight: 0.1 }, cic: { weight: 0.1 } });
      using others = new Steps(twin);
      await others.takeAll(some.slice(0, 2));
      others.step++;
      expect(await steps.take(some[3]!)).toBe(await others.take(some[3]!));
      expect(await bytesByName(model.state())).toEqual(await bytesByName(twin.state()));
    },
  );
});

describe('itemIdDropout', () => {
  it('hides ids from the ranker in training, by seed and step, and never from CIC', async () => {
    const run = async (itemIdDropout: number, context: StepContext) => {
      using model = tinyEm3(data, { itemIdDropout, cic: { weight: 0.1 }, rankerOptions: { dropout: 0 } });
      const { parts } = tidy(() => ({ parts: model.graph(some[0]!, context).parts }));
      const [bce, cic] = await Promise.all([bytesOf(parts['bce']!), bytesOf(parts['cic']!)]);
      for (const x of Object.values(parts)) x.dispose();
      return { bce: bce.toString('hex'), cic: cic.toString('hex') };
    };
    const none = await run(0, training);
    const half = await run(0.5, training);
    expect(half.cic).toBe(none.cic);
    expect(half.bce).not.toBe(none.bce);
    expect(await run(0.5, training)).toEqual(half);
    expect((await run(0.5, { ...training, step: 2 })).bce).not.toBe(half.bce);
    const still = { training: false, step: 1, stage: 'ranker' } as const;
    expect(await run(0.5, still)).toEqual(await run(0, still));
  });
});

describe('evaluation', () => {
  it.each(['end_to_end', 'frozen'] as const)('writes nothing, and gives the same scores twice: %s', async (mode) => {
    for (const lora of ['none', 'lora_cached', 'lora_block'] as const) {
      using model = tinyEm3(data, { training: mode, content: { lora: { mode: lora } } });
      using steps = new Steps(model);
      if (mode === 'frozen') await fillTable(model, data);
      await steps.takeAll(some.slice(0, 2));
      const before = await bytesByName(model.state());
      const score = async () =>
        predict(model, data, data.loader({ part: 'valid', batchSize: 50 }), data.columns.parts.valid, 2);
      const [once, again] = [await score(), await score()];
      expect(await bytesByName(model.state())).toEqual(before);
      expect([...again.logits]).toEqual([...once.logits]);
      expect(new Set(once.logits).size).toBeGreaterThan(once.logits.length / 2);
      // training goes on as if nothing had been evaluated
      using twin = tinyEm3(data, { training: mode, content: { lora: { mode: lora } } });
      using others = new Steps(twin);
      if (mode === 'frozen') await fillTable(twin, data);
      await others.takeAll(some.slice(0, 2));
      expect(await steps.take(some[2]!)).toBe(await others.take(some[2]!));
      expect(await bytesByName(model.state())).toEqual(await bytesByName(twin.state()));
    }
  });

  it('of a model whose encoder trained since sees the encoder as it is', async () => {
    using model = tinyEm3(data, { training: 'two_stage' });
    const score = async () =>
      predict(model, data, data.loader({ part: 'valid', batchSize: 50 }), data.columns.parts.valid, 2);
    const before = await score();
    for (const x of model.content!.fusion.parameters().values())
      assign(
        x,
        Float32Array.from(await valuesOf(x), (v) => v * 1.5),
      );
    model.refresh();
    const after = await score();
    expect([...after.logits]).not.toEqual([...before.logits]);
  });

  it('gives a row the same score in any batch', async () => {
    using model = tinyEm3(data);
    using steps = new Steps(model);
    await steps.takeAll(some.slice(0, 2));
    const score = async (batchSize: number) =>
      (await predict(model, data, data.loader({ part: 'valid', batchSize }), data.columns.parts.valid, 2)).logits;
    expect(worstDifference(await score(7), await score(180))).toBeLessThan(1e-5);
  });
});

describe('exact mode', () => {
  const fusion = { mode: 'exact', queries: 1, layers: 1, heads: 2, width: 8, dropout: 0 } as const;

  it('hands the FusionQFormer one token per modality: cls of the text, the mean over patches', async () => {
    using model = tinyEm3(data, { content: { fusion } });
    const part = model.content!;
    const given: { rows: number[]; counts: number[] }[] = [];
    const flattened = part.fusion.flattened.bind(part.fusion);
    const tensors: Tensor[] = [];
    part.fusion.flattened = (modalities, context) => {
      for (const name of ['text', 'image']) {
        const { rows, counts } = modalities[name]!;
        given.push({ rows: [...rows.shape], counts: [...counts] });
        tensors.push(rows);
      }
      return flattened(modalities, context);
    };
    const { items } = some[0]!;
    const n = items.rows.length;
    const [text, image, ...encoded] = tidy(() => {
      part.encode(items, training);
      const tokens = part.text!.tokens(items.text!, training).rows;
      const patches = part.image!.tokens(items.image!, training).rows;
      return [...tensors, tokens, patches];
    });
    const has = Array.from({ length: n }, (_, i) => Math.sign(items.text!.offsets[i + 1]! - items.text!.offsets[i]!));
    expect(given).toEqual([
      { rows: [n, 8], counts: has },
      { rows: [n, 6], counts: [...items.image!.present] },
    ]);
    const tokens = rowsOf(await valuesOf(encoded[0]!), 8);
    const cls = Array.from({ length: n }, (_, i) =>
      has[i] ? [...tokens[items.text!.offsets[i]!]!] : Array<number>(8).fill(0),
    );
    expect(worstDifference(await valuesOf(text!), cls.flat())).toBeLessThan(1e-6);
    const patches = rowsOf(await valuesOf(encoded[1]!), 6);
    const means = Array.from({ length: n * 6 }, (_, at) => {
      const own = patches.slice(Math.floor(at / 6) * 4, Math.floor(at / 6) * 4 + 4);
      return own.reduce((sum, row) => sum + row[at % 6]! / 4, 0);
    });
    expect(worstDifference(await valuesOf(image!), means)).toBeLessThan(1e-6);
    for (const x of [text!, image!, ...encoded]) x.dispose();
  });

  it.each(['none', 'lora_cached', 'lora_block'] as const)('trains with exact CIC: %s', async (mode) => {
    using model = tinyEm3(data, {
      content: { fusion, lora: { mode } },
      cic: { mode: 'exact', weight: 0.1, negatives: 16 },
    });
    using steps = new Steps(model);
    const encoders = model.groups().encoder;
    let missed: string[] = [];
    for (const batch of some) {
      const bytes = await steps.take(batch, ({ parts }) => {
        expect(Object.keys(parts)).toEqual(['bce', 'cic']);
        missed = [...encoders].filter(([, x]) => x.grad === null).map(([name]) => name);
      });
      expect(Number.isFinite(Buffer.from(bytes, 'hex').readFloatLE())).toBe(true);
      expect(missed.filter((name) => !name.startsWith('content.query'))).toEqual([]);
    }
  });

  it('refuses what the release does not have', () => {
    expect(() => tinyEm3(data, { content: { fusion: { ...fusion, ffn: 16 } } })).toThrow(ArgumentError);
    expect(() => tinyEm3(data, { content: { fusion: { ...fusion, attention: 'cross' } } })).toThrow(ArgumentError);
  });
});

describe('tuneLayers', () => {
  it.each([0, 1, 2, 'all'] as const)('trains the last blocks of the item encoders: %s', async (tuneLayers) => {
    using model = tinyEm3(data, { content: { tuneLayers, text: { layers: 2 }, image: { layers: 2 } } });
    using steps = new Steps(model);
    const parts = new Map([...model.state()].filter(([name]) => /^content\.(text|image)\./.test(name)));
    const before = await bytesByName(parts);
    await steps.takeAll(some.slice(0, 2));
    const after = await bytesByName(parts);
    const changed = new Set(
      Object.keys(before)
        .filter((name) => before[name] !== after[name])
        .map((name) => name.replace(/^content\.(text|image)\.(blocks\.\d+)?.*/, '$1 $2').trim()),
    );
    const blocks = (from: number) =>
      ['text', 'image'].flatMap((name) => [0, 1].filter((i) => i >= from).map((i) => `${name} blocks.${i}`));
    const expected = tuneLayers === 'all' ? ['text', 'image', ...blocks(0)] : blocks(2 - tuneLayers);
    expect(changed).toEqual(new Set(expected));
    const trained = [...model.groups().encoder.keys()];
    expect(trained.some((name) => name.startsWith('content.fusion'))).toBe(true);
    expect(trained.some((name) => name.startsWith('content.query'))).toBe(true);
  });

  it('shares bytes with the whole encoder where nothing trains', async () => {
    const vectors = async (tuneLayers: 0 | 'all') => {
      using model = tinyEm3(data, { content: { tuneLayers } });
      return bytesOf(tidy(() => model.content!.encode(some[0]!.items, training).vectors));
    };
    expect((await vectors(0)).equals(await vectors('all'))).toBe(true);
  });
});

it('a model whose weights are all zero still steps', async () => {
  using model = tinyEm3(data, { sqdc: { weight: 0.1 }, cic: { weight: 0.1 } });
  using steps = new Steps(model);
  for (const x of model.parameters().values()) assign(x, new Float32Array(x.size));
  const loss = Buffer.from(await steps.take(some[0]!), 'hex').readFloatLE();
  expect(Number.isFinite(loss)).toBe(true);
  expect(await steps.optimizer.skippedSteps()).toBe(0);
});
