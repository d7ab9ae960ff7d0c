/**
 * Pictures to uint8 pixels: path → bytes → sniff → header → budget → decode → orient → sRGB → flatten → resize (data.md,
 * section 7). The decoder is sharp, loaded on first use; its process-wide settings belong to the user and are never touched.
 */

import type { SharpConstructor } from 'sharp';
import { ArgumentError, ConfigError, DataError } from '../errors.js';
import { type ImageCache, openImageCache } from './image_cache.js';
import { IMAGE_REASONS, ImageError, type ImageReason } from './image_error.js';
import { readImageFile, resolveImageRoot } from './image_file.js';
import { estimateDecodeBytes, readImageHeader } from './image_header.js';
import { emptyImageStore, type ImageStore, pictureBytes } from './image_store.js';

export type ImageFit = 'cover' | 'contain' | 'fill';

/** `mask`: the picture is a missing modality; `skip`: the row is to be dropped; `fail`: the first one stops. */
export type BadImagePolicy = 'mask' | 'skip' | 'fail';

export interface ImageLimits {
  /** Width x height. Default 64 million. */
  readonly maxPixels?: number;
  /** Estimate from the header, and size of a file. Default 256 MiB. */
  readonly maxDecodeBytes?: number;
  /** Per picture. Default 10. */
  readonly timeoutSeconds?: number;
}

export interface DecodeImageOptions extends ImageLimits {
  /** Width and height of the result; null keeps the picture's own. */
  readonly size: number | null;
  /** `cover` (default) cuts what is too long, `contain` adds white, `fill` stretches. */
  readonly fit?: ImageFit;
}

export interface Picture {
  /** uint8 (height, width, 3), RGB in sRGB. */
  readonly pixels: Uint8Array;
  readonly width: number;
  readonly height: number;
}

export interface DecodeImagesOptions extends ImageLimits {
  /** Folder that all paths are relative to and must stay in. */
  readonly root: string;
  readonly size: number;
  readonly fit?: ImageFit;
  /** Default `mask`. */
  readonly onBadImage?: BadImagePolicy;
  /** Above this share of bad pictures, once 100 were tried, the run stops. Default 0.01; 1 never stops. */
  readonly maxBadFraction?: number;
  /** Pictures in flight; never more than the pool of libuv minus 2 (at least 1), so that others' file access does not starve. */
  readonly concurrency?: number;
  /** Where resized pixels are kept between runs; default: nowhere. */
  readonly cacheDir?: string;
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
}

export interface DecodedImages {
  readonly store: ImageStore;
  readonly counters: ImageCounters;
  /** In row order. Under `skip` these are the rows to drop. */
  readonly bad: readonly BadImage[];
}

const MIB = 1024 * 1024;
const DEFAULTS = { maxPixels: 64_000_000, maxDecodeBytes: 256 * MIB, timeoutSeconds: 10 } as const;
const MAX_CHANNELS = 4;
const TRIED_BEFORE_STOP = 100;
/** Part of the key of every cached picture: raise it when the pipeline changes pixels. */
const PIPELINE_FORMAT = 1;

/**
 * Decodes one picture: first frame, EXIF orientation applied, sRGB, 8 bit, alpha flattened on white, cubic resize.
 * @throws ImageError with the reason; ConfigError when sharp cannot be loaded.
 */
export async function decodeImage(
  bytes: Uint8Array,
  { size, fit = 'cover', ...limits }: DecodeImageOptions,
): Promise<Picture> {
  const { maxPixels, maxDecodeBytes, timeoutSeconds } = { ...DEFAULTS, ...limits };
  const header = readImageHeader(bytes);
  const { width, height, channels } = header;
  if (width * height > maxPixels) {
    throw new ImageError(
      'too_many_pixels',
      `image: expected at most ${maxPixels} pixels but the header says ${width} x ${height}`,
    );
  }
  if (channels > MAX_CHANNELS) {
    throw new ImageError('too_many_channels', `image: expected at most ${MAX_CHANNELS} channels but found ${channels}`);
  }
  const estimate = estimateDecodeBytes(header);
  if (estimate > maxDecodeBytes) {
    throw new ImageError(
      'memory_budget',
      `image: expected at most ${maxDecodeBytes} bytes for decoding but ${width} x ${height} needs ${estimate}`,
    );
  }
  const sharp = await loadSharp();
  let image = sharp(bytes, {
    failOn: 'warning',
    limitInputPixels: maxPixels,
    limitInputChannels: MAX_CHANNELS,
    autoOrient: true,
  })
    .timeout({ seconds: timeoutSeconds })
    .flatten({ background: 'white' })
    .toColourspace('srgb');
  if (size !== null) {
    image = image.resize({
      width: size,
      height: size,
      fit,
      kernel: 'cubic',
      fastShrinkOnLoad: false,
      background: 'white',
    });
  }
  const { data, info } = await image
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true })
    .catch((error: unknown) => {
      const message = (error instanceof Error ? error.message : String(error)).trim();
      throw new ImageError(decoderReason(message), `image: the decoder says: ${message}`, { cause: error });
    });
  return { pixels: threeChannels(data, info.channels), width: info.width, height: info.height };
}

/**
 * Decodes the pictures of all rows into one store over shared memory. `paths`: relative to `root`, null or '' where a row has no
 * picture. Results, counters and errors do not depend on the concurrency.
 * @throws DataError (DATA_IMAGE) under `fail`, or when too many are bad, naming the first ten; the signal's reason when aborted.
 */
