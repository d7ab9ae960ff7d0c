import { Tokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tokenizerFromJson, wordPieceFromVocabulary } from '../../../src/data/text/tokenizer.js';
import { rememberingWords } from '../../../src/data/text/word_memory.js';

const WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'red', 'wool', '##en', ',', 'ete', 'a', '##a', 'σ', '##ς', '中'];
const bert = (lowerCase: boolean) => wordPieceFromVocabulary(WORDS.join('\n'), lowerCase, 'test');

/** Byte-pair encoding of all bytes with a few merges. */
function bytePairs(end: string, more: object): Record<string, unknown> {
  const printable = Array.from({ length: 256 }, (_, byte) => byte).filter(
    (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174,
  );
  const bytes = [...printable, ...Array.from({ length: 256 - printable.length }, (_, i) => 256 + i)].map((code) =>
    String.fromCodePoint(code),
  );
  const merges = ['r e', 're d', 'Ġ re', 'w o', `e n${end}`, 'Ġ Ġ', `a a${end}`, "' s"];
  const special = ['<s>', '</s>', '<mask>'];
  const all = [
    ...special,
    ...bytes,
    ...bytes.map((byte) => byte + end),
    ...merges.map((merge) => merge.replace(' ', '')),
  ];
  const vocab = Object.fromEntries([...new Set(all)].map((token, id) => [token, id]));
  return {
    added_tokens: special.map((content) => ({
      id: vocab[content],
      content,
      special: true,
      lstrip: content === '<mask>',
      normalized: false,
    })),
    normalizer: null,
    post_processor: { type: 'RobertaProcessing', sep: ['</s>', 1], cls: ['<s>', 0] },
    model: { type: 'BPE', vocab, merges, unk_token: '</s>', end_of_word_suffix: end },
    ...more,
  };
}
const gpt2 = (addPrefixSpace: boolean) =>
  bytePairs('', { pre_tokenizer: { type: 'ByteLevel', add_prefix_space: addPrefixSpace } });
const clip = () =>
  bytePairs('</w>', {
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
        { type: 'ByteLevel', add_prefix_space: false },
      ],
    },
  });

const pieces = [
  ...[' ', '  ', '\t', '\u00a0', '\n', '\u3000', '\u0000', 'red', 'WOOL', 'en', ',', "'s", "'", 'Été', '7', '😀'],
  ...['e\u0301', '\u0301', 'σΣ', '中', '[SEP]', '[sep]', '<s>', '<mask>', 'a'.repeat(101)],
];
const texts = fc
  .array(fc.oneof(fc.constantFrom(...pieces), fc.string({ unit: 'grapheme', maxLength: 4 })), { maxLength: 12 })
  .map((parts) => parts.join(''));

describe('rememberingWords', () => {
  it.each([
    ['BERT', bert(true), true],
    ['BERT with case', bert(false), false],
    ['GPT-2', gpt2(false), false],
    ['GPT-2 with a space before all', gpt2(true), false],
    ['CLIP', clip(), true],
  ] as const)(
    'gives the ids of the library for any text, but for the capital sigma that it lowers by place: %s',
    (_, json, lowers) => {
      const library = new Tokenizer({ pre_tokenizer: null, ...json, decoder: null }, {});
      const { encode } = tokenizerFromJson(json, 'test', 'test');
      fc.assert(
        fc.property(texts, (text) => {
          const plain = lowers ? text.replaceAll('Σ', 'σ') : text;
          const expected = text === '' ? [] : library.encode(plain, { add_special_tokens: false }).ids;
          expect(encode(text)).toEqual(expected);
          expect(encode(text)).toEqual(expected); // from memory
        }),
        { numRuns: 500 },
      );
    },
  );

  it('asks once for a short word and each time for a long one, and forgets when it is full', () => {
    const asked: string[] = [];
    const encode = rememberingWords((word) => {
      asked.push(word);
      return [word.length];
    });
    const long = 'x'.repeat(65);
    expect([...encode(` red  wool red ${long} ${long}`)]).toEqual([3, 4, 3, 65, 65]);
    expect(asked).toEqual(['red', 'wool', long, long]);
    for (let i = 0; i < 1 << 16; i++) encode(`word${i}`);
    asked.length = 0;
    expect([...encode('red wool')]).toEqual([3, 4]);
    expect(asked).toEqual(['red', 'wool']);
  });

  it('leaves a space to the word that it begins', () => {
    const asked: string[] = [];
    const encode = rememberingWords((word) => {
      asked.push(word);
      return [word.length];
    }, 'beginning');
    expect([...encode('a  b \n c ')]).toEqual([2, 4, 3]);
    expect(asked).toEqual(['a ', ' b \n', ' c ']);
  });
});
