/** Digests of a data set: what a checkpoint compares before it is loaded. */

import { createHash, type Hash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import type { SplitManifest } from './dataset.js';
import { type Events, PARTS, type PartName } from './events.js';
import type { BatchColumns } from './loader/batch_source.js';

/** Rule L9: what a split was made by and what came out. */
export function manifestOf(
  rule: string,
  seed: number,
  files: Readonly<Record<string, string>>,
  parts: BatchColumns['parts'],
  events: Events,
  cold: Uint8Array,
): SplitManifest {
  const each = <T>(value: (rows: Int32Array) => T): Record<PartName, T> => ({
    train: value(parts.train),
    valid: value(parts.valid),
    test: value(parts.test),
  });
  return {
    rule,
    seed,
    files,
    sizes: each((rows) => rows.length),
    newItemEvents: PARTS.reduce((sum, name) => {
      for (let i = 0; i < parts[name].length; i++) sum += cold[events.item[parts[name][i]!]!]!;
      return sum;
    }, 0),
    parts: each((rows) => createHash('sha256').update(bytesOf(rows)).digest('hex')),
  };
}

function bytesOf(array: ArrayBufferView): Buffer {
  return Buffer.from(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
}

/** Bytes hashed between two turns of the event loop. */
const HASH_SLICE = 1 << 20;

/** SHA-256 (hex) of a value: keys in order, numbers as text, typed arrays as their bytes. Gives the event loop a turn every MiB. */
export async function digestOf({
  signal,
  ...value
}: Record<string, unknown> & { signal?: AbortSignal }): Promise<string> {
  const hash = createHash('sha256');
  await addTo(hash, value, signal);
  return hash.digest('hex');
}

async function addTo(hash: Hash, value: unknown, signal: AbortSignal | undefined): Promise<void> {
  if (ArrayBuffer.isView(value)) {
    const bytes = bytesOf(value);
    hash.update(`${value.constructor.name} ${bytes.length}:`);
    for (let at = 0; at < bytes.length; at += HASH_SLICE) {
      hash.update(bytes.subarray(at, at + HASH_SLICE));
      if (at > 0) await setImmediate();
      signal?.throwIfAborted();
    }
  } else if (typeof value === 'object' && value !== null) {
    hash.update('{');
    for (const [key, part] of Object.entries(value)) {
      hash.update(`${JSON.stringify(key)}:`);
      await addTo(hash, part, signal);
    }
    hash.update('}');
  } else hash.update(`${JSON.stringify(value) ?? 'undefined'},`);
}
