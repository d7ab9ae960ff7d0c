import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp, { type CacheResult, type Color, type Sharp } from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeImage, decoderReason, lanes } from '../../../src/data/images/image_decoder.js';
import type { ImageSource } from '../../../src/data/images/image_source.js';
import { type DecodeImagesOptions, decodeImages } from '../../../src/data/images/images.js';
import { ArgumentError, DataError } from '../../../src/errors.js';
import { philox } from '../../../src/random.js';
import { sharedData } from '../../shared_data.js';

const RED = { r: 255, g: 0, b: 0 };
const solid = (width: number, height: number, background: Color = RED) =>
  sharp({
    create: { width, height, channels: typeof background === 'object' && 'alpha' in background ? 4 : 3, background },
  });

/** A picture whose four corners differ: red, green / blue, white. */
function corners(width: number, height: number): Sharp {
  const data = Buffer.alloc(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [left, top] = [x < width / 2, y < height / 2];
      data.set(left ? (top ? [255, 0, 0] : [0, 0, 255]) : top ? [0, 255, 0] : [255, 255, 255], (y * width + x) * 3);
    }
  }
  return sharp(data, { raw: { width, height, channels: 3 } });
}

/** Noise that no codec shortens much. */
function noise(width: number, height: number): Sharp {
  const data = new Uint32Array((width * height * 3) / 4);
  const words = new Uint32Array(4);
  for (let i = 0; i < data.length; i++) data[i] = philox([i, 0, 0, 0], [1, 0], words)[0]!;
  return sharp(Buffer.from(data.buffer), { raw: { width, height, channels: 3 } });
}

const pixel = ({ pixels, width }: { pixels: Uint8Array; width: number }, x: number, y: number): number[] => [
  ...pixels.subarray((y * width + x) * 3, (y * width + x) * 3 + 3),
];
function expectNear(came: readonly number[], expected: readonly number[], tolerance: number): void {
  for (const [i, value] of expected.entries()) expect(Math.abs(came[i]! - value)).toBeLessThanOrEqual(tolerance);
  expect(came.length).toBe(expected.length);
}

let folder = '';
let root = '';
let png: Buffer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-decode-'));
  root = join(folder, 'root');
  await mkdir(root);
  png = await solid(9, 7).png().toBuffer();
});
afterAll(() => rm(folder, { recursive: true }));

