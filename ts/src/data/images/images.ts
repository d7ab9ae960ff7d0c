/**
 * The pictures of all rows: each is read, checked and decoded once, then kept in memory, or read again when it is needed. The pipeline
 * of one picture is `image_decoder`, where pictures come from is an `ImageSource`.
 */

import { ArgumentError, DataError } from '../../errors.js';
import { type AugmentOptions, storedSide } from './image_augment.js';
import { type ImageCache, openImageCache } from './image_cache.js';
import {
  DECODE_LIMITS,
  type DecodeImageOptions,
  decodeImage,
  type ImageFit,
  type ImageLimits,
  lanes,
  pipelineName,
} from './image_decoder.js';
import { imageKey, sha256 } from './image_digest.js';
import { IMAGE_REASONS, ImageError, type ImageReason } from './image_error.js';
import { openImageFolder } from './image_file.js';
import { ImageReader } from './image_reader.js';
import type { ImageSource } from './image_source.js';
import { emptyImageStore, type ImageStore, pictureBytes } from './image_store.js';

/** `mask`: the picture is a missing modality; `skip`: the row is to be dropped; `fail`: the first one stops. */
export type BadImagePolicy = 'mask' | 'skip' | 'fail';

export interface ImageCacheOptions {
  /** Bytes of pixels in memory; where all pictures need more, they are read when they are needed, and the ones used last stay. null (default): all stay. */
  readonly memory?: number | null;
  /** Bytes of files below `dir`, over all that use it. null (default): no limit. */
  readonly disk?: number | null;
  /** Where resized pixels are kept between runs; null (default): nowhere. */
  readonly dir?: string | null;
}

