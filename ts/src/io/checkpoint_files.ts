/**
 * The files inside a checkpoint, written and read in blocks with checksums. What is read is checked before anything looks at it.
 */
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { CheckpointCorruptError } from '../errors.js';
import { crc32c, hex32 } from './crc32c.js';
import { createDurably, type Env, guard, systemCode, writeAll } from './env.js';
import { BLOCK_BYTES, type FileRecord, MANIFEST, type Manifest, parseManifest } from './manifest.js';
import { type HostTensor, parseSafetensors } from './safetensors.js';

/** Writes one file in blocks and returns its record; `digest` takes the bytes too. */
export async function writeBlocks(
  env: Env,
  folder: string,
  name: string,
  parts: readonly Uint8Array[],
  digest: { update(bytes: Uint8Array): unknown },
): Promise<FileRecord> {
  const path = join(folder, name);
  const blocks: string[] = [];
  let bytes = 0;
  let whole = 0;
  await createDurably(env, path, async (file) => {
    const buffer = new Uint8Array(BLOCK_BYTES);
    let filled = 0;
    const flush = async () => {
      const block = buffer.subarray(0, filled);
      await writeAll(file, path, block);
      blocks.push(hex32(crc32c(block)));
      whole = crc32c(block, whole);
      digest.update(block);
      bytes += filled;
      filled = 0;
    };
    for (const part of parts) {
      for (let at = 0; at < part.length; ) {
        const length = Math.min(part.length - at, BLOCK_BYTES - filled);
        buffer.set(part.subarray(at, at + length), filled);
        at += length;
        filled += length;
        if (filled === BLOCK_BYTES) await flush();
      }
    }
    if (filled > 0) await flush();
  });
  return { name, bytes, crc32c: hex32(whole), blocks };
}

/** Reads and checks every file of a checkpoint. Throws `CheckpointCorruptError`. */
export async function readContent(
  env: Env,
  path: string,
  manifest: Manifest,
): Promise<Record<string, Map<string, HostTensor>>> {
  const groups: [string, Map<string, HostTensor>][] = [];
  for (const record of manifest.files) {
    const file = join(path, record.name);
    const bytes = await readChecked(env, file, record);
    try {
      groups.push([record.name.slice(0, -'.safetensors'.length), parseSafetensors(bytes, { file }).tensors]);
    } catch (error) {
      throw new CheckpointCorruptError(`checkpoint: ${file} is no safetensors file`, { file }, { cause: error });
    }
  }
  return Object.fromEntries(groups);
}

async function readPart(env: Env, file: string): Promise<Uint8Array> {
  try {
    return await env.read(file);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'EISDIR') {
      throw new CheckpointCorruptError(`checkpoint: ${file} is missing`, { file }, { cause: error });
    }
    return guard('read', file, () => Promise.reject(error));
  }
}

async function readChecked(env: Env, file: string, record: FileRecord): Promise<Uint8Array> {
  const bytes = await readPart(env, file);
  if (bytes.length !== record.bytes) {
    throw new CheckpointCorruptError(
      `checkpoint: expected ${file} to have ${record.bytes} bytes but it has ${bytes.length}`,
      {
        file,
        offset: Math.min(bytes.length, record.bytes),
      },
    );
  }
  const count = Math.ceil(bytes.length / BLOCK_BYTES);
  let whole = 0;
  for (let block = 0; block < count; block++) {
    const offset = block * BLOCK_BYTES;
    const part = bytes.subarray(offset, offset + BLOCK_BYTES);
    whole = crc32c(part, whole);
    if (hex32(crc32c(part)) !== record.blocks[block]) {
      throw new CheckpointCorruptError(`checkpoint: ${file} fails its checksum in block ${block} at byte ${offset}`, {
        file,
        block,
        offset,
      });
    }
    // A block takes 2 to 3 ms; let the event loop turn in between.
    await turn();
  }
  if (count !== record.blocks.length || hex32(whole) !== record.crc32c) {
    throw new CheckpointCorruptError(`checkpoint: ${file} fails its checksum`, { file, offset: 0 });
  }
  return bytes;
}

/** Reads and checks the manifest. Throws `CheckpointCorruptError`, `CheckpointMismatchError` (format version), `StorageError`. */
export async function readManifest(env: Env, path: string): Promise<Manifest> {
  const file = join(path, MANIFEST);
  return parseManifest(await readPart(env, file), file);
}
