/**
 * The folder that `galago export` writes and a predictor opens. `signature.json` names the step and the SHA-256 of every file; the vectors
 * and the encoders also name, inside, the model that they belong to. Any difference is refused with an `ExportMismatchError`.
 *
 *   model.safetensors     what scoring needs: ranker, features, query encoder
 *   vectors.safetensors   vectors (n, width) of items with their keys and ages, and the vector of an item without content
 *   items.safetensors     ids and features of the item table      users.safetensors   the same of users
 *   given.safetensors     given vectors of items that the ranker reads as they are, and whose they are; where it reads any
 *   vocabulary.json       ids and words of training               serving.json        schema, text layouts, fills
 *   config.yaml           configuration of the run                tokenizer/          where the run did not make its own words
 *   encoder_config/, picture_config/   of published encoders: what they are made of, without weights
 *   encoder.safetensors   item encoders, for new items alone: the only file that may be absent
 *
 * Files are read by position into one buffer each and hashed on the way. The vectors alone may be mapped instead, where a predictor asks for
 * it (`mapped`): hashed first, then read-only pages that all processes share. A file that is changed or cut under a mapping changes scores or
 * ends the process (reliability.md, F09); exports are written once, beside each other, and never changed in place.
 */
import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { ArgumentError, ExportMismatchError, StorageError } from '../errors.js';
import { createDurably, type Env, guard, nodeEnv, writeAll } from '../io/env.js';
import {
  encodeSafetensors,
  type HostTensor,
  parseSafetensors,
  readSafetensorsFile,
  type TensorInFile,
} from '../io/safetensors.js';

export const exportFiles = {
  signature: 'signature.json',
  model: 'model.safetensors',
  vectors: 'vectors.safetensors',
  items: 'items.safetensors',
  users: 'users.safetensors',
  given: 'given.safetensors',
  vocabulary: 'vocabulary.json',
  serving: 'serving.json',
  config: 'config.yaml',
  encoder: 'encoder.safetensors',
  tokenizer: 'tokenizer',
  encoderConfig: 'encoder_config',
  pictureConfig: 'picture_config',
} as const;

const hash = z.string().regex(/^[0-9a-f]{64}$/);
const signatureBody = z.strictObject({
  format: z.literal('galago-export-1'),
  /** Of the checkpoint. */
  step: z.int().nonnegative(),
  model: z.string(),
  versions: z.record(z.string(), z.string()),
  /** Of data, split and configuration. */
  digests: z.record(z.string(), z.string()),
  files: z.record(z.string(), z.strictObject({ bytes: z.int().nonnegative(), sha256: hash })),
});

/** What `signature.json` says. */
export type Signature = z.infer<typeof signatureBody>;
export type FileSignature = Signature['files'][string];

const READ_BYTES = 1024 * 1024;

/** SHA-256 over all that a signature says: equal ids, equal exports. */
export function signatureId(signature: Signature): string {
  const files = Object.entries(signature.files).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256')
    .update(JSON.stringify({ ...signature, files }))
    .digest('hex');
}

export function mismatch(folder: string, diff: readonly string[], file: string | null = null): ExportMismatchError {
  return new ExportMismatchError(`export: ${folder} cannot be served: ${diff.join('; ')}`, { folder, file, diff });
}

/** ArgumentError where `out` is neither absent nor an empty folder. */
export async function requireEmpty(out: string): Promise<void> {
  const entries = await readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw new ArgumentError(`export: expected a new or empty folder but ${out} is none: ${error.code}`, {
      argument: 'out',
    });
  });
  if (entries.length > 0)
    throw new ArgumentError(`export: expected a new or empty folder but ${out} holds ${entries.length} entries`, {
      argument: 'out',
    });
}

/**
 * Makes the folder `out` from what `write` puts into a draft beside it: it appears whole or, where `write` rejects, not at all. Throws
 * `ArgumentError` for a folder that holds something, `StorageError`.
 */
