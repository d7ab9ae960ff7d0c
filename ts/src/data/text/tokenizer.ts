/**
 * Tokenizers behind one interface. The word-level one is in word_vocabulary.ts; here are those of Hugging Face folders:
 * `tokenizer.json` (WordPiece, byte-level BPE, CLIP's BPE, Unigram), or a `vocab.txt` with `tokenizer_config.json` beside it.
 */

import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { ModelFileError } from '../../errors.js';
import { rememberingWords } from './word_memory.js';

/** Ids of the tokens that the layout needs; null where a tokenizer has none. */
export interface SpecialTokens {
  readonly pad: number | null;
  /** What a word or piece outside the vocabulary becomes; null for byte-level tokenizers, which know every text. */
  readonly unk: number | null;
  /** Opens every text; null where a tokenizer only ends them (SigLIP). */
  readonly cls: number | null;
  /** Stands between two fields. */
  readonly sep: number;
}

/** From what another thread makes a tokenizer again: its words, or its file. */
export type TokenizerRecipe =
  | { readonly kind: 'words'; readonly json: unknown }
  | { readonly kind: 'file'; readonly path: string; readonly digest: string };

/** Text to token ids, a pure function. */
export interface TextTokenizer {
  readonly kind: 'tokenizer.json' | 'vocab.txt' | 'words';
  /** Rows that an embedding of its tokens needs: largest id + 1. */
  readonly size: number;
  readonly special: SpecialTokens;
  /** SHA-256 (hex) of all that decides ids: a checkpoint is refused with another one. */
  readonly digest: string;
  /** Absent where no other thread can make the same tokenizer. */
  readonly recipe?: TokenizerRecipe;
  /** Ids of `text`, without special tokens around it. */
  encode(text: string): readonly number[];
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
type JsonObject = { readonly [key: string]: Json };

/**
 * Components that the tokenizer library implements, by section of `tokenizer.json`; `children` names the list inside a `Sequence`.
 * What it would skip silently (a component, dropout, patterns of another kind, `single_word`) is refused, because ids would change.
 */
const KNOWN_COMPONENTS = {
  normalizer: {
    children: 'normalizers',
    types: [
      ...['BertNormalizer', 'Lowercase', 'NFC', 'NFD', 'NFKC', 'NFKD', 'Precompiled', 'Prepend', 'Replace', 'Strip'],
      'StripAccents',
    ],
  },
  pre_tokenizer: {
    children: 'pretokenizers',
    types: [
      ...['BertPreTokenizer', 'ByteLevel', 'Digits', 'FixedLength', 'Metaspace', 'Punctuation', 'Split'],
      ...['Whitespace', 'WhitespaceSplit'],
    ],
  },
  post_processor: {
    children: 'processors',
    types: ['BertProcessing', 'ByteLevel', 'RobertaProcessing', 'TemplateProcessing'],
  },
} as const;
const KNOWN_MODELS: readonly string[] = ['WordPiece', 'BPE', 'Unigram'];

/** What an absent key of a WordPiece model means; the library would take an absent prefix for an empty one. */
const WORD_PIECE_DEFAULTS = {
  unk_token: '[UNK]',
  continuing_subword_prefix: '##',
  max_input_chars_per_word: 100,
} as const;

/**
 * Opens a tokenizer: a `tokenizer.json`, a `vocab.txt`, or a folder that holds one of them (the first is preferred).
 * @throws ModelFileError naming the file and what is wrong, among others a component that would be skipped silently.
 */
export async function loadTokenizer(path: string): Promise<TextTokenizer> {
  const file = await tokenizerFile(path);
  const bytes = await readFile(file);
  const withRecipe = (tokenizer: TextTokenizer): TextTokenizer => ({
    ...tokenizer,
    recipe: { kind: 'file', path: file, digest: tokenizer.digest },
  });
  if (basename(file) !== 'vocab.txt') {
    const json = parseJson(bytes.toString('utf8'), file);
    return withRecipe(tokenizerFromJson(json, file, sha256(bytes), 'tokenizer.json'));
  }
  const lowerCase = await readLowerCase(join(dirname(file), 'tokenizer_config.json'));
  const json = wordPieceFromVocabulary(bytes.toString('utf8'), lowerCase, file);
  return withRecipe(tokenizerFromJson(json, file, sha256(bytes, `do_lower_case=${lowerCase}`), 'vocab.txt'));
}

/** Reads the parsed content of a `tokenizer.json`; `file` is for messages, `digest` becomes the tokenizer's. */
export function tokenizerFromJson(
  json: unknown,
  file: string,
  digest: string,
  kind: 'tokenizer.json' | 'vocab.txt' = 'tokenizer.json',
): TextTokenizer {
  if (!isObject(json) || !isObject(json.model)) {
    throw new ModelFileError(`tokenizer: expected an object with a model in ${file}`, { file });
  }
  for (const section of ['normalizer', 'pre_tokenizer', 'post_processor'] as const) {
    checkComponent(section, json[section] ?? null, section, file);
  }
  const type = json.model.type ?? (json.model.merges ? 'BPE' : 'WordPiece');
  if (typeof type !== 'string' || !KNOWN_MODELS.includes(type)) throw unknownComponent('model', String(type), file);
  const model: JsonObject = { ...(type === 'WordPiece' ? WORD_PIECE_DEFAULTS : {}), ...json.model, type };
  if (model.dropout) throw unknownComponent('model.dropout', String(model.dropout), file);
  const added = (json.added_tokens ?? []) as readonly Json[];
  const singleWord = added.findIndex((token) => isObject(token) && token.single_word === true);
  if (singleWord >= 0) throw unknownComponent(`added_tokens[${singleWord}].single_word`, 'true', file);
  const tokenizer = build({ ...json, added_tokens: added, model }, file);
  const ids = tokenizer.get_vocab(true);
  const { cls, sep } = startAndSeparator(json.post_processor ?? null, ids, file);
  const unk = typeof model.unk_token === 'string' ? ids.get(model.unk_token) : model.unk_id;
  const special: SpecialTokens = {
    pad: ids.get('[PAD]') ?? ids.get('<pad>') ?? null,
    unk: typeof unk === 'number' ? unk : null,
    cls,
    sep,
  };
  let size = 0;
  for (const id of ids.values()) size = Math.max(size, id + 1);
  const encode = (text: string): readonly number[] =>
    text === '' ? [] : tokenizer.encode(text, { add_special_tokens: false }).ids;
  const byWord = withMemory(encode, json, model, added);
  return { kind, size, special, digest, encode: lowers(json.normalizer ?? null) ? withPlainSigma(byWord) : byWord };
}

/** Whether a normalizer lowers case. */
function lowers(normalizer: Json): boolean {
  if (!isObject(normalizer)) return false;
  if (normalizer.type === 'Sequence') return ((normalizer.normalizers ?? []) as readonly Json[]).some(lowers);
  return normalizer.type === 'Lowercase' || (normalizer.type === 'BertNormalizer' && normalizer.lowercase === true);
}

/** Lowers capital sigma to the same letter everywhere, as the original library does: JavaScript writes another at the end of a word. */
function withPlainSigma(encode: TextTokenizer['encode']): TextTokenizer['encode'] {
  return (text) => encode(text.includes('\u03a3') ? text.replaceAll('\u03a3', '\u03c3') : text);
}

/** CLIP's words. */
const CLIP_WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

/** `encode` with a memory of words, where the components are known to treat each word by itself: those of BERT, CLIP and GPT-2 (RoBERTa). */
function withMemory(
  encode: TextTokenizer['encode'],
  { normalizer, pre_tokenizer: cutter }: JsonObject,
  model: JsonObject,
  added: readonly Json[],
): TextTokenizer['encode'] {
  const is = (component: Json | undefined, type: string): component is JsonObject =>
    isObject(component) && component.type === type;
  const contents = added.map((token) => (isObject(token) && typeof token.content === 'string' ? token.content : ' '));
  if (model.fuse_unk || contents.some((content) => /\s/.test(content))) return encode;
  if (model.type === 'WordPiece')
    return is(normalizer, 'BertNormalizer') && is(cutter, 'BertPreTokenizer') ? rememberingWords(encode) : encode;
  if (model.type !== 'BPE') return encode;
  if (is(cutter, 'ByteLevel') && cutter.use_regex !== false && normalizer == null) {
    const byWord = rememberingWords(encode, 'beginning');
    // An added token may take the spaces beside it.
    return (text) => (contents.some((content) => text.includes(content)) ? encode(text) : byWord(text));
  }
  const [first, second, ...others] = is(cutter, 'Sequence') ? ((cutter.pretokenizers ?? []) as readonly Json[]) : [];
  const areClips =
    is(first, 'Split') &&
    isObject(first.pattern) &&
    first.pattern.Regex === CLIP_WORDS &&
    first.behavior === 'Removed' &&
    first.invert === true &&
    is(second, 'ByteLevel') &&
    second.add_prefix_space === false &&
    others.length === 0;
  const steps = is(normalizer, 'Sequence') ? ((normalizer.normalizers ?? []) as readonly Json[]) : [normalizer ?? null];
  const areHarmless = steps.every(
    (step) => step === null || is(step, 'NFC') || is(step, 'Lowercase') || isJoiningSpaces(step),
  );
  return areClips && areHarmless ? rememberingWords(encode) : encode;
}

/** White space to one space. */
function isJoiningSpaces(step: Json): boolean {
  return (
    isObject(step) &&
    step.type === 'Replace' &&
    isObject(step.pattern) &&
    step.pattern.Regex === '\\s+' &&
    step.content === ' '
  );
}

/**
 * The `tokenizer.json` that stands for a BERT `vocab.txt` (one token per line, id = line number from 0).
 * @throws ModelFileError when one of [UNK], [CLS], [SEP] is absent or a token stands twice.
 */
export function wordPieceFromVocabulary(text: string, lowerCase: boolean, file: string): JsonObject {
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === '') lines.pop();
  const ids = new Map<string, number>();
  for (const [id, token] of lines.entries()) {
    if (ids.has(token)) {
      throw new ModelFileError(`tokenizer: token ${JSON.stringify(token)} stands twice in ${file}`, {
        file,
        line: id + 1,
      });
    }
    ids.set(token, id);
  }
  for (const token of ['[UNK]', '[CLS]', '[SEP]']) {
    if (!ids.has(token)) throw new ModelFileError(`tokenizer: expected a token ${token} in ${file}`, { file, token });
  }
  return {
    version: '1.0',
    added_tokens: ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
      .filter((content) => ids.has(content))
      .map((content) => ({
        id: ids.get(content)!,
        content,
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      })),
    normalizer: {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      lowercase: lowerCase,
    },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: { type: 'BertProcessing', cls: ['[CLS]', ids.get('[CLS]')!], sep: ['[SEP]', ids.get('[SEP]')!] },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      ...WORD_PIECE_DEFAULTS,
      vocab: Object.fromEntries(ids),
    },
  };
}

