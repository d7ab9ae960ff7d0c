import { mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { StorageError } from '../../src/errors.js';
import { type Env, nodeEnv } from '../../src/io/env.js';
import { openFeatureCache } from '../../src/io/feature_cache.js';
import { hostTensor } from '../../src/io/safetensors.js';

const key = '0123456789abcdef'.repeat(4);
const tensors = new Map([
  ['image.counts', hostTensor('I32', [2], Int32Array.of(1, 0))],
  ['image.rows', hostTensor('BF16', [1, 3], Uint16Array.of(0x3f80, 0, 0xbf80))],
]);
let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-features-'));
});
afterEach(() => rm(folder, { recursive: true }));

describe('a cache of features', () => {
  it('gives back what was written, and null for what was not', async () => {
    const cache = openFeatureCache(folder, key);
    expect(await cache.read(0)).toBe(null);
    await cache.write(0, tensors);
    expect(await openFeatureCache(folder, key).read(0)).toEqual(tensors);
    expect(await cache.read(1)).toBe(null);
    expect([cache.corrupt, cache.failedWrites]).toEqual([0, 0]);
    expect(await readdir(cache.folder)).toEqual(['block-000000.features']);
  });

  it('F01: a block cut at any byte, or with any byte changed, is never read, and counted', async () => {
    const cache = openFeatureCache(folder, key);
    await cache.write(0, tensors);
    const file = join(cache.folder, 'block-000000.features');
    const whole = await readFile(file);
    let faults = 0;
    for (let at = 0; at < whole.length; at++) {
      await writeFile(file, whole.subarray(0, at));
      expect([at, await cache.read(0)]).toEqual([at, null]);
      const flipped = Buffer.from(whole);
      flipped[at]! ^= 1 << (at % 8);
      await writeFile(file, flipped);
      expect([at, await cache.read(0)]).toEqual([at, null]);
      faults += 2;
    }
    expect(cache.corrupt).toBe(faults);
    await cache.write(0, tensors);
    expect(await readFile(file)).toEqual(whole);
    expect(await cache.read(0)).toEqual(tensors);
  });

  it('F05: a block of another place or key is not taken for this one', async () => {
    const cache = openFeatureCache(folder, key);
    await cache.write(0, tensors);
    await rename(join(cache.folder, 'block-000000.features'), join(cache.folder, 'block-000001.features'));
    expect(await cache.read(1)).toBe(null);
    expect(cache.corrupt).toBe(1);
    // the folder's name is half of the key
    const other = openFeatureCache(folder, key.slice(0, 32) + 'f'.repeat(32));
    await cache.write(0, tensors);
    expect(await other.read(0)).toBe(null);
    expect(other.corrupt).toBe(1);
  });

  it('F04: a write that fails is counted and leaves no file; a read that fails is an error', async () => {
    const full = (): never => {
      throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
    };
    const env: Env = {
      ...nodeEnv,
      create: async (path) => ({ ...(await nodeEnv.create(path)), sync: () => Promise.resolve().then(full) }),
    };
    const cache = openFeatureCache(folder, key, env);
    await cache.write(0, tensors);
    expect([cache.failedWrites, await cache.read(0)]).toEqual([1, null]);
    expect(await readdir(cache.folder)).toEqual([]);
    const broken = openFeatureCache(folder, key, { ...nodeEnv, read: () => Promise.resolve().then(full) });
    await expect(broken.read(0)).rejects.toThrow(StorageError);
  });
});
