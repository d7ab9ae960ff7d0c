import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../src/data/images/image_error.js';
import {
  estimateDecodeBytes,
  type ImageHeader,
  readImageHeader,
  sniffImage,
} from '../../../src/data/images/image_header.js';
import { philox } from '../../../src/random.js';

const MIB = 1024 * 1024;
const picture = (channels: 3 | 4 = 3) =>
  sharp({ create: { width: 37, height: 21, channels, background: { r: 200, g: 100, b: 50, alpha: 0.5 } } });

/** A JPEG up to its first scan: SOF marker, size, sampling factors of each component, components in the scan. */
function jpegHeader(
  sof: number,
  width: number,
  height: number,
  factors: readonly number[],
  scan = factors.length,
): Uint8Array {
  const components = factors.flatMap((factor, i) => [i + 1, factor, 0]);
  const frame = [
    0,
    8 + components.length,
    8,
    height >> 8,
    height & 255,
    width >> 8,
    width & 255,
    factors.length,
    ...components,
  ];
  return Uint8Array.from([
    0xff,
    0xd8,
    0xff,
    sof,
    ...frame,
    0xff,
    0xda,
    0,
    6 + 2 * scan,
    scan,
    ...new Array<number>(2 * scan + 3).fill(0),
  ]);
}

describe('readImageHeader', () => {
  const base = { width: 37, height: 21, bitsPerSample: 8, wholePicture: false, orientation: 1 };
  const cases: [string, () => Promise<Buffer>, Partial<ImageHeader>][] = [
    ['baseline 4:2:0', () => picture().jpeg().toBuffer(), { format: 'jpeg', channels: 3, samplesPerPixel: 1.5 }],
    [
      'baseline 4:4:4',
      () => picture().jpeg({ chromaSubsampling: '4:4:4' }).toBuffer(),
      { channels: 3, samplesPerPixel: 3 },
    ],
    ['progressive', () => picture().jpeg({ progressive: true }).toBuffer(), { channels: 3, wholePicture: true }],
    [
      'grey JPEG',
      () => picture().greyscale().toColourspace('b-w').jpeg().toBuffer(),
      { channels: 1, samplesPerPixel: 1 },
    ],
    [
      'CMYK JPEG',
      () => picture().toColourspace('cmyk').jpeg({ chromaSubsampling: '4:4:4' }).toBuffer(),
      { channels: 4, samplesPerPixel: 4 },
    ],
    ['orientation in JPEG', () => picture().withMetadata({ orientation: 6 }).jpeg().toBuffer(), { orientation: 6 }],
    ['PNG', () => picture().png().toBuffer(), { format: 'png', channels: 3 }],
    ['PNG with alpha', () => picture(4).png().toBuffer(), { channels: 4 }],
    ['palette PNG with transparency', () => picture(4).png({ palette: true }).toBuffer(), { channels: 4 }],
    ['grey PNG', () => picture().greyscale().toColourspace('b-w').png().toBuffer(), { channels: 1 }],
    ['interlaced PNG', () => picture().png({ progressive: true }).toBuffer(), { wholePicture: true }],
    ['16-bit PNG', () => picture().toColourspace('rgb16').png().toBuffer(), { bitsPerSample: 16 }],
    ['orientation in PNG', () => picture().withMetadata({ orientation: 3 }).png().toBuffer(), { orientation: 3 }],
    ['lossy WebP', () => picture().webp().toBuffer(), { format: 'webp', channels: 3, wholePicture: true }],
    [
      'lossless WebP',
      () => picture().webp({ lossless: true }).toBuffer(),
      { format: 'webp', channels: 3, wholePicture: true },
    ],
    ['WebP with alpha', () => picture(4).webp().toBuffer(), { channels: 4, wholePicture: true }],
    [
      'orientation in WebP',
      () => picture().withMetadata({ orientation: 8 }).webp().toBuffer(),
      { orientation: 8, wholePicture: true },
    ],
  ];

  it.each(cases)('%s', async (_, make, expected) => {
    expect(readImageHeader(await make())).toMatchObject({ ...base, ...expected });
  });

  it('takes a first scan without all components for a picture held whole', () => {
    expect(readImageHeader(jpegHeader(0xc0, 20, 10, [0x22, 0x11, 0x11])).wholePicture).toBe(false);
    expect(readImageHeader(jpegHeader(0xc0, 20, 10, [0x22, 0x11, 0x11], 1)).wholePicture).toBe(true);
  });

  it('skips fill bytes and stand-alone markers', () => {
    const plain = jpegHeader(0xc2, 300, 200, [0x11]);
    const padded = Uint8Array.from([0xff, 0xd8, 0xff, 0xff, 0xff, 0x01, ...plain.subarray(2)]);
    expect(readImageHeader(padded)).toEqual(readImageHeader(plain));
  });

  it.each([
    ['no bytes', Uint8Array.of(), 'empty'],
    ['a web page', Buffer.from('<!DOCTYPE html><html>'), 'unsupported_format'],
    ['SVG', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), 'unsupported_format'],
    ['GIF', Buffer.from('GIF89a\x01\0\x01\0', 'latin1'), 'unsupported_format'],
    ['a RIFF file that is no WebP', Buffer.from('RIFF\x10\0\0\0WAVEfmt '), 'unsupported_format'],
    ['three bytes of JPEG', Uint8Array.of(0xff, 0xd8, 0xff), 'corrupt'],
    ['JPEG without frame', Uint8Array.of(0xff, 0xd8, 0xff, 0xda, 0, 6, 0, 0, 0, 0), 'corrupt'],
    ['JPEG that ends at once', Uint8Array.of(0xff, 0xd8, 0xff, 0xd9, 0, 0), 'corrupt'],
    ['JPEG with a segment of length 0', Uint8Array.of(0xff, 0xd8, 0xff, 0xe0, 0, 0, 0, 0), 'corrupt'],
    ['JPEG of height 0', jpegHeader(0xc0, 20, 0, [0x11]), 'corrupt'],
    ['PNG signature alone', Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), 'corrupt'],
    ['WebP with an unknown chunk', Buffer.from('RIFF\x10\0\0\0WEBPOOPS\0\0\0\0'), 'corrupt'],
  ])('refuses %s', (_, bytes, reason) => {
    expect(() => readImageHeader(bytes)).toThrow(ImageError);
    expect(() => readImageHeader(bytes)).toThrow(expect.objectContaining({ reason, code: 'DATA_IMAGE', exitCode: 65 }));
  });

  it('F13: answers or refuses, whatever the bytes', async () => {
    const words = new Uint32Array(4);
    for (const [kind, make] of cases.entries()) {
      const bytes = await make[1]();
      for (let i = 0; i < 60; i++) {
        const broken = Uint8Array.from(bytes);
        philox([i, kind, 0, 0], [7, 0], words);
        for (const word of words) broken[word % Math.min(broken.length, 200)] = word >>> 24;
        for (const candidate of [broken, broken.subarray(0, words[0]! % broken.length)]) {
          try {
            expect(readImageHeader(candidate).width).toBeGreaterThan(0);
          } catch (error) {
            expect(error).toBeInstanceOf(ImageError);
          }
        }
      }
    }
  });
});

