import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { estimateDecodeBytes, readImageHeader } from '../../../src/data/images/image_header.js';
import { buildWorker } from '../loader/worker_build.js';

const MIB = 1024 * 1024;
let folder = '';
let build: ReturnType<typeof buildWorker>;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-bombs-'));
  build = buildWorker(['data/images/image_decoder.ts']);
});
afterAll(async () => {
  build.remove();
  await rm(folder, { recursive: true });
});

/** Bytes by which a process that has decoded something small grows at its highest while it decodes `path`. */
async function growth(path: string): Promise<number> {
  const program = `
    import { readFileSync, writeFileSync } from 'node:fs';
    const { decodeImage } = await import(${JSON.stringify(build.url.href)});
    const [small, file] = process.argv.slice(1).map((path) => readFileSync(path));
    const held = (name) => 1024 * Number(new RegExp(name + ':\\\\s+(\\\\d+)').exec(readFileSync('/proc/self/status', 'utf8'))[1]);
    await decodeImage(small, { size: 224 });
    writeFileSync('/proc/self/clear_refs', '5'); // the highest point so far is forgotten
    const before = held('VmRSS');
    await decodeImage(file, { size: 224, maxDecodeBytes: 2 ** 30, timeoutSeconds: 120 });
    console.log(held('VmHWM') - before);`;
  const small = join(folder, 'small.png');
  await writeFile(small, await picture(300, 200).png().toBuffer());
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, small, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  for await (const chunk of child.stdout) text += String(chunk);
  return Number(text);
}

const picture = (width: number, height: number) =>
  sharp({ create: { width, height, channels: 3, background: { r: 200, g: 30, b: 90 } } });

describe.skipIf(!existsSync('/proc/self/clear_refs'))('memory of one decode', () => {
  it.each([
    ['a baseline JPEG of 63 megapixels', () => picture(9000, 7000).jpeg(), 5],
    ['a progressive JPEG', () => picture(5000, 4000).jpeg({ progressive: true }), 50],
    [
      'a progressive JPEG 4:4:4',
      () => picture(5000, 4000).jpeg({ progressive: true, chromaSubsampling: '4:4:4' }),
      100,
    ],
    ['an interlaced PNG', () => picture(5000, 4000).png({ progressive: true, compressionLevel: 1 }), 50],
    ['a WebP', () => picture(4000, 3000).webp({ effort: 0 }), 100],
    ['a JPEG that lies on its side', () => picture(5000, 4000).withMetadata({ orientation: 6 }).jpeg(), 50],
  ])('F13: %s stays within 32 MiB of the estimate', { timeout: 240_000 }, async (_, make, atLeastMiB) => {
    const bytes = await make().toBuffer();
    const path = join(folder, 'bomb');
    await writeFile(path, bytes);
    const estimate = estimateDecodeBytes(readImageHeader(bytes));
    const grown = await growth(path);
    console.log(`${_}: ${(grown / MIB).toFixed(0)} MiB, estimate ${(estimate / MIB).toFixed(0)} MiB`);
    expect(estimate).toBeGreaterThan(32 * MIB + (atLeastMiB - 5) * MIB);
    expect(grown).toBeLessThanOrEqual(estimate + 32 * MIB);
  });
});
