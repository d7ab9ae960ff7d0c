/** Exports of models that read given vectors: as inputs of the ranker, as content, and both. */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ArgumentError, ExportMismatchError, MemoryBankFullError } from '../../src/errors.js';
import { encodeNpy } from '../../src/io/npy.js';
import { readSafetensors, viewAs } from '../../src/io/safetensors.js';
import { exportRun } from '../../src/serve/export_run.js';
import { type EncodedItems, ItemEncoder, type NewItem } from '../../src/serve/item_encoder.js';
import { Predictor, type PredictRequest } from '../../src/serve/predictor.js';
import { type ConfigInput, resolveConfig } from '../../src/train/config.js';
import { runConfig, runData, trainRun } from '../../src/train/run.js';
import { temporaryFolder } from '../train/tiny_shop.js';
import { evaluatedLogits } from './served_shop.js';

const cpu = { device: 'cpu' } as const;
const ITEMS = 24;
/** Items of the files of vectors: the last two have none. */
const GIVEN = 22;
const dims = { image_feat: 6, text_feat: 4 };
const root = temporaryFolder();
const folder = join(root.path, 'set');
afterAll(() => root[Symbol.dispose]());

/** The row of a file of vectors. */
function givenRow(name: keyof typeof dims, item: number): Float32Array {
  const dim = dims[name];
  return Float32Array.from({ length: dim }, (_, d) => Math.sin(1 + 7 * (item * dim + d)));
}

const title = (item: number): string => `word${item % 5} thing${item % 3}`;

beforeAll(() => {
  mkdirSync(folder);
  const itemOf = (i: number): number => (5 * i + (i >> 3)) % ITEMS;
  const events = Array.from({ length: 260 }, (_, i) => `u${i % 8}\ti${itemOf(i)}\t${(i * i) % 3 ? 1 : 0}\t${i}`);
  const inter = `user_id:token\titem_id:token\tclick:float\ttimestamp:float\n${events.join('\n')}\n`;
  writeFileSync(join(folder, 'set.inter'), inter);
  const rows = Array.from({ length: ITEMS }, (_, i) => `i${i}\tc${i % 3}\t${i / 4}\t${title(i)}`);
  writeFileSync(
    join(folder, 'set.item'),
    `item_id:token\tcategory:token\tprice:float\ttitle:token_seq\n${rows.join('\n')}\n`,
  );
  const users = Array.from({ length: 8 }, (_, u) => `u${u}\tcity${u % 3}\t${20 + u}`);
  writeFileSync(join(folder, 'set.user'), `user_id:token\tcity:token\tage:float\n${users.join('\n')}\n`);
  for (const name of ['image_feat', 'text_feat'] as const) {
    const data = Float32Array.from(Array.from({ length: GIVEN }, (_, item) => [...givenRow(name, item)]).flat());
    writeFileSync(join(folder, `${name}.npy`), encodeNpy({ dtype: 'float32', shape: [GIVEN, dims[name]], data }));
  }
  writeFileSync(join(folder, 'cold.txt'), Array.from({ length: 6 }, (_, i) => `i${ITEMS - 6 + i}\n`).join(''));
  writeFileSync(join(folder, 'ids.txt'), Array.from({ length: GIVEN }, (_, i) => `i${i}\n`).join(''));
});

type ModelInput = NonNullable<ConfigInput['model']>;
const small: ModelInput = {
  encoder: { width: 16, layers: 1, heads: 2, ffn: 16 },
  fusion: { width: 16, heads: 2, layers: 1, queries: 2 },
  history_len: 12,
  mlp: [16],
  embedding_dim: 16,
};
const both = ['image_feat', 'text_feat'];

let runs = 0;
/** Folder of a trained run. */
async function trained(model: ModelInput): Promise<string> {
  const run = join(root.path, `run${runs++}`);
  const config = resolveConfig({
    object: {
      data: { path: folder, label: { column: 'click' }, cold_items: 'cold.txt' },
      feature_cols: [
        { name: 'user_id', type: 'categorical' },
        { name: 'item_id', type: 'categorical' },
        { name: 'category', type: 'categorical', source: 'item' },
        { name: 'price', type: 'numeric', source: 'item' },
        { name: 'city', type: 'categorical', source: 'user' },
        { name: 'age', type: 'numeric', source: 'user' },
        { name: 'title', type: 'text', source: 'item', max_len: 4 },
        { name: 'history', type: 'history', of: 'item_id', share_embedding: 'item_id', max_len: 9 },
        { name: 'image_feat', type: 'embedding', file: 'image_feat.npy' },
        { name: 'text_feat', type: 'embedding', file: 'text_feat.npy' },
      ],
      model: { ...small, ...model },
      train: { epochs: 1, train_batch_size: 32 },
    },
  });
  (await trainRun(config, { runDir: run })).model.dispose();
  return run;
}

