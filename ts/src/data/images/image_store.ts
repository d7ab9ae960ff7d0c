/** The pictures of all rows of an entity, decoded and resized, over shared memory: read by every worker without a copy. */

import { OutOfMemoryError } from '../../errors.js';
import type { ImageBatch } from '../loader/batch.js';
import { type BatchMemory, ownMemory } from '../loader/batch_memory.js';
import { checkedRow } from '../text/token_store.js';
import { type AugmentDraw, type AugmentOptions, drawCrop, placeCrop, placeMiddle } from './image_augment.js';

/**
 * Pictures of all n rows, as arrays over SharedArrayBuffers, so the store itself can be posted to a worker. An `ImageBatch` is a store.
 * pixels uint8 (n, side, side, 3), present (n): 1 where a picture exists; a missing one has pixels 0.
 */
export interface ImageStore extends ImageBatch {
  /** Side at which pictures are stored, at least `size`, which is what batches get. Default `size`. */
  readonly side?: number;
  /** How training batches differ; null or absent: not at all. */
  readonly augment?: AugmentOptions | null;
  /** (n, 32) SHA-256 of each picture's stored pixels, where they came from files: what a digest of the data holds of them. */
  readonly digests?: Uint8Array;
  /** True where the pixels are read when they are needed, by an `ImageReader`: `pixels` is empty. */
  readonly paged?: boolean;
}

/** Bytes of one picture of an image store. */
export function pictureBytes(size: number): number {
  return size * size * 3;
}

/**
 * A store of `count` pictures, all missing; without room for pixels where it is `paged`.
 * @throws OutOfMemoryError when the host cannot give that many bytes in one piece.
 */
export function emptyImageStore(
  count: number,
  size: number,
  options: Pick<ImageStore, 'side' | 'augment' | 'paged'> = {},
): ImageStore {
  const { side = size, paged = false } = options;
  const bytes = paged ? 0 : count * pictureBytes(side);
  try {
    return {
      pixels: new Uint8Array(new SharedArrayBuffer(bytes)),
      present: new Uint8Array(new SharedArrayBuffer(count)),
      size,
      ...options,
    };
  } catch (error) {
    throw new OutOfMemoryError(
      'HOST_MEMORY',
      `images: ${count} pictures of ${side} x ${side} need ${bytes} bytes in one piece, which the host does not give`,
      { requested: bytes },
      { cause: error },
    );
  }
}

/** Puts what a batch gets of one stored picture into `out` (size, size, 3). Without a draw it is the middle. */
export function placePicture(
  { size, side = size, augment = null }: Pick<ImageStore, 'size' | 'side' | 'augment'>,
  stored: Uint8Array,
  row: number,
  draw: AugmentDraw | null,
  out: Uint8Array,
): void {
  if (augment === null || draw === null) placeMiddle(stored, side, out, size);
  else placeCrop(stored, side, drawCrop(augment, draw, row, side), out, size);
}

/**
 * The pictures of `rows`, in their order; a row may be named more than once. `draw`: augmented, if the store says how. Of a paged store
 * only `present`; pixels hold anything: an `ImageReader` fills them.
 * @throws ArgumentError when a row is outside [0, n).
 */
export function gatherImages(
  store: ImageStore,
  rows: ArrayLike<number>,
  draw: AugmentDraw | null = null,
  memory: BatchMemory = ownMemory,
): ImageBatch {
  const { size, side = size, paged = false } = store;
  const [stored, bytes] = [pictureBytes(side), pictureBytes(size)];
  const pixels = memory.uint8(rows.length * bytes);
  const present = memory.uint8(rows.length);
  for (let i = 0; i < rows.length; i++) {
    const row = checkedRow('gatherImages', rows[i]!, i, store.present.length);
    present[i] = store.present[row]!;
    if (paged) continue;
    const out = pixels.subarray(i * bytes, (i + 1) * bytes);
    if (present[i]) placePicture(store, store.pixels.subarray(row * stored, (row + 1) * stored), row, draw, out);
    else out.fill(0);
  }
  return { pixels, present, size };
}

/** What a digest of the data holds of a store: of pictures from files their digests, which do not depend on where the pixels are kept. */
export function digestibleImages(store: ImageStore): Readonly<Record<string, unknown>> {
  const { digests, present, size, side = size } = store;
  return digests === undefined ? { pixels: store.pixels, present, size } : { digests, present, size, side };
}
