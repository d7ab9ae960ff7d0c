/** An upper bound of what one batch takes, so that the loader can say how many bytes wait at most before it begins. */

import { pictureBytes } from '../images/image_store.js';
import { ARRAY_ALIGNMENT } from './batch_memory.js';
import type { BatchColumns, PassOptions } from './batch_source.js';

/** Bytes that no batch of this pass exceeds, from the sizes of the columns: a batch of its largest sessions, longest texts and histories. */
export function maxBatchBytes(
  columns: BatchColumns,
  { part, batchSize, unit = 'row', world = 1 }: Pick<PassOptions, 'part' | 'batchSize' | 'unit' | 'world'>,
): number {
  const units = Math.ceil(batchSize / world);
  const sessions = unit === 'session' ? columns.sessions : null;
  const samples = Math.min(sessions === null ? units : largestSum(sessions.offsets, units), columns.parts[part].length);
  const rows = samples * (1 + (part === 'train' ? (columns.negatives?.n ?? 0) : 0));
  let arrays = 0;
  let bytes = 0;
  const add = (length: number, each = 4): void => {
    arrays++;
    bytes += length * each;
  };
  const addJagged = (count: number, length: number, parts: number): void => {
    add(count + 1);
    for (let i = 0; i < parts; i++) add(count * length);
  };
  const fields = columns.labels.length + columns.categorical.length + columns.numeric.length;
  for (let i = 0; i < 5 + fields; i++) add(rows); // events, user, session, items and their index before them
  for (const { offsets } of columns.sequences) addJagged(rows, longest(offsets), 1);
  for (const { maxLen } of columns.idHistories) addJagged(rows, maxLen, 2);
  if (columns.historyLen > 0) addJagged(rows, columns.historyLen, 2);
  const items = Math.min(rows, columns.items);
  add(items);
  if (columns.itemText !== null) addJagged(items, longest(columns.itemText.offsets), 3);
  if (columns.itemImage !== null) {
    add(items, 1);
    add(items, pictureBytes(columns.itemImage.size));
  }
  for (const { dim } of columns.itemVectors ?? []) {
    add(items, 1);
    add(items * dim);
  }
  if (columns.queryText !== null) {
    const { offsets } = columns.queryText;
    const queries = Math.min(rows, offsets.length - 1);
    add(rows);
    add(queries);
    addJagged(queries, longest(offsets), 3);
  }
  return bytes + arrays * ARRAY_ALIGNMENT;
}

const longestRow = new WeakMap<Int32Array, number>();

/** Length of the longest row. */
function longest(offsets: Int32Array): number {
  let length = longestRow.get(offsets);
  if (length === undefined) {
    length = 0;
    for (let i = 1; i < offsets.length; i++) length = Math.max(length, offsets[i]! - offsets[i - 1]!);
    longestRow.set(offsets, length);
  }
  return length;
}

/** Length of the `count` longest rows together. */
function largestSum(offsets: Int32Array, count: number): number {
  const rowsOf = new Int32Array(longest(offsets) + 1);
  for (let i = 1; i < offsets.length; i++) rowsOf[offsets[i]! - offsets[i - 1]!]!++;
  let sum = 0;
  let left = count;
  for (let length = rowsOf.length - 1; length > 0 && left > 0; length--) {
    const taken = Math.min(left, rowsOf[length]!);
    sum += taken * length;
    left -= taken;
  }
  return sum;
}
