import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadTokenizer, type TextTokenizer, tokenizerFromJson } from '../../../src/data/text/tokenizer.js';
import { ModelFileError } from '../../../src/errors.js';
import { sharedData } from '../../shared_data.js';

const vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'red', 'wool', '##en', ',', 'été', 'ete'];

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-tokenizer-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function write(name: string, content: string): Promise<string> {
  const file = join(folder, name);
  await writeFile(file, content);
  return file;
}

describe('vocab.txt', () => {
  it('lowers case and strips accents unless tokenizer_config.json says otherwise', async () => {
    await write('vocab.txt', `${vocabulary.join('\n')}\n`);
    const lower = await loadTokenizer(folder);
    expect(lower.kind).toBe('vocab.txt');
    expect(lower.special).toEqual({ pad: 0, unk: 1, cls: 2, sep: 3 });
    expect(lower.size).toBe(10);
    expect(lower.encode('Red, woolen Été zzz')).toEqual([4, 7, 5, 6, 9, 1]);
    expect(lower.encode('')).toEqual([]);

    await write('tokenizer_config.json', '{"do_lower_case": false}');
    const cased = await loadTokenizer(folder);
    expect(cased.encode('Red red été')).toEqual([1, 4, 8]);
    expect(cased.digest).not.toBe(lower.digest);

    await write('tokenizer_config.json', '{"do_lower_case": 1}');
    await expect(loadTokenizer(folder)).rejects.toThrow(/do_lower_case to be true or false/);
    await rm(join(folder, 'tokenizer_config.json'));
  });

  it('lowers every capital sigma to the same letter, at the end of a word too', async () => {
    await write('vocab.txt', '[UNK]\n[CLS]\n[SEP]\nοδοσ\nοδος\n');
    const lower = await loadTokenizer(folder);
    expect(lower.encode('ΟΔΟΣ οδος ΟΔΟΣ')).toEqual([3, 4, 3]);
    await rm(join(folder, 'vocab.txt'));
  });

  it('refuses a token that stands twice and an absent special token', async () => {
    await write('vocab.txt', '[UNK]\n[CLS]\n[SEP]\nred\nred\n');
    await expect(loadTokenizer(folder)).rejects.toThrow(/token "red" stands twice/);
    await write('vocab.txt', '[UNK]\n[CLS]\nred\n');
    await expect(loadTokenizer(folder)).rejects.toThrow(/expected a token \[SEP\]/);
    await rm(join(folder, 'vocab.txt'));
  });
});

describe('tokenizer.json', () => {
  const json = {
    added_tokens: [],
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: { type: 'BertProcessing', cls: ['[CLS]', 2], sep: ['[SEP]', 3] },
    decoder: null,
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      vocab: Object.fromEntries(vocabulary.map((token, i) => [token, i])),
    },
  };

  it('reads a minimal file', () => {
    const tokenizer = tokenizerFromJson(json, 'tokenizer.json', 'digest');
    expect(tokenizer.encode('RED woolen')).toEqual([4, 5, 6]);
    expect(tokenizer.special).toEqual({ pad: 0, unk: 1, cls: 2, sep: 3 });
  });

  it.each([
    [{ normalizer: { type: 'Fancy' } }, 'normalizer Fancy'],
    [
      { normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, { type: 'Odd' }] } },
      'normalizer.normalizers[1] Odd',
    ],
    [{ normalizer: { type: 'Sequence' } }, 'normalizer Sequence without normalizers'],
    [{ normalizer: { type: 'Replace', pattern: {}, content: '' } }, 'normalizer.pattern {}'],
    [{ pre_tokenizer: { type: 'UnicodeScripts' } }, 'pre_tokenizer UnicodeScripts'],
    [{ pre_tokenizer: 'Whitespace' }, 'pre_tokenizer "Whitespace"'],
    [{ post_processor: { type: 'Magic' } }, 'post_processor Magic'],
    [{ model: { ...json.model, type: 'WordLevel' } }, 'model WordLevel'],
    [{ model: { ...json.model, dropout: 0.1 } }, 'model.dropout 0.1'],
    [{ added_tokens: [{ id: 0, content: '[PAD]', single_word: true }] }, 'added_tokens[0].single_word true'],
  ])('refuses what would be skipped: %j', (change, component) => {
    const read = (): TextTokenizer => tokenizerFromJson({ ...json, ...change }, 'tokenizer.json', '');
    expect(read).toThrow(ModelFileError);
    expect(read).toThrow(`tokenizer: unknown component ${component} in tokenizer.json`);
  });

  it.each([
    [null, /expected an object with a model/],
    [{ model: 7 }, /expected an object with a model/],
    [
      { ...json, post_processor: null },
      /expected a post_processor that puts a token after a text, or one before and one after it/,
    ],
    [{ ...json, model: { type: 'WordPiece' } }, /tokenizer: cannot read tokenizer\.json/],
  ])('refuses broken files %#', (content, message) => {
    expect(() => tokenizerFromJson(content, 'tokenizer.json', '')).toThrow(ModelFileError);
    expect(() => tokenizerFromJson(content, 'tokenizer.json', '')).toThrow(message);
  });

  it('reads one that ends texts and does not start them', () => {
    const single = [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '[SEP]', type_id: 0 } }];
    const post = { type: 'TemplateProcessing', single, pair: [], special_tokens: {} };
    const tokenizer = tokenizerFromJson({ ...json, post_processor: post }, 'tokenizer.json', 'digest');
    expect(tokenizer.special).toEqual({ pad: 0, unk: 1, cls: null, sep: 3 });
  });

  it('refuses paths without a tokenizer and files that are no JSON', async () => {
    await expect(loadTokenizer(join(folder, 'absent'))).rejects.toThrow(/found nothing at/);
    await expect(loadTokenizer(folder)).rejects.toThrow(/expected tokenizer\.json or vocab\.txt/);
    await expect(loadTokenizer(await write('broken.json', '{'))).rejects.toThrow(/expected JSON in/);
  });
});

