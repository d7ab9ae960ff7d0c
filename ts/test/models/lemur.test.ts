import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import type { Lemur } from '../../src/models/lemur.js';
import { popularityDeciles } from '../../src/models/lemur_content.js';
import { tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { encodeItems, predict } from '../../src/train/evaluate.js';
import type { TrainSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { denseGrad } from '../harness.js';
import { temporaryFolder } from '../train/tiny_shop.js';
import { worstDifference } from '../values.js';
import { batches, bytesByName, fillTable, Steps, tinyData } from './tiny_em3.js';
import { type LemurChanges, sampled, tinyLemur } from './tiny_lemur.js';

const ranker = { training: true, step: 1, stage: 'ranker' } as const;
const longer = { width: 8, heads: 2, latest: 3, ffn: 12 };
const still = { rankerOptions: { dropout: 0 } } as const;
let data: Dataset;
let some: Batch[];
beforeAll(async () => {
  data = await tinyData();
  some = await batches(data, 6);
});
afterAll(() => data[Symbol.asyncDispose]());

const numberOf = (bytes: string): number => Buffer.from(bytes, 'hex').readFloatLE();

function withHistory(batch: Batch, items: readonly number[]): Batch {
  return {
    ...batch,
    history: {
      values: Int32Array.from({ length: batch.size * items.length }, (_, i) => items[i % items.length]!),
      offsets: Int32Array.from({ length: batch.size + 1 }, (_, b) => b * items.length),
    },
  };
}

/** Loss and gradients of one step. */
async function stepOf(
  model: Lemur,
  batch: Batch,
  step: number = ranker.step,
): Promise<{ loss: number; gradients: Map<string, Float64Array> }> {
  zeroGrad(model.parameters().values());
  const loss = tidy(() => {
    const graph = model.graph(batch, { ...ranker, step });
    backward(graph.loss);
    return graph.loss;
  });
  const gradients = new Map<string, Float64Array>();
  for (const [name, x] of model.parameters()) if (x.grad !== null) gradients.set(name, await denseGrad(x));
  const value = await loss.item();
  loss.dispose();
  zeroGrad(model.parameters().values());
  return { loss: value, gradients };
}

describe('a step of LEMUR', () => {
  it.each<[string, LemurChanges]>([
    ['both sequences', {}],
    ['short alone', { sequences: { long: 0 } }],
    ['no sequence', { sequences: { short: 0, long: 0 } }],
    ['SimTier', { similarity: 'sim_tier' }],
    ['nothing compared', { similarity: 'none' }],
    ['as printed', { decoder: { paperLiteral: true, positions: false } }],
    ['several query tokens', { decoder: { queries: 2 } }],
    ['content-ID contrast', { cic: { weight: 0.1 } }],
    ['every second step of popular items', { content: { bank: { popularAt: 2, qScale: 'inverse' } } }],
    ['texts alone', { content: { modalities: ['text'] } }],
    ['pictures alone', { content: { modalities: ['image'] } }],
    ['bfloat16 rows', { content: { bank: { dtype: 'bfloat16' } } }],
    ['din over both kinds of clicks', { ranker: 'din', sequences: { toRanker: 'short' } }],
    ['dcnv2', { ranker: 'dcnv2' }],
    ['fm', { ranker: 'fm' }],
    [
      'rankmixer over longer',
      { ranker: 'rankmixer', rankerOptions: { rankMixer: { tokens: 4, width: 16, sequence: 'longer' }, longer } },
    ],
    ['dlrm', { ranker: 'dlrm' }],
    ['longer', { ranker: 'longer', rankerOptions: { longer } }],
    [
      'sim by content',
      { ranker: 'sim', sequences: { toRanker: 'long' }, rankerOptions: { sim: { search: 'content', topK: 3 } } },
    ],
    ['mmoe', { ranker: 'mmoe' }],
  ])('trains with %s: every parameter gets a gradient', async (_, changes) => {
    using model = tinyLemur(data, changes);
    const { loss, gradients } = await stepOf(model, some[0]!);
    expect(Number.isFinite(loss)).toBe(true);
    const without = [...model.parameters().keys()].filter((name) => !gradients.has(name));
    // missing texts and pictures are rare; a text encoder that reads no text looks nothing up
    expect(
      without.filter(
        (name) =>
          !/decoder\.layers\.\d+\.attention\.key\.bias|absent|document\.text\.(token|position|type)\.table/.test(name),
      ),
    ).toEqual([]);
    using steps = new Steps(model);
    for (const bytes of await steps.takeAll(some.slice(1, 4))) expect(Number.isFinite(numberOf(bytes))).toBe(true);
  });

  it('with p = q = 100 is a step without sampling, bit for bit', async () => {
    const run = async (changes: LemurChanges, settles: boolean) => {
      using model = tinyLemur(data, changes);
      if (!settles) model.settle = () => undefined; // all items stay unseen, so all are encoded
      using steps = new Steps(model);
      const losses = await steps.takeAll(some);
      const { document, query, ranker: ranking } = { ...model.content!, ranker: model.ranker };
      return {
        losses,
        weights: await Promise.all([document, query!, ranking].map((part) => bytesByName(part.state()))),
      };
    };
    const all = await run(sampled(100), true);
    expect(await run(sampled(1), false)).toEqual(all);
    expect(await run(sampled(30), true)).not.toEqual(all);
  });

  it('q_scale inverse: the same loss, the encoder gradient times 100 / q', async () => {
    const gradientOf = async (qScale: 'none' | 'inverse') => {
      using model = tinyLemur(data, { ...still, content: { bank: { p: 50, q: 50, qScale } } });
      const bank = model.content!.bank;
      // every item is stored, so each passes gradient with the same chance
      const rows = Int32Array.from({ length: 60 }, (_, i) => i);
      bank.write(BigInt64Array.from(rows, BigInt), tensor(new Float32Array(60 * 8).fill(1), [60, 8]), { step: 1 });
      model.content!.record.stage(1, rows);
      model.content!.record.settle(1, true);
      return stepOf(model, some[0]!, 5);
    };
    const [plain, scaled] = [await gradientOf('none'), await gradientOf('inverse')];
    expect(scaled.loss).toBe(plain.loss);
    let encoders = 0;
    for (const [name, values] of plain.gradients) {
      const factor = name.startsWith('content.document.') ? 2 : 1;
      encoders += factor - 1;
      expect(scaled.gradients.get(name), name).toEqual(values.map((value) => factor * value));
    }
    expect(encoders).toBeGreaterThan(5);
  });

  it.each([3, 7])('break at step %i, then on, and saved and resumed: as if nothing had happened', async (stop) => {
    const settings: Partial<TrainSettings> = {
      epochs: 2,
      batchSize: 64,
      learningRates: { dense: 0.01, sparse: 0.01, encoder: 0.01, lora: 0.01 },
    };
    const run = async (how: 'whole' | 'break' | 'resume') => {
      using folder = temporaryFolder();
      const runDir = join(folder.path, 'run');
      const encoded: number[] = [];
      const follow = async (trainer: Trainer, until = Infinity): Promise<void> => {
        for await (const event of trainer.run()) if (event.type === 'step' && event.step === until) break;
        encoded.push(trainer.encoderCalls.items);
      };
      let model = tinyLemur(data, sampled(30));
      let trainer = new Trainer({ model, data, settings, runDir });
      try {
        if (how !== 'whole') await follow(trainer, stop);
        if (how === 'resume') {
          await trainer.save();
          await trainer[Symbol.asyncDispose]();
          model.dispose();
          model = tinyLemur(data, sampled(30));
          trainer = new Trainer({ model, data, settings, runDir, resume: true });
        }
        await follow(trainer);
        return { encoded: encoded.at(-1), state: await bytesByName(model.state()) };
      } finally {
        await trainer[Symbol.asyncDispose]();
        model.dispose();
      }
    };
    const whole = await run('whole');
    expect(await run('break')).toEqual(whole);
    expect(await run('resume')).toEqual(whole);
  });

  it('a bank that evicts: an evaluation encodes what it lost', async () => {
    using model = tinyLemur(data, { content: { bank: { capacity: 16, p: 100, q: 100 } } });
    using steps = new Steps(model);
    for (const batch of some) await steps.take(batch);
    expect((await model.contentStats())['evicted']).toBeGreaterThan(0);
    const keys = Int32Array.from({ length: 60 }, (_, i) => i);
    await encodeItems(model, data, 'overlay', keys, 50);
    const rows = (await model.served!.table().rows.data()) as Float32Array;
    const empty = [...keys].filter((key) => rows.subarray(key * 8, key * 8 + 8).every((x) => x === 0));
    expect(empty).toEqual([]);
    model.dropOverlay();
  });

  it('encodes the unseen, then about p percent; what it reads for the others is what it wrote', async () => {
    using model = tinyLemur(data, sampled(30));
    using steps = new Steps(model);
    const counts: { items: number; distinct: number }[] = [];
    for (const batch of [...some, ...some, ...some])
      await steps.take(batch, ({ encoded }) =>
        counts.push({ items: encoded!.items, distinct: batch.items.rows.length }),
      );
    expect(counts[0]!.items).toBe(counts[0]!.distinct);
    const late = counts.slice(8);
    const share =
      late.reduce((sum, { items }) => sum + items, 0) / late.reduce((sum, { distinct }) => sum + distinct, 0);
    expect(share).toBeGreaterThan(0.15);
    expect(share).toBeLessThan(0.5);
    const { 'short.hit_rate': hits, 'target.hit_rate': targets, rows, cosine } = await model.contentStats();
    expect(targets).toBe(1);
    expect(hits).toBeGreaterThan(0.9); // some clicks fall on items outside of these batches
    expect(rows).toBe(new Set(some.flatMap(({ items }) => [...items.rows])).size);
    expect(cosine).toBeGreaterThan(0.5);
  });

  it('with q = 0 gives the encoder no gradient of the ranking loss', async () => {
    using model = tinyLemur(data, { ...sampled(60, 0), sqdc: { weight: 0 } });
    const { gradients } = await stepOf(model, some[0]!);
    const documents = [...gradients.keys()].filter((name) => name.startsWith('content.document'));
    expect(documents).toEqual([]);
    expect([...gradients.keys()].some((name) => name.startsWith('content.query'))).toBe(true);
  });

  it('gives equal losses and gradients with and without de-duplication', async () => {
    using once = tinyLemur(data, { ...sampled(100), ...still });
    using each = tinyLemur(data, { content: { bank: { p: 100, q: 100, dedup: false } }, ...still });
    const [a, b] = [await stepOf(once, some[0]!), await stepOf(each, some[0]!)];
    expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-6 * Math.abs(a.loss));
    expect([...b.gradients.keys()]).toEqual([...a.gradients.keys()]);
    for (const [name, gradient] of a.gradients)
      expect(worstDifference(b.gradients.get(name)!, gradient), name).toBeLessThan(1e-5);
    expect(some[0]!.items.rows.length).toBeLessThan(some[0]!.size);
  });

  it('passes gradient through history rows of the step only where asked to', async () => {
    const shown = withHistory(some[0]!, [...some[0]!.items.rows.slice(0, 3)]);
    const of = async (historyGrad: 'none' | 'joined', training: 'end_to_end' | 'stop_gradient') => {
      using model = tinyLemur(data, { training, content: { bank: { historyGrad } }, ...still });
      return stepOf(model, shown);
    };
    const [none, joined] = [await of('none', 'end_to_end'), await of('joined', 'end_to_end')];
    expect(joined.loss).toBe(none.loss);
    const name = 'content.document.text.norm.weight';
    expect(worstDifference(joined.gradients.get(name)!, none.gradients.get(name)!)).toBeGreaterThan(1e-5);
    const cut = await of('none', 'stop_gradient');
    expect((await of('joined', 'stop_gradient')).gradients).toEqual(cut.gradients);
  });

  it('takes histories of unseen items, empty ones, documents without text or picture, and a batch without positives', async () => {
    const unseen = [...data.items.ids.keys()].filter((item) => !some[0]!.items.rows.includes(item)).slice(0, 2);
    const { items, labels } = some[0]!;
    const nothing: Batch = {
      ...some[0]!,
      items: {
        ...items,
        text: {
          tokens: new Int32Array(0),
          types: new Int32Array(0),
          positions: new Int32Array(0),
          offsets: new Int32Array(items.rows.length + 1),
        },
        image: { ...items.image!, present: new Uint8Array(items.rows.length) },
      },
    };
    const noClick = { ...some[0]!, labels: { click: new Float32Array(some[0]!.size) } };
    expect(labels['click']!.some((y) => y === 1)).toBe(true);
    for (const batch of [withHistory(some[0]!, unseen), withHistory(some[0]!, []), nothing, noClick]) {
      using model = tinyLemur(data);
      using steps = new Steps(model);
      expect(Number.isFinite(numberOf(await steps.take(batch)))).toBe(true);
      expect(Number.isFinite(numberOf(await steps.take(some[1]!)))).toBe(true);
    }
  });

  it('without queries contrasts the latest click with the clicked item', async () => {
    using model = tinyLemur(data, { ...still, sqdc: { weight: 1 } });
    using steps = new Steps(model);
    await steps.takeAll(some.slice(0, 4));
    const silent = { ...some[4]!, queries: null };
    let contrast = Number.NaN;
    const { parts } = tidy(() => ({ parts: model.graph(silent, { ...ranker, step: 5 }).parts }));
    contrast = await parts['sqdc']!.item();
    for (const x of Object.values(parts)) x.dispose();
    expect(contrast).toBeGreaterThan(0);
    // a row without history anchors nothing
    const { parts: none } = tidy(() => ({ parts: model.graph(withHistory(silent, []), { ...ranker, step: 5 }).parts }));
    expect(await none['sqdc']!.item()).toBe(0);
    for (const x of Object.values(none)) x.dispose();
  });

  it('that is not finite leaves weights, optimizer and bank untouched bit for bit', async () => {
    using model = tinyLemur(data);
    using steps = new Steps(model);
    await steps.takeAll(some.slice(0, 2));
    const state = async () => ({
      model: await bytesByName(model.state()),
      optimizer: await bytesByName(steps.optimizer.state()),
    });
    const before = await state();
    const click = some[2]!.labels['click']!.slice();
    click[5] = Number.NaN;
    expect(numberOf(await steps.take({ ...some[2]!, labels: { ...some[2]!.labels, click } }))).toBe(Number.NaN);
    const after = await state();
    const { skipped_steps: count, ...rest } = after.optimizer;
    const { skipped_steps: countBefore, ...restBefore } = before.optimizer;
    expect([count, countBefore]).toEqual(['01000000', '00000000']);
    expect({ ...after, optimizer: rest }).toEqual({ ...before, optimizer: restBefore });
    expect(Number.isFinite(numberOf(await steps.take(some[3]!)))).toBe(true);
  });

  it('refuses a bank that may lose targets, and gradient to rounded rows', () => {
    expect(() => tinyLemur(data, { content: { bank: { capacity: 10 } } })).toThrow(/capacity 66 for 60 items/);
    tinyLemur(data, { content: { bank: { capacity: 10, p: 100 } } }).dispose();
    const rounded: LemurChanges = { content: { bank: { dtype: 'bfloat16', historyGrad: 'joined' } } };
    expect(() => tinyLemur(data, rounded)).toThrow(/float32 for history_grad joined/);
  });
});

describe('training modes of LEMUR', () => {
  it('end_to_end with a still encoder and a full bank, and stop_gradient without contrast, are frozen bit for bit', async () => {
    const runs: unknown[] = [];
    for (const training of ['frozen', 'stop_gradient', 'end_to_end'] as const) {
      using model = tinyLemur(data, { training, sqdc: { weight: 0 } });
      using steps = new Steps(model, { dense: 0.01, encoder: 0 });
      await fillTable(model, data);
      const losses = await steps.takeAll(some);
      const outside = new Map([...model.parameters()].filter(([name]) => !name.startsWith('content.')));
      runs.push({ losses, weights: await bytesByName(outside) });
    }
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).toEqual(runs[0]);
  });

  it('only end_to_end passes the ranking gradient to the encoders', async () => {
    for (const training of ['frozen', 'two_stage', 'stop_gradient', 'end_to_end', 'id_only'] as const) {
      using model = tinyLemur(data, { training, sqdc: { weight: 0 } });
      await fillTable(model, data);
      const { gradients } = await stepOf(model, some[0]!);
      const encoders = [...gradients.keys()].filter((name) => name.startsWith('content.'));
      expect([training, encoders.length > 0]).toEqual([training, training === 'end_to_end']);
      expect(model.content === null).toBe(training === 'id_only');
    }
  });
});

