/**
 * NumPy's `.npy` files (format versions 1 to 3): a magic string, a header that is a Python dictionary, then the values. The
 * header is parsed, never evaluated; only plain little-endian numbers in C order are read, and the length must fit exactly.
 */

import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm, writeFile } from 'node:fs/promises';
import { ArgumentError, ModelFileError, StorageError } from '../errors.js';

const DTYPES = {
  float16: { descr: '<f2', array: Uint16Array },
  float32: { descr: '<f4', array: Float32Array },
  float64: { descr: '<f8', array: Float64Array },
  int32: { descr: '<i4', array: Int32Array },
  int64: { descr: '<i8', array: BigInt64Array },
  uint8: { descr: '|u1', array: Uint8Array },
} as const;

export type NpyDtype = keyof typeof DTYPES;

/** An array of a `.npy` file, row-major. float16 values are their bits; `npyToFloat32` turns them into numbers. */
export type NpyArray = {
  [D in NpyDtype]: {
    readonly dtype: D;
    readonly shape: readonly number[];
    readonly data: InstanceType<(typeof DTYPES)[D]['array']>;
  };
}[NpyDtype];

export interface NpyHeader {
  readonly dtype: NpyDtype;
  readonly shape: readonly number[];
  /** Where the values begin. */
  readonly dataOffset: number;
  readonly dataBytes: number;
}

const MAGIC = '\x93NUMPY';
const MAX_HEADER_BYTES = 65_536;
const READ_BYTES = 64 * 1024 * 1024;
const WRITE_ALIGNMENT = 64;

/**
 * Reads a file into shared memory. Nothing is allocated before header and file length agree.
 * @throws ModelFileError (fields: file, what) when the file breaks the format; StorageError when the file system fails.
 */
export async function readNpy(path: string): Promise<NpyArray> {
  let file: FileHandle | null = null;
  try {
    file = await open(path, 'r');
    const { size } = await file.stat();
    const start = await readExactly(file, 0, new Uint8Array(Math.min(size, MAX_HEADER_BYTES + 12)), path);
    const header = parseNpyHeader(start, path);
    checkLength(header, size, path);
    const data = new Uint8Array(new SharedArrayBuffer(header.dataBytes));
    return npyArray(header, (await readExactly(file, header.dataOffset, data, path)).buffer);
  } catch (error) {
    throw storageError(error, path, 'read');
  } finally {
    await file?.close();
  }
}

/** The header of a file, checked against its length. @throws as `readNpy`. */
export async function readNpyHeader(path: string): Promise<NpyHeader> {
  let file: FileHandle | null = null;
  try {
    file = await open(path, 'r');
    const { size } = await file.stat();
    const header = parseNpyHeader(
      await readExactly(file, 0, new Uint8Array(Math.min(size, MAX_HEADER_BYTES + 12)), path),
      path,
    );
    checkLength(header, size, path);
    return header;
  } catch (error) {
    throw storageError(error, path, 'read');
  } finally {
    await file?.close();
  }
}

/** Reads an array out of the bytes of a whole file. `file` is for messages. @throws ModelFileError as `readNpy`. */
export function parseNpy(bytes: Uint8Array, file: string): NpyArray {
  const header = parseNpyHeader(bytes, file);
  checkLength(header, bytes.length, file);
  // A copy, because the values may begin at an address that no typed array can have.
  return npyArray(header, Uint8Array.from(bytes.subarray(header.dataOffset)).buffer);
}

