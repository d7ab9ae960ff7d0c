import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ArgumentError, ShapeError, StorageError } from '../src/errors.js';
import { gatherRows } from '../src/ops/gather_rows.js';
import { assign, mapped, tensor } from '../src/tensor.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-mapped-'));
afterAll(() => rmSync(folder, { recursive: true }));

const path = join(folder, 'values');
const values = Float32Array.from({ length: 6000 }, (_, i) => i * 0.5 - 7);
writeFileSync(path, Buffer.concat([Buffer.from('20 bytes before this'), Buffer.from(values.buffer)]));
const part = { path, offset: 20, bytes: values.byteLength };

describe('a tensor over a part of a file', () => {
  it('has the values of the file and can be read by kernels', async () => {
    using x = mapped(part, [1500, 4]);
    expect(await x.data()).toEqual(values);
    using rows = gatherRows(x, tensor(Int32Array.of(1499, 0)));
    expect([...(await rows.values())]).toEqual([...values.subarray(5996), ...values.subarray(0, 4)]);
  });

  it('may begin anywhere, in a page of its own or not', async () => {
    for (const first of [1, 1019, 1020, 3000]) {
      using x = mapped({ path, offset: 20 + 4 * first, bytes: 40 }, [10]);
      expect(await x.data()).toEqual(values.subarray(first, first + 10));
    }
  });

  it('has room behind the part, and keeps what is written to itself', async () => {
    const before = readFileSync(path);
    using x = mapped(part, [100_000]);
    using y = mapped(part, [6000]);
    const written = Float32Array.from({ length: 100_000 }, (_, i) => -i);
    assign(x, written);
    expect(await x.data()).toEqual(written);
    expect(await y.data()).toEqual(values);
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('gives its memory back', () => {
    for (let i = 0; i < 2000; i++) mapped(part, [25_000_000]).dispose(); // 200 GB of addresses, if any stayed
  });

  it('refuses what cannot be mapped', () => {
    expect(() => mapped({ ...part, path: join(folder, 'none') }, [6000])).toThrow(StorageError);
    expect(() => mapped({ ...part, path: join(folder, 'none') }, [6000])).toThrow(/cannot map .*none: No such file/);
    expect(() => mapped(part, [5999])).toThrow(ArgumentError);
    expect(() => mapped({ ...part, offset: 21 }, [6000])).toThrow(/multiple of 4/);
    expect(() => mapped(part, [-1])).toThrow(ShapeError);
  });
});
