/** Entry of the thread that tokenises: makes the tokenizer again, then answers each block of texts, and the last request with the store. */

import { parentPort, workerData } from 'node:worker_threads';
import { ModelFileError } from '../../errors.js';
import { plainError } from '../loader/thread_error.js';
import { TextStoreBuilder } from './text.js';
import type { TextAnswer, TextRequest, TextThreadData } from './text_aside.js';
import { loadTokenizer, type TextTokenizer, type TokenizerRecipe } from './tokenizer.js';
import { wordVocabularyFromJson } from './word_vocabulary.js';

async function tokenizerOf(recipe: TokenizerRecipe): Promise<TextTokenizer> {
  if (recipe.kind === 'words') return wordVocabularyFromJson(recipe.json, 'the main thread');
  const tokenizer = await loadTokenizer(recipe.path);
  if (tokenizer.digest === recipe.digest) return tokenizer;
  throw new ModelFileError(`tokenizer: ${recipe.path} changed while data were loaded`, { file: recipe.path });
}

const { recipe, rows, ...form } = workerData as TextThreadData;
const port = parentPort!;
const builder = tokenizerOf(recipe).then((tokenizer) => new TextStoreBuilder({ tokenizer, ...form }, rows));
builder.catch(() => undefined); // told with the first answer

async function answer(request: TextRequest): Promise<TextAnswer> {
  try {
    const texts = await builder;
    if (request.type === 'finish') return { type: 'store', ...texts.finish() };
    const [first] = request.columns;
    for (let row = 0; row < first!.length; row++) texts.append(request.columns.map((values) => values[row]!));
    return { type: 'done' };
  } catch (error) {
    return { type: 'error', error: plainError(error) };
  }
}

port.on('message', (request: TextRequest) => {
  void answer(request).then((message) => port.postMessage(message));
});