interface Case {
  text: string;
  text_pair?: string;
  ids: number[];
  openai_simple_tokenizer_agrees?: boolean;
}

const tokenizers = sharedData('tokenizers');

describe.skipIf(tokenizers === null)('golden encodings (internal test data)', () => {
  const at = (...parts: string[]): string => join(tokenizers!, ...parts);
  const cases = async (name: string): Promise<Case[]> =>
    (JSON.parse(await readFile(at('golden', `${name}.strings.json`), 'utf8')) as { cases: Case[] }).cases;
  const whole = (
    { encode, special: { cls, sep } }: TextTokenizer,
    { text, text_pair }: Pick<Case, 'text' | 'text_pair'>,
  ) => [...[cls, ...encode(text), sep], ...(text_pair === undefined ? [] : [...encode(text_pair), sep])];

  it.each([
    ['bert-base-uncased', 30],
    ['roberta-base', 11],
  ])('%s: %i strings', async (name, count) => {
    const tokenizer = await loadTokenizer(at(name));
    const all = await cases(name);
    expect(all.length).toBe(count);
    for (const one of all) expect(whole(tokenizer, one), one.text).toEqual(one.ids);
  });

  it('bert-base-uncased from vocab.txt gives the same ids', async () => {
    const tokenizer = await loadTokenizer(at('bert-base-uncased', 'vocab.txt'));
    for (const one of await cases('bert-base-uncased')) expect(whole(tokenizer, one), one.text).toEqual(one.ids);
  });

  it('clip: 25 strings, two of which have a second right answer', async () => {
    const tokenizer = tokenizerFromJson(
      clipTokenizer(gunzipSync(await readFile(at('clip', 'bpe_simple_vocab_16e6.txt.gz'))).toString()),
      'clip',
      '',
    );
    const all = await cases('clip');
    expect(all.length).toBe(25);
    for (const one of all) expect(whole(tokenizer, one), one.text).toEqual(one.ids);
  });

  it('232 item texts: bert, roberta and clip', async () => {
    const lines = (await readFile(at('golden', 'ml-posters.tokens.jsonl'), 'utf8')).trim().split('\n');
    expect(lines.length).toBe(232);
    const bert = await loadTokenizer(at('bert-base-uncased'));
    const roberta = await loadTokenizer(at('roberta-base'));
    const clip = tokenizerFromJson(
      clipTokenizer(gunzipSync(await readFile(at('clip', 'bpe_simple_vocab_16e6.txt.gz'))).toString()),
      'clip',
      '',
    );
    for (const line of lines) {
      const golden = JSON.parse(line) as { item_id: string; text: string } & Record<
        'bert' | 'roberta' | 'clip',
        number[]
      >;
      expect(whole(bert, golden), golden.item_id).toEqual(golden.bert);
      expect(whole(roberta, golden), golden.item_id).toEqual(golden.roberta);
      expect(whole(clip, golden), golden.item_id).toEqual(golden.clip);
    }
  });
});

/** The `tokenizer.json` of CLIP's byte-pair file: 256 bytes, 256 bytes that end a word, merges, two special tokens. */
function clipTokenizer(bpe: string): unknown {
  const merges = bpe.split('\n').slice(1, 49152 - 256 - 2 + 1);
  const printable = Array.from({ length: 256 }, (_, byte) => byte).filter(
    (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174,
  );
  const bytes = [...printable, ...Array.from({ length: 256 - printable.length }, (_, i) => 256 + i)].map((code) =>
    String.fromCodePoint(code),
  );
  const special = ['<|startoftext|>', '<|endoftext|>'];
  const tokens = [
    ...bytes,
    ...bytes.map((byte) => `${byte}</w>`),
    ...merges.map((merge) => merge.replace(' ', '')),
    ...special,
  ];
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  return {
    added_tokens: special.map((content) => ({ id: vocab[content], content, special: true, normalized: false })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        {
          type: 'Split',
          pattern: { Regex: "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+" },
          behavior: 'Removed',
          invert: true,
        },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
      ],
    },
    post_processor: {
      type: 'RobertaProcessing',
      sep: [special[1], vocab[special[1]!]],
      cls: [special[0], vocab[special[0]!]],
    },
    model: {
      type: 'BPE',
      unk_token: special[1],
      continuing_subword_prefix: '',
      end_of_word_suffix: '</w>',
      vocab,
      merges,
    },
  };
}
