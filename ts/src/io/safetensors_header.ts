/**
 * The JSON header of a safetensors file, read by a tokenizer of our own that works on bytes. `JSON.parse` would keep the last of
 * two equal keys and round 64-bit integers. The grammar is fixed (object of objects of strings and integer lists), so nothing
 * here recurses and a header cannot nest deeper than it allows. Rule numbers are those of `SafetensorsRule` in safetensors.ts.
 */
import { isUtf8 } from 'node:buffer';
import { ModelFileError } from '../errors.js';

/** Names of dtypes in a file, with bytes per value. */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

/** A dtype as safetensors spells it. */
export type SafetensorsDtype = keyof typeof DTYPE_BYTES;

/** Where a tensor lies: `begin` and `end` count bytes from the end of the header. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** A checked header; `entries` are in the order of their bytes. */
export interface SafetensorsHeader {
  readonly entries: readonly TensorEntry[];
  readonly metadata: ReadonlyMap<string, string>;
}

const MAX_UINT64 = 2n ** 64n - 1n;
const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const MAX_NAME_BYTES = 512;
/** No file we know goes past 6; the bound keeps one absurd shape from filling memory. */
const MAX_RANK = 64;
const FORBIDDEN_NAMES = new Set(['__proto__', 'constructor', 'prototype']);

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
};

/** Why `name` may not name a tensor (rule 13), or null. */
export function badName(name: string): string | null {
  const bytes = Buffer.byteLength(name);
  if (bytes < 1 || bytes > MAX_NAME_BYTES)
    return `expected a name of 1 to ${MAX_NAME_BYTES} bytes but received ${bytes}`;
  if (FORBIDDEN_NAMES.has(name)) return `a tensor may not be called ${name}`;
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return `${JSON.stringify(name)} holds a control character`;
  }
  return null;
}

/** Bytes that `shape` takes in `dtype`, by multiplication in 64 bits; null where that overflows (rule 5). */
export function checkedByteSize(dtype: SafetensorsDtype, shape: readonly (number | bigint)[]): bigint | null {
  let count = 1n;
  for (const size of shape) {
    count *= BigInt(size);
    if (count > MAX_UINT64) return null;
  }
  const bytes = count * BigInt(DTYPE_BYTES[dtype]);
  return bytes > MAX_UINT64 ? null : bytes;
}

function isDtype(text: string): text is SafetensorsDtype {
  return Object.hasOwn(DTYPE_BYTES, text);
}

