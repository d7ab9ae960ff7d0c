/**
 * Token stores on disk, so that a second load of the same data tokenises nothing. One file per store, named by the digest of tokenizer,
 * layout and all texts: SHA-256 of the rest, then a safetensors file with the arrays, its metadata the statistics.
 */

import { createHash, randomBytes, webcrypto } from 'node:crypto';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { ModelFileError } from '../../errors.js';
import { nodeEnv, systemCode } from '../../io/env.js';
import { type HostTensor, parseSafetensors, safetensorsBytes, viewAs } from '../../io/safetensors.js';
import { sha256 as sha256InTurns } from '../images/image_digest.js';
import type { TextColumns, TextPipeline, TextStatistics, TextStore } from './text.js';
import { sharedInt32 } from './token_store.js';

const FORMAT = 1;
const DIGEST_BYTES = 32;
/** Texts hashed between two turns of the event loop. */
const HASH_ROWS = 512;
const ARRAYS = ['tokens', 'types', 'positions', 'offsets'] as const;

export interface TextCache {
  /** Reads whose file was cut, altered or refused by the system; such a file counts as absent and is written again. */
  readonly corrupt: number;
  /** Writes that the file system refused; the run goes on without them. */
  readonly failedWrites: number;
  /** Name of the store of these columns. */
  key(pipeline: Pick<TextPipeline, 'digest' | 'fields'>, columns: TextColumns): Promise<string>;
  /** The store, or null where the cache has none. */
  read(key: string): Promise<TextStore | null>;
  write(key: string, store: TextStore): Promise<void>;
}

/** A cache below `directory`, which is made with the first write. */
export function openTextCache(directory: string): TextCache {
  let corrupt = 0;
  let failedWrites = 0;
  const path = (key: string): string => join(directory, key.slice(0, 2), `${key.slice(2)}.tokens`);
  return {
    get corrupt() {
      return corrupt;
    },
    get failedWrites() {
      return failedWrites;
    },
    async key({ digest, fields }, columns) {
      const hash = createHash('sha256').update(JSON.stringify({ format: FORMAT, digest }));
      for (const { name } of fields) {
        const texts = columns[name] ?? [];
        hash.update(JSON.stringify([name, texts.length]));
        for (let row = 0; row < texts.length; row += HASH_ROWS) {
          hash.update(JSON.stringify(texts.slice(row, row + HASH_ROWS)));
          await setImmediate();
        }
      }
      return hash.digest('hex');
    },
    async read(key) {
      const file = path(key);
      let bytes: Uint8Array;
      try {
        bytes = await nodeEnv.read(file); // in parts: readFile ends at 2 GiB
      } catch (error) {
        if (!['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) corrupt++;
        return null;
      }
      const content = bytes.subarray(DIGEST_BYTES);
      const store = (await sha256(content)).equals(bytes.subarray(0, DIGEST_BYTES)) ? decoded(content) : null;
      if (store === null) corrupt++;
      return store;
    },
    async write(key, { store, statistics }) {
      const file = path(key);
      const partial = `${file}.${randomBytes(8).toString('hex')}.tmp`;
      const tensors = new Map(
        ARRAYS.map((name): [string, HostTensor] => {
          const { buffer, byteOffset, byteLength, length } = store[name];
          return [
            name,
            { dtype: 'I32', shape: [length], data: new Uint8Array(buffer, byteOffset, byteLength).slice() },
          ];
        }),
      );
      const content = safetensorsBytes(tensors, { metadata: new Map([['statistics', JSON.stringify(statistics)]]) });
      try {
        await mkdir(dirname(file), { recursive: true });
        await writeFile(partial, [await sha256(content), content]);
        await rename(partial, file);
      } catch {
        failedWrites++;
        await rm(partial, { force: true }).catch(() => undefined);
      }
    },
  };
}

function decoded(content: Uint8Array): TextStore | null {
  try {
    const { tensors, metadata } = parseSafetensors(content);
    const array = (name: string): Int32Array => {
      const values = viewAs(tensors.get(name)!, 'I32');
      const out = sharedInt32(values.length);
      out.set(values);
      return out;
    };
    const [tokens, types, positions, offsets] = ARRAYS.map(array) as [Int32Array, Int32Array, Int32Array, Int32Array];
    const statistics = JSON.parse(metadata.get('statistics') ?? 'null') as TextStatistics;
    return { store: { tokens, types, positions, offsets }, statistics };
  } catch (error) {
    if (error instanceof ModelFileError || error instanceof SyntaxError || error instanceof TypeError) return null;
    throw error;
  }
}

/** In a thread of the runtime, not on the calling one; what is longer than `most` bytes, which that thread refuses, in turns. */
export async function sha256(bytes: Uint8Array, most = 2 ** 31 - 1): Promise<Buffer> {
  if (bytes.length <= most) return Buffer.from(await webcrypto.subtle.digest('SHA-256', bytes));
  return sha256InTurns(bytes);
}