export async function createFolder<T>(out: string, write: (draft: string) => Promise<T>): Promise<T> {
  await requireEmpty(out);
  const draft = join(dirname(out), `.tmp-${basename(out)}-${randomBytes(8).toString('hex')}`);
  try {
    await guard('mkdir', draft, () => nodeEnv.makeDirectory(draft));
    const result = await write(draft);
    await guard('fsync', draft, () => nodeEnv.syncDirectory(draft));
    await guard('rename', out, () => nodeEnv.rename(draft, out));
    return result;
  } finally {
    await nodeEnv.remove(draft).catch(() => undefined);
  }
}

/** Writes one file durably; returns what the signature says of it. */
export async function writeExportFile(
  env: Env,
  folder: string,
  name: string,
  parts: readonly Uint8Array[],
): Promise<FileSignature> {
  const path = join(folder, name);
  const digest = createHash('sha256');
  let bytes = 0;
  await createDurably(env, path, async (file) => {
    for (const part of parts)
      for (let at = 0; at < part.length; at += READ_BYTES) {
        const block = part.subarray(at, at + READ_BYTES);
        digest.update(block);
        bytes += block.length;
        await writeAll(file, path, block);
      }
  });
  return { bytes, sha256: digest.digest('hex') };
}

/** The same for tensors; `metadata` says what they belong to. */
export function writeTensors(
  env: Env,
  folder: string,
  name: string,
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>>,
): Promise<FileSignature> {
  return writeExportFile(
    env,
    folder,
    name,
    encodeSafetensors(tensors, { metadata: new Map(Object.entries(metadata)) }),
  );
}

async function opened<T>(folder: string, name: string, read: (file: FileHandle) => Promise<T>): Promise<T> {
  const path = join(folder, name);
  let file: FileHandle | null = null;
  try {
    file = await open(path, 'r');
    return await read(file);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : null;
    if (error instanceof ExportMismatchError || code === null) throw error;
    if (code === 'ENOENT') throw mismatch(folder, [`${name} is missing`], name);
    throw new StorageError(code, `export: cannot read ${path}: ${code}`, { path, call: 'read' }, { cause: error });
  } finally {
    await file?.close();
  }
}

/** Reads a whole file in blocks, with a turn of the event loop after each, and its SHA-256. */
function readHashed(folder: string, name: string): Promise<{ bytes: Uint8Array; sha256: string }> {
  return opened(folder, name, async (file) => {
    const bytes = new Uint8Array((await file.stat()).size);
    const digest = createHash('sha256');
    let at = 0;
    while (at < bytes.length) {
      const { bytesRead } = await file.read(bytes, at, Math.min(READ_BYTES, bytes.length - at), at);
      if (bytesRead === 0) break;
      digest.update(bytes.subarray(at, at + bytesRead));
      at += bytesRead;
    }
    return { bytes: bytes.subarray(0, at), sha256: digest.digest('hex') };
  });
}

/** What the signature says of a file that is there. */
export async function signFile(folder: string, name: string): Promise<FileSignature> {
  const { bytes, sha256 } = await readHashed(folder, name);
  return { bytes: bytes.length, sha256 };
}

/** SHA-256 of a file that is not kept. */
function hashFile(folder: string, name: string): Promise<string> {
  return opened(folder, name, async (file) => {
    const digest = createHash('sha256');
    for await (const block of file.createReadStream({ highWaterMark: READ_BYTES, autoClose: false }))
      digest.update(block as Uint8Array);
    return digest.digest('hex');
  });
}

/** Reads `signature.json`. Throws `ExportMismatchError` where it is absent or none, `StorageError`. */
export async function readSignature(folder: string): Promise<Signature> {
  const { bytes } = await readHashed(folder, exportFiles.signature);
  const name = exportFiles.signature;
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw mismatch(folder, [`${name}: expected JSON`], name);
  }
  const parsed = signatureBody.safeParse(value);
  if (!parsed.success) throw mismatch(folder, [`${name}: ${z.prettifyError(parsed.error)}`], name);
  return parsed.data;
}

