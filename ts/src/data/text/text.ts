/**
 * Texts of an entity to one jagged token store. Layout of a text (models.md, section 2.1): `cls f1 sep f2 sep f3`, or that of a published
 * encoder; each field is truncated by itself, keeping its head; an empty field goes with its separator; no text at all is a missing
 * modality (length 0).
 */

import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { ArgumentError, DataError } from '../../errors.js';
import type { TokenBatch } from '../loader/batch.js';
import { sharedInt32, type TokenStore } from './token_store.js';
import type { TextTokenizer } from './tokenizer.js';

/** Longest text of a field in bytes of UTF-8; what follows is cut on a character boundary and counted. */
export const MAX_FIELD_BYTES = 65_536;

/** A surrogate that has no partner: JavaScript's strings can hold it, UTF-8 cannot. */
const HALF_PAIR = /\p{Surrogate}/u;

/** Of Node 20; the library of ES2022 does not declare it. */
type WellFormed = string & { isWellFormed(): boolean };

/** Tokenising gives the event loop a turn after so many milliseconds. */
const SLICE_MS = 4;

export interface TextField {
  readonly name: string;
  /** Tokens kept of this field, separators not counted. */
  readonly maxLen: number;
}

/** How the fields of a text are put together. A start token stands before them where the tokenizer has one. */
export interface TextLayout {
  /** A separator between two fields; false: they follow each other like words of one text. */
  readonly separator: boolean;
  /** A separator behind the last field. */
  readonly end: boolean;
  /** Tokens that every text has, separators filling up: for encoders that were trained so. Default: as many as there are. */
  readonly padTo?: number | null;
}

/** `cls f1 sep f2`: the layout of encoders that we train ourselves. */
export const openLayout: TextLayout = { separator: true, end: false };

export interface TextPipelineOptions {
  readonly tokenizer: TextTokenizer;
  /** In the order of the layout. */
  readonly fields: readonly TextField[];
  /** `global`: 0, 1, 2, ... through the whole text (default). `per_field`: from 0 in each field, a separator counts on, cls is 0. */
  readonly positions?: 'global' | 'per_field';
  /** Default `openLayout`; other layouts count positions through the whole text. */
  readonly layout?: TextLayout;
}

/** What happened to one field. Lengths are tokens before truncation, over the texts that have any. */
export interface TextFieldStatistics {
  readonly name: string;
  /** Texts with at least one token, and without. */
  readonly filled: number;
  readonly empty: number;
  readonly p50: number;
  readonly p95: number;
  readonly max: number;
  /** Share of filled texts longer than maxLen. */
  readonly truncated: number;
  /** Share of tokens (before truncation) that are the unknown token. */
  readonly unknown: number;
  /** Texts longer than MAX_FIELD_BYTES, cut there. */
  readonly cut: number;
}

export interface TextStatistics {
  readonly texts: number;
  /** Texts without a token in any field: missing modality. */
  readonly missing: number;
  readonly fields: readonly TextFieldStatistics[];
}

/** All texts of an entity, and what happened to them. */
export interface TextStore {
  readonly store: TokenStore;
  readonly statistics: TextStatistics;
}

