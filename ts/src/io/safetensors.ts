/**
 * safetensors, read and written on host arrays. The file: 8 bytes little-endian N, N bytes of JSON, then the data. The reader accepts
 * never more than the reference reader does; each refusal is a `ModelFileError` whose field `rule` says why:
 *
 *  1 length of the header            8 last tensor ends the file         14 integers are 64-bit, never doubles
 *  2 header is one JSON object       9 rank 0 and size 0 are legal       15 no tensor memory before all checks; `maxBytes`
 *  3 metadata maps strings           10 no duplicate keys                16 the model's list of tensors
 *  4 dtype, shape, data_offsets      11 limits on the header             17 non-finite values, on request
 *  5 checked multiplication          12 nothing inside another tensor    18 read, not mapped
 *  6 offsets match the shape         13 names                            19 no pickle, no object arrays
 *  7 no hole, no overlap
 */
import { type FileHandle, open } from 'node:fs/promises';
import { ArgumentError, ModelFileError, StorageError } from '../errors.js';
import {
  badName,
  checkedByteSize,
  DTYPE_BYTES,
  parseHeader,
  type SafetensorsDtype,
  type SafetensorsHeader,
  type TensorEntry,
} from './safetensors_header.js';

export type { SafetensorsDtype } from './safetensors_header.js';

