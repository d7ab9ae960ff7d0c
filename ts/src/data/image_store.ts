/** The pictures of all rows of an entity, decoded and resized, over shared memory: read by every worker without a copy. */

import { OutOfMemoryError } from '../errors.js';
import type { ImageBatch } from './batch.js';
import { type BatchMemory, ownMemory } from './batch_memory.js';
import { checkedRow } from './token_store.js';

/**
 * Pictures of all n rows: the arrays of an `ImageBatch`, backed by SharedArrayBuffers, so the store itself can be posted to a worker.
 * pixels uint8 (n, size, size, 3), present (n): 1 where a picture exists; a missing one has pixels 0.
 */
export type ImageStore = ImageBatch;

/** Bytes of one picture of an image store. */
export function pictureBytes(size: number): number {
  return size * size * 3;
}

/**
 * A store of `count` pictures, all missing.
 * @throws OutOfMemoryError when the host cannot give that many bytes in one piece.
 */
export function emptyImageStore(count: number, size: number): ImageStore {
  const bytes = count * pictureBytes(size);
  try {
    return {
      pixels: new Uint8Array(new SharedArrayBuffer(bytes)),
      present: new Uint8Array(new SharedArrayBuffer(count)),
      size,
    };
  } catch (error) {
    throw new OutOfMemoryError(
      'HOST_MEMORY',
      `images: ${count} pictures of ${size} x ${size} need ${bytes} bytes in one piece, which the host does not give`,
      { requested: bytes },
      { cause: error },
    );
  }
}

/**
 * The pictures of `rows`, in their order; a row may be named more than once.
 * @throws ArgumentError when a row is outside [0, n).
 */
export function gatherImages(store: ImageStore, rows: ArrayLike<number>, memory: BatchMemory = ownMemory): ImageBatch {
  const bytes = pictureBytes(store.size);
  const pixels = memory.uint8(rows.length * bytes);
  const present = memory.uint8(rows.length);
  for (let i = 0; i < rows.length; i++) {
    const row = checkedRow('gatherImages', rows[i]!, i, store.present.length);
    present[i] = store.present[row]!;
    if (present[i]) pixels.set(store.pixels.subarray(row * bytes, (row + 1) * bytes), i * bytes);
    else pixels.fill(0, i * bytes, (i + 1) * bytes);
  }
  return { pixels, present, size: store.size };
}
