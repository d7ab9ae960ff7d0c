import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildDataset, type DatasetOptions } from '../../src/data/build_dataset.js';
import type { Dataset } from '../../src/data/dataset.js';
import { Entity } from '../../src/data/entity.js';
import { rankTimes } from '../../src/data/events.js';
import { type FeatureSpec } from '../../src/data/features.js';
import type { ImageReader } from '../../src/data/images/image_reader.js';
import { emptyImageStore } from '../../src/data/images/image_store.js';
import { digestsOf, inputFiles } from '../../src/data/input_files.js';
import { datasetFromShop, type LoadOptions, loadDataset, SHOP_FEATURES } from '../../src/data/load_dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { featureNamed, featuresOf } from '../../src/data/schema.js';
import { generateShop } from '../../src/data/shop/shop.js';
import { writeShop } from '../../src/data/shop/shop_files.js';
import type { Column, Table } from '../../src/data/tables/table.js';
import { atOnce } from '../../src/data/turns.js';
import { ArgumentError, ConfigError, DataError, IdError } from '../../src/errors.js';
import { sharedData } from '../shared_data.js';

async function collect(loader: AsyncIterable<Batch>): Promise<Batch[]> {
  const out: Batch[] = [];
  for await (const batch of loader) out.push(batch);
  return out;
}

const inProcess = { workers: 0 } as const;

