/** Words of the generated shop, and its long documents. Definition: models.md, section 12. */
import { uniform } from '../random.js';

/** Two nouns per category. */
export const NOUNS = [
  ['lamp', 'light'],
  ['chair', 'seat'],
  ['scarf', 'shawl'],
  ['mug', 'cup'],
  ['bag', 'tote'],
  ['clock', 'timer'],
  ['rug', 'mat'],
  ['vase', 'jar'],
  ['pillow', 'cushion'],
  ['shelf', 'rack'],
  ['jacket', 'coat'],
  ['shoe', 'sneaker'],
] as const;
export const SYLLABLES = ['ba', 'do', 'ki', 'lu', 'me', 'no', 'ra', 'ti'];
/** For quality -1, 0 and 1. */
export const QUALITY_WORDS = [['refurbished', 'basic'], [''], ['premium', 'handmade']] as const;
export const FILLERS = ['', 'for home', 'set of two', 'gift', 'new season', 'large'];
export const MATERIALS = ['wool', 'wood', 'metal', 'glass'];
export const TAGS = [
  'indoor',
  'outdoor',
  'summer',
  'winter',
  'kids',
  'office',
  'travel',
  'classic',
  'modern',
  'compact',
];
/** At 45 degree steps of hue, from 0. */
export const COLOURS = ['red', 'orange', 'lime', 'green', 'teal', 'blue', 'purple', 'pink'];

/** Words with spaces between them; empty ones leave no trace. */
export function joined(...words: string[]): string {
  return words.filter((word) => word !== '').join(' ');
}

/** Texts around an item as read from its video: words on screen, spoken words, words on the cover. Only the material word of `ocr` means anything. */
export interface LongDocument {
  readonly ocr: string;
  readonly asr: string;
  readonly cover: string;
}

/** Raw words that one long document needs: four numbers, then three syllables for each of at most 140 words. */
export const LONG_DOCUMENT_NUMBERS = 424;

/**
 * A long document from raw words: [0] length of `ocr`, 40 .. 124; [1] place of the material word in it; [2] length of `asr`, 0 .. 4; [3]
 * length of `cover`, 1 .. 12; then three syllables a word, ocr first. Material null: the word at its place means nothing too.
 */
export function longDocument(numbers: Uint32Array, material: string | null): LongDocument {
  const pick = (choices: number, n: number) => Math.floor(choices * uniform(numbers[n]!));
  let next = 4;
  const syllable = () => SYLLABLES[pick(SYLLABLES.length, next++)]!;
  const meaningless = (count: number) => Array.from({ length: count }, () => syllable() + syllable() + syllable());
  const ocr = meaningless(40 + pick(85, 0));
  const asr = meaningless(pick(5, 2));
  const cover = meaningless(1 + pick(12, 3));
  if (material !== null) ocr[pick(ocr.length, 1)] = material;
  return { ocr: ocr.join(' '), asr: asr.join(' '), cover: cover.join(' ') };
}
