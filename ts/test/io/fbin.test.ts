import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ArgumentError, ModelFileError, StorageError } from '../../src/errors.js';
import {
  encodeFbin,
  parseFbin,
  type RowIds,
  readFbin,
  readRowIds,
  writeFbin,
  writeIdLines,
  writeRowIds,
} from '../../src/io/fbin.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-fbin-'));
});
afterAll(() => rm(folder, { recursive: true }));

const rows = { count: 2, dim: 3, data: Float32Array.of(1, -2.5, 3e38, 0, -0, Number.NaN) };

describe('fbin files', () => {
  it('are count, dim and rows, little-endian', () => {
    const bytes = encodeFbin({ count: 1, dim: 2, data: Float32Array.of(1, -2) });
    expect([...bytes]).toEqual([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
  });

  it('come back bit for bit, also from a part of a larger array, and leave no other file', async () => {
    const path = join(folder, 'vectors.fbin');
    await writeFbin(path, { ...rows, data: Float32Array.of(9, ...rows.data, 9).subarray(1, 7) });
    const read = await readFbin(path);
    expect(read).toEqual(rows);
    expect(Object.is(read.data[4], -0)).toBe(true);
    expect(await readdir(folder)).toEqual(['vectors.fbin']);
  });

  it('may be empty', () => {
    for (const [count, dim] of [
      [0, 4],
      [3, 0],
    ] as const)
      expect(parseFbin(encodeFbin({ count, dim, data: new Float32Array(0) }), 'x')).toEqual({
        count,
        dim,
        data: new Float32Array(0),
      });
  });

  it('property: any sizes and values', () => {
    const vectors = fc.tuple(fc.nat(5), fc.nat(5)).chain(([count, dim]) =>
      fc.record({
        count: fc.constant(count),
        dim: fc.constant(dim),
        data: fc.float32Array({ minLength: count * dim, maxLength: count * dim }),
      }),
    );
    fc.assert(
      fc.property(vectors, (v) => {
        expect(parseFbin(encodeFbin(v), 'x')).toEqual(v);
      }),
    );
  });

  it('F09: cut at every byte, or longer by one, are refused', async () => {
    const whole = encodeFbin(rows);
    const path = join(folder, 'cut.fbin');
    for (let length = 0; length < whole.length; length++) {
      await writeFile(path, whole.subarray(0, length));
      await expect(readFbin(path)).rejects.toThrow(ModelFileError);
    }
    await writeFile(path, Buffer.concat([whole, Buffer.of(0)]));
    await expect(readFbin(path)).rejects.toThrow('expected 32 bytes for 2 rows of 3 numbers but found 33');
    await rm(path);
  });

  it('with sizes that overflow are refused without allocating', () => {
    const bytes = Buffer.alloc(8, 0xff);
    expect(() => parseFbin(bytes, 'x')).toThrow('expected 73786976260478468108 bytes');
  });

  it('refuse rows that do not fit their sizes', async () => {
    expect(() => encodeFbin({ count: 2, dim: 2, data: new Float32Array(3) })).toThrow(
      'fbin: expected 2 rows of 2 numbers, 4 in all, but received 3',
    );
    expect(() => encodeFbin({ count: 2 ** 32, dim: 0, data: new Float32Array(0) })).toThrow(ArgumentError);
    expect(() => encodeFbin({ count: 0.5, dim: 2, data: new Float32Array(1) })).toThrow(ArgumentError);
    await expect(writeFbin(join(folder, 'none', 'x.fbin'), rows)).rejects.toThrow(StorageError);
    await expect(readFbin(join(folder, 'none.fbin'))).rejects.toThrow(StorageError);
  });
});

describe('ids of rows', () => {
  const kinds: [string, RowIds][] = [
    ['ids.npy', BigInt64Array.of(-9223372036854775808n, 0n, 7305112233445566778n)],
    ['ids.txt', ['a', '', '\ufeffé 漢', '7305112233445566778']],
  ];

  it.each(kinds)('in %s come back, and the other file goes', async (name, ids) => {
    for (const [other, otherIds] of kinds) if (other !== name) await writeRowIds(folder, otherIds);
    expect(await writeRowIds(folder, ids)).toBe(name);
    expect(await readRowIds(folder, ids.length)).toEqual(ids);
    expect((await readdir(folder)).filter((file) => file.startsWith('ids'))).toEqual([name]);
  });

  it('of two tables stand side by side under names of their own', async () => {
    await writeRowIds(folder, ['a', 'b']);
    expect(await writeRowIds(folder, BigInt64Array.of(7n), { stem: 'users.ids' })).toBe('users.ids.npy');
    expect(await readRowIds(folder, 2)).toEqual(['a', 'b']);
    expect(await readRowIds(folder, 1, { stem: 'users.ids' })).toEqual(BigInt64Array.of(7n));
    await expect(readRowIds(folder, 1, { stem: 'shops' })).rejects.toThrow('expected either shops.npy or shops.txt');
  });

  it.each(kinds)('F09: %s cut at every byte is refused', async (name, ids) => {
    for (const [other] of kinds) await rm(join(folder, other), { force: true });
    await writeRowIds(folder, ids);
    const path = join(folder, name);
    const whole = await readFile(path);
    for (let length = 0; length < whole.length; length++) {
      await writeFile(path, whole.subarray(0, length));
      await expect(readRowIds(folder, ids.length)).rejects.toThrow(ModelFileError);
    }
  });

  it('of another number, of neither file, of both, of another dtype are refused', async () => {
    await writeRowIds(folder, ['a', 'b']);
    await expect(readRowIds(folder, 3)).rejects.toThrow('expected 3 ids but found 2');
    await writeFile(join(folder, 'ids.npy'), 'x');
    await expect(readRowIds(folder, 2)).rejects.toThrow('found both of them');
    await rm(join(folder, 'ids.txt'));
    await expect(readRowIds(folder, 2)).rejects.toThrow(ModelFileError);
    await rm(join(folder, 'ids.npy'));
    await expect(readRowIds(folder, 2)).rejects.toThrow('found neither of them');
  });

  it('with line ends or half characters are refused by index, and nothing is written', async () => {
    for (const bad of ['a\nb', 'a\r', '\ud800'])
      for (const write of [writeRowIds(folder, ['fine', bad]), writeIdLines(join(folder, 'ids.txt'), ['fine', bad])])
        await expect(write).rejects.toThrow(/at index 1/);
    expect((await readdir(folder)).filter((file) => file.startsWith('ids'))).toEqual([]);
  });

  it('that are no UTF-8 are refused', async () => {
    await writeFile(join(folder, 'ids.txt'), Buffer.from([0xff, 0x0a]));
    await expect(readRowIds(folder, 1)).rejects.toThrow('expected UTF-8');
  });
});