describe('the generated shop as a data set', () => {
  const shop = generateShop({ seed: 1, items: 200, users: 40, sessions: 1200 });
  let data: Dataset;
  beforeAll(async () => {
    data = await datasetFromShop(shop, inProcess);
  });
  afterAll(async () => data[Symbol.asyncDispose]());

  it('has its parts, new items and schema', () => {
    expect(data.sizes).toEqual({ train: 5400, valid: 720, test: 1080 });
    expect(data.items.cold).toEqual(shop.items.cold);
    expect(data.schema).toMatchObject({ userId: 'user_id', itemId: 'item_id', labels: ['click', 'buy'], items: 200 });
    expect(data.schema.features.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'user_id categorical',
      'item_id categorical',
      'query_id categorical',
      'history history',
      'price numeric',
      'query text',
      'item_text text',
      'picture image',
    ]);
    const distinct = new Set(shop.sessions.queryId);
    expect(data.schema.queries).toBe(distinct.size);
    expect(featuresOf(data.schema, 'image')[0]!.size).toBe(32);
    expect(featuresOf(data.schema, 'text').map(({ fields }) => fields.length)).toEqual([1, 2]);
    expect(data.leakChecks.map(({ rule, ok }) => `${rule} ${String(ok)}`)).toEqual([
      ...['L1 true', 'L2 true', 'L3 true', 'L4 true', 'L5 true', 'L6 true'],
      ...['L7 null', 'L8 null', 'L9 null', 'L10 true'],
    ]);
  });

  it('maps unseen ids to one row, and no new item to another', () => {
    const feature = featureNamed(data.schema, 'item_id');
    const seen = new Set([...data.columns.parts.train].map((row) => shop.events.item[row]));
    expect(feature).toMatchObject({ vocabularySize: seen.size + 1, embeddingDim: 32 });
    const rows = data.columns.categorical.find(({ name }) => name === 'item_id')!.rows;
    rows.forEach((row, item) => expect(row === 0).toBe(!seen.has(item)));
    expect(data.items.trainCount.reduce((sum, count) => sum + count, 0)).toBe(5400);
  });

  it('gives batches of whole sessions with clicks of earlier sessions as history', async () => {
    const { events } = shop;
    const batches = await collect(data.loader({ part: 'train', unit: 'session', batchSize: 128 }));
    expect(batches.map((batch) => batch.size)).toEqual([768, 768, 768, 768, 768, 768, 768, 24]);
    for (const batch of batches.slice(0, 2)) {
      for (let b = 0; b < batch.size; b++) {
        const event = batch.events[b]!;
        const item = events.item[event]!;
        expect(batch.labels.click![b]).toBe(events.click[event]);
        expect(batch.labels.buy![b]).toBe(events.buy[event]);
        expect(batch.items.rows[batch.items.index[b]!]).toBe(item);
        expect(batch.session[b]).toBe(events.session[event]);
        const clicks: number[] = [];
        for (let row = 0; row < 6 * events.session[event]!; row++) {
          if (events.user[row] === events.user[event] && events.click[row]) clicks.push(events.item[row]!);
        }
        const { values, offsets } = batch.history!;
        expect([...values.subarray(offsets[b], offsets[b + 1])]).toEqual(clicks.slice(-20));
        const query = batch.queries!.rows[batch.queries!.index[b]!]!;
        const words = shop.sessions.query[events.session[event]!]!.split(' ').length;
        const text = data.columns.queryText!;
        expect(text.offsets[query + 1]! - text.offsets[query]!).toBe(words + 1);
      }
      batch.items.rows.forEach((item, u) => {
        const pixels = shop.items.pictures.subarray(item * 3072, (item + 1) * 3072);
        expect(batch.items.image!.present[u]).toBe(1 - shop.items.pictureMissing[item]!);
        expect(Buffer.compare(batch.items.image!.pixels.subarray(u * 3072, (u + 1) * 3072), pixels)).toBe(0);
      });
    }
  });

  it('standardises prices with the train part', () => {
    const { mean, deviation } = featuresOf(data.schema, 'numeric')[0]!;
    const prices = [...data.columns.parts.train].map((row) => shop.items.price[shop.events.item[row]!]!);
    const average = prices.reduce((sum, price) => sum + price, 0) / prices.length;
    expect(mean).toBeCloseTo(average, 9);
    expect(deviation).toBeCloseTo(
      Math.sqrt(prices.reduce((sum, price) => sum + (price - average) ** 2, 0) / prices.length),
      9,
    );
    expect(data.columns.numeric[0]!.values[3]).toBeCloseTo((shop.items.price[3]! - mean) / deviation, 5);
  });

  it('learns words from train items and queries only', () => {
    const tokenizer = data.text.item!.tokenizer;
    const coldOnly = [...shop.items.title.entries()]
      .filter(([item]) => shop.items.cold[item])
      .flatMap(([, title]) => title.split(' '));
    const trained = new Set(
      [...data.columns.parts.train].flatMap((row) => shop.items.title[shop.events.item[row]!]!.split(' ')),
    );
    const strangers = coldOnly.filter((word) => !trained.has(word));
    for (const word of strangers) expect(tokenizer.encode(word)).toEqual([tokenizer.special.unk]);
    expect(strangers.length).toBeGreaterThan(0);
  });

  it('keeps test sealed and counts its openings', async () => {
    expect(data.testOpenings).toBe(0);
    const test = data.openTest();
    expect([test.opening, data.testOpenings, test.rows.length]).toEqual([1, 1, 1080]);
    const batches = await collect(test.loader({ batchSize: 500 }));
    expect(batches.map(({ part, size }) => `${part} ${size}`)).toEqual(['test 500', 'test 500', 'test 80']);
    expect(batches.flatMap((batch) => [...batch.events])).toEqual([...test.rows]);
    expect(data.openTest().opening).toBe(2);
  });

  it('gives content of any items, to encode the catalogue', async () => {
    const { text, image } = await data.itemContent([7, 3]);
    expect(text!.offsets.length).toBe(3);
    expect(Buffer.compare(image!.pixels.subarray(3072), shop.items.pictures.subarray(3 * 3072, 4 * 3072))).toBe(0);
  });

  it('has a digest of everything: equal options, equal digest; one pixel, another', async () => {
    await using same = await loadDataset({ shop: { seed: 1, items: 200, users: 40, sessions: 1200 } }, inProcess);
    expect([same.digest, same.splitManifest]).toEqual([data.digest, data.splitManifest]);
    const pictures = shop.items.pictures.slice();
    pictures[5]! ^= 1;
    await using other = await datasetFromShop({ ...shop, items: { ...shop.items, pictures } }, inProcess);
    expect(other.digest).not.toBe(data.digest);
    expect(other.splitManifest).toEqual(data.splitManifest);
  });
});

