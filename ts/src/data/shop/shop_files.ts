/** The generated shop as files: RecBole atomic files and one PNG per picture, to be read back like any data set. */
import { type FileHandle, mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { ArgumentError, StorageError } from '../../errors.js';
import type { Shop } from './shop.js';
import { PICTURE_SIZE } from './shop_pictures.js';

export interface WrittenShop {
  readonly folder: string;
  readonly stem: string;
  readonly pictures: number;
  /** First times of validation and test in seconds, for a split by time. */
  readonly validFromTime: number;
  readonly testFromTime: number;
}

const STEM = 'shop';
/** sharp shares libuv's pool of four threads with the file system: more in flight would starve reads elsewhere in the process. */
const PICTURES_IN_FLIGHT = 2;
const ROWS_PER_WRITE = 4096;

/**
 * Writes `shop.inter`, `shop.item`, `shop.user` and `images/<item id>.png` into `folder`, which is made if need be. Only what a model may
 * read is written: no slot, no probability, no latent factor. `.inter` appears last, so a folder that has one is complete.
 * Throws ArgumentError if the folder already holds a shop, StorageError if the file system refuses.
 */
export async function writeShop(
  shop: Shop,
  folder: string,
  { signal }: { signal?: AbortSignal } = {},
): Promise<WrittenShop> {
  const inter = join(folder, `${STEM}.inter`);
  const temporary = `${inter}.tmp`;
  await stored('mkdir', folder, () => mkdir(join(folder, 'images'), { recursive: true }));
  await refuseExisting(inter);
  const pictures = await writePictures(shop, join(folder, 'images'), signal);
  const { items, sessions, events } = shop;
  await writeRows(join(folder, `${STEM}.user`), ['user_id:token'], shop.users.count, (user) => [user], signal);
  const { documents } = items;
  const itemHeader = ['item_id:token', 'title:token_seq', 'tags:token_seq', 'price:float', 'image:token'];
  if (documents) itemHeader.push('ocr:token_seq', 'asr:token_seq', 'cover:token_seq');
  await writeRows(
    join(folder, `${STEM}.item`),
    itemHeader,
    items.count,
    (item) => {
      const image = items.pictureMissing[item] ? '' : pictureName(item);
      const short = [item, items.title[item]!, items.tags[item]!, items.price[item]!, image];
      if (!documents) return short;
      const { ocr, asr, cover } = documents[item]!;
      return [...short, ocr, asr, cover];
    },
    signal,
  );
  const header = ['user_id:token', 'item_id:token', 'session_id:token', 'query_id:token', 'query:token_seq'];
  await writeRows(
    temporary,
    [...header, 'timestamp:float', 'click:float', 'buy:float'],
    events.count,
    (event) => {
      const session = events.session[event]!;
      const request = [session, sessions.queryId[session]!, sessions.query[session]!, sessions.time[session]!];
      return [events.user[event]!, events.item[event]!, ...request, events.click[event]!, events.buy[event]!];
    },
    signal,
  );
  await stored('rename', inter, () => rename(temporary, inter));
  const [validFromTime, testFromTime] = [sessions.time[shop.validFrom]!, sessions.time[shop.testFrom]!];
  return { folder, stem: STEM, pictures, validFromTime, testFromTime };
}

function pictureName(item: number): string {
  return `images/${item}.png`;
}

/** One PNG per item that has a picture; returns their number. */
async function writePictures({ items }: Shop, folder: string, signal: AbortSignal | undefined): Promise<number> {
  const bytes = PICTURE_SIZE * PICTURE_SIZE * 3;
  const raw = { width: PICTURE_SIZE, height: PICTURE_SIZE, channels: 3 } as const;
  let next = 0;
  let written = 0;
  const worker = async () => {
    while (next < items.count) {
      signal?.throwIfAborted();
      const item = next++;
      if (items.pictureMissing[item]) continue;
      const pixels = items.pictures.subarray(item * bytes, (item + 1) * bytes);
      const png = await sharp(pixels, { raw }).png({ compressionLevel: 6 }).toBuffer();
      await writeFile(join(folder, `${item}.png`), (file) => file.writeFile(png));
      written++;
    }
  };
  await Promise.all(Array.from({ length: PICTURES_IN_FLIGHT }, worker));
  return written;
}

async function writeRows(
  path: string,
  header: readonly string[],
  rows: number,
  fields: (row: number) => readonly (string | number)[],
  signal: AbortSignal | undefined,
): Promise<void> {
  await writeFile(path, async (file) => {
    let text = `${header.join('\t')}\n`;
    for (let row = 0; row < rows; row++) {
      text += `${fields(row).join('\t')}\n`;
      if ((row + 1) % ROWS_PER_WRITE !== 0) continue;
      signal?.throwIfAborted();
      await file.appendFile(text);
      text = '';
    }
    await file.appendFile(text);
  });
}

async function writeFile(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await stored('open', path, () => open(path, 'w'));
  try {
    await stored('write', path, () => write(file));
  } finally {
    await file.close();
  }
}

async function refuseExisting(path: string): Promise<void> {
  const file = await open(path, 'r').catch(() => null);
  if (!file) return;
  await file.close();
  throw new ArgumentError(`writeShop: expected a folder without a shop, ${path} exists`, {
    op: 'writeShop',
    argument: 'folder',
  });
}

/** Runs a file system call; its failure becomes a StorageError with the system's code. */
async function stored<T>(call: string, path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') throw error;
    throw new StorageError(
      error.code,
      `writeShop: could not ${call} ${path}: ${error.code}`,
      { path, call },
      { cause: error },
    );
  }
}
