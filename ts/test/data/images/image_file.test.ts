import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findImagesById, readImageFile, resolveImageRoot } from '../../../src/data/images/image_file.js';
import { ConfigError, DataError } from '../../../src/errors.js';

let folder = '';
let root = '';
const server = createServer();
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-images-'));
  await mkdir(join(folder, 'root', 'sub'), { recursive: true });
  await mkdir(join(folder, 'root-other'));
  root = await resolveImageRoot(join(folder, 'root'));
  await writeFile(join(folder, 'secret.jpg'), 'secret');
  await writeFile(join(folder, 'root-other', 'x.jpg'), 'other');
  await writeFile(join(root, 'a.jpg'), 'picture');
  await writeFile(join(root, 'sub', 'ü b.jpg'), 'below');
  await symlink(join(root, 'a.jpg'), join(root, 'inside.jpg'));
  await symlink(join(folder, 'secret.jpg'), join(root, 'outside.jpg'));
  await symlink('../secret.jpg', join(root, 'relative.jpg'));
  await symlink(folder, join(root, 'up'));
  await symlink(join(folder, 'root-other'), join(root, 'other'));
  await symlink('/dev/zero', join(root, 'device.jpg'));
  await symlink('/proc/self/environ', join(root, 'proc.jpg'));
  await symlink('gone.jpg', join(root, 'dangling.jpg'));
  await symlink('loop.jpg', join(root, 'loop.jpg'));
  execFileSync('mkfifo', [join(root, 'pipe.jpg')]);
  await new Promise<void>((done) => server.listen(join(root, 'socket.jpg'), done));
});
afterAll(async () => {
  await new Promise((done) => server.close(done));
  await rm(folder, { recursive: true });
});

describe('F15: readImageFile', () => {
  it.each([
    ['a.jpg', 'picture'],
    ['./a.jpg', 'picture'],
    ['sub/ü b.jpg', 'below'],
    ['inside.jpg', 'picture'],
    ['up/root/a.jpg', 'picture'], // the real path is what counts
  ])('reads %s', async (path, content) => {
    expect(Buffer.from(await readImageFile(root, path, 100)).toString()).toBe(content);
  });

  it.each([
    ...['/etc/passwd', '/dev/zero', '//host/share/a.jpg', '\\\\host\\share\\a.jpg', '\\a.jpg', 'C:\\a.jpg', 'c:a.jpg'],
    ...[
      '..',
      '../secret.jpg',
      '../root/a.jpg',
      '../root-other/x.jpg',
      'sub/../a.jpg',
      'sub/../../secret.jpg',
      './../secret.jpg',
    ],
    ...['sub\\..\\..\\secret.jpg', '..\\secret.jpg', 'a.jpg/..', 'sub//..//..//secret.jpg'],
    ...[
      'http://host/a.jpg',
      'https://host/a.jpg',
      'file:///etc/passwd',
      'FILE:///etc/passwd',
      'ftp://host/a',
      'data:image/png;base64,AA',
    ],
    ...['a.jpg\0', 'a.jpg\0.png', '\0', '../secret.jpg\0.jpg'],
    ...[
      'outside.jpg',
      'relative.jpg',
      'up/secret.jpg',
      'other/x.jpg',
      'device.jpg',
      'proc.jpg',
      'loop.jpg',
      'pipe.jpg',
      'socket.jpg',
    ],
    ...['sub', '.', '../', `${'x'.repeat(300)}.jpg`, 'up', 'other'],
  ])('refuses path %j', async (path) => {
    await expect(readImageFile(root, path, 100)).rejects.toMatchObject({ reason: 'path', code: 'DATA_IMAGE' });
  });

  it.each(['gone.jpg', 'dangling.jpg', 'a.jpg/b.jpg', '%2e%2e/secret.jpg', 'A.JPG '])('misses %j', async (path) => {
    await expect(readImageFile(root, path, 100)).rejects.toMatchObject({ reason: 'missing_file' });
  });

  it('refuses a file that is too large before reading it', async () => {
    await expect(readImageFile(root, 'a.jpg', 6)).rejects.toMatchObject({ reason: 'memory_budget' });
  });
});

describe('resolveImageRoot', () => {
  it('needs a folder that is there', async () => {
    await expect(resolveImageRoot(join(folder, 'absent'))).rejects.toThrow(ConfigError);
  });
});

describe('findImagesById', () => {
  it('finds one file per id and refuses two', async () => {
    const pictures = join(folder, 'pictures');
    await mkdir(pictures);
    for (const name of ['1.jpg', '2.jpeg', '3.png', '4.webp', '5.gif', '6.a.png', '7.jpg', '7.png']) {
      await writeFile(join(pictures, name), '');
    }
    const ids = ['4', '1', '2', '3', '5', '6.a', '../1', '8'];
    expect(await findImagesById(pictures, ids)).toEqual([
      '4.webp',
      '1.jpg',
      '2.jpeg',
      '3.png',
      null,
      '6.a.png',
      null,
      null,
    ]);
    await expect(findImagesById(pictures, ['1', '7'])).rejects.toThrow(DataError);
    await expect(findImagesById(pictures, ['1', '7'])).rejects.toThrow(
      /one picture of item 7 but found 7\.jpg, 7\.png/,
    );
  });
});
