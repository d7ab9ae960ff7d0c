/**
 * Pictures: decoding and resizing to 224 beside sharp called directly with as many in flight (goal: at least 0.9 of its speed), and an
 * epoch of pictures that were decoded before, from memory and from the cache on disk, beside decoding them (goal: at least 20 times as
 * fast), into a batch whose memory is used again, as in a loader. Pictures are generated: gradients with noise, JPEG of 1000 x 1000. All
 * ways take turns within every round.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { storedSide } from '../ts/src/data/images/image_augment.js';
import { lanes } from '../ts/src/data/images/image_decoder.js';
import { type DecodeImagesOptions, decodeImages } from '../ts/src/data/images/images.js';
import { philoxBlocks } from '../ts/src/random.js';
import { say } from './measure.js';

const SIDE = 1000;
const SIZE = 224;
const COUNT = 64;
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '7' }, json: { type: 'boolean' }, threads: { type: 'string' } },
  allowPositionals: true,
});
const rounds = Number(values.rounds);

/** A gradient of its own colours with noise: as large as a photo of that size. */
function picture(number: number): Promise<Buffer> {
  const pixels = Buffer.alloc(SIDE * SIDE * 3);
  const noise = philoxBlocks([number, 0, 0, 0], [1, 0], new Uint32Array((SIDE * SIDE) / 4));
  const bytes = new Uint8Array(noise.buffer);
  for (let y = 0, at = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const grain = bytes[y * SIDE + x]! >> 4;
      for (let c = 0; c < 3; c++) pixels[at++] = (((x * (c + 1) + y * (3 - c) + 37 * number) >> 3) & 0xdf) + grain;
    }
  }
  return sharp(pixels, { raw: { width: SIDE, height: SIDE, channels: 3 } })
    .jpeg({ quality: 85 })
    .toBuffer();
}

const folder = await mkdtemp(join(tmpdir(), 'galago-bench-'));
try {
  const names = Array.from({ length: COUNT }, (_, i) => `${i}.jpg`);
  let fileBytes = 0;
  for (const [i, name] of names.entries()) {
    const bytes = await picture(i);
    fileBytes += bytes.length;
    await writeFile(join(folder, name), bytes);
  }
  const rows = Int32Array.from(names.keys());
  const options = { root: folder, size: SIZE } satisfies DecodeImagesOptions;
  const augment = { minArea: 0.6, flip: 0.5 };
  // As many rows without a picture: all rows together do not fit, so pictures are paged, and those that are there stay.
  const paged = (memory: number, more: Partial<DecodeImagesOptions> = {}) =>
    decodeImages([...names, ...names.map(() => null)], { ...options, ...more, cache: { ...more.cache, memory } });
  const memory = (await paged(COUNT * SIZE * SIZE * 3)).reader!;
  const disk = (await paged(0, { cache: { dir: join(folder, 'cache') } })).reader!;
  const augmented = (await paged(COUNT * storedSide(SIZE, augment) ** 2 * 3, { augment })).reader!;

  const direct = async (): Promise<void> => {
    let next = 0;
    const pixels = new Uint8Array(COUNT * SIZE * SIZE * 3);
    const lane = async (): Promise<void> => {
      while (next < COUNT) {
        const i = next++;
        const decoded = await sharp(await readFile(join(folder, names[i]!)), { autoOrient: true })
          .flatten({ background: 'white' })
          .toColourspace('srgb')
          .resize({ width: SIZE, height: SIZE, fit: 'cover', kernel: 'cubic', fastShrinkOnLoad: false })
          .raw()
          .toBuffer();
        pixels.set(decoded, i * SIZE * SIZE * 3);
      }
    };
    await Promise.all(Array.from({ length: lanes() }, lane));
  };
  let epoch = 0;
  const batch = await memory.gather(rows);
  const ways: Record<string, () => Promise<unknown>> = {
    'sharp directly': direct,
    decode: () => decodeImages(names, options),
    'cached in memory': () => memory.fill(batch, rows, null),
    'cached on disk': () => disk.fill(batch, rows, null),
    'cached in memory, augmented': () => augmented.fill(batch, rows, { seed: 1, epoch: epoch++, position: 0 }),
  };
  const times = new Map(Object.keys(ways).map((name) => [name, [] as number[]]));
  const cpu = new Map(Object.keys(ways).map((name) => [name, [] as number[]]));
  for (let round = -1; round < rounds; round++) {
    for (const [name, run] of Object.entries(ways)) {
      const [start, before] = [performance.now(), process.cpuUsage()];
      await run();
      const [end, used] = [performance.now(), process.cpuUsage(before)];
      if (round < 0) continue;
      times.get(name)!.push((1000 * (end - start)) / COUNT);
      cpu.get(name)!.push((used.user + used.system) / COUNT);
    }
  }
  if (memory.reads.decoded + disk.reads.decoded + augmented.reads.decoded > 0)
    throw new Error(
      `expected no decodes in cached epochs: ${JSON.stringify([memory.reads, disk.reads, augmented.reads])}`,
    );

  const median = (list: readonly number[]) => list.toSorted((a, b) => a - b)[list.length >> 1]!;
  const least = (list: readonly number[]) => Math.min(...list);
  const rounded = (value: number) => Number(value.toPrecision(3));
  const ratios = (of: string, over: string) => ({
    ratio: rounded(median(times.get(of)!.map((time, round) => times.get(over)![round]! / time))),
    ratio_of_best: rounded(least(times.get(over)!) / least(times.get(of)!)),
    ratio_of_cpu: rounded(least(cpu.get(over)!) / least(cpu.get(of)!)),
  });
  for (const [name, peer] of [
    ['decode', 'sharp directly'],
    ['cached in memory', 'decode'],
    ['cached on disk', 'decode'],
    ['cached in memory, augmented', 'decode'],
  ] as const) {
    const line = {
      op: 'pictures',
      case: `${name}, ${SIDE} to ${SIZE}`,
      us_min: Math.round(least(times.get(name)!)),
      us_median: Math.round(median(times.get(name)!)),
      peer,
      peer_us_median: Math.round(median(times.get(peer)!)),
      ...ratios(name, peer),
      cpu_us_min: Math.round(least(cpu.get(name)!)),
      pictures: COUNT,
      file_bytes: Math.round(fileBytes / COUNT),
      in_flight: lanes(),
      rounds,
      cpus: cpus().length,
      load: Number(loadavg()[0]!.toFixed(1)),
    };
    console.log(JSON.stringify(line));
    say(
      `${line.case}: ${line.us_median} us a picture, ${line.ratio} times as fast as ${peer} (best of each ${line.ratio_of_best}, CPU time ${line.ratio_of_cpu})`,
    );
  }
} finally {
  await rm(folder, { recursive: true });
}
