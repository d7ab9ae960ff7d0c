import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { open as openLmdb } from 'lmdb';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openImageRoot } from '../../../src/data/images/image_root.js';
import { gatherImages } from '../../../src/data/images/image_store.js';
import { type DecodeImagesOptions, decodeImages, type ImageCacheOptions } from '../../../src/data/images/images.js';
import { type LoadOptions, loadDataset } from '../../../src/data/load_dataset.js';
import type { Batch } from '../../../src/data/loader/batch.js';
import { DataError } from '../../../src/errors.js';

const SIZE = 8;
const PICTURE = SIZE * SIZE * 3;
const ITEMS = 24;
let folder = '';
let root = '';
/** Bytes of the picture of each item by id; items 5 and 17 have none, 11 is cut. */
const files = new Map<string, Buffer>();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-paged-'));
  root = join(folder, 'pictures');
  await mkdir(root);
  for (let i = 0; i < ITEMS; i++) {
    if (i === 5 || i === 17) continue;
    const background = { r: 10 * i, g: 255 - 10 * i, b: (i * 37) % 256 };
    const bytes = await sharp({ create: { width: 30, height: 20, channels: 3, background } })
      .composite([
        {
          input: await sharp({ create: { width: 9, height: 7, channels: 3, background: 'white' } })
            .png()
            .toBuffer(),
          left: i % 20,
          top: i % 10,
        },
      ])
      .jpeg()
      .toBuffer();
    files.set(String(i), i === 11 ? bytes.subarray(0, bytes.length / 2) : bytes);
  }
  for (const [id, bytes] of files) await writeFile(join(root, `${id}.jpg`), bytes);
});
afterAll(() => rm(folder, { recursive: true }));

const ids = Array.from({ length: ITEMS }, (_, i) => String(i));
const rows = Int32Array.from(ids, Number).sort((a, b) => ((a * 7) % ITEMS) - ((b * 7) % ITEMS));
const names = () => ids.map((id) => (files.has(id) ? `${id}.jpg` : null));
const decoded = (cache: ImageCacheOptions, more: Partial<DecodeImagesOptions> = {}) =>
  decodeImages(names(), { root, size: SIZE, cache, maxBadFraction: 1, ...more });

describe('pictures that are read when they are needed', () => {
  it.each<[string, ImageCacheOptions, (reads: { memory: number; disk: number; decoded: number }) => boolean]>([
    ['nothing kept', { memory: 0 }, ({ memory, disk, decoded }) => memory === 0 && disk === 0 && decoded === 42],
    ['some in memory', { memory: 15 * PICTURE }, ({ memory, decoded }) => memory > 0 && decoded > 0],
    ['on disk', { memory: 0, dir: 'disk' }, ({ disk, decoded }) => disk === 42 && decoded === 0],
    [
      'some on disk',
      { memory: 3 * PICTURE, disk: 9 * (PICTURE + 32), dir: 'less' },
      ({ disk, decoded }) => disk > 0 && decoded > 0,
    ],
  ])('are the bytes of pictures in memory: %s', async (_, cache, expected) => {
    const held = await decoded({});
    expect(held.reader).toBeNull();
    const whole = gatherImages(held.store, rows);
    const paged = await decoded({ ...cache, ...(cache.dir == null ? {} : { dir: join(folder, cache.dir) }) });
    await using reader = paged.reader!;
    expect(paged.store.pixels.length).toBe(0);
    expect(paged.store.digests).toEqual(held.store.digests);
    expect([...paged.store.present]).toEqual([...held.store.present]);
    expect(paged.counters.bad).toEqual(held.counters.bad);
    expect(paged.counters.bad.corrupt).toBe(1);
    for (let pass = 0; pass < 2; pass++) expect(await reader.gather(rows)).toEqual(whole);
    expect(reader.reads.memory + reader.reads.disk + reader.reads.decoded).toBe(2 * 21);
    expect(expected(reader.reads), JSON.stringify(reader.reads)).toBe(true);
  });

  it('are the same from a folder, from tar shards and from an LMDB', async () => {
    const held = await decoded({});
    const shards = join(folder, 'shards');
    await mkdir(shards);
    for (const shard of [0, 1]) {
      const packed = pack();
      for (const [id, bytes] of files) if (Number(id) % 2 === shard) packed.entry({ name: `x/${id}.png` }, bytes);
      packed.finalize();
      const chunks: Buffer[] = [];
      for await (const chunk of packed) chunks.push(chunk as Buffer);
      await writeFile(join(shards, `${shard}.tar`), Buffer.concat(chunks));
    }
    const writer = openLmdb<Buffer, Buffer>({ path: join(folder, 'lmdb'), encoding: 'binary', keyEncoding: 'binary' });
    for (const [id, bytes] of files) await writer.put(Buffer.from(id), bytes);
    await writer.close();
    for (const place of [shards, join(folder, 'lmdb')]) {
      for (const memory of [null, 0]) {
        const source = await openImageRoot(place);
        const found = await source.find(ids);
        const again = await decodeImages(found, { root: source, size: SIZE, cache: { memory }, maxBadFraction: 1 });
        expect(again.store.digests).toEqual(held.store.digests);
        expect(again.counters.missing).toBe(2);
        const image = await (again.reader?.gather(rows) ?? gatherImages(again.store, rows));
        expect(image).toEqual(gatherImages(held.store, rows));
        await again.reader?.[Symbol.asyncDispose]();
      }
    }
  });

  it('augmented, are those of pictures in memory, whatever the order and the company', async () => {
    const augment = { minArea: 0.4, flip: 0.5 };
    const held = await decoded({}, { augment });
    const paged = await decoded({ memory: 2 * PICTURE }, { augment });
    await using reader = paged.reader!;
    const draw = { seed: 3, epoch: 1, position: 96 };
    const whole = gatherImages(held.store, rows, draw);
    expect(whole).not.toEqual(gatherImages(held.store, rows));
    expect(await reader.gather(rows, draw)).toEqual(whole);
    for (const [i, row] of rows.entries()) {
      const one = await reader.gather([row], draw);
      expect(one.pixels).toEqual(whole.pixels.subarray(i * PICTURE, (i + 1) * PICTURE));
    }
    expect(await reader.gather(rows)).toEqual(gatherImages(held.store, rows));
  });

  it('a picture that is another one since is an error, not another picture', async () => {
    const changing = join(folder, 'changing');
    await mkdir(changing);
    await writeFile(join(changing, 'a.jpg'), files.get('1')!);
    await writeFile(join(changing, 'b.jpg'), files.get('2')!);
    const { reader } = await decodeImages(['a.jpg', 'b.jpg'], { root: changing, size: SIZE, cache: { memory: 0 } });
    await using open = reader!;
    await writeFile(join(changing, 'a.jpg'), files.get('3')!);
    await expect(open.gather([0])).rejects.toThrow(DataError);
    await expect(open.gather([1, 0])).rejects.toThrow(
      /row 0, a\.jpg: expected the picture that was there.*its bytes are others/,
    );
    await rm(join(changing, 'a.jpg'));
    await expect(open.gather([0])).rejects.toMatchObject({ fields: { row: 0, file: 'a.jpg', reason: 'missing_file' } });
    expect((await open.gather([1])).present[0]).toBe(1);
  });

  it('F14: an altered cache file is decoded again', async () => {
    const dir = join(folder, 'altered');
    const { reader } = await decoded({ memory: 0, dir });
    await using open = reader!;
    const before = await open.gather(rows);
    for (const name of await readdir(dir, { recursive: true })) {
      if (!name.endsWith('.pixels')) continue;
      const bytes = await readFile(join(dir, name));
      bytes[50] = bytes[50]! ^ 255;
      await writeFile(join(dir, name), bytes);
    }
    expect(await open.gather(rows)).toEqual(before);
    expect(open.reads).toMatchObject({ disk: 21, decoded: 21 });
  });
});