function checkComponent(section: keyof typeof KNOWN_COMPONENTS, json: Json, path: string, file: string): void {
  if (json === null) return;
  const { types, children } = KNOWN_COMPONENTS[section];
  const type = isObject(json) ? json.type : undefined;
  if (!isObject(json) || typeof type !== 'string') throw unknownComponent(path, JSON.stringify(json), file);
  if (type === 'Sequence') {
    const list = json[children];
    if (!Array.isArray(list)) throw unknownComponent(path, `Sequence without ${children}`, file);
    for (const [i, child] of (list as readonly Json[]).entries()) {
      checkComponent(section, child, `${path}.${children}[${i}]`, file);
    }
    return;
  }
  if (!(types as readonly string[]).includes(type)) throw unknownComponent(path, type, file);
  if (type === 'Split' || (type === 'Replace' && section === 'normalizer')) {
    const pattern = json.pattern;
    // A pattern of another kind is skipped by the library with a warning only.
    if (!isObject(pattern) || !(typeof pattern.String === 'string' || typeof pattern.Regex === 'string')) {
      throw unknownComponent(`${path}.pattern`, JSON.stringify(pattern), file);
    }
  }
}

function unknownComponent(path: string, type: string, file: string): ModelFileError {
  return new ModelFileError(`tokenizer: unknown component ${path} ${type} in ${file}`, { file, component: path, type });
}