/** A request per row of the test part, by its event. */
async function testRows(run: string): Promise<Map<number, PredictRequest>> {
  await using data = await runData(runConfig(run).config);
  const requests = new Map<number, PredictRequest>();
  for await (const { size, events, user, items, history } of data.openTest().loader({ batchSize: 64 }))
    for (let b = 0; b < size; b++) {
      const { values, offsets, gaps } = history!;
      const past = [offsets[b]!, offsets[b + 1]!] as const;
      requests.set(events[b]!, {
        user: data.userIds[user[b]!]!,
        history: Array.from(values.slice(...past), (item) => data.items.ids[item]!),
        historyGaps: Array.from(gaps!.slice(...past)),
        candidates: [data.items.ids[items.rows[items.index[b]!]!]!],
      });
    }
  return requests;
}

async function scoresOf(predictor: Predictor, rows: ReadonlyMap<number, PredictRequest>): Promise<Map<number, number>> {
  const scored = [...rows].map(async ([event, request]) => {
    const { scores } = await predictor.predict(request);
    return [event, scores[0]!] as const;
  });
  return new Map(await Promise.all(scored));
}

/** What a catalogue knows of item `i<n>`. */
function catalogue(ids: readonly string[]): NewItem[] {
  return ids.map((id) => {
    const item = Number(id.slice(1));
    const vector = (name: keyof typeof dims) => (item < GIVEN ? givenRow(name, item) : null);
    return {
      id,
      fields: { title: title(item), category: `c${item % 3}`, price: item / 4 },
      vectors: { image_feat: vector('image_feat'), text_feat: vector('text_feat') },
    };
  });
}

const cases: [string, ModelInput][] = [
  ['inputs of DIN', { ranker: 'din', training: 'id_only', modalities: ['text'] }],
  ['inputs of DCNv2', { ranker: 'dcnv2', training: 'id_only', modalities: ['text'] }],
  ['inputs of EM3 over titles', { ranker: 'din', modalities: ['text'] }],
  ['inputs of LEMUR over titles', { name: 'lemur', modalities: ['text'], sequences: { short: 4, long: 12 } }],
  ['content of EM3', { ranker: 'din', modalities: both }],
  ['content of EM3, lora_block', { ranker: 'dnn', modalities: both, lora: { mode: 'lora_block', rank: 2 } }],
  ['content and titles, shared', { ranker: 'din', modalities: [...both, 'text'], lora: { mode: 'shared' } }],
  ['one as content, one as input', { ranker: 'dcnv2', modalities: ['image_feat'] }],
  [
    'one as both, one unread',
    {
      ranker: 'din',
      modalities: ['image_feat'],
      features: ['user_id', 'item_id', 'history', 'image_feat'],
    },
  ],
];

describe('exports of given vectors', () => {
  it.each(cases)(
    '%s: scores are those of the evaluation to the last bit, also of items added later',
    async (_, model) => {
      const run = await trained(model);
      const [all, train] = [`${run}.all`, `${run}.train`];
      await exportRun({ run, out: all, ...cpu });
      await exportRun({ run, out: train, items: 'train', ...cpu });
      const rows = await testRows(run);
      const expected = await evaluatedLogits(run);
      expect(expected.size).toBeGreaterThan(20);
      for (const mapped of [false, true]) {
        rmSync(join(all, 'encoder.safetensors'), { force: true });
        await using predictor = await Predictor.open(all, { ...cpu, mapped });
        expect(await scoresOf(predictor, rows)).toEqual(expected);
        // Tokens of an item without any content are zeros, which are no vector.
        for (const id of predictor.pending()) expect(['i22', 'i23']).toContain(id);
      }
      await using predictor = await Predictor.open(train, cpu);
      const before = await scoresOf(predictor, rows);
      expect(before).not.toEqual(expected);
      using encoder = await ItemEncoder.open(train, cpu);
      const waiting = predictor.pending();
      if (model.training === 'id_only') {
        expect(waiting).toEqual([]);
        const encoded = await encoder.encode(catalogue(Array.from({ length: ITEMS }, (_, i) => `i${i}`)));
        expect(encoded.width).toBe(0);
        await predictor.add(structuredClone(encoded));
      } else {
        expect(waiting.length).toBeGreaterThan(0);
        await predictor.encodePending(encoder, catalogue);
      }
      expect(await scoresOf(predictor, rows)).toEqual(expected);
    },
  );
});