describe('decodeImage', () => {
  it('gives (size, size, 3) pixels for any shape', async () => {
    const picture = await decodeImage(png, { size: 4 });
    expect(picture).toMatchObject({ width: 4, height: 4 });
    expect(picture.pixels.length).toBe(48);
    expect(pixel(picture, 3, 3)).toEqual([255, 0, 0]);
    expect(await decodeImage(png, { size: null })).toMatchObject({ width: 9, height: 7 });
  });

  it('cover cuts, contain adds white, fill stretches', async () => {
    const wide = await corners(32, 8).png().toBuffer();
    const at = async (fit: 'cover' | 'contain' | 'fill') => {
      const picture = await decodeImage(wide, { size: 8, fit });
      return [pixel(picture, 0, 0), pixel(picture, 0, 7)];
    };
    expect(await at('cover')).toEqual([
      [255, 0, 0],
      [0, 0, 255],
    ]);
    expect(await at('contain')).toEqual([
      [255, 255, 255],
      [255, 255, 255],
    ]);
    expect(await at('fill')).toEqual([
      [255, 0, 0],
      [0, 0, 255],
    ]);
  });

  it('flattens alpha on white, also in 16 bit and beside grey', async () => {
    const half = { ...RED, alpha: 0.5 };
    const rgba = await solid(4, 4, half).png().toBuffer();
    expectNear(pixel(await decodeImage(rgba, { size: 2 }), 0, 0), [255, 127, 127], 1);
    const rgba16 = await solid(4, 4, half).toColourspace('rgb16').png().toBuffer();
    expectNear(pixel(await decodeImage(rgba16, { size: 2 }), 0, 0), [255, 127, 127], 1);
    const greyAlpha = await solid(4, 4, { r: 0, g: 0, b: 0, alpha: 0.5 }).toColourspace('b-w').png().toBuffer();
    expectNear(pixel(await decodeImage(greyAlpha, { size: 2 }), 0, 0), [127, 127, 127], 1);
  });

  it('makes three 8-bit channels of grey, 16-bit grey and CMYK', async () => {
    const grey = solid(6, 6, { r: 90, g: 90, b: 90 });
    for (const bytes of [
      await grey.clone().toColourspace('b-w').png().toBuffer(),
      await grey.clone().toColourspace('b-w').jpeg().toBuffer(),
      await grey.clone().toColourspace('grey16').png().toBuffer(),
      await grey.clone().toColourspace('rgb16').png().toBuffer(),
    ]) {
      const { pixels } = await decodeImage(bytes, { size: 3 });
      expect(pixels.length).toBe(27);
      for (const value of pixels) expect(Math.abs(value - 90)).toBeLessThanOrEqual(1);
    }
    const cmyk = await grey.clone().toColourspace('cmyk').jpeg().toBuffer();
    expectNear(pixel(await decodeImage(cmyk, { size: 3 }), 1, 1), [90, 90, 90], 20); // the default profile is lossy
  });

  it('applies all eight orientations before resizing', async () => {
    const [width, height] = [24, 16];
    const pixels = await corners(width, height).raw().toBuffer();
    const upright = await decodeImage(await corners(width, height).png().toBuffer(), { size: 8, fit: 'fill' });
    // Where the pixel stored at (x, y) belongs in the upright picture, by the EXIF definition of each orientation.
    const belongs: ((x: number, y: number) => [number, number])[] = [
      (x, y) => [x, y],
      (x, y) => [width - 1 - x, y],
      (x, y) => [width - 1 - x, height - 1 - y],
      (x, y) => [x, height - 1 - y],
      (x, y) => [y, x],
      (x, y) => [width - 1 - y, x],
      (x, y) => [width - 1 - y, height - 1 - x],
      (x, y) => [y, height - 1 - x],
    ];
    for (const [i, place] of belongs.entries()) {
      const [storedWidth, storedHeight] = i < 4 ? [width, height] : [height, width];
      const stored = Buffer.alloc(pixels.length);
      for (let at = 0; at < storedWidth * storedHeight; at++) {
        const [x, y] = place(at % storedWidth, Math.floor(at / storedWidth));
        stored.set(pixels.subarray((y * width + x) * 3, (y * width + x) * 3 + 3), at * 3);
      }
      const bytes = await sharp(stored, { raw: { width: storedWidth, height: storedHeight, channels: 3 } })
        .withMetadata({ orientation: i + 1 })
        .png()
        .toBuffer();
      const picture = await decodeImage(bytes, { size: 8, fit: 'fill' });
      // Two passes of rounding to 8 bit, rows first or columns first.
      expectNear([...picture.pixels], [...upright.pixels], i < 4 ? 0 : 4);
    }
  });

  it('takes the first frame of an animation', async () => {
    const frames = Buffer.concat([
      await solid(4, 4).raw().toBuffer(),
      await solid(4, 4, { r: 0, g: 0, b: 255 }).raw().toBuffer(),
    ]);
    const animation = await sharp(frames, { raw: { width: 4, height: 8, channels: 3, pageHeight: 4 } })
      .webp({ lossless: true, loop: 0, delay: [100, 100] })
      .toBuffer();
    expect((await sharp(animation).metadata()).pages).toBe(2);
    const picture = await decodeImage(animation, { size: null });
    expect(picture).toMatchObject({ width: 4, height: 4 });
    expect(pixel(picture, 2, 2)).toEqual([255, 0, 0]);
  });

  it('F13: refuses by pixels, channels and memory before decoding', async () => {
    await expect(decodeImage(png, { size: 4, maxPixels: 62 })).rejects.toMatchObject({ reason: 'too_many_pixels' });
    await expect(decodeImage(png, { size: 4, maxPixels: 63 })).resolves.toBeDefined();
    const frame = (sof: number, components: number, side: number) =>
      Uint8Array.from([
        ...[0xff, 0xd8, 0xff, sof, 0, 8 + 3 * components, 8, side >> 8, side & 255, side >> 8, side & 255, components],
        ...Array.from({ length: 3 * components }, (_, i) => (i % 3 === 1 ? 0x11 : i)),
        ...[0xff, 0xda, 0, 6 + 2 * components, components, ...new Array<number>(2 * components + 3).fill(0)],
      ]);
    await expect(decodeImage(frame(0xc0, 5, 8), { size: 4 })).rejects.toMatchObject({ reason: 'too_many_channels' });
    // 7,000 x 7,000 progressive 4:4:4 keeps 294 MB of coefficients; the same picture baseline needs 3.6 MB beside the base.
    await expect(decodeImage(frame(0xc2, 3, 7000), { size: 4 })).rejects.toMatchObject({ reason: 'memory_budget' });
    await expect(decodeImage(frame(0xc0, 3, 7000), { size: 4 })).rejects.toMatchObject({ reason: 'corrupt' });
  });

  it('F14: cut at every percent, a picture is refused or comes out whole', async () => {
    const whole = await noise(48, 32).jpeg().toBuffer();
    for (const bytes of [whole, await noise(48, 32).png().toBuffer(), await noise(48, 32).webp().toBuffer()]) {
      for (let percent = 0; percent < 100; percent++) {
        const outcome = await decodeImage(bytes.subarray(0, (bytes.length * percent) / 100), { size: 8 }).catch(
          (error: { reason?: string }) => error.reason,
        );
        if (typeof outcome === 'object') expect(percent).toBeGreaterThan(97);
        else expect(['empty', 'unsupported_format', 'corrupt']).toContain(outcome);
      }
    }
  });

  it('leaves the process-wide settings of sharp alone', async () => {
    const settings = () => JSON.stringify([sharp.concurrency(), sharp.simd(), sharp.cache()]);
    const before = settings();
    await decodeImage(png, { size: 4 });
    expect(JSON.parse(settings())[0]).toBe(JSON.parse(before)[0]);
    expect(JSON.parse(settings())[1]).toBe(JSON.parse(before)[1]);
    const maxima = (text: string) => {
      const { memory, files, items } = (JSON.parse(text) as [number, boolean, CacheResult])[2];
      return [memory.max, files.max, items.max];
    };
    expect(maxima(settings())).toEqual(maxima(before));
  });
});

