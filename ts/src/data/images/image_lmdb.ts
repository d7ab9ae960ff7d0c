/**
 * Pictures in an LMDB: the key is the item id (UTF-8), the value the bytes of the file. Read with the package lmdb, an optional peer.
 * LMDB maps its file into memory, so a file that lacks pages would end the process: its size is checked against its own header first.
 */

import { type FileHandle, mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { ConfigError, DataError, DisposedError } from '../../errors.js';
import { ImageError } from './image_error.js';
import type { ImageSource } from './image_source.js';

const MAGIC = 0xbeefc0de;
/** Of the page with the header: page header (16 to 24 bytes), then magic and version; page size and last page at these places behind the magic. */
const MAGIC_AT = [16, 24] as const;
/** Longest key that LMDB takes with pages of 4 KiB. */
const MAX_KEY_BYTES = 1978;
const IDS_PER_TURN = 4096;
const PAGE_BYTES: ReadonlySet<number> = new Set([512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536]);

/** Format version of the LMDB whose file begins with `block`; null where it is none. */
export function lmdbVersion(block: Uint8Array): number | null {
  const at = magicAt(block);
  return at === null ? null : Buffer.from(block).readUInt32LE(at + 4) & 0xffff;
}

function magicAt(block: Uint8Array): number | null {
  const bytes = Buffer.from(block.buffer, block.byteOffset, block.byteLength);
  return MAGIC_AT.find((at) => bytes.length >= at + 8 && bytes.readUInt32LE(at) === MAGIC) ?? null;
}

/**
 * The pictures of the LMDB at `path`, a file or a folder that holds `data.mdb`.
 * @throws ConfigError without the package lmdb, or where it does not read this format; DataError (DATA_IMAGE) for a file that is cut.
 */
export async function openLmdbImages(path: string): Promise<ImageSource> {
  const isFolder = (await stat(path)).isDirectory();
  const version = await checkPages(isFolder ? join(path, 'data.mdb') : path);
  const lmdb = await loadLmdb();
  const readable = await readableVersion(lmdb);
  if (version !== readable) {
    throw new ConfigError(
      `images: expected an LMDB of format ${readable}, the one that the installed package lmdb reads, but ${path} has format ${version}. Format 1 (LMDB 0.9, Python) needs lmdb built from source with LMDB_DATA_V1=true; tar shards need nothing`,
      { key: 'image_root', file: path },
    );
  }
  const opened = lmdb.open<Buffer, Buffer>({
    path,
    noSubdir: !isFolder,
    readOnly: true,
    encoding: 'binary',
    keyEncoding: 'binary',
  });
  const keyOf = (id: string): Buffer | null => {
    const key = Buffer.from(id, 'utf8');
    return key.length === 0 || key.length > MAX_KEY_BYTES ? null : key;
  };
  let isOpen = true;
  const checkOpen = (): void => {
    if (!isOpen)
      throw new DisposedError(`images: expected an open LMDB but ${path} was closed`, { op: 'images', argument: path });
  };
  const { entryCount } = opened.getStats() as { entryCount: number };
  return {
    kind: 'lmdb',
    summary: `LMDB, ${entryCount} pictures`,
    find: async (ids) => {
      const names: (string | null)[] = [];
      for (const id of ids) {
        checkOpen();
        const key = keyOf(id);
        names.push(key !== null && opened.doesExist(key) ? id : null);
        if (names.length % IDS_PER_TURN === 0) await setImmediate();
      }
      return names;
    },
    read: async (name, maxBytes) => {
      checkOpen();
      const value = opened.getBinary(keyOf(name)!);
      if (value === undefined)
        throw new ImageError('missing_file', `image: the LMDB has no key ${JSON.stringify(name)}`);
      if (value.length > maxBytes) {
        throw new ImageError(
          'memory_budget',
          `image: expected at most ${maxBytes} bytes of file but it has ${value.length}`,
        );
      }
      return value;
    },
    [Symbol.asyncDispose]: async () => {
      if (!isOpen) return;
      isOpen = false;
      await opened.close();
    },
  };
}

/** Refuses a file that is shorter than its newest header says; returns the format version. */
async function checkPages(file: string): Promise<number> {
  let handle: FileHandle | null = null;
  try {
    handle = await open(file, 'r');
    const { size } = await handle.stat();
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(256), 0, 256, 0);
    const at = bytesRead < 256 ? null : magicAt(buffer);
    if (at === null)
      throw new DataError('DATA_IMAGE', `images: ${file}: expected the header of an LMDB`, { file, byte: 0 });
    // Behind the magic: version (4), address and map size (8 + 8), two records of 48 bytes, last page (8), transaction (8). The first
    // 4 bytes of the first record are the page size.
    const pageBytes = buffer.readUInt32LE(at + 24);
    if (!PAGE_BYTES.has(pageBytes)) throw badPages(file, at + 24, pageBytes);
    const second = await handle.read(Buffer.alloc(256), 0, 256, pageBytes);
    const headers = [buffer, second.buffer.subarray(0, second.bytesRead)]
      .filter((header) => header.length === 256 && header.readUInt32LE(at) === MAGIC)
      .map((header) => ({
        pageBytes: header.readUInt32LE(at + 24),
        last: header.readBigUInt64LE(at + 120),
        step: header.readBigUInt64LE(at + 128),
      }));
    const other = headers.find((header) => header.pageBytes !== pageBytes);
    if (other !== undefined) throw badPages(file, pageBytes + at + 24, other.pageBytes);
    const newest = headers.reduce((a, b) => (b.step > a.step ? b : a));
    const expected = (newest.last + 1n) * BigInt(pageBytes);
    if (headers.length < 2 || BigInt(size) < expected) {
      throw new DataError(
        'DATA_IMAGE',
        `images: ${file}, byte ${size}: expected ${expected} bytes, the file is cut (what mdb_copy -c makes of a whole one is never shorter)`,
        {
          file,
          byte: size,
        },
      );
    }
    return buffer.readUInt32LE(at + 4) & 0xffff;
  } finally {
    await handle?.close();
  }
}

/** LMDB divides by the page size: with a wrong one it ends the process. */
function badPages(file: string, byte: number, pageBytes: number): DataError {
  return new DataError(
    'DATA_IMAGE',
    `images: ${file}, byte ${byte}: expected the page size of an LMDB, a power of two from 512 to 65536, equal in both headers, but it says ${pageBytes}`,
    { file, byte },
  );
}

/** The format that the installed package reads, from a file that it writes: given another one it ends the process. */
async function readableVersion(lmdb: typeof import('lmdb')): Promise<number | null> {
  const folder = await mkdtemp(join(tmpdir(), 'galago-lmdb-'));
  try {
    const path = join(folder, 'probe');
    await lmdb.open({ path, noSubdir: true }).close();
    return lmdbVersion(await readFile(path));
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function loadLmdb(): Promise<typeof import('lmdb')> {
  try {
    return await import('lmdb');
  } catch (error) {
    throw new ConfigError(
      `images: pictures in an LMDB need the package lmdb, which cannot be loaded (npm install lmdb): ${String((error as Error).message)}`,
      { key: 'image_root' },
      { cause: error },
    );
  }
}
