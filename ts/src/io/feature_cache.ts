/**
 * Blocks of features on disk, computed once and read by later runs. One file per block below a folder that the key names: SHA-256 of
 * what follows, then a safetensors file whose metadata repeats key and block. A file appears whole or not at all; one that was cut, altered or
 * moved counts as absent, is counted, and is written again. Other keys have other folders, which stay as they are.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ModelFileError, StorageError } from '../errors.js';
import { type Env, guard, nodeEnv, replaceFile } from './env.js';
import { encodeSafetensors, type HostTensor, parseSafetensors } from './safetensors.js';

const DIGEST_BYTES = 32;

export interface FeatureCache {
  /** Where its blocks are. */
  readonly folder: string;
  /** Reads whose file was cut, altered or another block's. */
  readonly corrupt: number;
  /** Writes that the file system refused. */
  readonly failedWrites: number;
  /** The tensors of a block, or null where there is no whole file of it. Errors: `StorageError` where a file is there and cannot be read. */
  read(block: number): Promise<Map<string, HostTensor> | null>;
  /** Writes a block; a failure is counted, and the run goes on. */
  write(block: number, tensors: ReadonlyMap<string, HostTensor>): Promise<void>;
}

/** The cache of one key below `directory`; `key` is a hexadecimal digest of everything that decides the features. */
export function openFeatureCache(directory: string, key: string, env: Env = nodeEnv): FeatureCache {
  const folder = join(directory, key.slice(0, 32));
  const path = (block: number): string => join(folder, `block-${String(block).padStart(6, '0')}.features`);
  let corrupt = 0;
  let failedWrites = 0;
  return {
    folder,
    get corrupt() {
      return corrupt;
    },
    get failedWrites() {
      return failedWrites;
    },
    async read(block) {
      const file = path(block);
      let bytes: Uint8Array;
      try {
        bytes = await guard('read', file, () => env.read(file));
      } catch (error) {
        if (error instanceof StorageError && error.code === 'ENOENT') return null;
        throw error;
      }
      const content = bytes.subarray(DIGEST_BYTES);
      if (sha256([content]).equals(bytes.subarray(0, DIGEST_BYTES))) {
        try {
          const { tensors, metadata } = parseSafetensors(content, { file });
          if (metadata.get('key') === key && metadata.get('block') === String(block)) return tensors;
        } catch (error) {
          if (!(error instanceof ModelFileError)) throw error;
        }
      }
      corrupt++;
      return null;
    },
    async write(block, tensors) {
      const metadata = new Map([
        ['key', key],
        ['block', String(block)],
      ]);
      const parts = encodeSafetensors(tensors, { metadata });
      try {
        await guard('mkdir', folder, () => env.makeDirectory(folder));
        await replaceFile(env, path(block), sha256(parts), ...parts);
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        failedWrites++;
      }
    },
  };
}

function sha256(parts: readonly Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
