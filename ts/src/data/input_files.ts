/** The files that a data set is read from: their digests, and that nobody writes them meanwhile. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { DataError } from '../errors.js';
import { guard, systemCode } from '../io/env.js';

/** A file as it was at the first look. */
export interface InputFile {
  readonly path: string;
  /** Size and time of the last change; null for a file that was not there. */
  readonly version: string | null;
}

/** Looks at files before they are read. */
export function inputFiles(paths: readonly string[]): Promise<InputFile[]> {
  return Promise.all(paths.map(async (path) => ({ path, version: await versionOf(path) })));
}

/**
 * SHA-256 (hex) of files after they were read, by their names; those that are not there are left out. Throws DataError (DATA_SCHEMA) for a
 * file that is no longer what it was at the first look, StorageError, the signal's reason when aborted.
 */
export async function digestsOf(
  files: readonly InputFile[],
  nameOf: (path: string) => string,
  signal?: AbortSignal,
): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const { path, version } of files) {
    const digest = version === null ? null : await guard('read', path, () => digestOfFile(path, signal));
    if ((await versionOf(path)) !== version)
      throw new DataError('DATA_SCHEMA', `data: expected ${path} as it was but it changed while the data were read`, {
        file: path,
        reason: 'changed',
      });
    if (digest !== null) digests[nameOf(path)] = digest;
  }
  return digests;
}

async function versionOf(path: string): Promise<string | null> {
  try {
    const { size, mtimeNs } = await stat(path, { bigint: true });
    return `${size} ${mtimeNs}`;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    return guard('stat', path, () => Promise.reject(error));
  }
}

async function digestOfFile(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) {
    signal?.throwIfAborted();
    hash.update(chunk as Buffer);
  }
  return hash.digest('hex');
}