/** Parses the header alone, out of the first bytes of a file. @throws ModelFileError (fields: file, what). */
export function parseNpyHeader(bytes: Uint8Array, file: string): NpyHeader {
  if (String.fromCharCode(...bytes.subarray(0, 6)) !== MAGIC)
    throw broken(file, 'magic', 'expected the magic string of .npy');
  const version = bytes[6];
  if (version === undefined || version < 1 || version > 3) {
    throw broken(file, 'version', `expected version 1, 2 or 3 but found ${version ?? 'nothing'}`);
  }
  const textOffset = version === 1 ? 10 : 12;
  if (bytes.length < textOffset) throw broken(file, 'length', 'the header is cut');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER_BYTES) {
    throw broken(file, 'header', `expected a header of at most ${MAX_HEADER_BYTES} bytes but it has ${length}`);
  }
  if (bytes.length < textOffset + length) throw broken(file, 'length', 'the header is cut');
  const text = Buffer.from(bytes.subarray(textOffset, textOffset + length)).toString(version === 3 ? 'utf8' : 'latin1');
  const { descr, fortran_order, shape } = new HeaderParser(text, file).parse();
  const dtype = dtypeOf(descr, file);
  if (fortran_order) throw broken(file, 'order', 'expected C order but the file is in Fortran order');
  const dataBytes = elements(shape) * DTYPES[dtype].array.BYTES_PER_ELEMENT;
  if (!Number.isSafeInteger(dataBytes)) throw broken(file, 'shape', `shape (${shape.join(', ')}) is too large`);
  return { dtype, shape, dataOffset: textOffset + length, dataBytes };
}