export interface TokenizeOptions {
  readonly signal?: AbortSignal;
  /** Texts done so far, called at most once per slice of a few milliseconds and once at the end. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Column of field name: one text per row, null or '' where there is none. All columns have the same length. */
export type TextColumns = Readonly<Record<string, readonly (string | null)[]>>;

export interface TextPipeline {
  readonly tokenizer: TextTokenizer;
  readonly fields: readonly TextField[];
  readonly positions: 'global' | 'per_field';
  readonly layout: TextLayout;
  /** Longest sequence that can come out: cls, all fields at their maxima, separators between them. */
  readonly maxLength: number;
  /** Rows that a position embedding needs. */
  readonly positionCount: number;
  /** SHA-256 (hex) of tokenizer and layout. */
  readonly digest: string;
  /** One text at once (for serving); fields that are not named are empty. */
  encode(texts: Readonly<Record<string, string | null>>): TokenBatch;
  /**
   * All texts of an entity, in row order, into shared memory. Runs in slices of a few milliseconds on the calling thread and
   * gives the event loop a turn between them.
   * @throws DataError (DATA_SCHEMA) when a column is absent or has another length, (DATA_ROW) for a text that is no Unicode (half a
   * surrogate pair), naming row and byte; the signal's reason when aborted.
   */
  tokenizeAll(columns: TextColumns, options?: TokenizeOptions): Promise<TextStore>;
}

/** @throws ArgumentError when there is no field, a name stands twice or a maximum is no integer >= 1. */
export function textPipeline({
  tokenizer,
  fields,
  positions = 'global',
  layout: form = openLayout,
}: TextPipelineOptions): TextPipeline {
  checkFields(fields);
  const names = fields.map(({ name }) => name);
  const lengths = fields.map(({ maxLen }) => maxLen);
  const padTo = form.padTo ?? null;
  const maxLength = longest(lengths, tokenizer, form);
  checkLayout(form, { tokenizer, positions, needed: longest(lengths, tokenizer, { ...form, padTo: null }) });
  const layout = makeLayout(tokenizer, fields, positions, form);
  // Digests of the layout that came first do not name it.
  const named = form.separator && !form.end && padTo === null ? {} : { layout: [form.separator, form.end, padTo] };
  return {
    tokenizer,
    fields,
    positions,
    layout: form,
    maxLength,
    positionCount: positions === 'global' ? maxLength : Math.max(...lengths) + 1,
    digest: createHash('sha256')
      .update(
        JSON.stringify({
          tokenizer: tokenizer.digest,
          names,
          lengths,
          positions,
          maxFieldBytes: MAX_FIELD_BYTES,
          ...named,
        }),
      )
      .digest('hex'),

    encode(texts) {
      for (const name of Object.keys(texts)) {
        if (!names.includes(name)) {
          throw new ArgumentError(`textPipeline.encode: expected fields ${names.join(', ')} but received ${name}`, {
            op: 'textPipeline.encode',
            argument: name,
          });
        }
      }
      const writer = new TokenWriter(maxLength);
      writer.append(
        names.map((name) => tokenizer.encode(cutToBytes(texts[name] ?? '', MAX_FIELD_BYTES))),
        layout,
      );
      return writer.finish(Int32Array.from([0, writer.length]), (length) => new Int32Array(length));
    },

    async tokenizeAll(columns, { signal, onProgress } = {}) {
      const table = checkedColumns(columns, fields);
      const total = table[0]!.length;
      const builder = new TextStoreBuilder({ tokenizer, fields, positions, layout: form }, total);
      let sliceEnd = performance.now() + SLICE_MS;
      for (let row = 0; row < total; row++) {
        builder.append(table.map((values) => values[row]!));
        if (performance.now() >= sliceEnd) {
          onProgress?.(row + 1, total);
          await setImmediate();
          signal?.throwIfAborted();
          sliceEnd = performance.now() + SLICE_MS;
        }
      }
      signal?.throwIfAborted();
      onProgress?.(total, total);
      return builder.finish();
    },
  };
}

/** The columns of `fields`, in their order. Throws DataError (DATA_SCHEMA) when one is absent or has another length. */
export function checkedColumns(
  columns: TextColumns,
  fields: readonly TextField[],
): readonly (readonly (string | null)[])[] {
  const table = fields.map(({ name }) => column(columns, name));
  const total = table[0]!.length;
  for (const [i, values] of table.entries()) {
    if (values.length !== total) {
      throw new DataError(
        'DATA_SCHEMA',
        `tokenizeAll: expected ${total} texts in field ${fields[i]!.name} as in ${fields[0]!.name} but received ${values.length}`,
        { column: fields[i]!.name },
      );
    }
  }
  return table;
}

/** Makes a token store row by row. */
export class TextStoreBuilder {
  private readonly writer: TokenWriter;
  private readonly counters: readonly FieldCounter[];
  private readonly offsets: Int32Array;
  private readonly layout: Layout;
  private row = 0;
  private missing = 0;