/** A tensor in host memory; `data` holds its little-endian values, row-major. */
export interface HostTensor {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** Limits of the reader. */
export interface ReadOptions {
  /** Name of the file in messages, for bytes that come from elsewhere. */
  readonly file?: string;
  /** Largest header in bytes; default 16 MiB. */
  readonly maxHeaderBytes?: number;
  /** Most tensors; default 1,000,000. */
  readonly maxTensors?: number;
  /** Most bytes of tensor data; default no limit but the file's length. */
  readonly maxBytes?: number;
  /** Refuse NaN and infinities (rule 17); default false. */
  readonly finite?: boolean;
  /** A tensor that stays in the file: `left` says where. Of a path only. */
  readonly leave?: string;
}

/** Tensors in the order of their bytes, and the header's metadata. */
export interface SafetensorsFile {
  readonly tensors: Map<string, HostTensor>;
  readonly metadata: ReadonlyMap<string, string>;
  /** The tensor that was not read; absent unless asked for. */
  readonly left?: TensorInFile;
}

/** A tensor that lies in a file, from byte `offset` on. */
export interface TensorInFile {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

/** The typed array for each dtype. 16-bit floats appear as their bits; booleans as 0 and 1. */
export interface ArrayOf {
  F64: Float64Array;
  F32: Float32Array;
  F16: Uint16Array;
  BF16: Uint16Array;
  I64: BigInt64Array;
  I32: Int32Array;
  I16: Int16Array;
  I8: Int8Array;
  U64: BigUint64Array;
  U32: Uint32Array;
  U16: Uint16Array;
  U8: Uint8Array;
  BOOL: Uint8Array;
}

const ARRAYS: {
  readonly [D in SafetensorsDtype]: new (
    buffer: ArrayBufferLike,
    offset: number,
    length: number,
  ) => ArrayOf[D];
} = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U64: BigUint64Array,
  U32: Uint32Array,
  U16: Uint16Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
};

const PREFIX_BYTES = 8;
const MAX_FORMAT_HEADER = 100_000_000n;
const DEFAULT_MAX_HEADER = 16 * 1024 * 1024;
const DEFAULT_MAX_TENSORS = 1_000_000;
const READ_CHUNK = 64 * 1024 * 1024;

function refuse(file: string, rule: number, message: string, fields: Record<string, unknown> = {}): never {
  throw new ModelFileError(`safetensors: ${file}: ${message} (rule ${rule})`, { file, rule, ...fields });
}

/** The name of a format that we refuse by principle and that starts with these bytes, or null (rule 19). */
function foreignFormat(start: Uint8Array): string | null {
  if (start[0] === 0x50 && start[1] === 0x4b) return 'a zip archive (a PyTorch .pt file or .npz)';
  if (start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5) return 'a Python pickle';
  if (start[0] === 0x93 && start[1] === 0x4e) return 'a NumPy .npy file';
  return null;
}

/** Length of the header, from the first 8 bytes (rules 1 and 11). */
function headerLength(start: Uint8Array, fileBytes: number, file: string, maxHeaderBytes: number): number {
  const foreign = foreignFormat(start);
  const length =
    start.length < PREFIX_BYTES ? null : new DataView(start.buffer, start.byteOffset).getBigUint64(0, true);
  const fits = length !== null && length <= MAX_FORMAT_HEADER && length <= BigInt(fileBytes - PREFIX_BYTES);
  if (!fits && foreign !== null)
    refuse(file, 19, `expected safetensors but received ${foreign}; only safetensors is read`);
  if (length === null) refuse(file, 1, `expected at least ${PREFIX_BYTES} bytes but received ${fileBytes}`);
  if (length > MAX_FORMAT_HEADER) refuse(file, 1, `a header of ${length} bytes is above ${MAX_FORMAT_HEADER}`);
  if (!fits) refuse(file, 1, `a header of ${length} bytes goes beyond the file of ${fileBytes}`);
  if (length > BigInt(maxHeaderBytes))
    refuse(file, 11, `a header of ${length} bytes is above the limit of ${maxHeaderBytes}`);
  return Number(length);
}

function checkTotal({ entries }: SafetensorsHeader, file: string, maxBytes: number): void {
  const total = entries.at(-1)?.end ?? 0;
  if (total > maxBytes) refuse(file, 15, `tensors of ${total} bytes are above maxBytes = ${maxBytes}`);
}

/**
 * Reads safetensors from memory. Each `data` is a view of `bytes`, not a copy. Throws `ModelFileError` (field `rule`).
 */
export function parseSafetensors(bytes: Uint8Array, options: ReadOptions = {}): SafetensorsFile {
  const { file = '(bytes)', maxHeaderBytes = DEFAULT_MAX_HEADER, maxTensors = DEFAULT_MAX_TENSORS } = options;
  const length = headerLength(bytes.subarray(0, PREFIX_BYTES), bytes.length, file, maxHeaderBytes);
  const start = PREFIX_BYTES + length;
  const dataBytes = bytes.length - start;
  const header = parseHeader(bytes.subarray(PREFIX_BYTES, start), { dataBytes, file, maxTensors });
  checkTotal(header, file, options.maxBytes ?? Number.POSITIVE_INFINITY);
  const tensors = new Map<string, HostTensor>();
  for (const { name, dtype, shape, begin, end } of header.entries) {
    tensors.set(name, { dtype, shape, data: bytes.subarray(start + begin, start + end) });
  }
  if (options.finite) requireFinite(tensors, file);
  return { tensors, metadata: header.metadata };
}

async function readExactly(handle: FileHandle, bytes: Uint8Array, position: number, file: string): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const length = Math.min(READ_CHUNK, bytes.length - done);
    const { bytesRead } = await handle.read(bytes, done, length, position + done);
    if (bytesRead === 0) refuse(file, 8, `the file ended at byte ${position + done} while it was read`);
    done += bytesRead;
  }
}

async function readFileParts(path: string, options: ReadOptions): Promise<SafetensorsFile> {
  const { file = path, maxHeaderBytes = DEFAULT_MAX_HEADER, maxTensors = DEFAULT_MAX_TENSORS } = options;
  const handle = await open(path, 'r');
  try {
    const fileBytes = (await handle.stat()).size;
    const start = new Uint8Array(Math.min(PREFIX_BYTES, fileBytes));
    await readExactly(handle, start, 0, file);
    const headerBytes = new Uint8Array(headerLength(start, fileBytes, file, maxHeaderBytes));
    await readExactly(handle, headerBytes, PREFIX_BYTES, file);
    const dataStart = PREFIX_BYTES + headerBytes.length;
    const header = parseHeader(headerBytes, { dataBytes: fileBytes - dataStart, file, maxTensors });
    checkTotal(header, file, options.maxBytes ?? Number.POSITIVE_INFINITY);
    const read = async ({ begin, end }: TensorEntry): Promise<Uint8Array> => {
      const data = new Uint8Array(end - begin);
      await readExactly(handle, data, dataStart + begin, file);
      return data;
    };
    const tensors = new Map<string, HostTensor>();
    let left: TensorInFile | undefined;
    for (const entry of header.entries) {
      const { name, dtype, shape, begin, end } = entry;
      if (name === options.leave) left = { dtype, shape, path, offset: dataStart + begin, bytes: end - begin };
      else tensors.set(name, { dtype, shape, data: await read(entry) });
    }
    if (options.finite) requireFinite(tensors, file);
    return { tensors, metadata: header.metadata, ...(left === undefined ? {} : { left }) };
  } finally {
    await handle.close();
  }
}