class HeaderTokens {
  private at = 0;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly file: string,
  ) {}

  fail(rule: number, message: string, tensor?: string): never {
    const where = tensor === undefined ? '' : ` tensor ${JSON.stringify(tensor)}:`;
    throw new ModelFileError(`safetensors: ${this.file}:${where} ${message} (rule ${rule})`, {
      file: this.file,
      rule,
      tensor,
    });
  }

  /** The next byte that is not white space, without taking it; -1 at the end. */
  peek(): number {
    for (; this.at < this.bytes.length; this.at++) {
      const byte = this.bytes[this.at]!;
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte;
    }
    return -1;
  }

  /** Takes `byte` if it comes next. */
  accept(byte: number): boolean {
    if (this.peek() !== byte) return false;
    this.at++;
    return true;
  }

  expect(byte: number, rule: number, tensor?: string): void {
    if (this.accept(byte)) return;
    const wanted = String.fromCharCode(byte);
    this.fail(
      rule,
      `expected ${JSON.stringify(wanted)} at header byte ${this.at} but received ${this.shown()}`,
      tensor,
    );
  }

  /** What comes next, for messages. */
  shown(): string {
    const next = this.peek();
    if (next < 0) return 'the end of the header';
    return next > 0x20 && next < 0x7f ? JSON.stringify(String.fromCharCode(next)) : `byte 0x${next.toString(16)}`;
  }

  string(rule: number, tensor?: string): string {
    this.expect(QUOTE, rule, tensor);
    let text = '';
    let start = this.at;
    for (;;) {
      const byte = this.bytes[this.at];
      if (byte === undefined) this.fail(2, 'a string has no end', tensor);
      if (byte < 0x20) this.fail(2, `a string holds the raw control byte 0x${byte.toString(16)}`, tensor);
      if (byte !== QUOTE && byte !== BACKSLASH) {
        this.at++;
        continue;
      }
      text += Buffer.from(this.bytes.buffer, this.bytes.byteOffset + start, this.at - start).toString('utf8');
      this.at++;
      if (byte === QUOTE) return text;
      text += this.escape(tensor);
      start = this.at;
    }
  }

  private escape(tensor?: string): string {
    const letter = String.fromCharCode(this.bytes[this.at++] ?? 0);
    const simple = ESCAPES[letter];
    if (simple !== undefined) return simple;
    if (letter !== 'u') this.fail(2, `unknown escape \\${letter} in a string`, tensor);
    const high = this.codeUnit(tensor);
    if (high < 0xd800 || high > 0xdfff) return String.fromCharCode(high);
    const paired = high < 0xdc00 && this.bytes[this.at] === BACKSLASH && this.bytes[this.at + 1] === 0x75;
    if (!paired) this.fail(2, 'a string holds half of a surrogate pair', tensor);
    this.at += 2;
    const low = this.codeUnit(tensor);
    if (low < 0xdc00 || low > 0xdfff) this.fail(2, 'a string holds half of a surrogate pair', tensor);
    return String.fromCharCode(high, low);
  }

  private codeUnit(tensor?: string): number {
    const digits = Buffer.from(this.bytes.subarray(this.at, this.at + 4)).toString('latin1');
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail(2, 'a \\u escape needs four hexadecimal digits', tensor);
    this.at += 4;
    return Number.parseInt(digits, 16);
  }

  /** An unsigned 64-bit integer; no sign, fraction, exponent or leading zero (rules 4 and 14). */
  integer(tensor: string): bigint {
    this.peek();
    const start = this.at;
    while (this.at < this.bytes.length && this.bytes[this.at]! >= 0x30 && this.bytes[this.at]! <= 0x39) this.at++;
    const length = this.at - start;
    if (length === 0) this.fail(4, `expected an unsigned integer but received ${this.shown()}`, tensor);
    if (length > 1 && this.bytes[start] === 0x30) this.fail(4, 'an integer has a leading zero', tensor);
    const after = this.bytes[this.at];
    if (after === 0x2e || after === 0x65 || after === 0x45) {
      this.fail(4, 'expected an unsigned integer but received a number with a fraction or exponent', tensor);
    }
    const digits = Buffer.from(this.bytes.subarray(start, Math.min(this.at, start + 21))).toString('latin1');
    const value = BigInt(digits);
    if (length > 20 || value > MAX_UINT64) this.fail(14, `${digits} does not fit in 64 bits`, tensor);
    return value;
  }

  integers(tensor: string, key: string, most: number): bigint[] {
    this.expect(OPEN_LIST, 4, tensor);
    const values: bigint[] = [];
    if (this.accept(CLOSE_LIST)) return values;
    do {
      if (values.length === most) this.fail(4, `expected ${key} of at most ${most} integers`, tensor);
      values.push(this.integer(tensor));
    } while (this.accept(COMMA));
    this.expect(CLOSE_LIST, 4, tensor);
    return values;
  }
}

interface RawEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly bigint[];
  readonly offsets: readonly bigint[];
}

function readEntry(tokens: HeaderTokens, name: string): RawEntry {
  let dtype: SafetensorsDtype | undefined;
  let shape: bigint[] | undefined;
  let offsets: bigint[] | undefined;
  tokens.expect(OPEN_OBJECT, 4, name);
  if (!tokens.accept(CLOSE_OBJECT)) {
    do {
      const key = tokens.string(4, name);
      tokens.expect(COLON, 4, name);
      const seen = { dtype, shape, data_offsets: offsets };
      if (Object.hasOwn(seen, key) && seen[key as keyof typeof seen] !== undefined) {
        tokens.fail(10, `the key ${key} comes twice`, name);
      }
      if (key === 'dtype') {
        const text = tokens.string(4, name);
        if (!isDtype(text)) {
          const known = Object.keys(DTYPE_BYTES).join(', ');
          tokens.fail(4, `expected a dtype of ${known} but received ${JSON.stringify(text.slice(0, 40))}`, name);
        }
        dtype = text;
      } else if (key === 'shape') {
        shape = tokens.integers(name, key, MAX_RANK);
      } else if (key === 'data_offsets') {
        offsets = tokens.integers(name, key, 2);
      } else {
        tokens.fail(4, `unknown key ${JSON.stringify(key.slice(0, 40))}; expected dtype, shape and data_offsets`, name);
      }
    } while (tokens.accept(COMMA));
    tokens.expect(CLOSE_OBJECT, 4, name);
  }
  if (dtype === undefined) tokens.fail(4, 'dtype is missing', name);
  if (shape === undefined) tokens.fail(4, 'shape is missing', name);
  if (offsets === undefined || offsets.length !== 2) tokens.fail(4, 'data_offsets must be two integers', name);
  return { name, dtype, shape, offsets };
}