describe('decoderReason', () => {
  it.each([
    ['timeout: 42% complete', 'timeout'],
    ['Input image exceeds pixel limit', 'too_many_pixels'],
    ['Input image exceeds channel limit', 'too_many_channels'],
    ['vips_tracked: out of memory --- size == 12MB', 'memory_budget'],
    ['VipsJpeg: premature end of JPEG image', 'corrupt'],
  ])('%s', (message, reason) => {
    expect(decoderReason(message)).toBe(reason);
  });
});

describe('lanes', () => {
  it.each([
    [undefined, undefined, 2],
    [undefined, '8', 6],
    [3, '8', 3],
    [9, '8', 6],
    [4, '1', 1],
    [4, 'many', 2],
  ])('wanted %s, pool %s: %i', (wanted, pool, expected) => {
    // An absent variable means libuv's default of 4.
    expect(lanes(wanted, pool ?? '4')).toBe(expected);
  });
});

describe('decodeImages', () => {
  const paths = ['a.png', null, 'b.jpg', '', 'gone.png', 'page.jpg', 'zero.png', '../a.png', 'cut.png'];
  const options = (change: Partial<DecodeImagesOptions> = {}): DecodeImagesOptions => ({ root, size: 4, ...change });
  beforeAll(async () => {
    await writeFile(join(root, 'a.png'), png);
    await writeFile(join(root, 'b.jpg'), await solid(8, 8, { r: 0, g: 0, b: 255 }).webp({ lossless: true }).toBuffer());
    await writeFile(join(root, 'page.jpg'), '<html>404</html>');
    await writeFile(join(root, 'zero.png'), '');
    const large = await noise(16, 16).png().toBuffer();
    await writeFile(join(root, 'cut.png'), large.subarray(0, large.length / 2));
  });

  it('F14: masks bad pictures, counts each reason, and keeps an empty field apart', async () => {
    const seen: number[] = [];
    const { store, counters, bad } = await decodeImages(paths, options({ onProgress: (done) => seen.push(done) }));
    expect(store.pixels.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect([...store.present]).toEqual([1, 0, 1, 0, 0, 0, 0, 0, 0]);
    expect([...store.pixels.subarray(0, 3)]).toEqual([255, 0, 0]);
    expect([...store.pixels.subarray(96, 99)]).toEqual([0, 0, 255]);
    expect(counters).toMatchObject({ tried: 7, decoded: 2, fromCache: 0, missing: 2 });
    expect(counters.bad).toEqual({
      ...{ missing_file: 1, empty: 1, unsupported_format: 1, corrupt: 1, path: 1 },
      ...{ too_many_pixels: 0, too_many_channels: 0, memory_budget: 0, timeout: 0 },
    });
    expect(bad.map(({ row, reason }) => [row, reason])).toEqual([
      [4, 'missing_file'],
      [5, 'unsupported_format'],
      [6, 'empty'],
      [7, 'path'],
      [8, 'corrupt'],
    ]);
    expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it('F14: fails at the first bad row when asked to', async () => {
    const run = decodeImages(paths, options({ onBadImage: 'fail' }));
    await expect(run).rejects.toThrow(DataError);
    await expect(run).rejects.toThrow(/images: row 4, gone\.png: image: there is no file/);
    await expect(decodeImages(paths, options({ onBadImage: 'fail' }))).rejects.toMatchObject({
      fields: { row: 4, reason: 'missing_file' },
    });
  });

  it('F14: stops when more than the allowed share is bad, once 100 were tried, and names the first ten', async () => {
    const cached = { cache: { dir: join(folder, 'cache-of-good') } }; // one decode for all good rows
    const many = Array.from({ length: 300 }, (_, row) => (row % 20 === 0 ? `gone-${row}.png` : 'a.png'));
    const before = await decodeImages(many.slice(0, 99), options(cached));
    expect(before.counters).toMatchObject({ tried: 99, bad: { missing_file: 5 } });
    const run = decodeImages(many, options(cached));
    await expect(run).rejects.toMatchObject({
      code: 'DATA_IMAGE',
      fields: { reason: 'max_bad_fraction', tried: 100 },
    });
    await expect(run).rejects.toThrow(
      /at most 1 % bad pictures but 5 of 100 are: row 0 gone-0\.png \(missing_file\), row 20/,
    );
    const tolerant = await decodeImages(many, options({ ...cached, maxBadFraction: 0.06 }));
    expect(tolerant.counters).toMatchObject({ tried: 300, bad: { missing_file: 15 } });
  });

  it('F14: stops when the bad pictures all come before the hundredth', async () => {
    const many = Array.from({ length: 200 }, (_, row) => (row < 60 ? `gone-${row}.png` : 'a.png'));
    const run = decodeImages(many, options({ cache: { dir: join(folder, 'cache-of-good') } }));
    await expect(run).rejects.toMatchObject({ fields: { reason: 'max_bad_fraction', tried: 100 } });
  });

  it.each(['jpeg', 'png', 'webp'] as const)(
    'F14: a %s cut at every percent is masked, skipped or stops, as the policy says',
    async (format) => {
      const whole = await noise(48, 32)[format]().toBuffer();
      const names = Array.from({ length: 100 }, (_, percent) => `cut-${percent}.${format}`);
      for (const [percent, name] of names.entries())
        await writeFile(join(root, name), whole.subarray(0, (whole.length * percent) / 100));
      const all = [...names, 'a.png'];
      const masked = await decodeImages(all, options({ maxBadFraction: 1 }));
      const { bad, tried, decoded } = masked.counters;
      expect(tried).toBe(101);
      expect(decoded).toBeGreaterThanOrEqual(1); // a file that lacks its last bytes may hold all pixels
      expect(decoded).toBeLessThanOrEqual(3);
      expect(bad.empty + bad.unsupported_format + bad.corrupt).toBe(101 - decoded);
      expect(masked.store.present[100]).toBe(1);
      for (const { row } of masked.bad) expect(masked.store.present[row]).toBe(0);
      const skipped = await decodeImages(all, options({ maxBadFraction: 1, onBadImage: 'skip' }));
      const reasons = ({ bad: list }: typeof masked) => list.map(({ row, reason }) => [row, reason]);
      expect(reasons(skipped)).toEqual(reasons(masked)); // the decoder's words differ from time to time
      for (const percent of [0, 37, 80]) {
        const run = decodeImages(['a.png', names[percent]!], options({ onBadImage: 'fail' }));
        await expect(run).rejects.toMatchObject({ code: 'DATA_IMAGE', fields: { row: 1, file: names[percent] } });
      }
      await expect(decodeImages(all, options())).rejects.toMatchObject({ fields: { reason: 'max_bad_fraction' } });
    },
  );

  it('closes a source that it was given where its options are wrong', async () => {
    let closed = 0;
    const source: ImageSource = {
      kind: 'lmdb',
      summary: '',
      find: async () => [],
      read: async () => png,
      [Symbol.asyncDispose]: async () => void closed++,
    };
    await expect(decodeImages(paths, options({ root: source, size: 5000 }))).rejects.toThrow(ArgumentError);
    expect(closed).toBe(1);
  });

  it('stops when aborted', async () => {
    const controller = new AbortController();
    const many = new Array<string>(200).fill('a.png');
    const run = decodeImages(
      many,
      options({ signal: controller.signal, onProgress: (done) => done === 5 && controller.abort(new Error('stop')) }),
    );
    await expect(run).rejects.toThrow('stop');
  });

  it('decodes nothing twice with a cache, and redoes a cache file that was altered', async () => {
    const cacheDir = join(folder, 'cache');
    const run = () => decodeImages(['a.png', 'b.jpg', 'a.png'], options({ cache: { dir: cacheDir }, concurrency: 1 }));
    const first = await run();
    expect(first.counters).toMatchObject({ decoded: 2, fromCache: 1 });
    const second = await run();
    expect(second.counters).toMatchObject({ decoded: 0, fromCache: 3, corruptCacheFiles: 0 });
    expect([...second.store.pixels]).toEqual([...first.store.pixels]);

    const files = (await readdir(cacheDir, { recursive: true })).filter((name) => name.endsWith('.pixels'));
    expect(files.length).toBe(2);
    const [one, two] = files.map((name) => join(cacheDir, name));
    const bytes = await readFile(one!);
    bytes[40] = bytes[40]! ^ 1;
    await writeFile(one!, bytes);
    await writeFile(two!, 'short');
    const third = await run();
    expect(third.counters).toMatchObject({ decoded: 2, fromCache: 1, corruptCacheFiles: 2, failedCacheWrites: 0 });
    expect([...third.store.pixels]).toEqual([...first.store.pixels]);
    expect((await run()).counters).toMatchObject({ decoded: 0, fromCache: 3, corruptCacheFiles: 0 });

    const other = await decodeImages(['b.jpg'], options({ cache: { dir: cacheDir }, fit: 'fill' }));
    expect(other.counters).toMatchObject({ decoded: 1, fromCache: 0 });
  });

  it('goes on without a cache that cannot be written, and counts it', async () => {
    const cacheDir = join(root, 'a.png', 'cache');
    const { counters } = await decodeImages(['a.png'], options({ cache: { dir: cacheDir } }));
    expect(counters).toMatchObject({ decoded: 1, failedCacheWrites: 1 });
  });

  it('accepts no rows', async () => {
    expect((await decodeImages([], options())).counters.tried).toBe(0);
  });

  it.each([
    [{ size: 0 }, /size to be an integer in \[1, 4096\] but received 0/],
    [{ size: 2.5 }, /size/],
    [{ concurrency: 0 }, /concurrency to be an integer >= 1/],
    [{ maxBadFraction: 2 }, /maxBadFraction to be in \[0, 1\]/],
    [{ fit: 'outside' as 'fill' }, /fit to be cover, contain or fill but received outside/],
    [{ onBadImage: 'ignore' as 'mask' }, /onBadImage to be mask, skip or fail/],
  ])('refuses %j', async (change, message) => {
    await expect(decodeImages([], options(change))).rejects.toThrow(ArgumentError);
    await expect(decodeImages([], options(change))).rejects.toThrow(message);
  });
});

const hard = sharedData('hard-images');
const posters = sharedData('ml-latest-small-posters');

describe.skipIf(hard === null)('awkward pictures (internal test data)', () => {
  it('44 decode, 16 are refused for the right reasons', async () => {
    const lines = (await readFile(join(hard!, 'manifest.tsv'), 'utf8')).trim().split('\n').slice(1);
    const files = lines.map((line) => line.split('\t')[0]!);
    const { counters, bad } = await decodeImages(files, { root: hard!, size: 64 });
    expect(counters).toMatchObject({ tried: 60, decoded: 44 });
    expect(counters.bad).toMatchObject({ unsupported_format: 11, empty: 1, corrupt: 3, too_many_pixels: 1 });
    const refused = (reason: string) => bad.filter((image) => image.reason === reason).map(({ path }) => path);
    expect(
      refused('unsupported_format')
        .map((path) => path.replace(/^.*\./, ''))
        .sort(),
    ).toEqual(
      ['avif', 'avif', 'bmp', 'gif', 'gif', 'gif', 'ico', 'jpg', 'svg', 'tif', 'tif'], // the .jpg is a web page
    );
    expect(refused('unsupported_format')).toContain('html_named.jpg');
    expect([...refused('empty'), ...refused('too_many_pixels')].sort()).toEqual([
      '65536-uint32-limit.png',
      'real_zero_bytes.jpg',
    ]);
    expect(
      bad
        .filter(({ reason }) => reason === 'corrupt')
        .map(({ path }) => path)
        .sort(),
    ).toEqual([...['corrupt-header.jpg', 'truncated.jpg', 'truncated.png']]);
  });

  it('the eight orientations come out alike', async () => {
    const load = async (k: number) =>
      decodeImage(await readFile(join(hard!, `orient_${k}.jpg`)), { size: 32, fit: 'fill' });
    const upright = (await load(1)).pixels;
    for (let k = 2; k <= 8; k++) {
      const { pixels } = await load(k);
      const difference = pixels.reduce((sum, value, i) => sum + Math.abs(value - upright[i]!), 0) / pixels.length;
      expect(difference, `orientation ${k}`).toBeLessThan(6);
    }
  });
});

describe.skipIf(posters === null)('golden decode (internal test data)', () => {
  it('61 of 61 RGB digests, and block means of the resized pictures', async () => {
    interface Golden {
      file: string;
      width: number;
      height: number;
      rgb_sha256: string;
      bicubic224_grid7x7x3: number[][][];
    }
    const lines = (await readFile(join(posters!, 'reference', 'image_golden.jsonl'), 'utf8')).trim().split('\n');
    expect(lines.length).toBe(61);
    for (const line of lines) {
      const golden = JSON.parse(line) as Golden;
      const bytes = await readFile(join(posters!, 'images', golden.file));
      const { pixels } = await decodeImage(bytes, { size: null });
      expect(createHash('sha256').update(pixels).digest('hex'), golden.file).toBe(golden.rgb_sha256);
      const resized = await decodeImage(bytes, { size: 224, fit: 'fill' });
      const tolerance = golden.width < 224 || golden.height < 224 ? 3.5 : 0.2;
      for (const [by, row] of golden.bicubic224_grid7x7x3.entries()) {
        for (const [bx, means] of row.entries()) {
          expectNear(blockMean(resized.pixels, by, bx), means, tolerance);
        }
      }
    }
  });
});

/** Mean of each channel over block (by, bx) of 32 x 32 pixels in a picture of 224 x 224. */
function blockMean(pixels: Uint8Array, by: number, bx: number): number[] {
  const sums = [0, 0, 0];
  for (let y = by * 32; y < by * 32 + 32; y++) {
    for (let x = bx * 32; x < bx * 32 + 32; x++) {
      for (let c = 0; c < 3; c++) sums[c]! += pixels[(y * 224 + x) * 3 + c]!;
    }
  }
  return sums.map((sum) => sum / 1024);
}