/** The bytes of a version 1 file, as NumPy writes it. @throws ArgumentError when shape and data disagree. */
export function encodeNpy({ dtype, shape, data }: NpyArray): Uint8Array {
  if (shape.some((size) => !Number.isSafeInteger(size) || size < 0) || elements(shape) !== data.length) {
    throw new ArgumentError(
      `encodeNpy: expected shape (${shape.join(', ')}) to have as many elements as data but received ${data.length}`,
      { op: 'encodeNpy', argument: 'shape' },
    );
  }
  // A tuple of one needs its comma.
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const dictionary = `{'descr': '${DTYPES[dtype].descr}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const total = Math.ceil((10 + dictionary.length + 1) / WRITE_ALIGNMENT) * WRITE_ALIGNMENT;
  const out = new Uint8Array(total + data.byteLength);
  out.set(Buffer.from(`${MAGIC}\x01\0`, 'latin1'));
  new DataView(out.buffer).setUint16(8, total - 10, true);
  out.set(Buffer.from(`${dictionary.padEnd(total - 11)}\n`, 'latin1'), 10);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), total);
  return out;
}

/** Writes a file under a temporary name, then renames it. @throws StorageError when the file system fails. */
export async function writeNpy(path: string, array: NpyArray): Promise<void> {
  const bytes = encodeNpy(array);
  const partial = `${path}.${randomBytes(8).toString('hex')}.tmp`; // others may write the same file
  try {
    await writeFile(partial, bytes);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true }).catch(() => undefined);
    throw storageError(error, path, 'write');
  }
}

/**
 * The values as float32: float16 exactly, float64 and integers rounded. float32 comes back as it is, without a copy.
 * @throws ArgumentError for int64, which are ids and never pass through floating point.
 */
export function npyToFloat32(array: NpyArray): Float32Array {
  if (array.dtype === 'float32') return array.data;
  if (array.dtype === 'int64') {
    throw new ArgumentError('npyToFloat32: expected numbers but received int64, which would lose digits', {
      op: 'npyToFloat32',
      argument: 'array',
    });
  }
  return array.dtype === 'float16' ? Float32Array.from(array.data, float16Value) : Float32Array.from(array.data);
}

/** The number of IEEE 754 binary16 bits. */
function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

interface HeaderFields {
  descr: string;
  fortran_order: boolean;
  shape: readonly number[];
}

/** The Python literals that a header may hold: one dictionary of one string, one bool and one tuple of integers. */
class HeaderParser {
  private at = 0;

  constructor(
    private readonly text: string,
    private readonly file: string,
  ) {}

  parse(): HeaderFields {
    const fields: Partial<HeaderFields> = {};
    this.expect('{');
    while (!this.accept('}')) {
      const key = this.match(/'(\w*)'|"(\w*)"/y, 'a key');
      const name = key[1] ?? key[2] ?? '';
      this.expect(':');
      if (name in fields) throw this.error(`key ${name} stands twice`);
      if (name === 'descr') fields.descr = this.descr();
      else if (name === 'fortran_order')
        fields.fortran_order = this.match(/True|False/y, 'True or False')[0] === 'True';
      else if (name === 'shape') fields.shape = this.shape();
      else throw this.error(`unknown key ${JSON.stringify(name)}`);
      if (!this.accept(',')) {
        this.expect('}');
        break;
      }
    }
    this.match(/\s*$/y, 'the end of the header');
    const { descr, fortran_order, shape } = fields;
    if (descr === undefined || fortran_order === undefined || shape === undefined) {
      throw this.error('expected the keys descr, fortran_order and shape');
    }
    return { descr, fortran_order, shape };
  }

  private descr(): string {
    if (this.accept('[')) throw broken(this.file, 'dtype', 'expected plain numbers but it holds records');
    const match = this.match(/'([^'\\]*)'|"([^"\\]*)"/y, 'a dtype');
    return match[1] ?? match[2] ?? '';
  }

  private shape(): readonly number[] {
    const sizes: number[] = [];
    this.expect('(');
    while (!this.accept(')')) {
      const size = Number(this.match(/(\d+)L?/y, 'a size')[1]);
      if (!Number.isSafeInteger(size)) throw this.error(`size ${size} is too large`);
      sizes.push(size);
      if (!this.accept(',')) {
        this.expect(')');
        break;
      }
    }
    return sizes;
  }

  private accept(token: string): boolean {
    this.skipSpace();
    if (!this.text.startsWith(token, this.at)) return false;
    this.at += token.length;
    return true;
  }

  private expect(token: string): void {
    if (!this.accept(token)) throw this.error(`expected ${token}`);
  }

  private match(pattern: RegExp, what: string): RegExpExecArray {
    this.skipSpace();
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match === null) throw this.error(`expected ${what}`);
    this.at = pattern.lastIndex;
    return match;
  }

  private skipSpace(): void {
    while (this.text[this.at] === ' ' || this.text[this.at] === '\n') this.at++;
  }

  private error(message: string): ModelFileError {
    return broken(this.file, 'header', `${message} at character ${this.at} of the header`);
  }
}

function dtypeOf(descr: string, file: string): NpyDtype {
  for (const [dtype, { descr: known }] of Object.entries(DTYPES)) {
    if (descr === known || (dtype === 'uint8' && descr === '<u1')) return dtype as NpyDtype;
  }
  if (descr.includes('O'))
    throw broken(file, 'dtype', 'expected numbers but it holds Python objects, which can carry code');
  if (descr.startsWith('>')) throw broken(file, 'dtype', `expected little-endian values but found ${descr}`);
  throw broken(file, 'dtype', `expected one of f2 f4 f8 i4 i8 u1, little-endian, but found ${JSON.stringify(descr)}`);
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function checkLength({ shape, dataOffset, dataBytes }: NpyHeader, length: number, file: string): void {
  if (length - dataOffset === dataBytes) return;
  throw broken(
    file,
    'length',
    `expected ${dataBytes} bytes of values for shape (${shape.join(', ')}) but found ${length - dataOffset}`,
  );
}

function npyArray({ dtype, shape }: NpyHeader, buffer: ArrayBufferLike): NpyArray {
  const View: new (buffer: ArrayBufferLike) => NpyArray['data'] = DTYPES[dtype].array;
  return { dtype, shape, data: new View(buffer) } as NpyArray;
}

/** Fills `out` from byte `position` on. */
async function readExactly(file: FileHandle, position: number, out: Uint8Array, path: string): Promise<Uint8Array> {
  for (let at = 0; at < out.length; ) {
    const { bytesRead } = await file.read(out, at, Math.min(READ_BYTES, out.length - at), position + at);
    if (bytesRead === 0) throw broken(path, 'length', 'the file became shorter while it was read');
    at += bytesRead;
  }
  return out;
}

function broken(file: string, what: string, message: string): ModelFileError {
  return new ModelFileError(`npy: ${message} (${file})`, { file, what });
}

function storageError(error: unknown, path: string, call: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (error instanceof ModelFileError || !(error instanceof Error) || code === undefined) return error;
  return new StorageError(code, `npy: cannot ${call} ${path}: ${code}`, { path, call }, { cause: error });
}