export interface DecodeImagesOptions extends ImageLimits {
  /** Folder that all paths are relative to and must stay in; or an opened source, whose names they are. */
  readonly root: string | ImageSource;
  readonly size: number;
  readonly fit?: ImageFit;
  /** How training batches differ; pictures are then stored larger (`storedSide`). Default: not at all. */
  readonly augment?: AugmentOptions | null;
  /** Default `mask`. */
  readonly onBadImage?: BadImagePolicy;
  /** Above this share of bad pictures, once 100 were tried, the run stops. Default 0.01; 1 never stops. */
  readonly maxBadFraction?: number;
  /** Pictures in flight; never more than the pool of libuv minus 2 (at least 1), so that others' file access does not starve. */
  readonly concurrency?: number;
  readonly cache?: ImageCacheOptions;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface BadImage {
  readonly row: number;
  readonly path: string;
  readonly reason: ImageReason;
  readonly message: string;
}

export interface ImageCounters {
  /** Rows with an image field, which is the sum of the next two and of all reasons. */
  readonly tried: number;
  readonly decoded: number;
  readonly fromCache: number;
  /** Rows with an empty image field: a missing modality, never bad. */
  readonly missing: number;
  readonly bad: Readonly<Record<ImageReason, number>>;
  readonly corruptCacheFiles: number;
  readonly failedCacheWrites: number;
  readonly evictedCacheFiles: number;
}

export interface DecodedImages {
  readonly store: ImageStore;
  /** Reads the pixels of a paged store, and owns the source; null where the store has them. */
  readonly reader: ImageReader | null;
  readonly counters: ImageCounters;
  /** In row order. Under `skip` these are the rows to drop. */
  readonly bad: readonly BadImage[];
}

const TRIED_BEFORE_STOP = 100;

/**
 * Decodes the pictures of all rows into one store over shared memory. `paths`: relative to `root`, or names of its source; null or ''
 * where a row has no picture. Results, counters and errors do not depend on the concurrency, pixels not on where they are kept. An opened
 * source is closed with the reader of a paged store, else when all is decoded.
 * @throws DataError (DATA_IMAGE) under `fail`, or when too many are bad, naming the first ten; the signal's reason when aborted.
 */
export async function decodeImages(
  paths: readonly (string | null)[],
  options: DecodeImagesOptions,
): Promise<DecodedImages> {
  const { size, fit = 'cover', augment = null, onBadImage = 'mask', maxBadFraction = 0.01, cache = {} } = options;
  const { signal, onProgress } = options;
  const source = typeof options.root === 'string' ? await openImageFolder(options.root) : options.root;
  let keepSource = false;
  try {
    checkOptions(options);
    const side = storedSide(size, augment);
    const pipeline = await pipelineName(side, fit);
    const disk =
      cache.dir == null ? null : openImageCache(cache.dir, pipeline, pictureBytes(side), cache.disk ?? undefined);
    const memory = cache.memory ?? Number.POSITIVE_INFINITY;
    const paged = paths.length * pictureBytes(side) > memory;
    const store = {
      ...emptyImageStore(paths.length, size, { side, augment, paged }),
      digests: digestsOf(paths.length),
    };
    const decode = { fit, ...DECODE_LIMITS, ...pickLimits(options) };
    const keys = new Uint8Array(paged ? 32 * paths.length : 0);
    const reader = paged
      ? new ImageReader({ store, source, names: paths, keys, pipeline, decode, disk, memory })
      : null;
    const settle = (row: number, buffer: Buffer | undefined): Promise<Settled> =>
      settled(
        paths[row] ?? '',
        { source, pipeline: paged || disk !== null ? pipeline : null, decode: { ...decode, size: side }, disk, buffer },
        (key, pixels, digest) => {
          store.digests.set(digest, 32 * row);
          store.present[row] = 1;
          if (reader === null) store.pixels.set(pixels, row * pictureBytes(side));
          else {
            keys.set(key!, 32 * row);
            reader.keep(row, pixels);
          }
        },
      );
    const tally = new Tally(paths, onBadImage, maxBadFraction);
    let next = 0;
    let done = 0;
    const failures: unknown[] = [];
    /** One lane: takes the next row until there is none, or another lane has failed. */
    const lane = async (): Promise<void> => {
      // Pixels that are copied from can lie where the last ones did.
      const buffer = disk === null || reader !== null ? undefined : Buffer.allocUnsafeSlow(disk.readBytes);
      while (next < paths.length && failures.length === 0) {
        const row = next++;
        try {
          signal?.throwIfAborted();
          tally.settle(row, await settle(row, buffer));
          onProgress?.(++done, paths.length);
        } catch (error) {
          failures.push(error);
        }
      }
    };
    await Promise.all(Array.from({ length: lanes(options.concurrency) }, lane));
    if (failures.length > 0) throw failures[0];
    keepSource = paged;
    return {
      store,
      reader,
      counters: {
        ...tally.counters(),
        corruptCacheFiles: disk?.corrupt ?? 0,
        failedCacheWrites: disk?.failedWrites ?? 0,
        evictedCacheFiles: disk?.evicted ?? 0,
      },
      bad: tally.bad,
    };
  } finally {
    if (!keepSource) await source[Symbol.asyncDispose]();
  }
}

function digestsOf(count: number): Uint8Array {
  return new Uint8Array(new SharedArrayBuffer(32 * count));
}

type Settled = 'missing' | 'decoded' | 'fromCache' | ImageError;

/** Hands over the picture called `name`; what is wrong with the picture itself comes back as a value. */
async function settled(
  name: string,
  {
    source,
    pipeline,
    decode,
    disk,
    buffer,
  }: {
    readonly source: ImageSource;
    /** Null where nobody asks for the key of the picture. */
    readonly pipeline: string | null;
    readonly decode: DecodeImageOptions & { readonly maxDecodeBytes: number };
    readonly disk: ImageCache | null;
    readonly buffer: Buffer | undefined;
  },
  put: (key: Uint8Array | null, pixels: Uint8Array, digest: Uint8Array) => void,
): Promise<Settled> {
  if (name === '') return 'missing';
  try {
    const file = await source.read(name, decode.maxDecodeBytes);
    const key = pipeline === null ? null : await imageKey(pipeline, file);
    const cached = key === null ? null : ((await disk?.read(key.toString('hex'), buffer)) ?? null);
    if (cached !== null) {
      put(key, cached.pixels, cached.digest);
      return 'fromCache';
    }
    const { pixels } = await decodeImage(file, decode);
    const digest = await sha256(pixels);
    if (key !== null) await disk?.write(key.toString('hex'), { pixels, digest });
    put(key, pixels, digest);
    return 'decoded';
  } catch (error) {
    if (error instanceof ImageError) return error;
    throw error;
  }
}

/** Counts outcomes in row order, whatever the order they arrive in, and applies the policy. */
class Tally {
  readonly bad: BadImage[] = [];
  private readonly waiting = new Map<number, Settled>();
  private readonly reasons = Object.fromEntries(IMAGE_REASONS.map((reason) => [reason, 0])) as Record<
    ImageReason,
    number
  >;
  private readonly counts = { missing: 0, decoded: 0, fromCache: 0 };
  private row = 0;
  private tried = 0;

