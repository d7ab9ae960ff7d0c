/** Words of the generated shop, and its long documents. Definition: models.md, section 12. */
import { uniform } from '../../random.js';

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

/** Texts of an item as of a video: title, words on screen, spoken words, words on the cover. `ocr` holds the material word. */
export interface LongDocument {
  /** The short title, then meaningless words. */
  readonly title: string;
  readonly ocr: string;
  readonly asr: string;
  readonly cover: string;
}

/** Most words of each field, and their means: 22, 81, about 2 and 6 (models.md, section 2.1). */
export const LONG_DOCUMENT_WORDS = { title: 31, ocr: 124, asr: 12, cover: 12 } as const;

/** Raw words that one long document needs: five numbers, then three syllables for each of at most 179 words. */
export const LONG_DOCUMENT_NUMBERS = 544;

/**
 * A long document from raw words: [0] length of `ocr`, 38 .. 124; [1] place of the material word in it; [2] length of `asr`, 0 .. 12, by
 * the fourth power of its number; [3] length of `cover`, 0 .. 12; [4] length of the title, 13 .. 31; then three syllables a word, ocr
 * first, title last. Material null: the word at its place means nothing too.
 */
export function longDocument(numbers: Uint32Array, title: string, material: string | null): LongDocument {
  const pick = (choices: number, n: number) => Math.floor(choices * uniform(numbers[n]!));
  let next = 5;
  const syllable = () => SYLLABLES[pick(SYLLABLES.length, next++)]!;
  const meaningless = (count: number) => Array.from({ length: count }, () => syllable() + syllable() + syllable());
  const square = uniform(numbers[2]!) * uniform(numbers[2]!);
  const ocr = meaningless(38 + pick(87, 0));
  const asr = meaningless(Math.floor(13 * (square * square)));
  const cover = meaningless(pick(13, 3));
  const rest = meaningless(13 + pick(19, 4) - title.split(' ').length);
  if (material !== null) ocr[pick(ocr.length, 1)] = material;
  return { title: joined(title, ...rest), ocr: ocr.join(' '), asr: asr.join(' '), cover: cover.join(' ') };
}