describe('sniffImage', () => {
  it('asks the content', async () => {
    expect(sniffImage(await picture().jpeg().toBuffer())).toBe('jpeg');
    expect(sniffImage(await picture().png().toBuffer())).toBe('png');
    expect(sniffImage(await picture().webp().toBuffer())).toBe('webp');
    expect(sniffImage(Buffer.from('BM'))).toBe(null);
  });
});

describe('estimateDecodeBytes', () => {
  const header = (change: Partial<ImageHeader>): ImageHeader => ({
    ...{ format: 'jpeg', width: 1000, height: 500, channels: 3, bitsPerSample: 8 },
    ...{ wholePicture: false, samplesPerPixel: 1.5, orientation: 1, ...change },
  });
  it.each([
    ['baseline JPEG', {}, 512_000],
    ['progressive JPEG 4:2:0', { wholePicture: true }, 1_500_000],
    ['progressive JPEG 4:4:4', { wholePicture: true, samplesPerPixel: 3 }, 3_000_000],
    ['plain PNG', { format: 'png', samplesPerPixel: 3 }, 512_000],
    ['interlaced PNG', { format: 'png', wholePicture: true, channels: 4 }, 2_000_000],
    ['interlaced 16-bit PNG', { format: 'png', wholePicture: true, channels: 4, bitsPerSample: 16 }, 4_000_000],
    ['WebP', { format: 'webp', wholePicture: true }, 4_500_000],
    ['turned baseline JPEG', { orientation: 6 }, 512_000 + 1_500_000],
  ] as const)('%s', (_, change, bytes) => {
    expect(estimateDecodeBytes(header(change))).toBe(32 * MIB + bytes);
  });
});