describe('a data set with pictures that are read when they are needed', () => {
  beforeAll(async () => {
    const data = join(folder, 'data');
    await mkdir(join(data, 'images'), { recursive: true });
    for (const [id, bytes] of files) if (id !== '11') await writeFile(join(data, 'images', `${id}.jpg`), bytes);
    const events = Array.from(
      { length: 240 },
      (_, i) => `u${i % 12}\t${(i * 5 + (i >> 4)) % ITEMS}\t${i % 3 === 0 ? 1 : 0}\t${i}`,
    );
    await writeFile(
      join(data, 'data.inter'),
      ['user_id:token\titem_id:token\tlabel:float\ttimestamp:float', ...events, ''].join('\n'),
    );
    await writeFile(join(data, 'data.item'), ['item_id:token', ...ids, ''].join('\n'));
  });

  const load = (images: LoadOptions['images'], more: LoadOptions = {}) =>
    loadDataset(join(folder, 'data'), {
      workers: 0,
      features: [
        { name: 'item_id', type: 'categorical' },
        { name: 'image', type: 'image', size: SIZE },
      ],
      ...more,
      images: { maxBadFraction: 1, ...images },
    });
  const batches = async (data: Awaited<ReturnType<typeof load>>, augment: boolean, position = 0): Promise<Batch[]> => {
    const all: Batch[] = [];
    for await (const batch of data.loader({ part: 'train', epoch: 3, batchSize: 32, augment, position }))
      all.push(batch);
    return all;
  };

  it('has the digest and the batches of one with all pictures in memory, augmented or not', async () => {
    for (const augment of [null, { minArea: 0.5, flip: 0.5 }]) {
      await using held = await load({ augment });
      await using paged = await load({ augment, cache: { memory: 5 * PICTURE, dir: join(folder, 'cache') } });
      expect(paged.imageReader).not.toBeNull();
      expect(held.imageReader).toBeNull();
      expect(paged.digest).toBe(held.digest);
      const plain = await batches(held, false);
      const drawn = await batches(held, true);
      expect(await batches(paged, false)).toEqual(plain);
      expect(await batches(paged, true)).toEqual(drawn);
      if (augment === null) expect(drawn).toEqual(plain);
      else expect(drawn).not.toEqual(plain);
      // As after a resume: the batches that are left, to the byte.
      expect(await batches(paged, true, 64)).toEqual(drawn.slice(2));
      expect(await paged.itemContent([7, 5, 0])).toEqual(await held.itemContent([7, 5, 0]));
    }
  });

  it('counts in max_memory what the cache may hold', async () => {
    const maxMemory = 20_000;
    await expect(load({}, { maxMemory: 4_000 + 1000 })).rejects.toThrow(/image \d+/);
    await using data = await load({ cache: { memory: 2 * PICTURE } }, { maxMemory });
    expect(data.imageReader).not.toBeNull();
  });
});