export async function decodeImages(
  paths: readonly (string | null)[],
  options: DecodeImagesOptions,
): Promise<DecodedImages> {
  checkOptions(options);
  const { size, fit = 'cover', onBadImage = 'mask', maxBadFraction = 0.01, cacheDir, signal, onProgress } = options;
  const root = await resolveImageRoot(options.root);
  const limits = { ...DEFAULTS, ...pickLimits(options) };
  const cache =
    cacheDir === undefined ? null : openImageCache(cacheDir, await pipelineName(size, fit), pictureBytes(size));
  const store = emptyImageStore(paths.length, size);
  const tally = new Tally(paths, onBadImage, maxBadFraction);
  let next = 0;
  let done = 0;
  const failures: unknown[] = [];

  /** One lane: takes the next row until there is none, or another lane has failed. */
  const lane = async (): Promise<void> => {
    while (next < paths.length && failures.length === 0) {
      const row = next++;
      try {
        signal?.throwIfAborted();
        tally.settle(row, await pictureOfRow(paths[row] ?? '', root, { size, fit, ...limits }, cache, store, row));
        onProgress?.(++done, paths.length);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: lanes(options.concurrency) }, lane));
  if (failures.length > 0) throw failures[0];
  return {
    store,
    counters: {
      ...tally.counters(),
      corruptCacheFiles: cache?.corrupt ?? 0,
      failedCacheWrites: cache?.failedWrites ?? 0,
    },
    bad: tally.bad,
  };
}

/** Pictures in flight: `wanted`, at most the size of libuv's pool minus 2, at least 1. */
export function lanes(wanted = Number.POSITIVE_INFINITY, poolSize = process.env.UV_THREADPOOL_SIZE): number {
  const threads = Math.min(Math.max(Number.parseInt(poolSize ?? '4', 10) || 4, 1), 1024);
  return Math.max(1, Math.min(wanted, threads - 2));
}

type Settled = 'missing' | 'decoded' | 'fromCache' | ImageError;

/** Puts the picture at `path` into the store; what is wrong with the picture itself comes back as a value. */
async function pictureOfRow(
  path: string,
  root: string,
  options: DecodeImageOptions & Required<ImageLimits> & { readonly size: number },
  cache: ImageCache | null,
  store: ImageStore,
  row: number,
): Promise<Settled> {
  if (path === '') return 'missing';
  try {
    const bytes = await readImageFile(root, path, options.maxDecodeBytes);
    const key = cache?.key(bytes) ?? '';
    const cached = (await cache?.read(key)) ?? null;
    const pixels = cached ?? (await decodeImage(bytes, options)).pixels;
    if (cached === null) await cache?.write(key, pixels);
    store.pixels.set(pixels, row * pictureBytes(options.size));
    store.present[row] = 1;
    return cached === null ? 'decoded' : 'fromCache';
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
    if (!(outcome instanceof ImageError)) {
      this.counts[outcome]++;
      return;
    }
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
    if (this.tried >= TRIED_BEFORE_STOP) this.stopIfTooMany();
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

let sharpModule: Promise<SharpConstructor> | null = null;

function loadSharp(): Promise<SharpConstructor> {
  sharpModule ??= import('sharp').then(
    (module) => module.default,
    (error: unknown) => {
      sharpModule = null;
      const reason = error instanceof Error ? error.message : String(error);
      throw new ConfigError(
        `images: the package sharp, which decodes pictures, cannot be loaded: ${reason}`,
        {},
        { cause: error },
      );
    },
  );
  return sharpModule;
}

/** Everything beside the file's bytes that decides pixels. */
async function pipelineName(size: number, fit: ImageFit): Promise<string> {
  const { versions } = await loadSharp();
  return JSON.stringify({ format: PIPELINE_FORMAT, size, fit, sharp: versions.sharp, vips: versions.vips });
}

/** Grey pixels become three equal channels. */
function threeChannels(data: Uint8Array, channels: number): Uint8Array {
  if (channels === 3) return data;
  if (channels !== 1) throw new Error(`expected 1 or 3 channels after decoding but found ${channels}`);
  const pixels = new Uint8Array(data.length * 3);
  for (let i = 0; i < data.length; i++) {
    const grey = data[i]!;
    pixels[3 * i] = grey;
    pixels[3 * i + 1] = grey;
    pixels[3 * i + 2] = grey;
  }
  return pixels;
}

/** The reason behind a message of the decoder, which has no codes. */
export function decoderReason(message: string): ImageReason {
  if (/timeout/i.test(message)) return 'timeout';
  if (/pixel limit/i.test(message)) return 'too_many_pixels';
  if (/channel limit|too many channels/i.test(message)) return 'too_many_channels';
  if (/out of memory|memory allocation/i.test(message)) return 'memory_budget';
  return 'corrupt';
}

function pickLimits({ maxPixels, maxDecodeBytes, timeoutSeconds }: ImageLimits): ImageLimits {
  const given = Object.entries({ maxPixels, maxDecodeBytes, timeoutSeconds }).filter(
    ([, value]) => value !== undefined,
  );
  return Object.fromEntries(given);
}

function checkOptions({ size, concurrency = 1, maxBadFraction = 0, ...options }: DecodeImagesOptions): void {
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
}