function build(json: JsonObject, file: string): HuggingFaceTokenizer {
  try {
    // The decoder turns ids back into text, which nothing here asks for.
    return new HuggingFaceTokenizer(
      { normalizer: null, pre_tokenizer: null, post_processor: null, ...json, decoder: null },
      {},
    );
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ModelFileError(`tokenizer: cannot read ${file}: ${reason}`, { file }, { cause: error });
  }
}

/** The ids around a single text according to the post-processor. */
function startAndSeparator(
  json: Json,
  ids: ReadonlyMap<string, number>,
  file: string,
): { cls: number | null; sep: number } {
  const found = postProcessorTokens(json);
  const cls = found === null ? undefined : found.cls === null ? null : ids.get(found.cls);
  const sep = found === null ? undefined : ids.get(found.sep);
  if (cls === undefined || sep === undefined) {
    throw new ModelFileError(
      `tokenizer: expected a post_processor that puts a token after a text, or one before and one after it, in ${file}`,
      {
        file,
        component: 'post_processor',
      },
    );
  }
  return { cls, sep };
}

function postProcessorTokens(json: Json): { cls: string | null; sep: string } | null {
  if (!isObject(json)) return null;
  if (json.type === 'Sequence') {
    for (const child of (json.processors ?? []) as readonly Json[]) {
      const found = postProcessorTokens(child);
      if (found) return found;
    }
    return null;
  }
  if (json.type === 'BertProcessing' || json.type === 'RobertaProcessing') {
    const [cls, sep] = [json.cls, json.sep].map((pair) => (Array.isArray(pair) ? (pair as readonly Json[])[0] : null));
    return typeof cls === 'string' && typeof sep === 'string' ? { cls, sep } : null;
  }
  if (json.type === 'TemplateProcessing' && Array.isArray(json.single)) {
    const template = json.single as readonly Json[];
    const name = (piece: Json | undefined): string | null => {
      const token = isObject(piece) && isObject(piece.SpecialToken) ? piece.SpecialToken.id : null;
      return typeof token === 'string' ? token : null;
    };
    const [cls, sep] = [name(template[0]), name(template.at(-1))];
    const starts = isObject(template[0]) && isObject(template[0].Sequence);
    return sep !== null && (cls !== null || starts) ? { cls, sep } : null;
  }
  return null;
}

