/** Given vectors of items: rows of a `.npy` file, by item row or by a list of ids beside it. */

import { readFile, stat } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { ArgumentError, DataError } from '../../errors.js';
import { type NpyDtype, npyToFloat32, readNpy, readNpyHeader } from '../../io/npy.js';
import type { FeatureSpec, SpecOf } from '../features.js';
import type { VectorBatch } from '../loader/batch.js';
import { type BatchMemory, ownMemory } from '../loader/batch_memory.js';
import { sharedFloat32 } from '../loader/shared_memory.js';
import type { EmbeddingFeature } from '../schema.js';
import { checkedRow } from '../text/token_store.js';
import { inTurns, type Pass, slices } from '../turns.js';
import { DenseCodes } from './id_codes.js';
import { idLines } from './id_list.js';

/** Vectors of all n rows of an entity over shared memory, a `VectorBatch` of them all. `name`: their feature. */
export interface VectorStore extends VectorBatch {
  readonly name: string;
}

/** A file of vectors before it is read. `ids`: the file that says whose they are; null: row = item row. */
export interface VectorFile {
  readonly spec: SpecOf<'embedding'>;
  readonly path: string;
  readonly rows: number;
  readonly dim: number;
  readonly dtype: NpyDtype;
  readonly ids: string | null;
}

/** Lists of ids that are looked for beside a file of vectors. */
const ID_FILES = ['ids.npy', 'ids.txt'] as const;

/**
 * Reads the headers of the files of embedding features; relative paths start at `folder`. Throws DataError for what is no matrix,
 * ModelFileError for a broken `.npy`, StorageError for a file that cannot be read.
 */
export async function findVectors(specs: readonly FeatureSpec[], folder: string | null): Promise<VectorFile[]> {
  const found: VectorFile[] = [];
  for (const spec of specs) {
    if (spec.type !== 'embedding') continue;
    if (folder === null && !isAbsolute(spec.file))
      throw new ArgumentError(
        `feature ${spec.name}: expected data in a folder, or an absolute path, for ${spec.file}`,
        {
          argument: 'file',
        },
      );
    const path = isAbsolute(spec.file) ? spec.file : join(folder!, spec.file);
    const { shape, dtype } = await readNpyHeader(path);
    const [rows, dim] = shape;
    if (shape.length !== 2 || dim === 0 || dtype === 'int64')
      throw new DataError(
        'DATA_SCHEMA',
        `feature ${spec.name}: expected float vectors of shape (rows, width) but ${path} holds ${dtype} of shape (${shape.join(', ')})`,
        { file: path, feature: spec.name },
      );
    found.push({ spec, path, rows: rows!, dim: dim!, dtype, ids: await idFile(spec, path) });
  }
  return found;
}

async function idFile({ name, ids }: SpecOf<'embedding'>, path: string): Promise<string | null> {
  const exists = (file: string): Promise<boolean> =>
    stat(file).then(
      (found) => found.isFile(),
      () => false,
    );
  if (ids != null) {
    const file = isAbsolute(ids) ? ids : join(dirname(path), ids);
    if (await exists(file)) return file;
    throw new DataError('DATA_SCHEMA', `feature ${name}: expected a list of ids in ${file} but there is no such file`, {
      file,
      feature: name,
    });
  }
  for (const candidate of ID_FILES) {
    const file = join(dirname(path), candidate);
    if (await exists(file)) return file;
  }
  return null;
}

/**
 * The vectors of items with these ids, in their order. Without a list of ids fewer rows than items are an error; with one, items that it
 * does not name have no vector, which is counted, as are vectors of ids that the data do not know. DataError for a value that is not
 * finite, for a list of another length, and for an id that comes twice.
 */
