import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ImageCache, openImageCache } from '../../../src/data/images/image_cache.js';

const BYTES = 3 * 16 * 16;
const ENTRY = BYTES + 32;
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-cache-'));
});
afterAll(() => rm(folder, { recursive: true }));

const key = (name: number | string): string => createHash('sha256').update(String(name)).digest('hex');
const picture = (name: number | string) => {
  const pixels = Buffer.alloc(BYTES, key(name));
  return { pixels, digest: createHash('sha256').update(pixels).digest() };
};
const put = (cache: ImageCache, name: number | string) => cache.write(key(name), picture(name));
const has = async (cache: ImageCache, name: number | string) => (await cache.read(key(name))) !== null;

async function files(directory: string): Promise<string[]> {
  const names = await readdir(directory, { recursive: true }).catch(() => []);
  return names.filter((name) => /\.(pixels|tmp)$/.test(name)).map((name) => join(directory, name));
}

describe('openImageCache', () => {
  it('gives back what was put in, also to another process; pipelines do not mix', async () => {
    const directory = join(folder, 'plain');
    const cache = openImageCache(directory, 'a', BYTES);
    expect(await cache.read(key(1))).toBeNull();
    await put(cache, 1);
    const { pixels, digest } = (await openImageCache(directory, 'a', BYTES).read(key(1)))!;
    expect(Buffer.from(pixels)).toEqual(picture(1).pixels);
    expect(Buffer.from(digest)).toEqual(picture(1).digest);
    expect(await has(openImageCache(directory, 'b', BYTES), 1)).toBe(false);
  });

  it('is written by several caches of one thread at the same time', async () => {
    const directory = join(folder, 'several');
    const caches = Array.from({ length: 3 }, () => openImageCache(directory, 'a', BYTES));
    const names = Array.from({ length: 20 }, (_, name) => name);
    await Promise.all(names.flatMap((name) => caches.map((cache) => put(cache, name))));
    expect(caches.map((cache) => cache.failedWrites)).toEqual([0, 0, 0]);
    for (const name of names) expect(await has(caches[0]!, name)).toBe(true);
  });

  it('never gives torn entries: cut at every 5 %, any byte altered, longer', async () => {
    const directory = join(folder, 'torn');
    const cache = openImageCache(directory, 'a', BYTES);
    await put(cache, 1);
    const [file] = await files(directory);
    const whole = await readFile(file!);
    let torn = 0;
    const refuses = async (what: string): Promise<void> => {
      expect(await has(cache, 1), what).toBe(false);
      expect(cache.corrupt).toBe(++torn);
      await writeFile(file!, whole);
      expect(await has(cache, 1)).toBe(true);
    };
    for (let percent = 0; percent < 100; percent += 5) {
      await truncate(file!, Math.floor((whole.length * percent) / 100));
      await refuses(`cut to ${percent} %`);
    }
    for (let at = 0; at < whole.length; at += 37) {
      const altered = Buffer.from(whole);
      altered[at] = altered[at]! ^ 1;
      await writeFile(file!, altered);
      await refuses(`byte ${at}`);
    }
    await writeFile(file!, Buffer.concat([whole, Buffer.alloc(1)]));
    await refuses('longer');
  });

  it('stays in its budget; what was not used for longest goes first', async () => {
    const directory = join(folder, 'budget');
    const cache = openImageCache(directory, 'a', BYTES, 10 * ENTRY);
    for (let i = 0; i < 10; i++) await put(cache, i);
    expect((await files(directory)).length).toBe(10);
    expect(await has(cache, 0)).toBe(true); // used again: 1 is the oldest now
    await put(cache, 10);
    expect((await files(directory)).length).toBeLessThanOrEqual(10);
    expect(await has(cache, 0)).toBe(true);
    expect(await has(cache, 1)).toBe(false);
    expect(await has(cache, 10)).toBe(true);
    for (let i = 11; i < 60; i++) {
      await put(cache, i);
      expect((await files(directory)).length).toBeLessThanOrEqual(10);
    }
    expect(cache.evicted).toBeGreaterThanOrEqual(50);
    expect(cache.failedWrites).toBe(0);
    const small = openImageCache(join(folder, 'none'), 'a', BYTES, ENTRY - 1);
    await put(small, 1);
    expect(await files(join(folder, 'none'))).toEqual([]);
  });

  it('knows from the times of files what other processes used, and counts all pipelines', async () => {
    const directory = join(folder, 'others');
    const first = openImageCache(directory, 'a', BYTES);
    for (let i = 0; i < 8; i++) await put(first, i);
    const old = new Date(Date.now() - 7_200_000);
    for (const file of await files(directory)) await utimes(file, old, old);
    await writeFile(join((await files(directory))[0]!, '..', 'left.pixels.1-0-0.tmp'), 'half');
    const reader = openImageCache(directory, 'a', BYTES);
    expect(await has(reader, 3)).toBe(true); // renews the time of its file
    const partial = (await files(directory)).find((file) => file.endsWith('.tmp'))!;
    await utimes(partial, old, old);
    const other = openImageCache(directory, 'b', BYTES, 8 * ENTRY);
    await put(other, 'new');
    expect((await files(directory)).length).toBeLessThanOrEqual(8);
    await expect(stat(partial)).rejects.toThrow(/ENOENT/);
    expect(await has(openImageCache(directory, 'a', BYTES), 3)).toBe(true);
    expect(await has(other, 'new')).toBe(true);
  });

  it('is safe under processes that read, write and remove at the same time', { timeout: 120_000 }, async () => {
    const directory = join(folder, 'processes');
    // The sources as they are, for a plain process.
    for (const name of ['image_cache', 'image_digest']) {
      const source = await readFile(new URL(`../../../src/data/images/${name}.ts`, import.meta.url), 'utf8');
      const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
      await writeFile(join(folder, `${name}.js`), ts.transpileModule(source, { compilerOptions }).outputText);
    }
    await writeFile(join(folder, 'package.json'), '{"type":"module"}');
    const program = `
      import { createHash } from 'node:crypto';
      const { openImageCache } = await import(${JSON.stringify(join(folder, 'image_cache.js'))});
      const key = (name) => createHash('sha256').update(String(name)).digest('hex');
      const cache = openImageCache(${JSON.stringify(directory)}, 'a', ${BYTES}, ${40 * ENTRY});
      let hits = 0;
      for (let i = 0; i < 600; i++) {
        const name = (i * 7 + Number(process.argv[1]) * 13) % 60;
        const expected = Buffer.alloc(${BYTES}, key(name));
        const found = await cache.read(key(name));
        if (found === null) await cache.write(key(name), { pixels: expected, digest: createHash('sha256').update(expected).digest() });
        else if (expected.equals(found.pixels)) hits++;
        else throw new Error('another picture under this name');
      }
      console.log(JSON.stringify({ hits, corrupt: cache.corrupt, failed: cache.failedWrites }));`;
    const runs = await Promise.all(
      [0, 1, 2].map(async (number) => {
        const child = spawn(process.execPath, ['--input-type=module', '-e', program, String(number)], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        let text = '';
        for await (const chunk of child.stdout) text += String(chunk);
        return JSON.parse(text) as { hits: number; corrupt: number; failed: number };
      }),
    );
    for (const { hits, corrupt, failed } of runs) {
      expect(hits).toBeGreaterThan(0);
      expect([corrupt, failed]).toEqual([0, 0]);
    }
    // Three processes see what the others write after a sixteenth of the budget each.
    expect((await files(directory)).length).toBeLessThanOrEqual(40 + 3 * Math.ceil(40 / 16));
  });
});
