import { describe, expect, it } from 'vitest';
import { buildWordVocabulary, splitWords, wordVocabularyFromJson } from '../../../src/data/text/word_vocabulary.js';
import { ArgumentError, ModelFileError } from '../../../src/errors.js';

describe('splitWords', () => {
  it.each([
    ['Red  Wool-Jacket, size 42!', ['red', 'wool', 'jacket', 'size', '42']],
    ['Crème BRÛLÉE', ['crème', 'brûlée']],
    ['cafe\u0301 ﬁne', ['café', 'fine']],
    ['don’t', ['don', 't']],
    ['東京タワーで sushi', ['東', '京', 'タ', 'ワ', 'ー', 'で', 'sushi']],
    ['हिन्दी', ['हिन्दी']],
    ['  \t… 🎉 ', []],
    ['', []],
  ])('%j', (text, words) => {
    expect(splitWords(text)).toEqual(words);
  });
});

describe('buildWordVocabulary', () => {
  const texts = ['red jacket', 'Red wool', null, 'blue wool', 'red', ''];

  it('orders by count, then by word, and leaves rare words to the unknown token', () => {
    const vocabulary = buildWordVocabulary(texts);
    expect(vocabulary.words).toEqual(['red', 'wool']);
    expect(vocabulary.special).toEqual({ pad: 0, unk: 1, cls: 2, sep: 3 });
    expect(vocabulary.size).toBe(6);
    expect(vocabulary.encode('Wool, RED jacket')).toEqual([5, 4, 1]);
    expect(buildWordVocabulary(texts, { minCount: 1 }).words).toEqual(['red', 'wool', 'blue', 'jacket']);
    expect(buildWordVocabulary(texts, { minCount: 1, maxWords: 3 }).words).toEqual(['red', 'wool', 'blue']);
  });

  it('does not depend on the order of texts', () => {
    expect(buildWordVocabulary([...texts].reverse()).digest).toBe(buildWordVocabulary(texts).digest);
  });

  it('comes back from JSON with the same ids and digest', () => {
    const vocabulary = buildWordVocabulary(texts, { minCount: 1 });
    const copy = wordVocabularyFromJson(JSON.parse(JSON.stringify(vocabulary)), 'words.json');
    expect(copy.digest).toBe(vocabulary.digest);
    expect(copy.encode('blue red')).toEqual(vocabulary.encode('blue red'));
    expect(buildWordVocabulary(texts).digest).not.toBe(vocabulary.digest);
  });

  it.each([
    null,
    { type: 'word_vocabulary', format: 2, words: [] },
    { type: 'word_vocabulary', format: 1, words: 'red' },
    { type: 'word_vocabulary', format: 1, words: ['red', 'red'] },
    { type: 'word_vocabulary', format: 1, words: [''] },
    { type: 'word_vocabulary', format: 1, words: [7] },
  ])('refuses %j', (json) => {
    expect(() => wordVocabularyFromJson(json, 'words.json')).toThrow(ModelFileError);
    expect(() => wordVocabularyFromJson(json, 'words.json')).toThrow(/wordVocabulary: expected .* in words\.json/);
  });

  it.each([{ minCount: 0 }, { minCount: 1.5 }, { maxWords: 0 }])('refuses options %j', (options) => {
    expect(() => buildWordVocabulary([], options)).toThrow(ArgumentError);
  });
});
