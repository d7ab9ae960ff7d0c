/**
 * What a picture's first bytes say, read by ourselves before a decoder sees the file: format by content, size, channels, EXIF
 * orientation, and from these the memory that decoding will take. Formats: JPEG (ITU T.81), PNG (ISO 15948), WebP (RFC 9649).
 */

import { ImageError } from './image_error.js';

export type ImageFormat = 'jpeg' | 'png' | 'webp';

export interface ImageHeader {
  readonly format: ImageFormat;
  /** Pixels, as stored: before the orientation is applied. */
  readonly width: number;
  readonly height: number;
  /** After decoding: 1 grey, 2 grey + alpha, 3 colour, 4 colour + alpha or CMYK. */
  readonly channels: number;
  readonly bitsPerSample: number;
  /** Progressive or multi-scan JPEG, interlaced PNG, any WebP: the decoder holds the whole picture. */
  readonly wholePicture: boolean;
  /** Stored samples per pixel over all components: 1.5 for JPEG 4:2:0, equal to `channels` without subsampling. */
  readonly samplesPerPixel: number;
  /** EXIF orientation, 1 (upright) to 8; 1 where there is none. */
  readonly orientation: number;
}

const MIB = 1024 * 1024;
const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** The format by content, or null. File names are never asked. */
export function sniffImage(bytes: Uint8Array): ImageFormat | null {
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg';
  if (PNG_SIGNATURE.every((byte, i) => bytes[i] === byte)) return 'png';
  if (ascii(bytes, 0, 4) === 'RIFF' && ascii(bytes, 8, 4) === 'WEBP') return 'webp';
  return null;
}

/** @throws ImageError: `empty`, `unsupported_format`, or `corrupt` when the header is cut or contradicts its format. */
export function readImageHeader(bytes: Uint8Array): ImageHeader {
  if (bytes.length === 0) throw new ImageError('empty', 'image: the file has no bytes');
  const format = sniffImage(bytes);
  if (format === null) {
    const start = Buffer.from(bytes.subarray(0, 8)).toString('hex');
    throw new ImageError('unsupported_format', `image: expected JPEG, PNG or WebP but the file begins with ${start}`);
  }
  let header: ImageHeader;
  try {
    header = { jpeg: readJpeg, png: readPng, webp: readWebp }[format](
      new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
      bytes,
    );
  } catch (error) {
    // DataView throws a RangeError for every read past the end.
    if (error instanceof RangeError)
      throw new ImageError('corrupt', `image: the ${format} header is cut`, { cause: error });
    throw error;
  }
  if (header.width === 0 || header.height === 0) {
    throw new ImageError('corrupt', `image: expected a size but the header says ${header.width} x ${header.height}`);
  }
  return header;
}

/** Peak bytes that decoding will take, by the table of data.md, section 7. */
export function estimateDecodeBytes(header: ImageHeader): number {
  const { format, width, height, channels, bitsPerSample, wholePicture, samplesPerPixel, orientation } = header;
  const pixels = width * height;
  let bytes = 32 * MIB;
  if (format === 'webp') bytes += 9 * pixels;
  else if (!wholePicture) bytes += 512 * width;
  else if (format === 'jpeg') bytes += 2 * pixels * samplesPerPixel;
  else bytes += pixels * channels * (bitsPerSample > 8 ? 2 : 1);
  if (orientation !== 1) bytes += pixels * channels;
  return bytes;
}

/** Walks the markers up to the first scan. */
function readJpeg(view: DataView, bytes: Uint8Array): ImageHeader {
  let orientation = 1;
  let frame: Omit<ImageHeader, 'orientation'> | null = null;
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw corrupt(`expected a JPEG marker at byte ${at}`);
    while (view.getUint8(at) === 0xff) at++;
    const marker = view.getUint8(at++);
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)) continue; // stand alone, without a length
    const length = view.getUint16(at);
    if (marker === 0xd9 || marker === 0xd8 || marker === 0 || length < 2) {
      throw corrupt(`expected a JPEG segment at byte ${at}`);
    }
    if (marker === 0xda) {
      if (frame === null) throw corrupt('the JPEG has no frame header');
      // A first scan without all components is followed by others: libjpeg then keeps every coefficient.
      const wholePicture = frame.wholePicture || view.getUint8(at + 2) < frame.channels;
      return { ...frame, wholePicture, orientation };
    }
    // SOF0 to SOF15, without DHT (c4), JPG (c8) and DAC (cc).
    if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      frame = readJpegFrame(view, at, (marker & 3) === 2);
    } else if (marker === 0xe1 && ascii(bytes, at + 2, 6) === 'Exif\0\0') {
      orientation = readOrientation(bytes.subarray(at + 8, at + length));
    }
    at += length;
  }
}

