/** Encoding word by word with a memory of words: for tokenizers that never join what stands on two sides of a space. */

/** Longer words are rare, and are encoded whenever they come. */
const LONGEST_WORD = 64;
/** Words held; then the memory starts again. About 15 MB when it is full. */
const MOST_WORDS = 1 << 16;

type Encode = (text: string) => readonly number[];

/** What a space (U+0020) is: nothing but a boundary, or the beginning of the word that follows it. */
export type SpaceRole = 'boundary' | 'beginning';

/** The ids that `encode` gives for a text, which must be those of its words one after the other. */
export function rememberingWords(encode: Encode, space: SpaceRole = 'boundary'): Encode {
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
  const skipped = space === 'boundary' ? 1 : 0;
  return (text) => {
    const ids: number[] = [];
    for (let from = 0, to = 0; from < text.length; from = to + skipped) {
      to = space === 'boundary' ? text.indexOf(' ', from) : nextBeginning(text, from + 1);
      if (to === -1) to = text.length;
      if (to === from) continue;
      const word = text.slice(from, to);
      const ofWord = to - from > LONGEST_WORD ? encode(word) : idsOf(word);
      for (let i = 0; i < ofWord.length; i++) ids.push(ofWord[i]!);
    }
    return ids;
  };
}

/** The first space at or after `from` before something else than white space; -1 if there is none. */
function nextBeginning(text: string, from: number): number {
  let at = text.indexOf(' ', from);
  while (at !== -1 && (at + 1 === text.length || /\s/.test(text[at + 1]!))) at = text.indexOf(' ', at + 1);
  return at;
}