describe('the generated shop through files', () => {
  it('gives the same batches as the shop in memory', async () => {
    const shop = generateShop({ seed: 2, items: 40, users: 10, sessions: 60 });
    const path = await mkdtemp(join(tmpdir(), 'galago-shop-'));
    try {
      const { validFromTime, testFromTime } = await writeShop(shop, path);
      const features = SHOP_FEATURES.map((spec) => (spec.type === 'image' ? { ...spec, name: 'image' } : spec));
      await using memory = await datasetFromShop(shop, { ...inProcess, features });
      await using files = await loadDataset(path, {
        ...inProcess,
        features,
        session: 'session_id',
        query: 'query_id',
        labels: [{ column: 'click' }, { column: 'buy' }],
        split: { kind: 'TS', validFrom: validFromTime, testFrom: testFromTime },
        history: { parts: 'past' },
        seed: 2,
      });
      expect(files.schema).toEqual(memory.schema);
      for (const part of ['train', 'valid'] as const) {
        const options = { part, batchSize: 16, unit: part === 'train' ? ('session' as const) : ('row' as const) };
        expect(await collect(files.loader(options))).toEqual(await collect(memory.loader(options)));
      }
      expect(files.splitManifest.parts).toEqual(memory.splitManifest.parts);
      expect(Object.keys(files.splitManifest.files)).toEqual(['shop.inter', 'shop.item', 'shop.user']);
    } finally {
      await rm(path, { recursive: true });
    }
  });
});

