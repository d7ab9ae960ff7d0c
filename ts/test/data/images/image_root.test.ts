import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { open as openLmdb } from 'lmdb';
import { type Header, pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openImageRoot } from '../../../src/data/images/image_root.js';
import { ConfigError, DataError, DisposedError } from '../../../src/errors.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-roots-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** Bytes that tell one picture from another. */
const content = (id: string, bytes = 700): Buffer =>
  Buffer.concat(
    Array.from({ length: Math.ceil(bytes / 32) }, (_, i) => createHash('sha256').update(`${id} ${i}`).digest()),
  ).subarray(0, bytes);

async function tar(entries: readonly (Partial<Header> & { name: string; bytes?: Buffer })[]): Promise<Buffer> {
  const packed = pack();
  for (const { bytes, ...header } of entries) packed.entry(header as Header, bytes ?? Buffer.alloc(0));
  packed.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of packed) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

const pictures = (...ids: string[]) => ids.map((id) => ({ name: `${id}.jpg`, bytes: content(id) }));

/** A folder of tars, by file name. */
async function shards(name: string, files: Record<string, Buffer>): Promise<string> {
  const root = join(folder, name);
  await mkdir(root);
  for (const [file, bytes] of Object.entries(files)) await writeFile(join(root, file), bytes);
  return root;
}

describe('openImageRoot: tar', () => {
  it('finds the pictures of many shards by item id and reads them by position', async () => {
    const long = `${'deep/'.repeat(60)}long-name.webp`; // longer than a plain header holds
    const root = await shards('many', {
      'b.tar': await tar([...pictures('3', '1'), { name: '3.json', bytes: Buffer.from('{}') }, { name: 'empty.png' }]),
      'a.tar': await tar([
        { name: 'sub/', type: 'directory' },
        { name: 'sub/ü 2.png', bytes: content('2', 512) },
        { name: long, bytes: content('long') },
      ]),
      'notes.txt': Buffer.from('not read'),
    });
    await using source = await openImageRoot(root);
    expect(source.kind).toBe('tar');
    expect(source.summary).toBe('2 tar shards, 5 pictures, 1 other files');
    const names = await source.find(['1', 'ü 2', '3', 'long-name', 'empty', 'gone', '../1', '']);
    expect(names.slice(5)).toEqual([null, null, null]);
    const read = await Promise.all(names.slice(0, 5).map((name) => source.read(name!, 1000)));
    expect(read.map((bytes) => Buffer.from(bytes))).toEqual([
      content('1'),
      content('2', 512),
      content('3'),
      content('long'),
      Buffer.alloc(0),
    ]);
    await expect(source.read(names[0]!, 699)).rejects.toMatchObject({ reason: 'memory_budget' });
    await using one = await openImageRoot(join(root, 'b.tar'));
    expect(one.summary).toBe('1 tar shard, 3 pictures, 1 other files');
  });

  it('refuses two pictures of an item, also in two shards', async () => {
    const root = await shards('twice', {
      '0.tar': await tar(pictures('1', '2')),
      '1.tar': await tar(pictures('3', '2')),
    });
    const opening = openImageRoot(root);
    await expect(opening).rejects.toThrow(DataError);
    await expect(opening).rejects.toThrow(
      /1\.tar, byte 2048: expected one picture of item 2 but "2\.jpg" is a second beside 0\.tar@2048\+700/,
    );
  });

  it('F14: cut at every place, a shard is refused with its name and byte', async () => {
    const whole = await tar(pictures('1', '2', '3'));
    const root = await shards('cut', { 'x.tar': whole });
    const file = join(root, 'x.tar');
    expect(whole.length).toBe(3 * (512 + 1024) + 1024);
    for (let bytes = whole.length - 1024; bytes > 512; bytes -= 128) {
      await truncate(file, bytes);
      const error = await openImageRoot(root).catch((error: unknown) => error);
      expect(error, `cut to ${bytes}`).toBeInstanceOf(DataError);
      expect(error).toMatchObject({ code: 'DATA_IMAGE', fields: { file, byte: expect.any(Number) as number } });
      expect((error as DataError).message).toMatch(/x\.tar, byte \d+: expected .*cut/);
    }
    await truncate(file, 300);
    await expect(openImageRoot(root)).rejects.toThrow(/x\.tar is no tar/);
  });

  it('F14: a corrupt header is refused with its byte', async () => {
    const bytes = await tar(pictures('1', '2', '3'));
    bytes[1536 + 10] = bytes[1536 + 10]! ^ 1; // in the header of the second
    const root = await shards('corrupt', { 'x.tar': bytes });
    await expect(openImageRoot(root)).rejects.toMatchObject({ fields: { byte: 1536 } });
    await expect(openImageRoot(root)).rejects.toThrow(/x\.tar, byte 1536: expected the header of a file/);
  });

  it.each<[string, Partial<Header> & { name: string }, RegExp]>([
    ['a link', { name: '7.jpg', type: 'symlink', linkname: '/etc/passwd' }, /"7\.jpg" is a symlink/],
    ['a hard link', { name: '7.jpg', type: 'link', linkname: '1.jpg' }, /"7\.jpg" is a link/],
    ['a device', { name: '7.jpg', type: 'character-device' }, /is a character-device/],
    ['a pipe', { name: '7.jpg', type: 'fifo' }, /is a fifo/],
    ['an absolute path', { name: '/7.jpg' }, /it is absolute/],
    ['..', { name: 'a/../../7.jpg' }, /it contains \.\./],
    ['a folder outside', { name: '../up', type: 'directory' }, /it contains \.\./],
    ['a URL', { name: 'file:///7.jpg' }, /URL/],
  ])('F15: refuses %s in a tar', async (name, entry, says) => {
    const root = await shards(`hostile ${name}`, { 'x.tar': await tar([...pictures('1'), entry]) });
    await expect(openImageRoot(root)).rejects.toThrow(DataError);
    await expect(openImageRoot(root)).rejects.toThrow(says);
    await expect(openImageRoot(root)).rejects.toThrow(/x\.tar, byte 2048: /);
  });

  it('notices a shard that changed after it was listed', async () => {
    const root = await shards('changing', { 'x.tar': await tar(pictures('1')) });
    await using source = await openImageRoot(root);
    const [name] = await source.find(['1']);
    await writeFile(join(root, 'x.tar'), await tar(pictures('1', '2')));
    await expect(source.read(name!, 1000)).rejects.toThrow(/x\.tar, byte 512: expected the file as it was/);
  });

  it('stops when aborted', async () => {
    const root = await shards('aborted', { 'x.tar': await tar(pictures('1')) });
    await expect(openImageRoot(root, { signal: AbortSignal.abort(new Error('stop')) })).rejects.toThrow('stop');
  });
});