/**
 * Reads a safetensors file, or bytes that hold one. From a path every tensor gets memory of its own, after all checks; from bytes, views.
 * Throws `ModelFileError` (field `rule`) for what the file says, `StorageError` for what the file system says.
 */
export async function readSafetensorsFile(
  source: string | Uint8Array,
  options: ReadOptions = {},
): Promise<SafetensorsFile> {
  if (typeof source !== 'string') return parseSafetensors(source, options);
  try {
    return await readFileParts(source, options);
  } catch (error) {
    if (!(error instanceof Error) || !('syscall' in error) || !('code' in error)) throw error;
    throw new StorageError(
      String(error.code),
      `safetensors: cannot read ${source}: ${error.message}`,
      { path: source, call: error.syscall },
      { cause: error },
    );
  }
}

/** The tensors of `readSafetensorsFile`, by name, in the order of their bytes. */
export async function readSafetensors(
  source: string | Uint8Array,
  options: ReadOptions = {},
): Promise<Map<string, HostTensor>> {
  return (await readSafetensorsFile(source, options)).tensors;
}

/** The float32 values of bytes [begin, end) of a tensor that was left in its file. Throws `StorageError`, `ModelFileError` at an early end. */
export async function readPart({ path, offset }: TensorInFile, begin: number, end: number): Promise<Float32Array> {
  const bytes = new Uint8Array(end - begin);
  const handle = await open(path, 'r');
  try {
    await readExactly(handle, bytes, offset + begin, path);
  } finally {
    await handle.close();
  }
  return new Float32Array(bytes.buffer);
}

function checkWritable(name: string, { dtype, shape, data }: HostTensor): void {
  const fail = (message: string): never => {
    throw new ArgumentError(`safetensors: tensor ${JSON.stringify(name)}: ${message}`, {
      op: 'safetensors',
      argument: name,
    });
  };
  const reason = badName(name);
  if (reason !== null || name === '__metadata__') fail(reason ?? 'the name is reserved');
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0))
    fail(`expected sizes >= 0 but received (${shape.join(', ')})`);
  const expected = checkedByteSize(dtype, shape);
  if (expected !== BigInt(data.length)) {
    fail(`expected ${expected} bytes for ${dtype} of shape (${shape.join(', ')}) but received ${data.length}`);
  }
}

/** JSON without half surrogate pairs, which UTF-8 cannot hold. */
function jsonString(text: string): string {
  if (Buffer.from(text, 'utf8').toString('utf8') !== text) {
    throw new ArgumentError(`safetensors: ${JSON.stringify(text)} is not well-formed Unicode`, { op: 'safetensors' });
  }
  return JSON.stringify(text);
}

/**
 * A safetensors file in parts, to be written one after the other: the header with its length, then each tensor's bytes, in the order given.
 * The header starts with `{` and is padded with spaces to a multiple of 8 bytes. Equal input gives equal bytes. Throws `ArgumentError`.
 */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, HostTensor>,
  { metadata }: { metadata?: ReadonlyMap<string, string> } = {},
): Uint8Array[] {
  const fields: string[] = [];
  if (metadata !== undefined && metadata.size > 0) {
    const pairs = [...metadata].map(([key, value]) => `${jsonString(key)}:${jsonString(value)}`);
    fields.push(`"__metadata__":{${pairs.join(',')}}`);
  }
  let position = 0;
  const parts: Uint8Array[] = [];
  for (const [name, tensor] of tensors) {
    checkWritable(name, tensor);
    const end = position + tensor.data.length;
    const shape = tensor.shape.join(',');
    fields.push(
      `${jsonString(name)}:{"dtype":"${tensor.dtype}","shape":[${shape}],"data_offsets":[${position},${end}]}`,
    );
    parts.push(tensor.data);
    position = end;
  }
  const json = Buffer.from(`{${fields.join(',')}}`, 'utf8');
  const padded = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(PREFIX_BYTES + padded).fill(0x20, PREFIX_BYTES);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, PREFIX_BYTES);
  return [header, ...parts];
}

