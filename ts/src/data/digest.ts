/** Digests of a data set: what a checkpoint compares before it is loaded. */

import { createHash, type Hash } from 'node:crypto';
import type { SplitManifest } from './dataset.js';
import { type Events, PARTS } from './events.js';
import type { BatchColumns } from './loader/batch_source.js';
import { inTurns, type Pass, slices } from './turns.js';

/** Rule L9: what a split was made by and what came out. */
export async function manifestOf(
  rule: string,
  seed: number,
  files: Readonly<Record<string, string>>,
  parts: BatchColumns['parts'],
  events: Events,
  cold: Uint8Array,
  signal?: AbortSignal,
): Promise<SplitManifest> {
  const digests = { train: '', valid: '', test: '' };
  let newItemEvents = 0;
  for (const name of PARTS) {
    const rows = parts[name];
    const hash = createHash('sha256');
    await inTurns(hashed(hash, rows), signal);
    digests[name] = hash.digest('hex');
    await inTurns(
      slices(rows.length, (from, to) => {
        for (let i = from; i < to; i++) newItemEvents += cold[events.item[rows[i]!]!]!;
      }),
      signal,
    );
  }
  const { train, valid, test } = parts;
  const sizes = { train: train.length, valid: valid.length, test: test.length };
  return { rule, seed, files, sizes, newItemEvents, parts: digests };
}

/** Bytes hashed between two yields. */
const HASH_SLICE = 1 << 18;

function hashed(hash: Hash, { buffer, byteOffset, byteLength }: ArrayBufferView): Pass<void> {
  const bytes = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
  return slices(byteLength, (from, to) => hash.update(bytes.subarray(from, to)), HASH_SLICE);
}

/** SHA-256 (hex) of a value: keys in order, numbers as text, typed arrays as their bytes. Runs in turns of the event loop. */
export async function digestOf({
  signal,
  ...value
}: Record<string, unknown> & { signal?: AbortSignal }): Promise<string> {
  const hash = createHash('sha256');
  await inTurns(addTo(hash, value), signal);
  return hash.digest('hex');
}

function* addTo(hash: Hash, value: unknown): Pass<void> {
  if (ArrayBuffer.isView(value)) {
    hash.update(`${value.constructor.name} ${value.byteLength}:`);
    yield* hashed(hash, value);
  } else if (typeof value === 'object' && value !== null) {
    hash.update('{');
    for (const [key, part] of Object.entries(value)) {
      hash.update(`${JSON.stringify(key)}:`);
      yield* addTo(hash, part);
    }
    hash.update('}');
  } else hash.update(`${JSON.stringify(value) ?? 'undefined'},`);
}
