/**
 * Texts to token stores beside the tokenizer library called directly for the same texts (no layout, no counters, no store), in turn within
 * every round, by CPU time of the process. Goal: 1.0. Titles, tags and words of pictures of the generated shop with long documents, through a
 * WordPiece tokenizer whose vocabulary is half of their words and all letters.
 */
import { cpus, loadavg } from 'node:os';
import { Tokenizer } from '@huggingface/tokenizers';
import { generateShop } from '../ts/src/data/shop/shop.js';
import { textPipeline } from '../ts/src/data/text/text.js';
import { tokenizerFromJson, wordPieceFromVocabulary } from '../ts/src/data/text/tokenizer.js';
import { say } from './measure.js';

const rounds = 3;
const { items } = generateShop({ seed: 1, items: 400, users: 50, sessions: 400, documents: 'long' });
const columns = {
  title: [...items.title],
  ocr: items.documents!.map(({ ocr }) => ocr),
  asr: items.documents!.map(({ asr }) => asr),
  cover: items.documents!.map(({ cover }) => cover),
};
const texts = Object.values(columns).flat();
const words = [...new Set(texts.flatMap((text) => text.split(' ')))].filter((word, i) => word !== '' && i % 2 === 0);
const letters = Array.from({ length: 26 }, (_, i) => String.fromCodePoint(97 + i));
const vocabulary = [
  '[PAD]',
  '[UNK]',
  '[CLS]',
  '[SEP]',
  ...new Set([...words, ...letters, ...letters.map((a) => `##${a}`)]),
];
const json = wordPieceFromVocabulary(vocabulary.join('\n'), true, 'bench');
const library = new Tokenizer({ ...json, decoder: null }, {});
const pipeline = textPipeline({
  tokenizer: tokenizerFromJson(json, 'bench', 'bench'),
  fields: Object.keys(columns).map((name) => ({ name, maxLen: 4096 })),
});

async function cpuSeconds(run: () => unknown): Promise<number> {
  const before = process.cpuUsage();
  await run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

let tokens = 0;
const direct = (): void => {
  tokens = 0;
  for (const text of texts) tokens += text === '' ? 0 : library.encode(text, { add_special_tokens: false }).ids.length;
};
const [ours, theirs]: [number[], number[]] = [[], []];
for (let round = -1; round < rounds; round++) {
  const [a, b] = [await cpuSeconds(direct), await cpuSeconds(() => pipeline.tokenizeAll(columns))];
  if (round < 0) continue; // to warm up
  theirs.push(a);
  ours.push(b);
}
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const rounded = (value: number): number => Number(value.toPrecision(3));
const ratio = rounded(median(theirs) / median(ours));
const line = {
  op: 'tokenizer',
  case: `${texts.length} texts, ${tokens} tokens, WordPiece`,
  device: cpus()[0]?.model.trim() ?? 'cpu',
  load: loadavg()[0],
  cpu_s: rounded(median(ours)),
  library_cpu_s: rounded(median(theirs)),
  ratio,
  ratio_of_best: rounded(Math.min(...theirs) / Math.min(...ours)),
  tokens_per_cpu_s: Math.round(tokens / median(ours)),
};
console.log(JSON.stringify(line));
say(
  `  tokenizer: ${line.tokens_per_cpu_s} tokens per second of CPU, ${ratio} of the library called directly (goal 1.0)`,
);
