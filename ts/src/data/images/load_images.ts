/** The pictures of the items of a data folder: where they are, and what becomes of them. */

import { join } from 'node:path';
import type { ItemRows, Pictures } from '../content.js';
import type { SpecOf } from '../features.js';
import { storedSide } from './image_augment.js';
import { openImageFolder } from './image_file.js';
import { openImageRoot } from './image_root.js';
import type { ImageSource } from './image_source.js';
import { pictureBytes } from './image_store.js';
import { type DecodeImagesOptions, decodeImages } from './images.js';

export type ImageOptions = Pick<
  DecodeImagesOptions,
  'fit' | 'augment' | 'onBadImage' | 'maxBadFraction' | 'maxDecodeBytes' | 'cache' | 'onProgress'
>;

export interface FoundImages {
  readonly source: ImageSource;
  /** By item row; null or '' where there is none. */
  readonly names: readonly (string | null)[];
}

/**
 * Where the pictures of all item rows are. In a folder of files: at the paths of the column called `column`, if the item table has it, else
 * by item id. In tar shards and LMDBs: by item id.
 */
export async function findItemImages(
  { ids, entity }: ItemRows,
  column: string,
  {
    folder,
    imageRoot,
    signal,
  }: {
    readonly folder: string;
    readonly imageRoot?: string | null | undefined;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<FoundImages> {
  const paths = entity.has(column) ? entity.strings(column) : null;
  // Paths that begin with the folder's name are relative to the data folder.
  const inFolder =
    paths?.some((path) => path !== '') === true && paths.every((path) => path === '' || path.startsWith('images/'));
  const source =
    imageRoot == null && inFolder
      ? await openImageFolder(folder)
      : await openImageRoot(imageRoot ?? join(folder, 'images'), { signal });
  try {
    const names = paths !== null && source.kind === 'folder' ? paths : await source.find(ids);
    return { source, names };
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

/** Bytes that pictures take in memory: all of them, or what the cache may hold. */
export function pictureMemory({
  augment = null,
  cache = {},
}: ImageOptions = {}): (count: number, size: number) => number {
  return (count, size) =>
    Math.min(count * pictureBytes(storedSide(size, augment)), cache.memory ?? Number.POSITIVE_INFINITY);
}

/** Decodes the pictures of all item rows. */
export async function loadImages(
  items: ItemRows,
  spec: SpecOf<'image'>,
  folder: string,
  {
    imageRoot,
    images = {},
    signal,
  }: { readonly imageRoot?: string | null; readonly images?: ImageOptions; readonly signal?: AbortSignal },
): Promise<Pictures> {
  const { source, names } = await findItemImages(items, spec.name, { folder, imageRoot, signal });
  const decoded = await decodeImages(names, { ...images, root: source, size: spec.size, signal });
  const { bad, ...counters } = decoded.counters;
  return {
    store: decoded.store,
    reader: decoded.reader,
    skip: images.onBadImage === 'skip' ? decoded.bad.map(({ row }) => row) : [],
    counters: {
      ...counters,
      ...Object.fromEntries(Object.entries(bad).map(([reason, count]) => [`bad:${reason}`, count])),
    },
  };
}