function readJpegFrame(view: DataView, at: number, progressive: boolean): Omit<ImageHeader, 'orientation'> {
  const channels = view.getUint8(at + 7);
  let sum = 0;
  let horizontal = 1;
  let vertical = 1;
  for (let i = 0; i < channels; i++) {
    const factors = view.getUint8(at + 9 + 3 * i);
    sum += (factors >> 4) * (factors & 15);
    horizontal = Math.max(horizontal, factors >> 4);
    vertical = Math.max(vertical, factors & 15);
  }
  return {
    format: 'jpeg',
    width: view.getUint16(at + 5),
    height: view.getUint16(at + 3),
    channels,
    bitsPerSample: view.getUint8(at + 2),
    wholePicture: progressive,
    samplesPerPixel: sum / (horizontal * vertical),
  };
}

/** IHDR, then a look at all chunks for transparency and orientation. */
function readPng(view: DataView, bytes: Uint8Array): ImageHeader {
  if (view.getUint32(8) !== 13 || ascii(bytes, 12, 4) !== 'IHDR') throw corrupt('expected IHDR as the first PNG chunk');
  const bitsPerSample = view.getUint8(24);
  // Colour type: 0 grey, 2 RGB, 3 palette (decodes to RGB), 4 grey + alpha, 6 RGB + alpha.
  let channels = [1, 0, 3, 3, 2, 0, 4][view.getUint8(25)] ?? 0;
  if (channels === 0) throw corrupt(`expected a PNG colour type but found ${view.getUint8(25)}`);
  let orientation = 1;
  for (let at = 33; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = ascii(bytes, at + 4, 4);
    if (type === 'tRNS' && channels % 2 === 1) channels++;
    if (type === 'eXIf') orientation = readOrientation(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return {
    format: 'png',
    width: view.getUint32(16),
    height: view.getUint32(20),
    channels,
    bitsPerSample,
    wholePicture: view.getUint8(28) !== 0,
    samplesPerPixel: channels,
    orientation,
  };
}

/** The first chunk tells the variant: VP8X (extended), VP8L (lossless) or VP8 (lossy). */
function readWebp(view: DataView, bytes: Uint8Array): ImageHeader {
  const type = ascii(bytes, 12, 4);
  const webp = (width: number, height: number, alpha: boolean, orientation: number): ImageHeader => ({
    ...{ format: 'webp', width, height, channels: alpha ? 4 : 3, bitsPerSample: 8, wholePicture: true },
    ...{ samplesPerPixel: alpha ? 4 : 3, orientation },
  });
  if (type === 'VP8X') {
    const flags = view.getUint8(20);
    const width = (view.getUint32(23, true) >>> 8) + 1; // 24 bits at byte 24
    const height = (view.getUint32(26, true) >>> 8) + 1; // 24 bits at byte 27
    return webp(width, height, (flags & 0x10) !== 0, flags & 0x08 ? readWebpOrientation(view, bytes) : 1);
  }
  if (type === 'VP8L') {
    if (view.getUint8(20) !== 0x2f) throw corrupt('expected the signature of lossless WebP');
    const bits = view.getUint32(21, true);
    return webp((bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1, ((bits >>> 28) & 1) === 1, 1);
  }
  if (type === 'VP8 ') {
    if (ascii(bytes, 23, 3) !== '\x9d\x01\x2a') throw corrupt('expected the start code of a WebP key frame');
    return webp(view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff, false, 1);
  }
  throw corrupt(`expected a WebP picture chunk but found ${JSON.stringify(type)}`);
}

function readWebpOrientation(view: DataView, bytes: Uint8Array): number {
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (ascii(bytes, at, 4) === 'EXIF') return readOrientation(bytes.subarray(at + 8, at + 8 + length));
    at += 8 + length + (length & 1);
  }
  return 1;
}

/** Tag 0x0112 of the first directory of a TIFF structure; 1 where it is absent or makes no sense. */
function readOrientation(exif: Uint8Array): number {
  const tiff = ascii(exif, 0, 6) === 'Exif\0\0' ? exif.subarray(6) : exif;
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength);
  const order = ascii(tiff, 0, 2);
  if (tiff.length < 8 || (order !== 'II' && order !== 'MM')) return 1;
  const little = order === 'II';
  const directory = view.getUint32(4, little);
  if (directory + 2 > tiff.length) return 1;
  const entries = view.getUint16(directory, little);
  for (let i = 0; i < entries; i++) {
    const at = directory + 2 + 12 * i;
    if (at + 12 > tiff.length) return 1;
    if (view.getUint16(at, little) !== 0x0112) continue;
    const value = view.getUint16(at + 8, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

/** Bytes as Latin-1 text; shorter where the data end. */
function ascii(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}

function corrupt(message: string): ImageError {
  return new ImageError('corrupt', `image: ${message}`);
}