describe('openImageRoot: LMDB', () => {
  const write = async (path: string, noSubdir: boolean): Promise<void> => {
    const writer = openLmdb<Buffer, Buffer>({ path, noSubdir, encoding: 'binary', keyEncoding: 'binary' });
    for (const id of ['1', 'ü 2', '9007199254740993']) await writer.put(Buffer.from(id), content(id, 90_000));
    await writer.close();
  };

  it.each([
    ['a file', true],
    ['a folder', false],
  ])('reads pictures by item id from %s', async (what, noSubdir) => {
    const path = join(folder, `lmdb ${what}`);
    await write(path, noSubdir);
    await using source = await openImageRoot(path);
    expect([source.kind, source.summary]).toEqual(['lmdb', 'LMDB, 3 pictures']);
    const names = await source.find(['ü 2', 'gone', '9007199254740993', '', 'x'.repeat(3000)]);
    expect(names).toEqual(['ü 2', null, '9007199254740993', null, null]);
    expect(Buffer.from(await source.read('ü 2', 100_000))).toEqual(content('ü 2', 90_000));
    await expect(source.read('1', 89_999)).rejects.toMatchObject({ reason: 'memory_budget' });
    await expect(source.read('gone', 1)).rejects.toMatchObject({ reason: 'missing_file' });
  });

  it('F14: refuses a file that is cut before it is mapped', async () => {
    const path = join(folder, 'cut.lmdb');
    await write(path, true);
    const { length } = await readFile(path);
    for (const bytes of [length - 1, length - 4096, 8192, 5000, 4096, 300]) {
      await truncate(path, bytes);
      await expect(openImageRoot(path)).rejects.toThrow(/expected .*the file is cut/);
    }
  });

  it('F14: refuses a page size that is none, or not the same in both headers', async () => {
    const path = join(folder, 'pages.lmdb');
    await write(path, true);
    const whole = await readFile(path);
    for (const [at, size] of [
      [48, 0],
      [48, 4095],
      [4096 + 48, 0],
      [4096 + 48, 8192],
    ] as const) {
      const bytes = Buffer.from(whole);
      bytes.writeUInt32LE(size, at);
      await writeFile(path, bytes);
      await expect(openImageRoot(path)).rejects.toThrow(`byte ${at}: expected the page size of an LMDB`);
    }
  });

  it('refuses to read once it is closed', async () => {
    const path = join(folder, 'closed.lmdb');
    await write(path, true);
    const source = await openImageRoot(path);
    await source[Symbol.asyncDispose]();
    await source[Symbol.asyncDispose]();
    await expect(source.read('1', 100_000)).rejects.toThrow(DisposedError);
    await expect(source.find(['1'])).rejects.toThrow(DisposedError);
  });

  it('says what to do about the older format', async () => {
    const path = join(folder, 'older.lmdb');
    await write(path, true);
    const bytes = await readFile(path);
    for (const at of [28, 4096 + 28]) bytes[at] = 1;
    await writeFile(path, bytes);
    await expect(openImageRoot(path)).rejects.toThrow(ConfigError);
    await expect(openImageRoot(path)).rejects.toThrow(/format 1.*LMDB_DATA_V1=true/);
  });

  it('names the package that is missing', async () => {
    const path = join(folder, 'no-package.lmdb');
    await write(path, true);
    vi.doMock('lmdb', () => {
      throw new Error('Cannot find package');
    });
    vi.resetModules();
    const { openImageRoot: open } = await import('../../../src/data/images/image_root.js');
    await expect(open(path)).rejects.toThrow(/need the package lmdb, which cannot be loaded \(npm install lmdb\)/);
    vi.doUnmock('lmdb');
  });
});

