import { Tokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tokenizerFromJson, wordPieceFromVocabulary } from '../../../src/data/text/tokenizer.js';
import { rememberingWords } from '../../../src/data/text/word_memory.js';

const VOCABULARY = [
  '[PAD]',
  '[UNK]',
  '[CLS]',
  '[SEP]',
  'red',
  'wool',
  '##en',
  ',',
  'ete',
  'a',
  '##a',
  'σ',
  '##ς',
  '中',
];

describe('rememberingWords', () => {
  it.each([true, false])('gives the ids of the library for any text (lower case: %s)', (lowerCase) => {
    const json = wordPieceFromVocabulary(VOCABULARY.join('\n'), lowerCase, 'test');
    const library = new Tokenizer({ ...json, decoder: null }, {});
    const { encode } = tokenizerFromJson(json, 'test', 'test');
    const pieces = [
      ' ',
      '  ',
      '\t',
      '\u00a0',
      '\n',
      'red',
      'WOOL',
      'en',
      ',',
      'Été',
      'e\u0301',
      '\u0301',
      'σΣ',
      '中',
      '[SEP]',
      '\u0000',
      'a'.repeat(101),
    ];
    const text = fc.array(fc.oneof(fc.constantFrom(...pieces), fc.string({ unit: 'grapheme', maxLength: 4 })), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(text, (parts) => {
        const text = parts.join('');
        const expected = text === '' ? [] : library.encode(text, { add_special_tokens: false }).ids;
        expect(encode(text)).toEqual(expected);
        expect(encode(text)).toEqual(expected); // from memory
      }),
      { numRuns: 400 },
    );
  });

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
});