export async function loadVectors(
  { spec, path, rows, dim, ids }: VectorFile,
  itemIds: readonly string[],
  counters: Record<string, number>,
  signal?: AbortSignal,
): Promise<{ store: VectorStore; feature: EmbeddingFeature }> {
  const { name } = spec;
  const given = npyToFloat32(await readNpy(path));
  const bad = await inTurns(firstNotFinite(given), signal);
  if (bad >= 0)
    throw new DataError(
      'DATA_ROW',
      `feature ${name}: expected finite numbers but ${path} holds ${given[bad]} in row ${Math.floor(bad / dim)}, column ${bad % dim}`,
      { file: path, row: Math.floor(bad / dim), column: bad % dim, feature: name },
    );
  const n = itemIds.length;
  const rowOf = ids === null ? null : await rowsById(name, ids, rows);
  if (rowOf === null && rows < n)
    throw new DataError(
      'DATA_SCHEMA',
      `feature ${name}: expected a row for each of ${n} items but ${path} has ${rows}; a list of ids beside it (ids.npy, ids.txt) says whose they are`,
      { file: path, feature: name, rows, items: n },
    );
  const values = sharedFloat32(n * dim);
  const present = new Uint8Array(new SharedArrayBuffer(n));
  let missing = 0;
  const copied = slices(
    n,
    (from, to) => {
      for (let item = from; item < to; item++) {
        const row = rowOf === null ? item : rowOf.find(itemIds[item]!);
        if (row < 0) {
          missing++;
          continue;
        }
        present[item] = 1;
        values.set(given.subarray(row * dim, (row + 1) * dim), item * dim);
      }
    },
    Math.ceil(VALUES / dim),
  );
  await inTurns(copied, signal);
  counters[`vectors:${name}:missing`] = missing;
  counters[`vectors:${name}:unused`] = rows - (n - missing);
  return {
    store: { name, values, present, dim },
    feature: { name, source: 'item', type: 'embedding', dim, freeze: true },
  };
}

/** Values looked at between two yields: well below a millisecond. */
const VALUES = 1 << 16;

/** Where the first value is that is not finite; -1 for none. */
function* firstNotFinite(values: Float32Array): Pass<number> {
  let bad = -1;
  yield* slices(
    values.length,
    (from, to) => {
      for (let i = from; i < to && bad < 0; i++) if (!Number.isFinite(values[i])) bad = i;
    },
    VALUES,
  );
  return bad;
}

/** Row of each id of a list: int64 of a `.npy`, or one per line. */
async function rowsById(name: string, file: string, rows: number): Promise<DenseCodes<string>> {
  const list = file.endsWith('.npy') ? await numericIds(name, file) : idLines(await readFile(file), file);
  if (list.at(-1) === '') list.pop();
  if (list.length !== rows)
    throw new DataError(
      'DATA_SCHEMA',
      `feature ${name}: expected ${rows} ids, one per vector, but ${file} holds ${list.length}`,
      { file, feature: name },
    );
  const rowOf = new DenseCodes<string>();
  list.forEach((id, row) => {
    if (id === '' || rowOf.code(id) !== row)
      throw new DataError(
        'DATA_ROW',
        `feature ${name}: expected every id once but line ${row + 1} of ${file} ${id === '' ? 'is empty' : `repeats ${id}`}`,
        { file, line: row + 1, feature: name },
      );
  });
  return rowOf;
}

async function numericIds(name: string, file: string): Promise<string[]> {
  const { dtype, data, shape } = await readNpy(file);
  if ((dtype !== 'int64' && dtype !== 'int32') || shape.length !== 1)
    throw new DataError(
      'DATA_SCHEMA',
      `feature ${name}: expected ids as int64 of shape (rows) but ${file} holds ${dtype} of shape (${shape.join(', ')})`,
      { file, feature: name },
    );
  return Array.from(data as ArrayLike<number | bigint>, String);
}

/** The vectors of `rows`, in their order; a row may be named more than once. @throws ArgumentError for a row outside [0, n). */
export function gatherVectors(
  { values, present, dim }: VectorBatch,
  rows: ArrayLike<number>,
  memory: BatchMemory = ownMemory,
): VectorBatch {
  const out = { values: memory.float32(rows.length * dim), present: memory.uint8(rows.length), dim };
  for (let i = 0; i < rows.length; i++) {
    const row = checkedRow('gatherVectors', rows[i]!, i, present.length);
    out.present[i] = present[row]!;
    out.values.set(values.subarray(row * dim, (row + 1) * dim), i * dim);
  }
  return out;
}
