/** All texts of an entity as one jagged store over shared memory: tokenised once, read by every worker without a copy. */

import { ArgumentError } from '../../errors.js';
import type { TokenBatch } from '../loader/batch.js';
import { type BatchMemory, ownMemory } from '../loader/batch_memory.js';

/**
 * Token sequences of all n rows of an entity: the arrays of a `TokenBatch`, backed by SharedArrayBuffers, so the store itself can be
 * posted to a worker. tokens, types (which field), positions: (T); offsets (n+1). A missing text has length 0.
 */
export type TokenStore = TokenBatch;

/** An int32 array of `length` zeros over shared memory. */
export function sharedInt32(length: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(length * Int32Array.BYTES_PER_ELEMENT));
}

/** Number of rows of a store. */
export function tokenRows(store: TokenStore): number {
  return store.offsets.length - 1;
}

/**
 * The sequences of `rows`, in their order; a row may be named more than once.
 * @throws ArgumentError when a row is outside [0, n).
 */
export function gatherTokens(store: TokenStore, rows: ArrayLike<number>, memory: BatchMemory = ownMemory): TokenBatch {
  const count = tokenRows(store);
  const offsets = memory.int32(rows.length + 1);
  offsets[0] = 0;
  for (let i = 0; i < rows.length; i++) {
    const row = checkedRow('gatherTokens', rows[i]!, i, count);
    offsets[i + 1] = offsets[i]! + store.offsets[row + 1]! - store.offsets[row]!;
  }
  const total = offsets[rows.length]!;
  const tokens = memory.int32(total);
  const types = memory.int32(total);
  const positions = memory.int32(total);
  for (let i = 0, to = 0; i < rows.length; i++) {
    const end = store.offsets[rows[i]! + 1]!;
    for (let from = store.offsets[rows[i]!]!; from < end; from++, to++) {
      tokens[to] = store.tokens[from]!;
      types[to] = store.types[from]!;
      positions[to] = store.positions[from]!;
    }
  }
  return { tokens, types, positions, offsets };
}

/** `row` itself if it is an integer of [0, count). `who` and `index` are for the message. */
export function checkedRow(who: string, row: number, index: number, count: number): number {
  if (!Number.isInteger(row) || row < 0 || row >= count) {
    throw new ArgumentError(`${who}: expected rows[${index}] in [0, ${count}) but received ${row}`, {
      op: who,
      argument: 'rows',
      index,
      value: row,
    });
  }
  return row;
}
