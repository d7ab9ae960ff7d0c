/** Opens what an image root turns out to be: a folder of files, tar shards, or an LMDB. Its content decides. */

import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError } from '../../errors.js';
import { guard } from '../../io/env.js';
import { openImageFolder, pictureStem } from './image_file.js';
import { lmdbVersion, openLmdbImages } from './image_lmdb.js';
import type { ImageSource } from './image_source.js';
import { isTarHeader, openTarImages } from './image_tar.js';

/**
 * The pictures at `root`: a tar, an LMDB (a file, or a folder with `data.mdb`), a folder of tars, or a folder of files.
 * @throws ConfigError when it is none of these, or tars and pictures beside each other; DataError (DATA_IMAGE) for a corrupt tar or LMDB.
 */
export async function openImageRoot(
  root: string,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<ImageSource> {
  const status = await stat(root).catch((error: unknown) => {
    throw refused(root, 'cannot open it', error);
  });
  if (status.isFile()) {
    const start = await firstBytes(root);
    if (lmdbVersion(start) !== null) return openLmdbImages(root);
    if (isTarHeader(start)) return openTarImages([root], options);
    if (start[0] === 0x1f && start[1] === 0x8b)
      throw refused(root, 'it is compressed: gunzip it, pictures are read by position');
    throw refused(root, `it begins with ${Buffer.from(start.subarray(0, 8)).toString('hex')}`);
  }
  if (!status.isDirectory()) throw refused(root, 'it is neither a file nor a folder');
  const names = await guard('readdir', root, () => readdir(root));
  if (names.includes('data.mdb')) return openLmdbImages(root);
  const tars = names.filter((name) => name.endsWith('.tar'));
  if (tars.length === 0) return openImageFolder(root);
  const picture = names.find((name) => pictureStem(name) !== null);
  if (picture !== undefined) throw refused(root, `it holds both, ${tars[0]} and ${picture}`);
  for (const name of tars) {
    if (!isTarHeader(await firstBytes(join(root, name)))) throw refused(root, `${name} is no tar`);
  }
  return openTarImages(
    tars.map((name) => join(root, name)),
    options,
  );
}

async function firstBytes(path: string): Promise<Uint8Array> {
  let file: FileHandle | null = null;
  try {
    file = await open(path, 'r');
    const { buffer, bytesRead } = await file.read(Buffer.alloc(512), 0, 512, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file?.close();
  }
}

function refused(root: string, what: string, cause?: unknown): ConfigError {
  return new ConfigError(
    `images: expected pictures, tar shards or an LMDB at ${root} but ${what}`,
    { key: 'image_root', file: root },
    { cause },
  );
}
