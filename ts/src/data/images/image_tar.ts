/**
 * Pictures in tar shards. One pass in the order of the files' names notes where each picture's bytes lie; later they are read by position.
 * A picture belongs to the item that its file name without extension names, whatever folder of the archive it lies in; other files
 * are counted. What a tar may hold beside files and folders (links, devices) and names that leave the archive are refused (fault F15).
 */

import { createReadStream } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { extract, type Header } from 'tar-stream';
import { DataError, StorageError } from '../../errors.js';
import { ImageError } from './image_error.js';
import { checkRelative, pictureStem } from './image_file.js';
import type { ImageSource } from './image_source.js';

const BLOCK = 512;

/** A tar and what it was like when it was read. */
interface Shard {
  readonly path: string;
  readonly name: string;
  readonly bytes: number;
  readonly modified: number;
}

/** Whether `block`, the first 512 bytes of a file, is the header of a tar: its checksum says so. */
export function isTarHeader(block: Uint8Array): boolean {
  if (block.length < BLOCK) return false;
  const stated = Number.parseInt(
    Buffer.from(block.subarray(148, 156)).toString('latin1').replace(/\0.*$/, '').trim(),
    8,
  );
  let sum = 8 * 0x20; // the checksum itself counts as spaces
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += block[i]!;
  return stated === sum;
}

/**
 * The pictures of the tars at `paths`.
 * @throws DataError (DATA_IMAGE) with the shard and the byte: one that is cut or corrupt, holds something else than files and folders or
 * a name that leaves it, or brings a second picture of an item.
 */
export async function openTarImages(
  paths: readonly string[],
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<ImageSource> {
  const shards = new Map<string, Shard>();
  const located = new Map<string, string>();
  let others = 0;
  for (const path of [...paths].sort((a, b) => (basename(a) < basename(b) ? -1 : 1))) {
    const { size, mtimeMs } = await stat(path);
    const shard = { path, name: basename(path), bytes: size, modified: mtimeMs };
    shards.set(shard.name, shard);
    others += await indexShard(shard, located, signal);
  }
  const left = others === 0 ? '' : `, ${others} other files`;
  return {
    kind: 'tar',
    summary: `${shards.size} tar ${shards.size === 1 ? 'shard' : 'shards'}, ${located.size} pictures${left}`,
    find: async (ids) => ids.map((id) => located.get(id) ?? null),
    read: async (name, maxBytes) => {
      const [, shard, at, bytes] = LOCATION.exec(name) ?? [];
      return readAt(shards.get(shard!)!, Number(at), Number(bytes), maxBytes);
    },
    [Symbol.asyncDispose]: async () => {},
  };
}

/** `<shard>@<first byte>+<bytes>`: the name that a picture is read by says where it lies. */
const LOCATION = /^(.*)@(\d+)\+(\d+)$/s;

/** Notes the pictures of a shard; returns the number of its other files. */
async function indexShard(shard: Shard, located: Map<string, string>, signal?: AbortSignal): Promise<number> {
  let others = 0;
  let end = 0; // of the last entry: where the next header or the end of the archive has to be
  const entries = extract();
  entries.on('entry', (header: Header & { readonly byteOffset?: number }, content, next) => {
    const at = header.byteOffset!;
    const bytes = header.size;
    end = at + Math.ceil((header.type === 'directory' ? 0 : bytes) / BLOCK) * BLOCK;
    content.on('error', () => {}); // it ends with the archive's error, which is the one that is reported
    content.on('end', next);
    content.resume();
    try {
      checkEntry(header);
      const id = header.type === 'directory' ? null : pictureStem(header.name);
      if (id === null) {
        if (header.type !== 'directory') others++;
        return;
      }
      const other = located.get(id);
      if (other !== undefined) {
        throw new Error(
          `expected one picture of item ${id} but ${JSON.stringify(header.name)} is a second beside ${other}`,
        );
      }
      located.set(id, `${shard.name}@${at}+${bytes}`);
    } catch (error) {
      entries.destroy(shardError(shard, at, (error as Error).message, error));
    }
  });
  try {
    await pipeline(createReadStream(shard.path, { highWaterMark: 1 << 20 }), entries, { signal });
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof DataError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== undefined && /^E[A-Z]+$/.test(code)) {
      throw new StorageError(
        code,
        `images: cannot read ${shard.path}: ${code}`,
        { path: shard.path, call: 'read' },
        { cause: error },
      );
    }
    const cut = /unexpected end/i.test(message);
    throw shardError(
      shard,
      end,
      cut ? `expected more of its last entry, which is cut` : `expected the header of a file (${message})`,
      error,
    );
  }
  // An archive cut between two files looks whole but for the empty block that ends every tar.
  const last = await readAt(shard, end, BLOCK, BLOCK).catch(() => null);
  if (last === null || last.some((byte) => byte !== 0))
    throw shardError(shard, end, 'expected the end of the archive, which is cut');
  return others;
}

function checkEntry({ name, type }: Header): void {
  if (type !== 'file' && type !== 'directory') {
    throw new Error(
      `expected files and folders but ${JSON.stringify(name)} is a ${(type as string | null) ?? 'thing of unknown type'}`,
    );
  }
  checkRelative(name);
}

function shardError(shard: Shard, byte: number, what: string, cause?: unknown): DataError {
  return new DataError(
    'DATA_IMAGE',
    `images: ${shard.name}, byte ${byte}: ${what}`,
    { file: shard.path, byte },
    { cause },
  );
}

async function readAt(shard: Shard, at: number, bytes: number, maxBytes: number): Promise<Uint8Array> {
  if (bytes > maxBytes) {
    throw new ImageError('memory_budget', `image: expected at most ${maxBytes} bytes of file but it has ${bytes}`);
  }
  let file: FileHandle | null = null;
  try {
    file = await open(shard.path, 'r');
    const { size, mtimeMs } = await file.stat();
    if (size !== shard.bytes || mtimeMs !== shard.modified) {
      throw shardError(shard, at, 'expected the file as it was when its pictures were listed but it has changed since');
    }
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(bytes), 0, bytes, at);
    if (bytesRead !== bytes) throw shardError(shard, at, `expected ${bytes} bytes but found ${bytesRead}`);
    return buffer;
  } catch (error) {
    if (error instanceof DataError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? 'EIO';
    throw new StorageError(
      code,
      `images: cannot read ${shard.path}: ${code}`,
      { path: shard.path, call: 'read' },
      { cause: error },
    );
  } finally {
    await file?.close();
  }
}