/** `encodeSafetensors` joined into one array. */
export function safetensorsBytes(
  tensors: ReadonlyMap<string, HostTensor>,
  options: { metadata?: ReadonlyMap<string, string> } = {},
): Uint8Array {
  return Buffer.concat(encodeSafetensors(tensors, options));
}

/** What a model asks of a file: each tensor's dtype and shape, by name. */
export type TensorList = ReadonlyMap<string, { readonly dtype: SafetensorsDtype; readonly shape: readonly number[] }>;

/** Every difference between `tensors` and what is expected, one line each; empty where they agree. */
export function tensorDifferences(tensors: TensorList, expected: TensorList): string[] {
  const spelled = (t: { dtype: string; shape: readonly number[] }) => `${t.dtype} (${t.shape.join(', ')})`;
  const lines: string[] = [];
  for (const [name, wanted] of expected) {
    const found = tensors.get(name);
    if (found === undefined) lines.push(`missing ${name}: expected ${spelled(wanted)}`);
    else if (spelled(found) !== spelled(wanted))
      lines.push(`${name}: expected ${spelled(wanted)} but received ${spelled(found)}`);
  }
  for (const [name, found] of tensors) if (!expected.has(name)) lines.push(`extra ${name}: ${spelled(found)}`);
  return lines;
}

/** Throws one `ModelFileError` that lists all missing, extra and mismatched tensors (rule 16). */
export function requireTensors(tensors: TensorList, expected: TensorList, file = '(bytes)'): void {
  const differences = tensorDifferences(tensors, expected);
  if (differences.length > 0) refuse(file, 16, differences.join('; '), { differences });
}

/** Position of the first value that is not finite, or -1; only floats have such. */
function firstNonFinite({ dtype, shape, data }: HostTensor): number {
  if (dtype === 'F64' || dtype === 'F32') {
    return viewAs({ dtype, shape, data }, dtype).findIndex((value: number) => !Number.isFinite(value));
  }
  if (dtype !== 'F16' && dtype !== 'BF16') return -1;
  const exponent = dtype === 'F16' ? 0x7c00 : 0x7f80;
  return viewAs({ dtype, shape, data }, dtype).findIndex((bits) => (bits & exponent) === exponent);
}

/** Throws `ModelFileError` for the first NaN or infinity in any float tensor (rule 17). */
export function requireFinite(tensors: ReadonlyMap<string, HostTensor>, file = '(bytes)'): void {
  for (const [name, tensor] of tensors) {
    const index = firstNonFinite(tensor);
    if (index >= 0)
      refuse(file, 17, `tensor ${JSON.stringify(name)}: value ${index} is not finite`, { tensor: name, index });
  }
}

/**
 * The values of a tensor as the typed array of `dtype`, which must be the tensor's own. A view where alignment allows it, else a copy.
 * Throws `ModelFileError` (rule 16). Hosts are little-endian: every machine that Node supports today is.
 */
export function viewAs<D extends SafetensorsDtype>(tensor: HostTensor, dtype: D): ArrayOf[D] {
  if (tensor.dtype !== dtype) refuse('(bytes)', 16, `expected ${dtype} but received ${tensor.dtype}`);
  const size = DTYPE_BYTES[dtype];
  const data = tensor.data.byteOffset % size === 0 ? tensor.data : new Uint8Array(tensor.data);
  return new ARRAYS[dtype](data.buffer, data.byteOffset, data.length / size);
}

/** A tensor over the memory of a typed array. `dtype` chooses among those of one width (BF16 and F16 for Uint16Array, BOOL for Uint8Array). */
export function hostTensor<D extends SafetensorsDtype>(
  dtype: D,
  shape: readonly number[],
  values: ArrayOf[D],
): HostTensor {
  const tensor = {
    dtype,
    shape: [...shape],
    data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  };
  checkWritable('(values)', tensor);
  return tensor;
}
