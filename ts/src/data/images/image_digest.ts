import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';

/** Bytes hashed between two turns of the event loop: about 2 ms. */
const SLICE = 1 << 21;

/** SHA-256 of `prefix` (UTF-8) and `bytes`; gives the event loop a turn every 2 MiB. */
export async function sha256(bytes: Uint8Array, prefix = ''): Promise<Buffer> {
  const hash = createHash('sha256').update(prefix);
  for (let at = 0; at < bytes.length; at += SLICE) {
    if (at > 0) await setImmediate();
    hash.update(bytes.subarray(at, at + SLICE));
  }
  return hash.digest();
}

/** What names a resized picture: SHA-256 of the pipeline that makes it and of the file. */
export function imageKey(pipeline: string, file: Uint8Array): Promise<Buffer> {
  return sha256(file, `${pipeline}\0`);
}
