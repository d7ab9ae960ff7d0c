import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PICTURE_SIZE } from '../../src/data/shop/shop_pictures.js';
import {
  ArgumentError,
  DisposedError,
  ExportMismatchError,
  IdError,
  MemoryBankFullError,
  QueueFullError,
} from '../../src/errors.js';
import { exportRun } from '../../src/serve/export_run.js';
import { ItemEncoder, type NewItem } from '../../src/serve/item_encoder.js';
import { Predictor, type PredictRequest } from '../../src/serve/predictor.js';
import { device } from '../../src/tensor.js';
import { openRun } from '../../src/train/open_run.js';
import { evaluatedLogits, shop, type TestRequest, testRequests, trainedRun } from './served_shop.js';

const cpu = { device: 'cpu' } as const;

/** Scores of all requests, by event. */
async function served(predictor: Predictor, requests: readonly TestRequest[]): Promise<Map<number, number>> {
  const scores = await Promise.all(requests.map(({ request }) => predictor.predict(request)));
  return new Map(requests.flatMap(({ events }, r) => events.map((event, i) => [event, scores[r]!.scores[i]!])));
}

/** What a catalogue knows of items of the shop. */
function itemsOfShop(ids: readonly string[]): Promise<NewItem[]> {
  const { title, tags, pictures, pictureMissing } = shop.items;
  const bytes = PICTURE_SIZE ** 2 * 3;
  const raw = { width: PICTURE_SIZE, height: PICTURE_SIZE, channels: 3 } as const;
  return Promise.all(
    ids.map(async (id) => {
      const item = Number(id);
      const pixels = pictures.subarray(item * bytes, (item + 1) * bytes);
      const picture = pictureMissing[item] ? null : await sharp(pixels, { raw }).png().toBuffer();
      return { id, fields: { title: title[item]!, tags: tags[item]! }, picture };
    }),
  );
}