function readMetadata(tokens: HeaderTokens): Map<string, string> {
  const metadata = new Map<string, string>();
  tokens.expect(OPEN_OBJECT, 3, '__metadata__');
  if (tokens.accept(CLOSE_OBJECT)) return metadata;
  do {
    const key = tokens.string(3, '__metadata__');
    if (metadata.has(key)) tokens.fail(10, `the key ${JSON.stringify(key)} comes twice`, '__metadata__');
    tokens.expect(COLON, 3, '__metadata__');
    metadata.set(key, tokens.string(3, '__metadata__'));
  } while (tokens.accept(COMMA));
  tokens.expect(CLOSE_OBJECT, 3, '__metadata__');
  return metadata;
}

/** One entry against the format's own arithmetic (rules 4 to 6, 14). */
function checkEntry(tokens: HeaderTokens, raw: RawEntry, dataBytes: number): TensorEntry {
  const { name, dtype, shape } = raw;
  const [begin, end] = [raw.offsets[0]!, raw.offsets[1]!];
  if (begin > end) tokens.fail(4, `data_offsets begin at ${begin} and end before, at ${end}`, name);
  const bytes = checkedByteSize(dtype, shape);
  if (bytes === null) tokens.fail(5, `the size of shape (${shape.join(', ')}) in ${dtype} overflows 64 bits`, name);
  if (end - begin !== bytes) {
    tokens.fail(
      6,
      `expected ${bytes} bytes for ${dtype} of shape (${shape.join(', ')}) but data_offsets span ${end - begin}`,
      name,
    );
  }
  if (end > BigInt(dataBytes)) tokens.fail(8, `ends at data byte ${end}, but the file has ${dataBytes}`, name);
  for (const size of shape) {
    // Possible only beside a zero: a size that a double cannot hold is refused, never rounded.
    if (size > MAX_SAFE) tokens.fail(14, `the size ${size} is above 2^53`, name);
  }
  return { name, dtype, shape: shape.map(Number), begin: Number(begin), end: Number(end) };
}

/** Rules 7, 8 and 12: sorted by offset, the tensors tile the data exactly. */
function checkTiling(tokens: HeaderTokens, entries: TensorEntry[], dataBytes: number): void {
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let position = 0;
  for (const { name, begin, end } of entries) {
    if (begin === end && begin < position) {
      tokens.fail(12, `has no bytes and lies at ${begin}, inside another tensor`, name);
    }
    if (begin !== position) {
      tokens.fail(
        7,
        `expected to start at data byte ${position} but starts at ${begin}: a ${begin < position ? 'overlap' : 'hole'}`,
        name,
      );
    }
    position = end;
  }
  if (position !== dataBytes) {
    tokens.fail(8, `the tensors end at data byte ${position}, but the file has ${dataBytes}`);
  }
}

/**
 * Parses and checks a header (rules 2 to 14). `bytes` is the JSON alone, `dataBytes` what the file holds behind it. `file` is for messages.
 * Throws `ModelFileError` with the rule's number.
 */
export function parseHeader(
  bytes: Uint8Array,
  { dataBytes, file, maxTensors }: { dataBytes: number; file: string; maxTensors: number },
): SafetensorsHeader {
  const tokens = new HeaderTokens(bytes, file);
  if (!isUtf8(bytes)) tokens.fail(2, 'the header is not UTF-8');
  const entries: TensorEntry[] = [];
  const names = new Set<string>();
  let metadata = new Map<string, string>();
  tokens.expect(OPEN_OBJECT, 2);
  if (!tokens.accept(CLOSE_OBJECT)) {
    do {
      const name = tokens.string(2);
      if (names.has(name)) tokens.fail(10, 'the name comes twice', name);
      names.add(name);
      tokens.expect(COLON, 2, name);
      if (name === '__metadata__') {
        metadata = readMetadata(tokens);
        continue;
      }
      const reason = badName(name);
      if (reason !== null) tokens.fail(13, reason);
      if (entries.length === maxTensors) tokens.fail(11, `expected at most ${maxTensors} tensors`);
      entries.push(checkEntry(tokens, readEntry(tokens, name), dataBytes));
    } while (tokens.accept(COMMA));
    tokens.expect(CLOSE_OBJECT, 2);
  }
  if (tokens.peek() !== -1) tokens.fail(2, `expected nothing after the header's object but received ${tokens.shown()}`);
  checkTiling(tokens, entries, dataBytes);
  return { entries, metadata };
}
