/** Batches that never were: random rows of every feature, all lists of other lengths, to find out what a forward pass reads. */

import type { Dataset } from '../data/dataset.js';
import type { Batch, Jagged } from '../data/loader/batch.js';
import { featuresOf } from '../data/schema.js';
import { gatherTokens } from '../data/text/token_store.js';
import type { ItemContent } from '../models/content.js';
import { normals, uniforms } from '../random.js';
import { rowsOfNoEvent } from './serving_batch.js';

/** What a probe may read. */
export interface ProbeOptions {
  readonly size: number;
  /** Size of the smallest probe of the same model. */
  readonly smallest: number;
  readonly seed: number;
  /** Item rows that have a vector, or all of them; at least `size`. */
  readonly items: Int32Array;
  /** Entries of the longest history of item vectors; 0 for none. */
  readonly historyLen: number;
}

/** Every fourth entry of a history of vectors has none. */
const MISSING_SHARE = 0.25;
/** How often an id of a history is the target's. */
const SAME_SHARE = 0.25;

/** Content of which one item lacks the text, one the picture and one the given vectors: what is there must not look like a constant. */
function withGaps({ text, image, vectors }: ItemContent): ItemContent {
  const without = (present: Uint8Array, row: number): Uint8Array => present.with(row % present.length, 0);
  const first = text?.offsets[1] ?? 0;
  const cut = (values: Int32Array): Int32Array => values.subarray(first);
  return {
    text: text && {
      tokens: cut(text.tokens),
      types: cut(text.types),
      positions: cut(text.positions),
      offsets: text.offsets.map((offset) => Math.max(0, offset - first)),
    },
    image: image && { ...image, present: without(image.present, 1) },
    ...(vectors && {
      vectors: Object.fromEntries(
        Object.entries(vectors).map(([name, given], i) => [name, { ...given, present: without(given.present, 2 + i) }]),
      ),
    }),
  };
}

/** A batch of the data's schema. Its items are distinct and ascending, its queries one per row. */
export async function probeBatch({ schema, columns, itemContent }: Dataset, options: ProbeOptions): Promise<Batch> {
  const { size, seed, historyLen } = options;
  let stream = 0;
  const draws = (count: number): Float64Array => uniforms(count, seed, ++stream);
  const below = (count: number, limit: number): Int32Array =>
    Int32Array.from(draws(count), (u) => Math.min(limit - 1, Math.floor(u * limit)));
  // A larger batch has the lists of a smaller one and more, none of them empty: whatever is chosen of them, there is more of it.
  const offsetsOf = (longest: number): Int32Array => {
    const draws = uniforms(size, 0, ++stream);
    const lengths = Int32Array.from(draws, (u, b) =>
      Math.max(b < options.smallest ? 0 : 1, Math.floor(u * (longest + 1))),
    );
    lengths[0] = longest;
    const offsets = new Int32Array(size + 1);
    lengths.forEach((length, b) => {
      offsets[b + 1] = offsets[b]! + length;
    });
    return offsets;
  };
  const gaps = (count: number): Float32Array => Float32Array.from(draws(count), (u) => Math.expm1(20 * u));
  const categorical: Record<string, Int32Array> = {};
  const numeric: Record<string, Float32Array> = {};
  const sequences: Record<string, Jagged> = {};
  for (const { name, vocabularySize } of featuresOf(schema, 'categorical'))
    categorical[name] = below(size, vocabularySize);
  for (const { name } of featuresOf(schema, 'numeric'))
    numeric[name] = Float32Array.from(normals(size, seed, ++stream));
  const repeat = ({ values, offsets }: Jagged, target: Int32Array): void => {
    const again = draws(values.length);
    for (let b = 0; b < size; b++)
      for (let at = offsets[b]!; at < offsets[b + 1]!; at++) if (again[at]! < SAME_SHARE) values[at] = target[b]!;
  };
  for (const { name, of, vocabularySize, maxLen } of featuresOf(schema, 'sequence')) {
    const offsets = offsetsOf(maxLen);
    sequences[name] = { offsets, values: below(offsets[size]!, vocabularySize) };
    if (of !== undefined) repeat(sequences[name], categorical[of]!);
  }
  const histories = featuresOf(schema, 'history');
  const shared = histories.length === 0 ? null : offsetsOf(histories[0]!.maxLen);
  const sharedGaps = shared === null ? null : gaps(shared[size]!);
  for (const { name, of, vocabularySize } of histories) {
    sequences[name] = { values: below(shared![size]!, vocabularySize), offsets: shared!, gaps: sharedGaps! };
    repeat(sequences[name], categorical[of]!);
  }
  const rows = options.items.slice(0, size);
  const identity = Int32Array.from({ length: size }, (_, b) => b);
  const clicks = historyLen === 0 ? null : offsetsOf(historyLen + 2);
  const chosen = below(clicks?.[size] ?? 0, options.items.length);
  const lost = draws(chosen.length);
  const text = columns.queryText;
  const asked = text === null ? null : below(size, schema.queries);
  return {
    ...rowsOfNoEvent(size),
    labels: Object.fromEntries(schema.labels.map((label) => [label, new Float32Array(size)])),
    categorical,
    numeric,
    sequences,
    items: { rows, index: identity, ...withGaps(await itemContent(rows)) },
    queries: asked === null ? null : { rows: identity, index: identity, text: gatherTokens(text!, asked) },
    history: clicks && {
      offsets: clicks,
      values: chosen.map((at, i) => (lost[i]! < MISSING_SHARE ? -1 : options.items[at]!)),
      gaps: gaps(chosen.length),
    },
  };
}
