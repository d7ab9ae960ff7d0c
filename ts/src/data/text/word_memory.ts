/** Encoding word by word with a memory of words: for tokenizers to which a space is only a boundary. */

/** Longer words are rare, and are encoded whenever they come. */
const LONGEST_WORD = 64;
/** Words held; then the memory starts again. About 15 MB when it is full. */
const MOST_WORDS = 1 << 16;

type Encode = (text: string) => readonly number[];

/** The ids that `encode` gives, which must be those of the words between spaces (U+0020), one after the other. */
export function rememberingWords(encode: Encode): Encode {
  const known = new Map<string, readonly number[]>();
  const idsOf = (word: string): readonly number[] => {
    let ids = known.get(word);
    if (ids === undefined) {
      ids = encode(word);
      if (known.size >= MOST_WORDS) known.clear();
      // A copy: a slice would keep the whole text in memory.
      known.set(Buffer.from(word, 'utf16le').toString('utf16le'), ids);
    }
    return ids;
  };
  return (text) => {
    const ids: number[] = [];
    for (let from = 0, to = 0; from < text.length; from = to + 1) {
      to = text.indexOf(' ', from);
      if (to === -1) to = text.length;
      if (to === from) continue;
      const word = text.slice(from, to);
      const ofWord = to - from > LONGEST_WORD ? encode(word) : idsOf(word);
      for (let i = 0; i < ofWord.length; i++) ids.push(ofWord[i]!);
    }
    return ids;
  };
}
