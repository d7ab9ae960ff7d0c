/** Which files may be read as pictures (fault F15): regular files whose real path lies inside the image root, nothing else. */

import { constants } from 'node:fs';
import { type FileHandle, open, readdir, realpath } from 'node:fs/promises';
import { extname, join, sep } from 'node:path';
import { ConfigError, DataError, StorageError } from '../../errors.js';
import { guard } from '../../io/env.js';
import { ImageError } from './image_error.js';
import type { ImageSource } from './image_source.js';

const EXTENSIONS: readonly string[] = ['.jpg', '.jpeg', '.png', '.webp'];

/** Name without extension of the picture at `path`; null where the extension is none of a picture. */
export function pictureStem(path: string): string | null {
  const name = path.slice(path.lastIndexOf('/') + 1);
  const extension = extname(name);
  return EXTENSIONS.includes(extension) ? name.slice(0, -extension.length) : null;
}

/**
 * Pictures that are files below `root`: names are paths relative to it.
 * @throws ConfigError when it does not exist.
 */
export async function openImageFolder(root: string): Promise<ImageSource> {
  const real = await resolveImageRoot(root);
  return {
    kind: 'folder',
    summary: 'a folder of files',
    find: (ids) => findImagesById(real, ids),
    read: (name, maxBytes) => readImageFile(real, name, maxBytes),
    [Symbol.asyncDispose]: async () => {},
  };
}

/** The image root with all links resolved. @throws ConfigError when it does not exist. */
export async function resolveImageRoot(root: string): Promise<string> {
  try {
    return await realpath(root);
  } catch (error) {
    throw new ConfigError(
      `images: expected a folder of pictures at ${root} but cannot open it`,
      { key: 'image_root' },
      {
        cause: error,
      },
    );
  }
}

/**
 * Relative path of each id's picture, `<id>.jpg`, `.jpeg`, `.png` or `.webp` directly in `root`; null where there is none.
 * @throws DataError (DATA_IMAGE) when an id has two.
 */
export async function findImagesById(root: string, ids: readonly string[]): Promise<readonly (string | null)[]> {
  const byId = new Map<string, string[]>();
  const folder = await resolveImageRoot(root);
  for (const name of await guard('readdir', folder, () => readdir(folder))) {
    const id = pictureStem(name);
    if (id === null) continue;
    byId.set(id, [...(byId.get(id) ?? []), name]);
  }
  return ids.map((id) => {
    const names = byId.get(id) ?? [];
    if (names.length > 1) {
      throw new DataError(
        'DATA_IMAGE',
        `images: expected one picture of item ${id} but found ${names.sort().join(', ')}`,
        {
          item: id,
          files: names,
        },
      );
    }
    return names[0] ?? null;
  });
}

/**
 * All bytes of the picture at `path`, relative to `root` (a resolved image root).
 * @throws ImageError: `path`, `missing_file`, or `memory_budget` when the file is larger than `maxBytes`; StorageError when the
 * file system fails otherwise.
 */
export async function readImageFile(root: string, path: string, maxBytes: number): Promise<Uint8Array> {
  checkRelative(path);
  let file: FileHandle | null = null;
  try {
    const real = await realpath(join(root, path));
    if (!real.startsWith(root.endsWith(sep) ? root : root + sep))
      throw refusedPath(path, 'it leads out of the image root');
    // No link can replace the resolved path (NOFOLLOW), and opening a pipe does not wait for a writer (NONBLOCK).
    file = await open(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stat = await file.stat();
    if (!stat.isFile()) throw refusedPath(path, 'it is not a regular file');
    if (stat.size > maxBytes) {
      throw new ImageError(
        'memory_budget',
        `image: expected at most ${maxBytes} bytes of file but it has ${stat.size}`,
      );
    }
    return await file.readFile();
  } catch (error) {
    if (error instanceof ImageError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? 'EIO';
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new ImageError('missing_file', `image: there is no file ${JSON.stringify(path)}`, { cause: error });
    }
    if (code === 'ELOOP' || code === 'ENAMETOOLONG' || code === 'ENXIO')
      throw refusedPath(path, `the system says ${code}`);
    throw new StorageError(
      code,
      `image: cannot read ${JSON.stringify(path)}: ${code}`,
      { path, call: 'read' },
      { cause: error },
    );
  } finally {
    await file?.close();
  }
}

/** @throws ImageError `path` for a path that is absolute, a URL, or leaves its folder by its text alone. */
export function checkRelative(path: string): void {
  if (path.includes('\0')) throw refusedPath(path, 'it contains NUL');
  if (path.startsWith('/') || path.startsWith('\\')) throw refusedPath(path, 'it is absolute');
  if (/^[a-z][a-z0-9+.-]*:/i.test(path)) throw refusedPath(path, 'it is a URL or names a drive');
  if (path.split(/[\\/]/).includes('..')) throw refusedPath(path, 'it contains ..');
}

function refusedPath(path: string, reason: string): ImageError {
  return new ImageError(
    'path',
    `image: expected a path inside the image root but ${JSON.stringify(path)} is refused: ${reason}`,
  );
}
