/** Which files of a path are the interactions, the items and the users: one rule for Parquet, CSV and JSONL. */
import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { DataError } from '../../errors.js';
import { guard } from '../../io/env.js';
import { type DataFiles, formatOf, listDataFiles } from './data_files.js';

/** The same files by other names, relative to the data folder. */
export interface TableNames {
  readonly interactions?: string | null;
  readonly items?: string | null;
  readonly users?: string | null;
  /** Interactions that come split: a file or folder per part, in the order train, valid, test. */
  readonly parts?: readonly string[] | null;
}

/** The tables of a path. */
export interface TableFolder {
  /** What relative paths (pictures, lists of items) start at. */
  readonly folder: string;
  readonly interactions: DataFiles;
  readonly items: DataFiles | null;
  readonly users: DataFiles | null;
  /** Where the data come split: the interactions of each part, `interactions` among them. */
  readonly parts: readonly DataFiles[] | null;
}

const NAMES = {
  interactions: ['interactions', 'events', 'inter'],
  items: ['items', 'item'],
  users: ['users', 'user'],
} as const;

/**
 * The tables at `path`. A file is the interactions. In a folder
 *   - `interactions`, `events` or `inter` (a file `interactions.parquet`, or a folder of files) is the interactions, `items` or `item`
 *     the item table, `users` or `user` the user table; of two such names for one table none is chosen, it is an error;
 *   - without such a name for the interactions, every file of the folder is a part of the interactions.
 * `names` says otherwise for each table. Null when the path is no file of these formats and holds none: another reader's. DataError for
 * names that are not there or not clear.
 */
export async function findTables(path: string, names: TableNames = {}): Promise<TableFolder | null> {
  const root = resolve(path);
  const status = await stat(root).catch(() => null);
  if (status === null) return null;
  const isFolder = status.isDirectory();
  if (!isFolder && formatOf(root) === null) return null;
  const folder = isFolder ? root : dirname(root);
  const entries = isFolder ? await guard('readdir', folder, () => readdir(folder)) : [];
  if (entries.some((name) => name.endsWith('.inter'))) return null;
  const find = async (table: keyof typeof NAMES): Promise<DataFiles | null> => {
    const said = names[table] ?? null;
    if (said !== null) return listDataFiles(resolve(folder, said));
    const found: string[] = [];
    for (const entry of entries) {
      const stem = formatOf(entry) === null ? entry : entry.slice(0, entry.lastIndexOf('.'));
      if (!(NAMES[table] as readonly string[]).includes(stem)) continue;
      if (stem !== entry || (await statusOf(join(folder, entry))).isDirectory()) found.push(entry);
    }
    if (found.length > 1)
      throw new DataError(
        'DATA_SCHEMA',
        `data: expected one of ${NAMES[table].join(', ')} in ${path} but found ${found.sort().join(', ')}; choose with data.${table}`,
        { file: path, reason: 'several_tables' },
      );
    return found.length === 1 ? listDataFiles(join(folder, found[0]!)) : null;
  };
  const [items, users] = [await find('items'), await find('users')];
  if (names.parts != null) {
    const parts = await Promise.all(names.parts.map((part) => listDataFiles(resolve(folder, part))));
    return { folder, interactions: parts[0]!, items, users, parts };
  }
  const named = isFolder || names.interactions != null ? await find('interactions') : null;
  if (named !== null) return { folder, interactions: named, items, users, parts: null };
  const other = new Set([...(items?.files ?? []), ...(users?.files ?? [])].map((file) => file.path));
  if (isFolder && !(await holdsData(root))) return null;
  return { folder, interactions: await listDataFiles(root, other), items, users, parts: null };
}

/** Throws StorageError, for a link to nothing too. */
function statusOf(path: string): Promise<Stats> {
  return guard('stat', path, () => stat(path));
}

/** Whether a folder, or a folder in it, holds a file of these formats. */
async function holdsData(folder: string): Promise<boolean> {
  const files = await guard('readdir', folder, () => readdir(folder, { recursive: true }));
  return files.some((name) => formatOf(name) !== null);
}