describe('openImageRoot', () => {
  it('takes any other folder for one of files', async () => {
    const root = join(folder, 'files');
    await mkdir(root);
    await writeFile(join(root, '1.jpg'), 'picture');
    await symlink('1.jpg', join(root, '2.jpg'));
    await using source = await openImageRoot(root);
    expect(source.kind).toBe('folder');
    expect(await source.find(['2', '3'])).toEqual(['2.jpg', null]);
    expect(Buffer.from(await source.read('2.jpg', 10)).toString()).toBe('picture');
  });

  it.each([
    ['nothing', async () => undefined, /cannot open it/],
    ['a text file', (path: string) => writeFile(path, 'picture'), /it begins with 70696374757265/],
    ['an empty file', (path: string) => writeFile(path, ''), /it begins with/],
    ['a compressed tar', async (path: string) => writeFile(path, gzipSync(await tar(pictures('1')))), /gunzip it/],
    [
      'tars beside pictures',
      async (path: string) => {
        await mkdir(path);
        await writeFile(join(path, '1.jpg'), '');
        await writeFile(join(path, '1.tar'), '');
      },
      /it holds both, 1\.tar and 1\.jpg/,
    ],
    [
      'a folder with a false tar',
      async (path: string) => {
        await mkdir(path);
        await writeFile(join(path, '1.tar'), 'x'.repeat(600));
      },
      /1\.tar is no tar/,
    ],
  ] as const)('refuses %s', async (name, make, says) => {
    const path = join(folder, `root ${name}`);
    await make(path);
    await expect(openImageRoot(path)).rejects.toThrow(ConfigError);
    await expect(openImageRoot(path)).rejects.toThrow(says);
  });
});