describe('an export whose ranker reads given vectors', () => {
  let ids: string;
  let content: string;
  beforeAll(async () => {
    const runIds = await trained({ ranker: 'din', training: 'id_only', modalities: ['text'] });
    const runContent = await trained({ ranker: 'dcnv2', modalities: ['image_feat'] });
    [ids, content] = [`${runIds}.export`, `${runContent}.export`];
    await exportRun({ run: runIds, out: ids, ...cpu });
    await exportRun({ run: runContent, out: content, ...cpu });
  });
  const items = (...vectors: NewItem['vectors'][]): NewItem[] =>
    vectors.map((given, i) => ({ id: `new${i}`, ...(given === undefined ? {} : { vectors: given }) }));
  const request = { user: 'u1', history: ['i2', 'i5'], candidates: ['new0', 'new1', 'new2', 'i3'] };

  it('holds the rows of items that have one, of the features that it reads', async () => {
    const tensors = await readSafetensors(join(content, 'given.safetensors'));
    expect([...tensors.keys()].sort()).toEqual(['text_feat.items', 'text_feat.vectors']);
    expect(viewAs(tensors.get('text_feat.items')!, 'I32')).toHaveLength(GIVEN);
    expect(tensors.get('text_feat.vectors')!.shape).toEqual([GIVEN, dims.text_feat]);
    const { files } = JSON.parse(readFileSync(join(content, 'signature.json'), 'utf8')) as { files: object };
    expect(Object.keys(files)).toContain('given.safetensors');
    expect(existsSync(join(ids, 'encoder.safetensors'))).toBe(false);
  });

  it('scores new items by the vectors that they bring, and keeps those that a later call does not bring', async () => {
    for (const folder of [ids, content]) {
      await using predictor = await Predictor.open(folder, { ...cpu, room: 3 });
      using encoder = await ItemEncoder.open(folder, cpu);
      const vector = givenRow('text_feat', 3);
      const unknown = await predictor.predict(request);
      const one = { text_feat: vector, image_feat: givenRow('image_feat', 3) };
      await predictor.add(await encoder.encode(items(one, { ...one, text_feat: null }, undefined)));
      const known = await predictor.predict(request);
      expect(known.scores[0]).not.toBe(unknown.scores[0]);
      expect(known.scores[0]).not.toBe(known.scores[1]);
      expect(known.scores[3]).toBe(unknown.scores[3]);
      await predictor.add(await encoder.encode([{ id: 'new0', vectors: { image_feat: one.image_feat } }]));
      expect((await predictor.predict(request)).scores[0]).toBe(known.scores[0]);
      // An item of the table too: what is brought replaces what the export has.
      const changed = { image_feat: one.image_feat, text_feat: vector.map((x) => x + 1) };
      await predictor.add(await encoder.encode([{ id: 'i3', vectors: changed }]));
      expect((await predictor.predict(request)).scores[3]).not.toBe(known.scores[3]);
      const more = items(one, one, one, one);
      await expect(predictor.add(await encoder.encode(more))).rejects.toThrow(MemoryBankFullError);
    }
  });

  it('takes in all items of a call or none: a field of another kind is refused by item, and leaves scores as they are', async () => {
    for (const folder of [ids, content]) {
      await using predictor = await Predictor.open(folder, cpu);
      using encoder = await ItemEncoder.open(folder, cpu);
      const before = await predictor.predict(request);
      const vectors = { text_feat: givenRow('text_feat', 3), image_feat: givenRow('image_feat', 3) };
      const priced = (price: string | number): NewItem[] => [
        { id: 'new0', fields: { price: 2 }, vectors },
        { id: 'new1', fields: { price }, vectors },
      ];
      const refused = predictor.add(await encoder.encode(priced('cheap')));
      await expect(refused).rejects.toThrow('item new1: feature price: expected a finite number but received cheap');
      await expect(refused).rejects.toThrow(ArgumentError);
      const { items, added, unknownValues } = predictor.stats();
      expect({ items, added }).toEqual({ items: ITEMS, added: 0 });
      expect((await predictor.predict(request)).scores).toEqual(before.scores);
      await predictor.add(await encoder.encode(priced(3)));
      // Those of requests alone are counted.
      expect(predictor.stats()).toMatchObject({ items: ITEMS + 2, added: 2, unknownValues });
      expect((await predictor.predict(request)).scores).not.toEqual(before.scores);
    }
  });

  it('counts as unknown what a request says and nobody knew, not what it leaves to the user table', async () => {
    await using predictor = await Predictor.open(ids, cpu);
    const scoresIn = async (context: PredictRequest['context']): Promise<Float32Array> =>
      (await predictor.predict({ ...request, ...(context && { context }) })).scores;
    const known = await scoresIn({});
    expect(await scoresIn({ city: 'city1' })).toEqual(known);
    expect(predictor.stats().unknownValues).toBe(0);
    expect(await scoresIn({ city: 'nowhere' })).not.toEqual(known);
    expect(await scoresIn({ city: null })).not.toEqual(known);
    expect(predictor.stats().unknownValues).toBe(2);
  });

  it('refuses vectors of another width', async () => {
    await using predictor = await Predictor.open(content, cpu);
    using encoder = await ItemEncoder.open(content, cpu);
    const two = await encoder.encode(items({ image_feat: givenRow('image_feat', 1) }, {}));
    await expect(predictor.add({ ...two, ids: two.ids.slice(1) })).rejects.toThrow(
      `Predictor.add: expected vectors of 1 x ${two.width} numbers but received ${2 * two.width}`,
    );
  });

  it('forgets who waited where it goes over to an export that encodes nothing', async () => {
    await using predictor = await Predictor.open(content, cpu);
    await predictor.predict(request);
    expect(predictor.pending()).toEqual(['new0', 'new1', 'new2']);
    await predictor.refresh(ids);
    expect(predictor.pending()).toEqual([]);
  });

  it('refuses blocks of no items', async () => {
    using encoder = await ItemEncoder.open(content, cpu);
    for (const block of [0, -1, 0.5, Number.NaN])
      await expect(encoder.encode(items({}), { block })).rejects.toThrow(
        `ItemEncoder: expected block to be a positive integer but received ${block}`,
      );
  });

  it('refuses given vectors of another name, length or kind, and values that are not finite', async () => {
    using encoder = await ItemEncoder.open(ids, cpu);
    const refusal = (vectors: object): Promise<EncodedItems> =>
      encoder.encode(items({}, vectors as Record<string, Float32Array>));
    await expect(refusal({ image_feat: new Float32Array(4) })).rejects.toThrow(ArgumentError);
    await expect(refusal({ image_feat: new Float32Array(4) })).rejects.toThrow(
      'ItemEncoder: item new1: expected vectors.image_feat of 6 numbers but received 4',
    );
    await expect(refusal({ sound: new Float32Array(4) })).rejects.toThrow(
      'ItemEncoder: item new1: expected vectors image_feat, text_feat but received sound',
    );
    await expect(refusal({ text_feat: Float32Array.of(0, 1, Number.NaN, 3) })).rejects.toThrow(
      'ItemEncoder: item new1: expected finite numbers in vectors.text_feat but received NaN at position 2',
    );
    await expect(refusal({ text_feat: [0, 1, 2, 3] })).rejects.toThrow(
      'ItemEncoder: item new1: expected vectors.text_feat to be a Float32Array but received Array',
    );
    await using predictor = await Predictor.open(ids, cpu);
    const good = await encoder.encode(items({ text_feat: givenRow('text_feat', 1) }));
    const given = good.given['text_feat']!;
    const altered = (text_feat: typeof given): EncodedItems => ({ ...good, given: { ...good.given, text_feat } });
    await expect(predictor.add(altered({ ...given, values: given.values.map(() => Number.NaN) }))).rejects.toThrow(
      'Predictor.add: expected finite numbers in given.text_feat of item new0 but received NaN',
    );
    await expect(predictor.add(altered({ ...given, values: new Float32Array(3) }))).rejects.toThrow(
      'Predictor.add: expected given.text_feat of 1 x 4 numbers but received 3',
    );
    await expect(predictor.add({ ...good, text: new Uint8Array(0) })).rejects.toThrow(
      'Predictor.add: expected text to say of 1 items which have one but received 0',
    );
    expect(predictor.stats().added).toBe(0);
    await predictor.add(good);
    expect(predictor.stats()).toMatchObject({ added: 1, refusedVectors: 0 });
  });

  it('is refused where the file of vectors is missing, altered or of another export', async () => {
    const copy = join(root.path, 'copy');
    cpSync(ids, copy, { recursive: true });
    const path = join(copy, 'given.safetensors');
    const whole = readFileSync(path);
    writeFileSync(path, whole.with(whole.length - 2, whole.at(-2)! ^ 1));
    await expect(Predictor.open(copy, cpu)).rejects.toThrow(/given\.safetensors: expected SHA-256/);
    cpSync(join(content, 'given.safetensors'), path);
    await expect(Predictor.open(copy, cpu)).rejects.toThrow(/given\.safetensors: expected to belong to model/);
    rmSync(path);
    await expect(Predictor.open(copy, cpu)).rejects.toThrow(/given\.safetensors is missing/);
    await expect(Predictor.open(copy, cpu)).rejects.toThrow(ExportMismatchError);
  });
});