  /** For `rows` rows. */
  constructor(
    { tokenizer, fields, positions, layout: form }: Pick<TextPipeline, 'tokenizer' | 'fields' | 'positions' | 'layout'>,
    private readonly rows: number,
  ) {
    this.layout = makeLayout(tokenizer, fields, positions, form);
    this.counters = fields.map(() => new FieldCounter());
    this.writer = new TokenWriter(rows * 16);
    this.offsets = sharedInt32(rows + 1);
  }

  /** The next row: a text per field. Throws DataError (DATA_ROW) for one that is no Unicode. */
  append(texts: readonly (string | null)[]): void {
    const { tokenizer, fields } = this.layout;
    const encoded = texts.map((value, field) => {
      const text = value ?? '';
      if (!(text as WellFormed).isWellFormed()) {
        const broken = text.search(HALF_PAIR);
        const [column, row, byte] = [fields[field]!.name, this.row, Buffer.byteLength(text.slice(0, broken))];
        throw new DataError(
          'DATA_ROW',
          `tokenizeAll: expected Unicode in field ${column} but row ${row} holds half a surrogate pair at byte ${byte}`,
          { column, row, byte },
        );
      }
      const cut = cutToBytes(text, MAX_FIELD_BYTES);
      const tokens = tokenizer.encode(cut);
      this.counters[field]!.add(tokens, tokenizer.special.unk, cut.length < text.length);
      return tokens;
    });
    if (!this.writer.append(encoded, this.layout)) this.missing++;
    this.offsets[++this.row] = this.writer.length;
  }

  finish(): TextStore {
    const { fields } = this.layout;
    return {
      store: this.writer.finish(this.offsets, sharedInt32),
      statistics: {
        texts: this.rows,
        missing: this.missing,
        fields: fields.map((field, i) => this.counters[i]!.finish(field)),
      },
    };
  }
}

/** The longest head of `text` that takes at most `bytes` bytes of UTF-8 and ends between two characters (code points). */
export function cutToBytes(text: string, bytes: number): string {
  if (text.length * 3 <= bytes) return text;
  const { read } = new TextEncoder().encodeInto(text, new Uint8Array(bytes));
  return read === text.length ? text : text.slice(0, read);
}

interface Layout {
  readonly tokenizer: TextTokenizer;
  readonly fields: readonly TextField[];
  readonly perField: boolean;
  readonly form: { readonly separator: boolean; readonly end: boolean; readonly padTo: number | null };
}

function makeLayout(
  tokenizer: TextTokenizer,
  fields: readonly TextField[],
  positions: string,
  form: TextLayout,
): Layout {
  return { tokenizer, fields, perField: positions === 'per_field', form: { ...form, padTo: form.padTo ?? null } };
}

/** Tokens of the longest text that can come out. */
function longest(
  lengths: readonly number[],
  { special }: TextTokenizer,
  { separator, end, padTo }: TextLayout,
): number {
  if (padTo != null) return padTo;
  const words = lengths.reduce((sum, length) => sum + length, 0);
  return (special.cls === null ? 0 : 1) + words + (separator ? lengths.length - 1 : 0) + (end ? 1 : 0);
}

function checkLayout(
  { separator, end, padTo }: TextLayout,
  { tokenizer, positions, needed }: { tokenizer: TextTokenizer; positions: string; needed: number },
): void {
  const refuse = (expected: string, came: string): never => {
    throw new ArgumentError(`textPipeline: expected ${expected} but received ${came}`, {
      op: 'textPipeline',
      argument: 'layout',
    });
  };
  const open = separator && !end && padTo == null;
  if (!open && positions === 'per_field') refuse('global positions in the layout of a published encoder', positions);
  if (open && tokenizer.special.cls === null) refuse('a tokenizer with a start token', tokenizer.kind);
  if (padTo != null && padTo < needed)
    refuse(`max_len of all fields to fit into ${padTo} tokens`, `up to ${needed} tokens`);
}

/** Growing arrays of tokens, types and positions. */
class TokenWriter {
  length = 0;
  private tokens: Int32Array;
  private types: Int32Array;
  private positions: Int32Array;

  constructor(capacity: number) {
    this.tokens = new Int32Array(capacity);
    this.types = new Int32Array(capacity);
    this.positions = new Int32Array(capacity);
  }