  constructor(
    private readonly paths: readonly (string | null)[],
    private readonly policy: BadImagePolicy,
    private readonly maxBadFraction: number,
  ) {}

  settle(row: number, outcome: Settled): void {
    this.waiting.set(row, outcome);
    for (let ready = this.waiting.get(this.row); ready !== undefined; ready = this.waiting.get(this.row)) {
      this.waiting.delete(this.row);
      this.count(this.row++, ready);
    }
  }

  counters(): Pick<ImageCounters, 'tried' | 'decoded' | 'fromCache' | 'missing' | 'bad'> {
    return { tried: this.tried, ...this.counts, bad: this.reasons };
  }

  private count(row: number, outcome: Settled): void {
    if (outcome !== 'missing') this.tried++;
    if (outcome instanceof ImageError) this.reject(row, outcome);
    else this.counts[outcome]++;
    const isBad = outcome instanceof ImageError;
    if (outcome !== 'missing' && (this.tried === TRIED_BEFORE_STOP || (isBad && this.tried > TRIED_BEFORE_STOP)))
      this.stopIfTooMany();
  }

  private reject(row: number, outcome: ImageError): void {
    const { reason, message } = outcome;
    this.reasons[reason]++;
    this.bad.push({ row, path: this.paths[row] ?? '', reason, message });
    if (this.policy === 'fail') {
      throw new DataError(
        'DATA_IMAGE',
        `images: row ${row}, ${this.paths[row]}: ${message}`,
        { row, file: this.paths[row], reason },
        {
          cause: outcome,
        },
      );
    }
  }

  private stopIfTooMany(): void {
    if (this.bad.length <= this.maxBadFraction * this.tried) return;
    const first = this.bad.slice(0, 10).map(({ row, path, reason }) => `row ${row} ${path} (${reason})`);
    throw new DataError(
      'DATA_IMAGE',
      `images: expected at most ${this.maxBadFraction * 100} % bad pictures but ${this.bad.length} of ${this.tried} are: ${first.join(', ')}`,
      { reason: 'max_bad_fraction', bad: this.bad.slice(0, 10), tried: this.tried },
    );
  }
}

function pickLimits({ maxPixels, maxDecodeBytes, timeoutSeconds }: ImageLimits): ImageLimits {
  const given = Object.entries({ maxPixels, maxDecodeBytes, timeoutSeconds }).filter(
    ([, value]) => value !== undefined,
  );
  return Object.fromEntries(given);
}

function checkOptions({
  size,
  concurrency = 1,
  maxBadFraction = 0,
  augment,
  cache = {},
  ...options
}: DecodeImagesOptions): void {
  const refuse = (argument: string, expected: string, value: unknown): never => {
    throw new ArgumentError(`decodeImages: expected ${argument} to be ${expected} but received ${value}`, {
      op: 'decodeImages',
      argument,
    });
  };
  if (!Number.isInteger(size) || size < 1 || size > 4096) refuse('size', 'an integer in [1, 4096]', size);
  if (!Number.isInteger(concurrency) || concurrency < 1) refuse('concurrency', 'an integer >= 1', concurrency);
  if (!(maxBadFraction >= 0 && maxBadFraction <= 1)) refuse('maxBadFraction', 'in [0, 1]', maxBadFraction);
  const { fit = 'cover', onBadImage = 'mask' } = options;
  if (!['cover', 'contain', 'fill'].includes(fit)) refuse('fit', 'cover, contain or fill', fit);
  if (!['mask', 'skip', 'fail'].includes(onBadImage)) refuse('onBadImage', 'mask, skip or fail', onBadImage);
  if (augment != null) {
    const { minArea, flip } = augment;
    if (!(minArea > 0 && minArea <= 1)) refuse('augment.minArea', 'in (0, 1]', minArea);
    if (!(flip >= 0 && flip <= 1)) refuse('augment.flip', 'in [0, 1]', flip);
  }
  for (const [name, bytes] of Object.entries({ memory: cache.memory, disk: cache.disk })) {
    if (bytes != null && !(bytes >= 0)) refuse(`cache.${name}`, 'at least 0 bytes', bytes);
  }
}
