/**
 * Vectors for retrieval: a `.fbin` file (uint32 count, uint32 dim, then count · dim float32 values, row-major, all little-endian) and the
 * ids of its rows beside it, in row order: `ids.npy` (int64) for 64-bit integers, `ids.txt` (UTF-8, one line each) for strings.
 */

import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError, ModelFileError } from '../errors.js';
import { type Env, guard, nodeEnv, replaceFile } from './env.js';
import { encodeNpy, parseNpy } from './npy.js';

/** `count` rows of `dim` numbers, row-major in `data` (count · dim). */
export interface VectorRows {
  readonly count: number;
  readonly dim: number;
  readonly data: Float32Array;
}

/** Ids of rows, in row order: 64-bit integers, or strings without line ends. */
export type RowIds = BigInt64Array | readonly string[];

const HEADER_BYTES = 8;
const UINT32_MAX = 0xffff_ffff;

function badArgument(argument: string, message: string): ArgumentError {
  return new ArgumentError(`fbin: ${message}`, { op: 'fbin', argument });
}

function broken(file: string, what: string, message: string): ModelFileError {
  return new ModelFileError(`fbin: ${message} (${file})`, { file, what });
}

/** The bytes of a file: its header, and a view of the values. Errors: `ArgumentError` where count, dim and data disagree. */
function fbinParts({ count, dim, data }: VectorRows): [Uint8Array, Uint8Array] {
  for (const [argument, size] of Object.entries({ count, dim }))
    if (!Number.isInteger(size) || size < 0 || size > UINT32_MAX)
      throw badArgument(argument, `expected ${argument} to be an integer of 0 to ${UINT32_MAX} but received ${size}`);
  if (data.length !== count * dim)
    throw badArgument(
      'data',
      `expected ${count} rows of ${dim} numbers, ${count * dim} in all, but received ${data.length}`,
    );
  const header = new Uint8Array(HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, count, true);
  view.setUint32(4, dim, true);
  return [header, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
}

/** The bytes of a `.fbin` file. Errors: `ArgumentError` where count, dim and data disagree. */
export function encodeFbin(rows: VectorRows): Uint8Array {
  return Buffer.concat(fbinParts(rows));
}

/** Reads a file out of its bytes, of which the rows may stay a view; `file` is for messages. Errors: `ModelFileError` (fields: file, what) for any other length. */
export function parseFbin(bytes: Uint8Array, file: string): VectorRows {
  if (bytes.length < HEADER_BYTES)
    throw broken(file, 'length', `expected a header of ${HEADER_BYTES} bytes but found ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [count, dim] = [view.getUint32(0, true), view.getUint32(4, true)];
  const expected = BigInt(HEADER_BYTES) + 4n * BigInt(count) * BigInt(dim);
  if (BigInt(bytes.length) !== expected)
    throw broken(
      file,
      'length',
      `expected ${expected} bytes for ${count} rows of ${dim} numbers but found ${bytes.length}`,
    );
  // A copy where the values begin at an address that no Float32Array can have.
  const values = bytes.subarray(HEADER_BYTES);
  const { buffer, byteOffset } = values.byteOffset % 4 === 0 ? values : Uint8Array.from(values);
  return { count, dim, data: new Float32Array(buffer, byteOffset, count * dim) };
}

/** Writes a `.fbin` file whole or not at all. Errors: `ArgumentError` as `encodeFbin`, `StorageError`. */
export async function writeFbin(path: string, rows: VectorRows, env: Env = nodeEnv): Promise<void> {
  await replaceFile(env, path, ...fbinParts(rows));
}

/** Reads a `.fbin` file. Errors: `ModelFileError` (fields: file, what), `StorageError`. */
export async function readFbin(path: string): Promise<VectorRows> {
  return parseFbin(await guard('read', path, () => nodeEnv.read(path)), path);
}

/** Where the ids of rows are. */
export interface RowIdsOptions {
  /** Name of the file without its ending. Default `ids`. */
  readonly stem?: string;
  readonly env?: Env;
}

/**
 * Writes the ids of rows into `folder`: `ids.npy` or `ids.txt` by their kind; the other file is removed. Gives the file's name.
 * Errors: `ArgumentError` (field `index`) for a string that holds a line end or is no Unicode text, `StorageError`.
 */
export async function writeRowIds(
  folder: string,
  ids: RowIds,
  { stem = 'ids', env = nodeEnv }: RowIdsOptions = {},
): Promise<string> {
  const files = [`${stem}.npy`, `${stem}.txt`] as const;
  const [name, other] = ids instanceof BigInt64Array ? files : ([files[1], files[0]] as const);
  const bytes =
    ids instanceof BigInt64Array
      ? encodeNpy({ dtype: 'int64', shape: [ids.length], data: BigInt64Array.from(ids) })
      : idLines(ids);
  await guard('remove', join(folder, other), () => env.remove(join(folder, other)));
  await replaceFile(env, join(folder, name), bytes);
  return name;
}

/** Writes ids as `ids.txt` has them. Errors: as `writeRowIds`. */
export async function writeIdLines(path: string, ids: readonly string[], env: Env = nodeEnv): Promise<void> {
  await replaceFile(env, path, idLines(ids));
}

function idLines(ids: readonly string[]): Uint8Array {
  const index = ids.findIndex((id) => /[\n\r]/.test(id) || /\p{Surrogate}/u.test(id));
  if (index >= 0)
    throw new ArgumentError(
      `fbin: expected ids of one line of Unicode text but received ${JSON.stringify(ids[index])} at index ${index}`,
      { op: 'fbin', argument: 'ids', index },
    );
  return Buffer.from(ids.map((id) => `${id}\n`).join(''), 'utf8');
}

/**
 * The ids of `count` rows, out of `ids.npy` or `ids.txt` of `folder`. Errors: `ModelFileError` (fields: file, what) where none or both of
 * the files are there, where one is cut, or holds another number of ids; `StorageError`.
 */
export async function readRowIds(
  folder: string,
  count: number,
  { stem = 'ids', env = nodeEnv }: RowIdsOptions = {},
): Promise<RowIds> {
  const there = async (name: string): Promise<boolean> =>
    stat(join(folder, name)).then(
      () => true,
      () => false,
    );
  const files = [`${stem}.npy`, `${stem}.txt`] as const;
  const [integers, text] = [await there(files[0]), await there(files[1])];
  if (integers === text)
    throw broken(
      folder,
      'ids',
      `expected either ${files[0]} or ${files[1]} but found ${integers ? 'both of them' : 'neither of them'}`,
    );
  const path = join(folder, integers ? files[0] : files[1]);
  const bytes = await guard('read', path, () => env.read(path));
  const ids = integers ? parseIdArray(bytes, path) : parseIdLines(bytes, path);
  if (ids.length !== count) throw broken(path, 'ids', `expected ${count} ids but found ${ids.length}`);
  return ids;
}

function parseIdArray(bytes: Uint8Array, file: string): BigInt64Array {
  const { dtype, shape, data } = parseNpy(bytes, file);
  if (dtype !== 'int64' || shape.length !== 1)
    throw broken(file, 'ids', `expected int64 of shape (count) but found ${dtype} of shape (${shape.join(', ')})`);
  return data;
}

function parseIdLines(bytes: Uint8Array, file: string): readonly string[] {
  if (bytes.length === 0) return [];
  if (bytes.at(-1) !== 0x0a) throw broken(file, 'length', 'the last line has no end: the file is cut');
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes.subarray(0, -1));
  } catch {
    throw broken(file, 'ids', 'expected UTF-8');
  }
  return text.split('\n');
}
