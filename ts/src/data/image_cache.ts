/**
 * Resized pixels on disk, so that a second run decodes nothing. One file per picture, named by the digest of the picture's bytes
 * and of everything that decides pixels: SHA-256 of the pixels, then the pixels.
 */

import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { threadId } from 'node:worker_threads';

const DIGEST_BYTES = 32;

export interface ImageCache {
  /** Reads whose file was cut or altered; such a file counts as absent and is written again. */
  readonly corrupt: number;
  /** Writes that the file system refused; the run goes on without them. */
  readonly failedWrites: number;
  key(file: Uint8Array): string;
  /** The pixels, or null where the cache has none. */
  read(key: string): Promise<Uint8Array | null>;
  write(key: string, pixels: Uint8Array): Promise<void>;
}

/** A cache below `directory` of pictures of `pictureBytes` bytes; `pipeline` names everything that decides pixels. */
export function openImageCache(directory: string, pipeline: string, pictureBytes: number): ImageCache {
  let corrupt = 0;
  let failedWrites = 0;
  let temporary = 0;
  const path = (key: string): string => join(directory, key.slice(0, 2), `${key.slice(2)}.pixels`);
  return {
    get corrupt() {
      return corrupt;
    },
    get failedWrites() {
      return failedWrites;
    },
    key: (file) => createHash('sha256').update(pipeline).update('\0').update(file).digest('hex'),
    async read(key) {
      const bytes = await readFile(path(key)).catch(() => null);
      if (bytes === null) return null;
      const pixels = bytes.subarray(DIGEST_BYTES);
      if (pixels.length === pictureBytes && sha256(pixels).equals(bytes.subarray(0, DIGEST_BYTES))) return pixels;
      corrupt++;
      return null;
    },
    async write(key, pixels) {
      const file = path(key);
      const partial = `${file}.${process.pid}-${threadId}-${temporary++}.tmp`;
      try {
        await mkdir(dirname(file), { recursive: true });
        await writeFile(partial, Buffer.concat([sha256(pixels), pixels]));
        await rename(partial, file);
      } catch {
        failedWrites++;
        await rm(partial, { force: true }).catch(() => undefined);
      }
    },
  };
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}