describe('a predictor over an export', () => {
  let run: Awaited<ReturnType<typeof trainedRun>>;
  let requests: Awaited<ReturnType<typeof testRequests>>;
  let all: string;
  let train: string;
  beforeAll(async () => {
    run = await trainedRun();
    requests = await testRequests(run.path);
    all = join(run.folder, 'all');
    train = join(run.folder, 'train');
    await exportRun({ run: run.path, out: all, device: 'cpu' });
    await exportRun({ run: run.path, out: train, items: 'train', device: 'cpu' });
    rmSync(join(all, 'encoder.safetensors'));
  });
  afterAll(() => run[Symbol.dispose]());

  it('gives the logits of the evaluation to the last bit, without the encoders, however requests are batched', async () => {
    expect(existsSync(join(all, 'encoder.safetensors'))).toBe(false);
    const expected = await evaluatedLogits(run.path);
    expect(expected.size).toBeGreaterThan(100);
    for (const maxBatch of [4096, 5, 1]) {
      await using predictor = await Predictor.open(all, { ...cpu, maxBatch });
      expect(await served(predictor, requests)).toEqual(expected);
      expect(predictor.pending()).toEqual([]);
      expect(predictor.stats()).toMatchObject({
        vectors: 40,
        requests: requests.length,
        candidates: expected.size,
        missingCandidates: 0,
        missingHistory: 0,
        unknownUsers: 0,
      });
    }
  });

  it('scores the same from vectors that stay in their file, and takes new items beside them', async () => {
    await using plain = await Predictor.open(train, cpu);
    await using predictor = await Predictor.open(train, { ...cpu, mapped: true });
    expect(predictor.stats()).toMatchObject({ vectors: plain.stats().vectors, ages: plain.stats().ages });
    expect(await served(predictor, requests)).toEqual(await served(plain, requests));
    using encoder = await ItemEncoder.open(train, cpu);
    const before = readFileSync(join(train, 'vectors.safetensors'));
    for (const each of [plain, predictor]) {
      expect(each.pending().length).toBeGreaterThan(0);
      await each.encodePending(encoder, itemsOfShop);
      expect(each.pending()).toEqual([]);
    }
    expect(await served(predictor, requests)).toEqual(await served(plain, requests));
    expect(readFileSync(join(train, 'vectors.safetensors')).equals(before)).toBe(true);
    await predictor.refresh(all);
    await plain.refresh(all);
    expect(await served(predictor, requests)).toEqual(await served(plain, requests));
  });

  it('refuses to map vectors that are not those of the signature', async () => {
    const cut = join(run.folder, 'cut');
    cpSync(train, cut, { recursive: true });
    const file = join(cut, 'vectors.safetensors');
    const bytes = readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(file, bytes);
    await expect(Predictor.open(cut, { ...cpu, mapped: true })).rejects.toThrow(
      /vectors.safetensors: expected SHA-256/,
    );
    truncateSync(file, bytes.length - 4);
    await expect(Predictor.open(cut, { ...cpu, mapped: true })).rejects.toThrow(ExportMismatchError);
    rmSync(file);
    await expect(Predictor.open(cut, { ...cpu, mapped: true })).rejects.toThrow(/vectors.safetensors is missing/);
  });

  it('scores a new item without content, queues it, and by its content after the background pass and not before', async () => {
    await using whole = await Predictor.open(all, cpu);
    await using predictor = await Predictor.open(train, cpu);
    const known = await served(whole, requests);
    const before = await served(predictor, requests);
    const waiting = predictor.pending();
    expect(waiting.length).toBeGreaterThan(0);
    for (const id of waiting) expect(shop.items.cold[Number(id)]).toBe(1);
    // Requests that show a new item, as candidate or in the history.
    const touched = new Set(
      requests.flatMap(({ request, events }) =>
        events.filter((_, i) =>
          [request.candidates[i]!, ...request.history!].some((id) => waiting.includes(String(id))),
        ),
      ),
    );
    for (const [event, score] of before) {
      expect(Number.isFinite(score)).toBe(true);
      expect(score === known.get(event)).toBe(!touched.has(event));
    }
    const { found } = await predictor.predict({ ...requests[0]!.request, candidates: [waiting[0]!] });
    expect([...found]).toEqual([0]);

    // Again the same, until the pass has run.
    expect(await served(predictor, requests)).toEqual(before);
    using encoder = await ItemEncoder.open(train, cpu);
    expect(await predictor.encodePending(encoder, itemsOfShop)).toBe(waiting.length);
    expect(predictor.pending()).toEqual([]);
    // Now what a whole export says, to the last bit.
    expect(await served(predictor, requests)).toEqual(known);
    expect(predictor.stats()).toMatchObject({ added: waiting.length, refusedVectors: 0, pending: 0 });
  });

  it('takes users, queries, items and values that it has never seen', async () => {
    await using predictor = await Predictor.open(all, cpu);
    const candidates = ['1', '2', 'never seen', 3, 4n];
    const { scores, found, step } = await predictor.predict({
      user: 'nobody',
      query: 'a violet teapot',
      history: ['7', 'never clicked'],
      candidates,
    });
    expect(scores).toHaveLength(5);
    expect(scores.every(Number.isFinite)).toBe(true);
    expect([...found]).toEqual([1, 1, 0, 1, 1]);
    expect(step).toBe(predictor.step);
    expect(predictor.pending()).toEqual(['never seen', 'never clicked']);
    expect(predictor.stats()).toMatchObject({
      unknownUsers: 1,
      missingCandidates: 1,
      missingHistory: 1,
      queriesEncoded: 1,
    });
    const other = await predictor.predict({ user: null, query: 'lamp', candidates });
    expect(other.scores).not.toEqual(scores);
    expect((await predictor.predict({ user: null, candidates: [] })).scores).toHaveLength(0);
  });

  it('refuses what is no request, and more than it may hold', async () => {
    await using predictor = await Predictor.open(all, { ...cpu, maxQueued: 3 });
    const user = '1';
    await expect(predictor.predict({ user, candidates: [1.5] })).rejects.toThrow(IdError);
    await expect(predictor.predict({ user, candidates: ['1'], context: { colour: 'red' } })).rejects.toThrow(
      ArgumentError,
    );
    await expect(predictor.predict({ user, candidates: ['1'], query: { query: 7 } })).rejects.toThrow(ArgumentError);
    await expect(predictor.predict({ user, candidates: ['1', '2', '3', '4'] })).rejects.toThrow(QueueFullError);
    for (const wrong of [
      null,
      [],
      { user },
      { user, candidates: '1' },
      { user, candidates: ['1'], history: 3 },
      { user, candidates: ['1'], context: null },
      { user, candidates: ['1'], query: ['a'] },
      { user, candidates: ['1'], history: ['2', '3'], historyGaps: [1] },
      { user, candidates: ['1'], history: ['2'], historyGaps: [Number.NaN] },
    ])
      await expect(predictor.predict(wrong as unknown as PredictRequest)).rejects.toThrow(ArgumentError);
    await expect(predictor.predict({ candidates: ['1'] } as unknown as PredictRequest)).rejects.toThrow(IdError);
    const full = await Promise.allSettled([1, 2].map(() => predictor.predict({ user, candidates: ['1', '2'] })));
    expect(full.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
    expect((await predictor.predict({ user, candidates: ['1', '2', '3'] })).scores).toHaveLength(3);
    expect(predictor.stats().refusedRequests).toBe(2);
  });

  it('takes a picture that cannot be decoded as missing, and says of which item', async () => {
    await using predictor = await Predictor.open(train, cpu);
    using encoder = await ItemEncoder.open(train, cpu);
    await predictor.predict({ user: '1', candidates: ['bad', 'good'] });
    const catalogue = (ids: readonly string[]): NewItem[] =>
      ids.map((id) => ({
        id,
        fields: { title: 'red lamp' },
        ...(id === 'bad' ? { picture: Buffer.from('no picture') } : {}),
      }));
    expect((await encoder.encode(catalogue(['bad', 'good']))).unreadable).toEqual(['bad']);
    expect(await predictor.encodePending(encoder, catalogue)).toBe(2);
    const { found, scores } = await predictor.predict({ user: '1', candidates: ['bad', 'good'] });
    expect([...found]).toEqual([1, 1]);
    expect(scores[0]).not.toBe(Number.NaN);
    // A catalogue that fails: who waited goes to the end.
    await predictor.predict({ user: '1', candidates: ['first', 'second'] });
    const fails = (): never => {
      throw new Error('down');
    };
    await expect(predictor.encodePending(encoder, fails, { limit: 1 })).rejects.toThrow('down');
    expect(predictor.pending()).toEqual(['second', 'first']);
    await predictor[Symbol.asyncDispose]();
    await expect(predictor.add(await encoder.encode([]))).rejects.toThrow(DisposedError);
    await expect(predictor.refresh(all)).rejects.toThrow(/closed before/);
  });

  it('has bounded room for new items', async () => {
    await using predictor = await Predictor.open(train, { ...cpu, room: 1, maxPending: 2 });
    using encoder = await ItemEncoder.open(train, cpu);
    const one = await encoder.encode([{ id: 'x', fields: { title: 'red lamp' } }]);
    await predictor.add({ ...one, ids: ['zero'], vectors: new Float32Array(one.width) }); // refused, so it takes no room
    expect(predictor.stats()).toMatchObject({ added: 0, refusedVectors: 1 });
    await predictor.add(one);
    await predictor.add(one); // the same item again
    await expect(predictor.add(await encoder.encode([{ id: 'y', fields: { title: 'mug' } }]))).rejects.toThrow(
      MemoryBankFullError,
    );
    await predictor.predict({ user: '1', candidates: ['a', 'b', 'c', 'x'] });
    expect(predictor.pending()).toEqual(['a', 'b']);
    expect(predictor.stats()).toMatchObject({ added: 2, pending: 2, pendingForgotten: 1 });
    // What the catalogue does not know waits behind the others.
    expect(await predictor.encodePending(encoder, () => [], { limit: 1 })).toBe(0);
    expect(predictor.pending()).toEqual(['b', 'a']);
    await expect(encoder.encode([{ id: 'z', fields: { weight: 3 } }])).rejects.toThrow(ArgumentError);
  });

  it('goes over to another export while requests run, each on one of the two', async () => {
    const next = await trainedRun({ train: { seed: 11 } });
    try {
      const folder = join(next.folder, 'export');
      await exportRun({ run: next.path, out: folder, device: 'cpu' });
      const [old, fresh] = [await evaluatedLogits(run.path), await evaluatedLogits(next.path)];
      await using predictor = await Predictor.open(all, { ...cpu, maxBatch: 7 });
      const early = served(predictor, requests);
      const refreshed = predictor.refresh(folder);
      const late = refreshed.then(() => served(predictor, requests));
      expect(await early).toEqual(old);
      expect(await late).toEqual(fresh);
      expect(predictor.stats()).toMatchObject({ refreshes: 1 });
      // Vectors of the other export are refused, and a bad one leaves what is served.
      using encoder = await ItemEncoder.open(train, cpu);
      await expect(predictor.add(await encoder.encode(await itemsOfShop(['1'])))).rejects.toThrow(ExportMismatchError);
      await expect(predictor.refresh(join(next.folder, 'nothing'))).rejects.toThrow(ExportMismatchError);
      expect(await served(predictor, requests)).toEqual(fresh);
    } finally {
      next[Symbol.dispose]();
    }
  });

  it('ends what waits when it is closed', async () => {
    const predictor = await Predictor.open(all, { ...cpu, maxBatch: 1 });
    const waiting = requests.slice(0, 5).map(({ request }) => predictor.predict(request));
    const settled = Promise.allSettled(waiting);
    await predictor[Symbol.asyncDispose]();
    for (const result of await settled)
      if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(DisposedError);
    await expect(predictor.predict(requests[0]!.request)).rejects.toThrow(DisposedError);
  });

  it('returns its memory, that of replaced exports included', async () => {
    const round = async (): Promise<void> => {
      await using predictor = await Predictor.open(all, cpu);
      const first = served(predictor, requests);
      await predictor.refresh(train);
      await Promise.all([first, served(predictor, requests)]);
      using encoder = await ItemEncoder.open(train, cpu);
      await predictor.encodePending(encoder, itemsOfShop);
    };
    await round();
    await device('cpu').synchronize();
    const { live } = device('cpu').memory();
    await round();
    await device('cpu').synchronize();
    expect(device('cpu').memory().live).toBe(live);
  });

  it('never holds the event loop', async () => {
    await using predictor = await Predictor.open(all, cpu);
    await served(predictor, requests);
    const delay = monitorEventLoopDelay({ resolution: 2 });
    delay.enable();
    for (let i = 0; i < 20; i++) await served(predictor, requests);
    delay.disable();
    expect(delay.percentile(50) / 1e6).toBeLessThan(50);
  });

  describe('refuses files that do not belong together', () => {
    const copy = (name: string): string => {
      const folder = join(run.folder, name);
      cpSync(train, folder, { recursive: true });
      return folder;
    };
    const refusal = async (folder: string): Promise<ExportMismatchError> => {
      const error: unknown = await Predictor.open(folder, cpu).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(ExportMismatchError);
      return error as ExportMismatchError;
    };

    it('vectors of another step', async () => {
      const other = await trainedRun({ train: { epochs: 2 } });
      try {
        const folder = join(other.folder, 'export');
        const { exported } = await exportRun({ run: other.path, out: folder, checkpoint: 'latest', device: 'cpu' });
        const mixed = copy('mixed');
        cpSync(join(folder, 'vectors.safetensors'), join(mixed, 'vectors.safetensors'));
        const { message, fields } = await refusal(mixed);
        expect(message).toMatch(new RegExp(`expected step 6 but it is of step ${exported!.step}`));
        expect(message).toMatch(/vectors\.safetensors: expected to belong to model [0-9a-f]{64} but it belongs to/);
        expect(fields['file']).toBe('vectors.safetensors');
      } finally {
        other[Symbol.dispose]();
      }
    });

    it.each([
      'model.safetensors',
      'vectors.safetensors',
      'items.safetensors',
      'users.safetensors',
      'vocabulary.json',
      'serving.json',
      'config.yaml',
    ])('one changed byte, one lost byte, and the loss of %s', async (file) => {
      const folder = copy(`altered-${file}`);
      const path = join(folder, file);
      const whole = readFileSync(path);
      const changed = Buffer.from(whole);
      changed[changed.length - 2]! ^= 1;
      writeFileSync(path, changed);
      expect((await refusal(folder)).message).toMatch(new RegExp(`${file}: expected SHA-256`));
      writeFileSync(path, whole);
      truncateSync(path, whole.length - 1);
      expect((await refusal(folder)).message).toMatch(new RegExp(`${file}: expected ${whole.length} bytes`));
      rmSync(path);
      expect((await refusal(folder)).message).toMatch(new RegExp(`${file} is missing`));
    });

    it('an altered signature', async () => {
      const folder = copy('altered-signature');
      const path = join(folder, 'signature.json');
      writeFileSync(path, readFileSync(path, 'utf8').replace('"step": 6', '"step": 7'));
      expect((await refusal(folder)).message).toMatch(/expected step 7 but it is of step 6/);
      writeFileSync(path, '{}');
      await refusal(folder);
      writeFileSync(path, 'no json');
      await refusal(folder);
    });
  });

  it('exports into new folders only, with the same bytes each time', async () => {
    await expect(exportRun({ run: run.path, out: all, device: 'cpu' })).rejects.toThrow(ArgumentError);
    const again = join(run.folder, 'again');
    const { exported } = await exportRun({ run: run.path, out: again, device: 'cpu' });
    await using predictor = await Predictor.open(all, cpu);
    expect(exported).toMatchObject({ id: predictor.stats().id, vectors: 40, items: 40, step: 6 });
  });
});

describe('train and serve agree to the last bit', () => {
  it.each([
    ['id_only', { training: 'id_only' }],
    ['frozen', { training: 'frozen' }],
    ['lora_cached and DCNv2', { ranker: 'dcnv2', lora: { mode: 'lora_cached' } }],
    ['lora_block and a deep network', { ranker: 'dnn', lora: { mode: 'lora_block' } }],
    ['SIM with time gaps', { ranker: 'sim' }],
    ['LONGER', { ranker: 'longer' }],
    ['RankMixer', { ranker: 'rankmixer' }],
    ['MMoE', { ranker: 'mmoe' }],
    ['LEMUR', { name: 'lemur', bank: { p: 30, q: 30 } }],
    ['LEMUR, everything fresh', { name: 'lemur', bank: { evaluation: 'fresh', dtype: 'bfloat16' } }],
    ['shared and factorisation machines', { ranker: 'fm', lora: { mode: 'shared' } }],
  ] as const)('%s', async (_, model) => {
    const several = 'ranker' in model && model.ranker === 'mmoe';
    using run = await trainedRun({ model, ...(several ? { data: { more_labels: [{ column: 'buy' }] } } : {}) });
    const folder = join(run.folder, 'export');
    await exportRun({ run: run.path, out: folder, device: 'cpu' });
    rmSync(join(folder, 'encoder.safetensors'), { force: true });
    await using predictor = await Predictor.open(folder, cpu);
    const requests = await testRequests(run.path);
    expect(await served(predictor, requests)).toEqual(await evaluatedLogits(run.path));
    const { others } = await predictor.predict(requests[0]!.request);
    if (!several) return expect(others).toEqual({});
    await using opened = await openRun(run.path, { device: 'cpu' });
    const { events, others: evaluated } = await opened.trainer.predict('test');
    const at = requests[0]!.events.map((event) => events.indexOf(event));
    expect(Object.keys(others)).toEqual(['buy']);
    expect([...others['buy']!]).toEqual(at.map((row) => evaluated['buy']!.logits[row]));
  });
});
