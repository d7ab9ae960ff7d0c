import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generateShop } from '../../../src/data/shop/shop.js';
import { type WrittenShop, writeShop } from '../../../src/data/shop/shop_files.js';
import { type AtomicFolder, readAtomicFolder } from '../../../src/data/tables/atomic.js';
import { ArgumentError, StorageError } from '../../../src/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-shop-'));
afterAll(() => rmSync(folder, { recursive: true }));

const shop = generateShop({ seed: 4, items: 120, users: 30, sessions: 1000 });

describe('writeShop', () => {
  let written: WrittenShop;
  let data: AtomicFolder;
  const target = join(folder, 'new', 'shop');
  beforeAll(async () => {
    written = await writeShop(shop, target);
    data = await readAtomicFolder(target);
  });

  const column = (table: 'inter' | 'item', name: string) =>
    Array.from(data[table]!.columns.get(name)!.values as string[]);

  it('interactions come back', () => {
    const { events, sessions } = shop;
    expect(data.inter!.rows).toBe(6000);
    expect(column('inter', 'user_id')).toEqual(Array.from(events.user, String));
    expect(column('inter', 'item_id')).toEqual(Array.from(events.item, String));
    expect(column('inter', 'query')).toEqual(Array.from(events.session, (session) => sessions.query[session]));
    expect(column('inter', 'timestamp')).toEqual([...events.time]);
    expect(column('inter', 'click')).toEqual([...events.click]);
    expect(column('inter', 'buy')).toEqual([...events.buy]);
  });

  it('items come back, and nothing that a model must not know', () => {
    expect(column('item', 'title')).toEqual(shop.items.title);
    expect(column('item', 'tags')).toEqual(shop.items.tags);
    expect(column('item', 'price')).toEqual([...shop.items.price]);
    const known = ['item_id', 'title', 'tags', 'price', 'image'];
    expect([...data.item!.columns.keys()]).toEqual(known);
    const seen = ['user_id', 'item_id', 'session_id', 'query_id', 'query', 'timestamp', 'click', 'buy'];
    expect([...data.inter!.columns.keys()]).toEqual(seen);
  });

  it('pictures come back pixel by pixel, missing ones have no file', async () => {
    const present = shop.items.pictureMissing.filter((missing) => !missing).length;
    expect(written.pictures).toBe(present);
    expect(readdirSync(join(target, 'images')).length).toBe(present);
    const names = column('item', 'image');
    for (const item of [0, 50, 119]) {
      if (names[item] === '') continue;
      const { data: pixels, info } = await sharp(join(target, names[item]!))
        .raw()
        .toBuffer({ resolveWithObject: true });
      expect([info.width, info.height, info.channels]).toEqual([32, 32, 3]);
      expect(pixels.equals(shop.items.pictures.subarray(item * 3072, (item + 1) * 3072))).toBe(true);
    }
    expect(names.filter((name) => name === '').length).toBe(120 - present);
  });

  it('long documents come back', async () => {
    const long = generateShop({ seed: 4, items: 60, users: 3, sessions: 40, documents: 'long' });
    await writeShop(long, join(folder, 'long'));
    const { item } = await readAtomicFolder(join(folder, 'long'));
    for (const field of ['ocr', 'asr', 'cover'] as const)
      expect(item!.columns.get(field)!.values).toEqual(long.items.documents!.map((document) => document[field]));
  });

  it('says where the split by time lies', () => {
    expect(written).toMatchObject({ stem: 'shop', validFromTime: 1_700_075_000, testFromTime: 1_700_085_000 });
  });

  it('never writes over a shop, and leaves no .inter when it stops', async () => {
    await expect(writeShop(shop, target)).rejects.toBeInstanceOf(ArgumentError);
    const stopped = join(folder, 'stopped');
    await expect(writeShop(shop, stopped, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
    expect(readdirSync(stopped)).toEqual(['images']);
  });

  it('reports what the file system refuses', async () => {
    writeFileSync(join(folder, 'file'), '');
    await expect(writeShop(shop, join(folder, 'file', 'shop'))).rejects.toBeInstanceOf(StorageError);
  });
});