describe('a RecBole folder', () => {
  const inter = [
    'user_id:token\titem_id:token\trating:float\ttimestamp:float',
    'u1\ta\t5\t10',
    'u1\tb\t3\t20',
    'u1\tc\t4\t30',
    'u1\td\t4\t40',
    'u2\tb\t5\t10',
    'u2\ta\t1\t15',
    'u2\tz\t4\t25',
    'u2\tc\t4\t35',
  ];
  const item = [
    'item_id:token\ttitle:token_seq\tgenres:token_seq\tprice:float\timage:token',
    'a\tRed lamp\thome light\t2\t',
    'b\tBlue lamp\thome\t\t',
    'c\tGreen chair\thome seat wood\t6\t',
    'd\tRed scarf\twear\t4\t',
    'never\tBlue bag\twear\t4\t',
  ];
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'galago-data-'));
  });
  afterAll(async () => rm(root, { recursive: true }));

  let folders = 0;
  async function folder(files: Record<string, readonly string[]>): Promise<string> {
    const path = join(root, `set${folders++}`);
    await mkdir(path);
    for (const [name, lines] of Object.entries(files)) await writeFile(join(path, name), `${lines.join('\n')}\n`);
    return path;
  }
  const features: FeatureSpec[] = [
    { name: 'user_id', type: 'categorical' },
    { name: 'item_id', type: 'categorical' },
    { name: 'genres', type: 'sequence', source: 'item', maxLen: 2 },
    { name: 'price', type: 'numeric', source: 'item' },
    { name: 'title', type: 'text', source: 'item', maxLen: 4 },
    { name: 'history', type: 'history', of: 'item_id', shareEmbedding: 'item_id', maxLen: 3 },
  ];
  async function open(
    options: LoadOptions = {},
    files: Record<string, readonly string[]> = { 'x.inter': inter, 'x.item': item },
  ): Promise<Dataset> {
    return loadDataset(await folder(files), {
      ...inProcess,
      features,
      split: { kind: 'LS' },
      text: { minCount: 1 },
      ...options,
    });
  }

  it('joins items, appends those without a row, thresholds the label, counts what it fills and cuts', async () => {
    await using data = await open();
    expect(data.items.ids).toEqual(['a', 'b', 'c', 'd', 'never', 'z']);
    expect([...data.split.part]).toEqual([0, 0, 1, 2, 0, 0, 1, 2]);
    expect([...data.items.cold]).toEqual([0, 0, 1, 1, 1, 1]);
    expect(data.counters).toMatchObject({
      itemsWithoutRow: 1,
      'missing:price': 2,
      'truncated:genres': 1,
      'missingText:item': 1,
    });
    expect([...data.positive]).toEqual([1, 0, 1, 1, 1, 0, 1, 1]);
    expect(data.schema.labels).toEqual(['rating']);

    const [valid] = await collect(data.loader({ part: 'valid', batchSize: 8 }));
    expect([...valid!.events]).toEqual([2, 6]);
    // c and z are unknown to train; histories hold train positives: u1 a, u2 b.
    expect([...valid!.categorical.item_id!]).toEqual([0, 0]);
    expect([...valid!.history!.values]).toEqual([0, 1]);
    expect([...valid!.sequences.history!.values]).toEqual([1, 2]);
    // c has genres home, seat: home is row 1 of train's home, light; seat is unknown.
    expect([...valid!.sequences.genres!.values]).toEqual([1, 0]);
    // Prices of train events: a 2, b missing, b missing, a 2: mean 2, deviation 0 counts as 1.
    expect([...valid!.numeric.price!]).toEqual([4, 0]);
    expect([...valid!.items.rows]).toEqual([2, 5]);
    expect([...valid!.items.text!.offsets]).toEqual([0, 3, 3]);
    // Test targets also see valid events (history_parts: earlier).
    const [test] = await collect(data.openTest().loader({ batchSize: 8 }));
    expect([...test!.history!.values]).toEqual([0, 2, 1, 5]);
  });

  it('holds listed items out of train', async () => {
    await using data = await open({ split: { kind: 'RS', ratios: [1, 0, 0] }, coldItems: ['c'] });
    expect(data.sizes).toEqual({ train: 6, valid: 0, test: 2 });
    expect([...data.items.cold]).toEqual([0, 0, 1, 0, 0, 0]);
    expect(data.splitManifest).toMatchObject({ rule: 'RS 1/0/0 RO seed 0, 1 new items by list', newItemEvents: 2 });
    expect(data.historyParts).toBe('train');
    expect(Object.keys(data.splitManifest.files)).toEqual(['x.inter', 'x.item']);
  });

  it('samples negatives from train items for train positives', async () => {
    await using data = await open({ split: { kind: 'RS', ratios: [1, 0, 0] }, negatives: { kind: 'uniform', n: 2 } });
    expect(data.sizes.train).toBe(6);
    expect(data.counters.trainRowsWithoutPositive).toBe(2);
    const [batch] = await collect(data.loader({ part: 'train', batchSize: 8 }));
    expect([...batch!.labels.rating!]).toEqual(Array.from({ length: 18 }, (_, i) => (i % 3 === 0 ? 1 : 0)));
  });

  it('takes parts as they are given', async () => {
    const [head, ...rows] = inter;
    const parts = {
      'x.train.inter': [head!, ...rows.slice(0, 4)],
      'x.valid.inter': [head!, ...rows.slice(4, 6)],
      'x.test.inter': [head!, ...rows.slice(6)],
    };
    await using data = await open(
      { files: { benchmarkFilename: ['train', 'valid', 'test'] } },
      { ...parts, 'x.item': item },
    );
    expect(data.sizes).toEqual({ train: 4, valid: 2, test: 2 });
    expect(data.splitManifest.rule).toBe('as given');
  });

  it('chooses label, time and features from the columns', async () => {
    const path = await folder({ 'x.inter': inter, 'x.item': item });
    await mkdir(join(path, 'images'));
    await using data = await loadDataset(path, inProcess);
    expect(data.schema.features.map(({ name, type }) => `${name} ${type}`)).toEqual([
      ...['user_id categorical', 'item_id categorical', 'history history', 'title text', 'genres sequence'],
      ...['price numeric', 'image image'],
    ]);
    expect(data.counters['image:missing']).toBe(6);
  });

  it('keeps id histories without a content history', async () => {
    await using data = await open({ history: { maxLen: 0 } });
    const [valid] = await collect(data.loader({ part: 'valid', batchSize: 8 }));
    expect(valid!.history).toBeNull();
    expect([...valid!.sequences.history!.values]).toEqual([1, 2]);
  });

  it('keeps to max_memory before it reads pictures', async () => {
    const image: FeatureSpec = { name: 'image', type: 'image', size: 1024 };
    const load = open({ features: [...features, image], maxMemory: 1e6 });
    await expect(load).rejects.toThrow(
      /expected columns of at most 1000000 bytes .* need \d+: image 18874368, title 360, histories 192/,
    );
    await expect(load).rejects.toMatchObject({ code: 'HOST_MEMORY', exitCode: 78 });
  });

  it('repeats itself: same files and seed, same digest; another seed, another split', async () => {
    const split = { kind: 'RS', ratios: [0.5, 0.25, 0.25] } as const;
    await using a = await open({ split });
    await using b = await open({ split });
    await using c = await open({ split, seed: 3 });
    expect(a.digest).toBe(b.digest);
    expect(a.splitManifest).toEqual(b.splitManifest);
    expect(c.splitManifest.parts).not.toEqual(a.splitManifest.parts);
  });

  const wrong: [string, Partial<DatasetOptions>, new (...args: never[]) => Error, RegExp][] = [
    [
      'the label as a feature',
      { features: [{ name: 'rating', type: 'numeric' }] },
      DataError,
      /L3 \(feature rating is the label\)/,
    ],
    ['a float id', { userId: 'rating' }, IdError, /expected|float/],
    ['a label without threshold', { labels: [{ column: 'rating' }] }, DataError, /expected 0 or 1/],
    [
      'an unknown column',
      { features: [{ name: 'colour', type: 'categorical', source: 'item' }] },
      DataError,
      /expected one of item_id, title/,
    ],
    ['a missing table', { features: [{ name: 'age', type: 'numeric', source: 'user' }] }, DataError, /age/],
    [
      'a history of nothing',
      { features: [{ name: 'h', type: 'history', of: 'item_id', maxLen: 3 }] },
      DataError,
      /expected of to name/,
    ],
    ['a feature twice', { features: [...features, features[0]!] }, ArgumentError, /user_id once/],
    ['no train events', { split: { kind: 'TS', validFrom: 0, testFrom: 0 } }, DataError, /leaves none of 8/],
  ];
  it.each(wrong)('refuses %s', async (_, options, type, says) => {
    const error = await open(options).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(type);
    expect((error as Error).message).toMatch(says);
  });

  it('refuses equal events in two parts unless they are allowed, and counts those within one', async () => {
    const twice = [...inter, 'u1\ta\t5\t10'];
    const split = { kind: 'given', part: Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 2]) } as const;
    await expect(open({ split }, { 'x.inter': twice, 'x.item': item })).rejects.toThrow(/L10 \(1 equal/);
    await using allowed = await open({ split, allowDuplicates: true }, { 'x.inter': twice, 'x.item': item });
    expect(allowed.leakChecks.find(({ rule }) => rule === 'L10')!.detail).toMatch(/allowed: 1 equal/);
    const within = { kind: 'given', part: new Uint8Array(9) } as const;
    await using counted = await open({ split: within }, { 'x.inter': twice, 'x.item': item });
    expect(counted.leakChecks.find(({ rule }) => rule === 'L10')!.detail).toBe('none in two parts, 1 within a part');
  });

  it('refuses a text that is no decimal number where a number is asked for', async () => {
    for (const text of ['0x5', ' ', '1e999']) {
      const lines = ['user_id:token\titem_id:token\tlabel:token', 'u1\ta\t1', `u1\tb\t${text}`];
      const load = open({ split: { kind: 'RS', ratios: [1, 0, 0] }, time: null }, { 'x.inter': lines, 'x.item': item });
      await expect(load).rejects.toThrow(`label: expected a number but received "${text}" in row 1`);
    }
  });

  it('keeps every digit of times, or refuses', async () => {
    const times = [0n, 1n, 2n, 3n, 300n, 301n].map((more) => 1_700_000_000_000_000_000n + more);
    const lines = (type: string, text = times.map(String)): Record<string, readonly string[]> => ({
      'x.inter': [`user_id:token\titem_id:token\ttimestamp:${type}`, ...text.map((time) => `u\ta\t${time}`)],
    });
    const options: LoadOptions = { features: features.slice(0, 2), split: { kind: 'RS', ratios: [1, 0, 0] } };
    await using words = await open(options, lines('token'));
    expect([...words.events.time]).toEqual([0, 1, 2, 3, 4, 5]);
    await expect(open(options, lines('float'))).rejects.toThrow(/line 2 .* below 2\^53 \(or the type timestamp:token/);
    await expect(open(options, lines('token', ['1.5', String(times[0])]))).rejects.toThrow(/timestamp.* in row 1/);
    await using fractions = await open(options, lines('token', ['1.5', '-2']));
    expect([...fractions.events.time]).toEqual([1, 0]);
    const unsigned = (values: BigUint64Array) => {
      const column = { kind: 'uint64', name: 't', values, missing: null } as const;
      const counters = { bytes: 0, skipped: {}, emptyLines: 0, missing: {} };
      const table = { name: 'x', rows: values.length, columns: new Map([['t', column]]), counters };
      return atOnce(new Entity('inter', values.length, table).timesPass('t'));
    };
    expect(unsigned(BigUint64Array.from(times))).toEqual(BigInt64Array.from(times));
    expect(() => unsigned(BigUint64Array.from([1n, 1n << 63n]))).toThrow(/received 9223372036854775808 in row 1/);
  });

  it('F16: refuses numbers that are not finite, or not as float32', async () => {
    const prices = (...values: string[]) => [
      'item_id:token\tprice:float',
      ...values.map((price, i) => `${'abcd'[i]!}\t${price}`),
    ];
    const opened = (values: string[], transform: 'none' | 'standardize') =>
      open(
        { features: [{ name: 'price', type: 'numeric', source: 'item', transform }] },
        { 'x.inter': inter, 'x.item': prices(...values) },
      );
    await expect(opened(['1', '1e39'], 'none')).rejects.toThrow(/price: .* float32 holds but received 1e\+39 in row 1/);
    await expect(opened(['1', '1e200'], 'standardize')).rejects.toThrow(/price: .* deviation are finite/);
    const infinite = Float64Array.of(1, Number.POSITIVE_INFINITY);
    expect(() => rankTimes(infinite)).toThrow(/row 1 has Infinity/);
  });

  it('counts the words of rows that are longer than a call takes arguments', async () => {
    const words = Array.from({ length: 200_000 }, (_, i) => `w${i % 7}`).join(' ');
    const long = { name: 'genres', type: 'sequence', source: 'item', maxLen: 200_000 } as const;
    await using data = await open(
      { features: [long], history: { maxLen: 0 } },
      { 'x.inter': inter, 'x.item': ['item_id:token\tgenres:token_seq', 'b\tw6 x', `a\t${words}`] },
    );
    const vocabulary = data.vocabularies.get('genres')!;
    expect([vocabulary.size, vocabulary.id(1), vocabulary.id(8)]).toEqual([9, 'w0', 'x']);
    expect([vocabulary.count(1), vocabulary.count(8)]).toEqual([2 * 28_572, 2]); // two train events each
  });

  it('closes the reader of pictures where a later step fails', async () => {
    let closed = 0;
    const reader = { [Symbol.asyncDispose]: async () => void closed++ } as unknown as ImageReader;
    const column = (name: string, values: string[]): Column => ({ kind: 'token', name, values, missing: null });
    const table = (...columns: Column[]): Table => ({
      name: 'x',
      rows: 2,
      columns: new Map(columns.map((one) => [one.name, one])),
      counters: { bytes: 0, skipped: {}, emptyLines: 0, missing: {} },
    });
    const source = {
      ...{ name: 'x', item: null, user: null, files: {} },
      inter: table(column('user_id', ['u', 'v']), column('item_id', ['a', 'b']), column('label', ['1', '0'])),
      pictures: async () => ({ store: emptyImageStore(2, 4), reader, skip: [], counters: {} }),
    };
    const build = buildDataset(source, {
      ...inProcess,
      time: null,
      labels: [{ column: 'label' }],
      features: [
        { name: 'image', type: 'image', size: 4 },
        { name: 'label', type: 'numeric' },
      ],
      split: { kind: 'RS', ratios: [1, 0, 0] },
    });
    await expect(build).rejects.toThrow(/L3/);
    expect(closed).toBe(1);
  });

  it('notices a file that is written while it is read, and stops its digest when aborted', async () => {
    const file = join(await folder({ 'x.inter': inter }), 'x.inter');
    const looked = await inputFiles([file, `${file}.gone`]);
    expect(Object.keys(await digestsOf(looked, () => 'x'))).toEqual(['x']);
    const stopped = digestsOf(looked, () => 'x', AbortSignal.abort(new Error('stop')));
    await expect(stopped).rejects.toThrow('stop');
    await appendFile(file, 'u9\ta\t5\t10\n');
    await expect(digestsOf(looked, () => 'x')).rejects.toMatchObject({ fields: { file, reason: 'changed' } });
  });

  it('refuses given parts that the data do not bring', async () => {
    await expect(open({ split: 'given' })).rejects.toThrow(ConfigError);
    await expect(open({ split: 'given' })).rejects.toThrow('the data bring no parts');
  });

  it('refuses a repeated item row', async () => {
    await expect(open({}, { 'x.inter': inter, 'x.item': [...item, 'a\tRed\thome\t1\t'] })).rejects.toThrow(
      /item_id a once/,
    );
  });
});

