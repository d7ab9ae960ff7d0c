/**
 * Pixels of a paged store, when they are needed: from memory, where the ones used last stay; else from the cache on disk; else decoded
 * from their source again. Every way gives the bytes that were seen when the data were loaded, or an error.
 */

import { setImmediate } from 'node:timers/promises';
import { DataError } from '../../errors.js';
import type { ImageBatch } from '../loader/batch.js';
import type { AugmentDraw } from './image_augment.js';
import type { ImageCache } from './image_cache.js';
import { DECODE_LIMITS, type DecodeImageOptions, decodeImage } from './image_decoder.js';
import { imageKey, sha256 } from './image_digest.js';
import { ImageError } from './image_error.js';
import type { ImageSource } from './image_source.js';
import { gatherImages, type ImageStore, pictureBytes, placePicture } from './image_store.js';

/** Milliseconds of copying after which the event loop gets a turn. */
const TURN_MS = 2;
/** Pictures that are read at a time, so that a short wait for one is used for others; decoding has a limit of its own. */
const READS = 8;

export interface ImageReaderParts {
  /** Paged, with digests. */
  readonly store: ImageStore;
  readonly source: ImageSource;
  /** (n) names that the source knows; of pictures that are there. */
  readonly names: readonly (string | null)[];
  /** (n, 32) SHA-256 of pipeline and file. */
  readonly keys: Uint8Array;
  readonly pipeline: string;
  readonly decode: Omit<DecodeImageOptions, 'size'>;
  readonly disk: ImageCache | null;
  /** Bytes of pixels that may stay in memory. */
  readonly memory: number;
}

/** Where pictures came from. */
export interface ImageReads {
  memory: number;
  disk: number;
  decoded: number;
}

export class ImageReader implements AsyncDisposable {
  readonly reads: ImageReads = { memory: 0, disk: 0, decoded: 0 };
  /** Pictures in memory by row, the one used last at the end. */
  private readonly kept = new Map<number, Uint8Array>();
  private readonly room: number;
  /** What pictures from disk are read into where none stays in memory. */
  private readonly buffers: Buffer[] = [];

  constructor(private readonly parts: ImageReaderParts) {
    const { size, side = size } = parts.store;
    this.room = Math.floor(parts.memory / pictureBytes(side));
  }

  /** Keeps a picture that somebody else has decoded. */
  keep(row: number, pixels: Uint8Array): void {
    if (this.room === 0) return;
    this.kept.delete(row);
    if (this.kept.size >= this.room) {
      const [oldest] = this.kept.keys();
      this.kept.delete(oldest!);
    }
    this.kept.set(row, pixels);
  }

  /**
   * As `gatherImages`, with the pixels.
   * @throws DataError (DATA_IMAGE) when a picture is not what it was when the data were loaded.
   */
  async gather(rows: ArrayLike<number>, draw: AugmentDraw | null = null): Promise<ImageBatch> {
    const batch = gatherImages(this.parts.store, rows);
    await this.fill(batch, rows, draw);
    return batch;
  }

  /** Writes the pixels of `batch`, what `gatherImages` gave for `rows`. Throws as `gather`. */
  async fill({ pixels, present }: ImageBatch, rows: ArrayLike<number>, draw: AugmentDraw | null): Promise<void> {
    const { store } = this.parts;
    const bytes = pictureBytes(store.size);
    let next = 0;
    let turn = performance.now();
    const failures: unknown[] = [];
    const { disk } = this.parts;
    const lane = async (): Promise<void> => {
      const buffer =
        disk === null || this.room > 0 ? undefined : (this.buffers.pop() ?? Buffer.allocUnsafeSlow(disk.readBytes));
      while (next < rows.length && failures.length === 0) {
        const i = next++;
        const row = rows[i]!;
        const out = pixels.subarray(i * bytes, (i + 1) * bytes);
        if (present[i] === 0) {
          out.fill(0);
          continue;
        }
        try {
          placePicture(store, this.fromMemory(row) ?? (await this.fetch(row, buffer)), row, draw, out);
        } catch (error) {
          failures.push(error);
        }
        if (performance.now() - turn > TURN_MS) {
          await setImmediate();
          turn = performance.now();
        }
      }
      if (buffer !== undefined) this.buffers.push(buffer);
    };
    await Promise.all(Array.from({ length: Math.min(READS, rows.length) }, lane));
    if (failures.length > 0) throw failures[0];
  }

  private fromMemory(row: number): Uint8Array | null {
    const pixels = this.kept.get(row);
    if (pixels === undefined) return null;
    this.kept.delete(row);
    this.kept.set(row, pixels);
    this.reads.memory++;
    return pixels;
  }

  private async fetch(row: number, buffer: Buffer | undefined): Promise<Uint8Array> {
    const { disk, keys, store } = this.parts;
    const key = Buffer.from(keys.subarray(row * 32, (row + 1) * 32));
    const expected = Buffer.from(store.digests!.subarray(row * 32, (row + 1) * 32));
    const cached = (await disk?.read(key.toString('hex'), buffer)) ?? null;
    // What somebody wrote under this name later has another digest: it is not what the data were loaded with.
    if (cached !== null && expected.equals(cached.digest)) {
      this.reads.disk++;
      this.keep(row, cached.pixels);
      return cached.pixels;
    }
    const pixels = await this.decode(row, key, expected);
    this.reads.decoded++;
    await disk?.write(key.toString('hex'), { pixels, digest: expected });
    this.keep(row, pixels);
    return pixels;
  }

  private async decode(row: number, key: Buffer, expected: Buffer): Promise<Uint8Array> {
    const { source, names, pipeline, decode, store } = this.parts;
    const name = names[row]!;
    const changed = (what: string, cause?: unknown): DataError =>
      new DataError(
        'DATA_IMAGE',
        `images: row ${row}, ${name}: expected the picture that was there when the data were loaded but ${what}`,
        { row, file: name, ...(cause instanceof ImageError ? { reason: cause.reason } : {}) },
        { cause },
      );
    try {
      const file = await source.read(name, decode.maxDecodeBytes ?? DECODE_LIMITS.maxDecodeBytes);
      if (!key.equals(await imageKey(pipeline, file))) throw changed('its bytes are others');
      const { pixels } = await decodeImage(file, { ...decode, size: store.side ?? store.size });
      if (!expected.equals(await sha256(pixels))) throw changed('its pixels are others');
      return pixels;
    } catch (error) {
      if (error instanceof ImageError) throw changed(error.message, error);
      throw error;
    }
  }

  /** Lets go of the source. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kept.clear();
    this.buffers.length = 0;
    await this.parts.source[Symbol.asyncDispose]();
  }
}