/** The bytes of a file, if they are those of the signature. Throws `ExportMismatchError` that says what differs, `StorageError`. */
export async function readExportFile(folder: string, signature: Signature, name: string): Promise<Uint8Array> {
  const expected = signature.files[name];
  if (expected === undefined) throw mismatch(folder, [`${name}: the signature names no such file`], name);
  const { bytes, sha256 } = await readHashed(folder, name);
  if (sha256 === expected.sha256) return bytes;
  const diff = [
    ...(bytes.length === expected.bytes
      ? []
      : [`${name}: expected ${expected.bytes} bytes but it has ${bytes.length}`]),
    `${name}: expected SHA-256 ${expected.sha256} but it has ${sha256}`,
    ...strangers(signature, name, bytes),
  ];
  throw mismatch(folder, diff, name);
}

/** What a file of tensors says of itself that differs from the signature: another step, another model. */
function strangers(signature: Signature, name: string, bytes: Uint8Array): string[] {
  if (!name.endsWith('.safetensors')) return [];
  try {
    return metadataDifferences(signature, name, parseSafetensors(bytes, { file: name }).metadata);
  } catch {
    return [`${name}: it is no safetensors file`];
  }
}

function metadataDifferences(signature: Signature, name: string, metadata: ReadonlyMap<string, string>): string[] {
  const diff: string[] = [];
  const step = metadata.get('step');
  if (step !== String(signature.step))
    diff.push(`${name}: expected step ${signature.step} but it is of step ${step ?? 'unknown'}`);
  const model = metadata.get('model');
  const own = signature.files[exportFiles.model]?.sha256;
  if (name !== exportFiles.model && model !== own)
    diff.push(`${name}: expected to belong to model ${own} but it belongs to ${model ?? 'none'}`);
  return diff;
}

/** Tensors of a file, checked against the signature, as views of one buffer. */
export async function readExportTensors(
  folder: string,
  signature: Signature,
  name: string,
): Promise<Map<string, HostTensor>> {
  const bytes = await readExportFile(folder, signature, name);
  const { tensors, metadata } = parseSafetensors(bytes, { file: join(folder, name) });
  const diff = metadataDifferences(signature, name, metadata);
  if (diff.length > 0) throw mismatch(folder, diff, name);
  return tensors;
}

/** The same, but for one large tensor, which stays in the file. */
export async function leaveExportTensor(
  folder: string,
  signature: Signature,
  name: string,
  leave: string,
): Promise<{ tensors: Map<string, HostTensor>; left: TensorInFile }> {
  if ((await hashFile(folder, name)) !== signature.files[name]?.sha256) await readExportFile(folder, signature, name); // says what differs
  const { tensors, metadata, left } = await readSafetensorsFile(join(folder, name), { leave });
  const diff = metadataDifferences(signature, name, metadata);
  if (left === undefined) diff.push(`${name}: expected a tensor ${leave}`);
  if (diff.length > 0 || left === undefined) throw mismatch(folder, diff, name);
  return { tensors, left };
}

/** Checks the files of the folders `tokenizer`, `encoder_config` and `picture_config`, which their own readers open by path. */
export async function checkCopiedFiles(folder: string, signature: Signature): Promise<void> {
  const folders = [exportFiles.tokenizer, exportFiles.encoderConfig, exportFiles.pictureConfig];
  for (const name of Object.keys(signature.files))
    if (folders.some((copied) => name.startsWith(`${copied}/`))) await readExportFile(folder, signature, name);
}

/** The value of a JSON file, checked against the signature. */
export async function readExportJson(folder: string, signature: Signature, name: string): Promise<unknown> {
  return JSON.parse(Buffer.from(await readExportFile(folder, signature, name)).toString('utf8'));
}
