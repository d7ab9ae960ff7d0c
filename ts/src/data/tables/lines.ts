/** Lines of a text file as bytes, read by chunks: memory is one chunk and one row, whatever the file's size. */
import { isUtf8 } from 'node:buffer';
import { type FileHandle, open } from 'node:fs/promises';
import { DataError, StorageError } from '../../errors.js';

/** One line without its line end. `fault` says what makes it unreadable; a giant row carries no bytes. */
export interface Line {
  readonly text: string;
  /** Counted from 1. */
  readonly number: number;
  /** Offset in the file of the line's first byte, or of the first bad byte where there is a fault. */
  readonly byte: number;
  /** Ended by CR LF. */
  readonly crlf: boolean;
  readonly fault: LineFault | null;
}

export type LineFault = 'utf8' | 'nul' | 'giant_row';

export interface LineOptions {
  /** Longest line in bytes, line end not counted; default 1 MiB. */
  maxRowBytes?: number | undefined;
  /** Bytes read at a time; default 256 KiB, which keeps each turn of the event loop short. */
  chunkBytes?: number | undefined;
  signal?: AbortSignal | undefined;
}

const NEWLINE = 10;
const RETURN = 13;
const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf]);

/**
 * The lines of a UTF-8 file, in batches of one chunk. A byte-order mark is skipped; LF and CRLF both end a line. Throws
 * DataError when there is no such file, StorageError when it cannot be read. Faults of single lines are left to the caller.
 */
export async function* readLines(path: string, options: LineOptions = {}): AsyncGenerator<Line[], void, void> {
  const { maxRowBytes = 1 << 20, chunkBytes = 1 << 18, signal } = options;
  const file = await openFile(path);
  try {
    let pending: Buffer = Buffer.alloc(0); // the start of a line whose end has not been read
    let offset = 0; // of pending's first byte in the file
    let number = 1;
    let skipping = false; // inside a giant row that was reported already
    for (;;) {
      signal?.throwIfAborted();
      const chunk = await readChunk(file, path, chunkBytes);
      const atEnd = chunk.length === 0;
      let bytes = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
      if (offset === 0 && (bytes.length >= 3 || atEnd) && bytes.subarray(0, 3).equals(BYTE_ORDER_MARK)) {
        bytes = bytes.subarray(3);
        offset = 3;
      }
      const lines: Line[] = [];
      const clean = isUtf8(bytes.subarray(0, bytes.lastIndexOf(NEWLINE) + 1)) && !bytes.includes(0);
      let begin = 0;
      for (;;) {
        let end = bytes.indexOf(NEWLINE, begin);
        if (end < 0 && atEnd && begin < bytes.length) end = bytes.length;
        if (end < 0) break;
        if (!skipping)
          lines.push(makeLine(bytes.subarray(begin, end), number, offset + begin, maxRowBytes, clean && !atEnd));
        skipping = false;
        number++;
        begin = end + 1;
      }
      pending = Buffer.from(bytes.subarray(begin)); // a copy: the chunk's memory is used again
      offset += Math.min(begin, bytes.length);
      if (skipping || pending.length > maxRowBytes + 1) {
        if (!skipping) lines.push({ text: '', number, byte: offset, crlf: false, fault: 'giant_row' });
        skipping = true;
        offset += pending.length;
        pending = Buffer.alloc(0);
      }
      if (lines.length > 0) yield lines;
      if (atEnd) return;
    }
  } finally {
    await file.close();
  }
}

function makeLine(bytes: Buffer, number: number, byte: number, maxRowBytes: number, clean: boolean): Line {
  const crlf = bytes.at(-1) === RETURN;
  const row = crlf ? bytes.subarray(0, -1) : bytes;
  if (row.length > maxRowBytes) return { text: '', number, byte, crlf, fault: 'giant_row' };
  if (!clean) {
    if (!isUtf8(row)) return { text: '', number, byte: byte + firstInvalidByte(row), crlf, fault: 'utf8' };
    const nul = row.indexOf(0);
    if (nul >= 0) return { text: '', number, byte: byte + nul, crlf, fault: 'nul' };
  }
  return { text: row.toString('utf8'), number, byte, crlf, fault: null };
}

/** Position of the first character of `bytes`, known not to be UTF-8, that is broken: steps over whole characters. */
function firstInvalidByte(bytes: Buffer): number {
  let at = 0;
  while (at < bytes.length) {
    const first = bytes[at]!;
    const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (!isUtf8(bytes.subarray(at, at + length))) return at;
    at += length;
  }
  return at;
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw storageError(error, path, 'open');
    throw new DataError('DATA_SCHEMA', `readLines: expected a file ${path}, there is none`, {
      file: path,
      reason: 'missing_file',
    });
  }
}

async function readChunk(file: FileHandle, path: string, chunkBytes: number): Promise<Buffer> {
  try {
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(chunkBytes), 0, chunkBytes);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    throw storageError(error, path, 'read');
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'EIO';
}

function storageError(error: unknown, path: string, call: string): StorageError {
  const code = codeOf(error);
  return new StorageError(code, `readLines: could not ${call} ${path}: ${code}`, { path, call }, { cause: error });
}
