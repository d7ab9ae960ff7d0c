/**
 * A vocabulary of words, for data that bring no tokenizer. It is built from the texts of the training part only (data.md, rule
 * L4): a word that only later items use is the unknown word, as it would be in service.
 */

import { createHash } from 'node:crypto';
import { ArgumentError, ModelFileError } from '../../errors.js';
import { atOnce, type Pass } from '../turns.js';
import type { TextTokenizer } from './tokenizer.js';

const SPECIAL = { pad: 0, unk: 1, cls: 2, sep: 3 } as const;
const FIRST_WORD = 4;
/** Split in less than a millisecond. */
const CHARACTERS_BETWEEN_TURNS = 1 << 12;

/** Ideographs and kana are words by themselves (no spaces divide them); every other run of letters, marks and digits is one word. */
const WORD =
  /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]|(?:(?![\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}])[\p{L}\p{M}\p{N}])+/gu;

export interface WordVocabularyOptions {
  /** A word seen less often becomes the unknown word. Default 2, so that the unknown word itself is trained. */
  minCount?: number;
  /** At most so many words, the most frequent. Default 30,000. */
  maxWords?: number;
}

/** What a checkpoint stores: word i has id 4 + i. */
export interface WordVocabularyJson {
  readonly type: 'word_vocabulary';
  readonly format: 1;
  readonly words: readonly string[];
}

/** A word-level tokenizer: pad 0, unk 1, cls 2, sep 3, then words, most frequent first. */
export interface WordVocabulary extends TextTokenizer {
  readonly kind: 'words';
  readonly words: readonly string[];
  toJSON(): WordVocabularyJson;
}

/** The words of `text`: Unicode NFKC, lower case, split at everything that is no letter, mark or digit. */
export function splitWords(text: string): readonly string[] {
  return text.normalize('NFKC').toLowerCase().match(WORD) ?? [];
}

/**
 * Counts the words of `texts`, which must be those of training items and training queries, each text once.
 * Order: count, largest first; equal counts by UTF-16 code unit.
 */
export function buildWordVocabulary(
  texts: Iterable<string | null>,
  options: WordVocabularyOptions = {},
): WordVocabulary {
  return atOnce(buildWordVocabularyPass(texts, options));
}

export function* buildWordVocabularyPass(
  texts: Iterable<string | null>,
  { minCount = 2, maxWords = 30_000 }: WordVocabularyOptions = {},
): Pass<WordVocabulary> {
  for (const [argument, value] of Object.entries({ minCount, maxWords })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new ArgumentError(`buildWordVocabulary: expected ${argument} to be an integer >= 1 but received ${value}`, {
        op: 'buildWordVocabulary',
        argument,
      });
    }
  }
  const counts = new Map<string, number>();
  let characters = 0;
  for (const text of texts) {
    for (const word of text === null ? [] : splitWords(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
    characters += 1 + (text?.length ?? 0);
    if (characters < CHARACTERS_BETWEEN_TURNS) continue;
    characters = 0;
    yield;
  }
  const kept: [string, number][] = [];
  for (const entry of counts) if (entry[1] >= minCount) kept.push(entry);
  yield;
  kept.sort(([a, countA], [b, countB]) => countB - countA || (a < b ? -1 : 1));
  return wordVocabulary(kept.slice(0, maxWords).map(([word]) => word));
}

/**
 * Reads what `toJSON` wrote. `file` is for messages.
 * @throws ModelFileError when the format is another one, or a word is no word or stands twice.
 */
export function wordVocabularyFromJson(json: unknown, file: string): WordVocabulary {
  const { type, format, words } = (json ?? {}) as Partial<Record<keyof WordVocabularyJson, unknown>>;
  if (type !== 'word_vocabulary' || format !== 1 || !Array.isArray(words)) {
    throw new ModelFileError(`wordVocabulary: expected {type: "word_vocabulary", format: 1, words: [...]} in ${file}`, {
      file,
    });
  }
  const seen = new Set<string>();
  for (const [i, word] of (words as readonly unknown[]).entries()) {
    if (typeof word !== 'string' || word === '' || seen.has(word)) {
      throw new ModelFileError(
        `wordVocabulary: expected words[${i}] to be a new word but received ${JSON.stringify(word)} in ${file}`,
        { file, index: i },
      );
    }
    seen.add(word);
  }
  return wordVocabulary([...seen]);
}

function wordVocabulary(words: readonly string[]): WordVocabulary {
  const ids = new Map(words.map((word, i) => [word, FIRST_WORD + i]));
  const json: WordVocabularyJson = { type: 'word_vocabulary', format: 1, words };
  return {
    kind: 'words',
    words,
    size: FIRST_WORD + words.length,
    special: SPECIAL,
    digest: createHash('sha256').update(JSON.stringify(json)).digest('hex'),
    recipe: { kind: 'words', json },
    encode: (text) => splitWords(text).map((word) => ids.get(word) ?? SPECIAL.unk),
    toJSON: () => json,
  };
}