  /** Lays one text out; false, and nothing written, if all fields are empty. */
  append(encoded: readonly (readonly number[])[], { tokenizer, fields, perField, form }: Layout): boolean {
    const { cls, sep } = tokenizer.special;
    const start = this.length;
    let position = 0;
    let previous = -1;
    for (let field = 0; field < encoded.length; field++) {
      const tokens = encoded[field]!;
      const count = Math.min(tokens.length, fields[field]!.maxLen);
      if (count === 0) continue;
      if (previous >= 0) {
        if (form.separator) this.push(sep, previous, position++);
      } else if (cls !== null) this.push(cls, 0, position++);
      if (perField) position = 0;
      for (let i = 0; i < count; i++) this.push(tokens[i]!, field, position++);
      previous = field;
    }
    if (this.length === start) return false;
    if (form.end) this.push(sep, previous, position++);
    while (form.padTo !== null && this.length - start < form.padTo) this.push(sep, previous, position++);
    return true;
  }

  finish(offsets: Int32Array, allocate: (length: number) => Int32Array): TokenBatch {
    const copy = (values: Int32Array): Int32Array => {
      const out = allocate(this.length);
      out.set(values.subarray(0, this.length));
      return out;
    };
    return { tokens: copy(this.tokens), types: copy(this.types), positions: copy(this.positions), offsets };
  }

  private push(token: number, type: number, position: number): void {
    if (this.length === this.tokens.length) this.grow();
    this.tokens[this.length] = token;
    this.types[this.length] = type;
    this.positions[this.length++] = position;
  }

  private grow(): void {
    const capacity = Math.max(256, this.tokens.length * 2);
    const wider = (values: Int32Array): Int32Array => {
      const out = new Int32Array(capacity);
      out.set(values);
      return out;
    };
    this.tokens = wider(this.tokens);
    this.types = wider(this.types);
    this.positions = wider(this.positions);
  }
}

class FieldCounter {
  private readonly lengths: number[] = [];
  private empty = 0;
  private cut = 0;
  private tokens = 0;
  private unknown = 0;

  add(tokens: readonly number[], unk: number | null, cut: boolean): void {
    if (cut) this.cut++;
    if (tokens.length === 0) {
      this.empty++;
      return;
    }
    this.lengths.push(tokens.length);
    this.tokens += tokens.length;
    if (unk !== null) for (const token of tokens) if (token === unk) this.unknown++;
  }

  finish({ name, maxLen }: TextField): TextFieldStatistics {
    const sorted = Int32Array.from(this.lengths).sort();
    const filled = sorted.length;
    // Nearest rank: the smallest length that at least this share of texts does not exceed.
    const percentile = (share: number): number => sorted[Math.max(0, Math.ceil(share * filled) - 1)] ?? 0;
    return {
      name,
      filled,
      empty: this.empty,
      p50: percentile(0.5),
      p95: percentile(0.95),
      max: sorted.at(-1) ?? 0,
      truncated: filled === 0 ? 0 : this.lengths.filter((length) => length > maxLen).length / filled,
      unknown: this.tokens === 0 ? 0 : this.unknown / this.tokens,
      cut: this.cut,
    };
  }
}

function column(columns: TextColumns, name: string): readonly (string | null)[] {
  const values = columns[name];
  if (values === undefined) {
    throw new DataError('DATA_SCHEMA', `tokenizeAll: expected a column of text field ${name} but there is none`, {
      column: name,
    });
  }
  return values;
}

function checkFields(fields: readonly TextField[]): void {
  const refuse = (expected: string, came: unknown): never => {
    throw new ArgumentError(`textPipeline: expected ${expected} but received ${came}`, {
      op: 'textPipeline',
      argument: 'fields',
    });
  };
  if (fields.length === 0) refuse('at least one field', 'none');
  const seen = new Set<string>();
  for (const { name, maxLen } of fields) {
    if (seen.has(name)) refuse('field names to differ', `${name} twice`);
    if (!Number.isInteger(maxLen) || maxLen < 1) refuse(`maxLen of field ${name} to be an integer >= 1`, maxLen);
    seen.add(name);
  }
}