const posters = sharedData('ml-latest-small-posters');
describe.skipIf(posters === null)('ml-posters', () => {
  it('loads with its list of cold items held out', async () => {
    const coldItems = (await readFile(join(posters!, 'reference', 'cold_items.txt'), 'utf8')).trim().split('\n');
    await using data = await loadDataset(join(posters!, 'ml-posters'), {
      ...inProcess,
      coldItems,
      seed: 1,
      features: [
        { name: 'user_id', type: 'categorical' },
        { name: 'item_id', type: 'categorical' },
        { name: 'history', type: 'history', of: 'item_id', shareEmbedding: 'item_id', maxLen: 50 },
        { name: 'genres', type: 'sequence', source: 'item', maxLen: 8 },
        { name: 'title', type: 'text', source: 'item', maxLen: 12 },
        { name: 'plot', type: 'text', source: 'item', maxLen: 48 },
      ],
    });
    expect(data.schema).toMatchObject({ users: 671, items: 1670, labels: ['rating'] });
    expect(data.splitManifest).toMatchObject({
      newItemEvents: 6383,
      sizes: { train: 44_849, valid: 5606, test: 5606 + 6383 },
    });
    expect(data.items.cold.reduce((sum, flag) => sum + flag, 0)).toBe(168);
    expect(data.counters).toMatchObject({ itemsWithoutRow: 0, 'split:coldItemsUnknown': 0, 'missingText:item': 0 });
    const [batch] = await collect(data.loader({ part: 'valid', batchSize: 6000 }));
    expect(batch!.size).toBe(5606);
  });
});