async function tokenizerFile(path: string): Promise<string> {
  if (!(await stat(path).catch(() => null))?.isDirectory()) {
    if ((await stat(path).catch(() => null))?.isFile()) return path;
    throw new ModelFileError(`tokenizer: expected a file or folder but found nothing at ${path}`, { file: path });
  }
  for (const name of ['tokenizer.json', 'vocab.txt']) {
    const file = join(path, name);
    if ((await stat(file).catch(() => null))?.isFile()) return file;
  }
  throw new ModelFileError(`tokenizer: expected tokenizer.json or vocab.txt in ${path}`, { file: path });
}

/** `do_lower_case` of a tokenizer_config.json; true, BERT's default, where it is not said. */
async function readLowerCase(file: string): Promise<boolean> {
  const text = await readFile(file, 'utf8').catch(() => null);
  if (text === null) return true;
  const json = parseJson(text, file);
  const value = isObject(json) ? (json.do_lower_case ?? true) : null;
  if (typeof value !== 'boolean') {
    throw new ModelFileError(`tokenizer: expected do_lower_case to be true or false in ${file}`, { file });
  }
  return value;
}

function parseJson(text: string, file: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (error) {
    throw new ModelFileError(`tokenizer: expected JSON in ${file}`, { file }, { cause: error });
  }
}

function isObject(json: unknown): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json);
}

function sha256(...parts: readonly (Uint8Array | string)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}
