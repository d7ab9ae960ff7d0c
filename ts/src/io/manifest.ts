/**
 * MANIFEST.json of a checkpoint: what it holds, with a checksum for every byte, its own included. The first line and the opening of the
 * second are of fixed length and carry the CRC-32C of all that follows.
 */
import { z } from 'zod';
import { CheckpointCorruptError, CheckpointMismatchError } from '../errors.js';
import { crc32c, hex32 } from './crc32c.js';

/** Version of the folder's format; another one is refused. */
export const FORMAT_VERSION = 1;
/** Files are checked in blocks of this many bytes, so damage can be located. */
export const BLOCK_BYTES = 1024 * 1024;
/** Name of the manifest inside a checkpoint. */
export const MANIFEST = 'MANIFEST.json';
/** Names of tensor groups: `dense`, `optimizer`, ... become `dense.safetensors`, ... */
export const GROUP_NAME = /^[a-z][a-z0-9_]{0,63}$/;

/** A value of JSON. Ids do not belong here: above 2^53 they are written as strings. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

const json: z.ZodType<Json> = z.lazy(() =>
  z.union([z.string(), z.number(), z.boolean(), z.null(), z.array(json), z.record(z.string(), json)]),
);
const hexWord = z.string().regex(/^[0-9a-f]{8}$/);
const fileRecord = z.strictObject({
  name: z.string().regex(/^[a-z][a-z0-9_]{0,63}\.safetensors$/),
  bytes: z.int().nonnegative(),
  crc32c: hexWord,
  blocks: z.array(hexWord),
});
const manifestBody = z.strictObject({
  formatVersion: z.literal(FORMAT_VERSION),
  step: z.int().nonnegative(),
  score: z.number().nullable(),
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  digests: z.record(z.string(), z.string()),
  versions: z.record(z.string(), z.string()),
  cursor: json,
  state: json,
  files: z.array(fileRecord),
});

/** One file of a checkpoint; `blocks` are the CRC-32C of its blocks of `BLOCK_BYTES`. */
export type FileRecord = z.infer<typeof fileRecord>;

/**
 * Content of MANIFEST.json. `score`: the validation metric, higher is better, null where none was taken. `digest`: SHA-256 over the tensor
 * files. `digests`: of configuration, data, split and vocabulary. `cursor`: where the data stand. `state`: random number key and whatever
 * else the trainer must restore.
 */
export type Manifest = z.infer<typeof manifestBody>;

const checksumLine = (crc: number) => `{\n "checksum": "${hex32(crc)}",\n`;

/** The bytes of a manifest; equal manifests give equal bytes. */
export function encodeManifest(manifest: Manifest): Uint8Array {
  const rest = Buffer.from(`${JSON.stringify(manifest, null, 1).slice(2)}\n`, 'utf8');
  return Buffer.concat([Buffer.from(checksumLine(crc32c(rest)), 'latin1'), rest]);
}

/**
 * Reads a manifest. Throws `CheckpointCorruptError` where a byte is not what was written, `CheckpointMismatchError` for another format
 * version.
 */
export function parseManifest(bytes: Uint8Array, file: string): Manifest {
  const corrupt = (reason: string, cause?: unknown): never => {
    throw new CheckpointCorruptError(`checkpoint: ${file} ${reason}`, { file, block: 0, offset: 0 }, { cause });
  };
  const start = checksumLine(0).length;
  const rest = bytes.subarray(start);
  const expected = checksumLine(crc32c(rest));
  if (Buffer.from(bytes.subarray(0, start)).toString('latin1') !== expected) corrupt('fails its checksum');
  let body: unknown;
  try {
    body = JSON.parse(`{${Buffer.from(rest).toString('utf8')}`);
  } catch (error) {
    corrupt('is not JSON', error);
  }
  const version = typeof body === 'object' && body !== null && 'formatVersion' in body ? body.formatVersion : undefined;
  if (version !== FORMAT_VERSION) {
    const diff = [`format version: expected ${FORMAT_VERSION} but received ${String(version)}`];
    throw new CheckpointMismatchError(`checkpoint: ${file}: ${diff[0]}`, { file, diff });
  }
  const parsed = manifestBody.safeParse(body);
  if (!parsed.success) corrupt(`does not hold a manifest: ${z.prettifyError(parsed.error)}`, parsed.error);
  return parsed.data as Manifest;
}
