/**
 * One picture to uint8 pixels: bytes → sniff → header → budget → decode → orient → sRGB → flatten → resize (data.md, section 7). The
 * decoder is sharp, loaded on first use; its process-wide settings belong to the user and are never touched.
 */

import type { SharpConstructor } from 'sharp';
import { ConfigError } from '../../errors.js';
import { ImageError, type ImageReason } from './image_error.js';
import { estimateDecodeBytes, readImageHeader } from './image_header.js';

export type ImageFit = 'cover' | 'contain' | 'fill';

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

const MIB = 1024 * 1024;
/** Limits of one decode unless others are given. */
export const DECODE_LIMITS = { maxPixels: 64_000_000, maxDecodeBytes: 256 * MIB, timeoutSeconds: 10 } as const;
const MAX_CHANNELS = 4;
/** Part of the key of every cached picture: raise it when the pipeline changes pixels. */
const PIPELINE_FORMAT = 1;

/**
 * Decodes one picture: first frame, EXIF orientation applied, sRGB, 8 bit, alpha flattened on white, cubic resize.
 * At most `lanes()` are decoded at a time, whoever asks; the others wait.
 * @throws ImageError with the reason; ConfigError when sharp cannot be loaded.
 */
export async function decodeImage(
  bytes: Uint8Array,
  { size, fit = 'cover', ...limits }: DecodeImageOptions,
): Promise<Picture> {
  const { maxPixels, maxDecodeBytes, timeoutSeconds } = { ...DECODE_LIMITS, ...limits };
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
  await enterDecoder();
  try {
    const { data, info } = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
    return { pixels: threeChannels(data, info.channels), width: info.width, height: info.height };
  } catch (error) {
    const message = (error instanceof Error ? error.message : String(error)).trim();
    throw new ImageError(decoderReason(message), `image: the decoder says: ${message}`, { cause: error });
  } finally {
    leaveDecoder();
  }
}

let decoding = 0;
const waiting: (() => void)[] = [];

/** Waits for one of the `lanes()` of this thread; its owner leaves with `leaveDecoder`. */
async function enterDecoder(): Promise<void> {
  if (decoding < lanes()) decoding++;
  else await new Promise<void>((enter) => waiting.push(enter)); // the lane is handed over: `decoding` stays
}

function leaveDecoder(): void {
  const next = waiting.shift();
  if (next === undefined) decoding--;
  else next();
}

/** Pictures in flight: `wanted`, at most the size of libuv's pool minus 2, at least 1. */
export function lanes(wanted = Number.POSITIVE_INFINITY, poolSize = process.env.UV_THREADPOOL_SIZE): number {
  const threads = Math.min(Math.max(Number.parseInt(poolSize ?? '4', 10) || 4, 1), 1024);
  return Math.max(1, Math.min(wanted, threads - 2));
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
export async function pipelineName(size: number, fit: ImageFit): Promise<string> {
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