describe('evaluation of LEMUR', () => {
  it('reads the bank as it is, encodes what is missing there, and writes nothing', async () => {
    const of = async (evaluation: 'frozen' | 'fresh') => {
      using model = tinyLemur(data, { content: { bank: { p: 30, q: 30, evaluation } } });
      using steps = new Steps(model);
      await steps.takeAll(some);
      const before = await bytesByName(model.state());
      const rows = data.columns.parts.valid;
      const scores = async () =>
        (await predict(model, data, data.loader({ part: 'valid', batchSize: 64 }), rows, steps.step)).logits;
      const [first, second] = [await scores(), await scores()];
      expect(second).toEqual(first);
      expect(await bytesByName(model.state())).toEqual(before);
      return first;
    };
    expect(worstDifference(await of('frozen'), await of('fresh'))).toBeGreaterThan(1e-4);
  });
});

async function stepsOf(trainer: Trainer): Promise<number> {
  let steps = 0;
  for await (const event of trainer.run()) if (event.type === 'step') steps++;
  return steps;
}

describe('a training run of LEMUR', () => {
  const settings: Partial<TrainSettings> = {
    epochs: 2,
    batchSize: 64,
    evalBatchSize: 100,
    learningRates: { dense: 0.01, sparse: 0.01, encoder: 0.01, lora: 0.01 },
  };

  it.each(['end_to_end', 'two_stage'] as const)(
    'resumes to the bytes of the uninterrupted one: %s',
    async (training) => {
      const changes: LemurChanges = { training, content: { bank: { maxAge: 6 } } };
      const whole = tinyLemur(data, changes);
      await using uninterrupted = new Trainer({ model: whole, data, settings });
      await stepsOf(uninterrupted);
      using folder = temporaryFolder();
      const runDir = join(folder.path, 'run');
      using stopped = tinyLemur(data, changes);
      {
        await using trainer = new Trainer({ model: stopped, data, settings, runDir });
        const stop = new AbortController();
        try {
          for await (const event of trainer.run({ signal: stop.signal }))
            if (event.type === 'step' && event.step === 17) stop.abort();
        } catch (error) {
          if (error !== stop.signal.reason) throw error;
        }
      }
      using resumed = tinyLemur(data, changes);
      await using trainer = new Trainer({ model: resumed, data, settings, runDir, resume: true });
      await stepsOf(trainer);
      expect(await bytesByName(resumed.state())).toEqual(await bytesByName(whole.state()));
      expect(trainer.encoderCalls).toEqual(uninterrupted.encoderCalls);
      const { rows, slots, distinct, items, live } = trainer.encoderCalls;
      expect([slots > rows, rows > items, distinct > items, items > live]).toEqual([true, true, true, true]);
      whole.dispose();
    },
  );
});

describe('popularityDeciles', () => {
  it('ranks the items of train into ten parts, the rarest first', () => {
    const counts = Int32Array.from({ length: 21 }, (_, item) => 20 - item);
    expect([...popularityDeciles(counts)]).toEqual(
      Array.from({ length: 21 }, (_, item) => (item === 20 ? 0 : 9 - Math.floor(item / 2))),
    );
  });
});
