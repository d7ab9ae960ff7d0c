/**
 * Resized pixels on disk, so that nothing is decoded twice. One file per picture: SHA-256 of the pixels, then the pixels. Files of one
 * pipeline (everything beside a picture's bytes that decides pixels) share a folder whose name says how long each is, so that what the
 * cache holds can be counted from names.
 *
 * Several processes may use one folder: a file appears whole (written elsewhere, then renamed), one that vanishes is a miss, one whose
 * checksum is wrong is a miss and written again. Beyond the budget the files not used for longest go; what this process used it knows,
 * the others' use is in the files' times. Each process counts what it writes and looks at the folder again after a sixteenth of the
 * budget, so that p processes exceed it by p sixteenths at most.
 */

import { createHash, randomBytes } from 'node:crypto';
import { close, open, read } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sha256 } from './image_digest.js';

const DIGEST_BYTES = 32;
/** What is left of the budget after files were removed. */
const KEPT = 0.9;
/** How often the time of a file that is read over and over is renewed: other processes read it. */
const TOUCH_MS = 600_000;
/** Age at which a file that never got its name was left behind by a process that is gone. */
const ABANDONED_MS = 3_600_000;
const POOL = /^[0-9a-f]{16}-(\d+)$/;
const FILES_PER_STAT = 64;

/** Pixels and their SHA-256. */
export interface CachedPixels {
  readonly pixels: Uint8Array;
  readonly digest: Uint8Array;
}

export interface ImageCache {
  /** Reads whose file was cut or altered; such a file counts as absent and is written again. */
  readonly corrupt: number;
  /** Writes that the file system refused; the run goes on without them. */
  readonly failedWrites: number;
  /** Files removed to stay in the budget. */
  readonly evicted: number;
  /** Bytes of a buffer that a read can use. */
  readonly readBytes: number;
  /**
   * The pixels of the picture with this `imageKey`, in hex; null where the cache has none. With a buffer they are a view of it: reading
   * into memory that is there already takes a quarter of the time.
   */
  read(key: string, buffer?: Buffer): Promise<CachedPixels | null>;
  write(key: string, picture: CachedPixels): Promise<void>;
}

/**
 * A cache below `directory` of pictures of `pictureBytes` bytes; `pipeline` names everything that decides pixels. All pipelines of the
 * folder share `budget` bytes.
 */
export function openImageCache(
  directory: string,
  pipeline: string,
  pictureBytes: number,
  budget = Number.POSITIVE_INFINITY,
): ImageCache {
  const counters = { corrupt: 0, failedWrites: 0, evicted: 0 };
  const entryBytes = DIGEST_BYTES + pictureBytes;
  const pool = join(directory, `${createHash('sha256').update(pipeline).digest('hex').slice(0, 16)}-${entryBytes}`);
  const path = (key: string): string => join(pool, key.slice(0, 2), `${key.slice(2)}.pixels`);
  /** Last use by this process, in ms, oldest first. */
  const used = new Map<string, number>();
  /** When this process last renewed a file's time. */
  const touched = new Map<string, number>();
  let held: number | null = null; // bytes in the folder, as far as is known
  let sinceLook = 0;
  let tidying: Promise<void> | null = null;

  const use = (file: string): void => {
    used.delete(file);
    used.set(file, Date.now());
  };

  /** Looks at the folder; where it holds too much, removes what was not used for longest. */
  const tidy = async (): Promise<void> => {
    const entries = await listEntries(directory);
    sinceLook = 0;
    held = entries.reduce((sum, { bytes }) => sum + bytes, 0);
    if (held + entryBytes <= budget) return;
    const order = new Map([...used.keys()].map((file, place) => [file, place]));
    const dated: { file: string; bytes: number; time: number }[] = [];
    for (let at = 0; at < entries.length; at += FILES_PER_STAT) {
      const some = entries.slice(at, at + FILES_PER_STAT).map(async ({ file, bytes }) => {
        const time = await stat(file).then(
          ({ mtimeMs }) => mtimeMs,
          () => null,
        );
        if (time !== null) dated.push({ file, bytes, time: Math.max(time, used.get(file) ?? 0) });
      });
      await Promise.all(some);
    }
    dated.sort((a, b) => a.time - b.time || (order.get(a.file) ?? -1) - (order.get(b.file) ?? -1));
    for (const { file, bytes } of dated) {
      if (held <= KEPT * budget) break;
      await rm(file, { force: true }).catch(() => undefined);
      used.delete(file);
      touched.delete(file);
      held -= bytes;
      counters.evicted++;
    }
  };

  const makeRoom = async (): Promise<void> => {
    if (budget === Number.POSITIVE_INFINITY) return;
    // Again where others took the room first; a folder that cannot be tidied is no reason to wait for ever.
    for (let look = 0; look < 3 && (held === null || held + entryBytes > budget || sinceLook > budget / 16); look++) {
      tidying ??= tidy().finally(() => {
        tidying = null;
      });
      await tidying;
    }
    held = (held ?? 0) + entryBytes;
    sinceLook += entryBytes;
  };

  return {
    readBytes: entryBytes + 1, // one more, to see that a file is longer
    get corrupt() {
      return counters.corrupt;
    },
    get failedWrites() {
      return counters.failedWrites;
    },
    get evicted() {
      return counters.evicted;
    },
    async read(key, buffer = Buffer.allocUnsafeSlow(entryBytes + 1)) {
      const file = path(key);
      const bytes = await readInto(file, buffer.subarray(0, entryBytes + 1));
      if (bytes === null) return null;
      const [digest, pixels] = [bytes.subarray(0, DIGEST_BYTES), bytes.subarray(DIGEST_BYTES)];
      if (pixels.length !== pictureBytes || !(await sha256(pixels)).equals(digest)) {
        counters.corrupt++;
        return null;
      }
      use(file);
      const now = Date.now();
      if (now - (touched.get(file) ?? 0) > TOUCH_MS) {
        touched.set(file, now);
        await utimes(file, now / 1000, now / 1000).catch(() => undefined);
      }
      return { pixels, digest };
    },
    async write(key, { pixels, digest }) {
      if (entryBytes > budget) return;
      const file = path(key);
      const partial = `${file}.${randomBytes(8).toString('hex')}.tmp`;
      try {
        await makeRoom();
        await mkdir(dirname(file), { recursive: true });
        await writeFile(partial, Buffer.concat([digest, pixels]));
        await rename(partial, file);
        use(file);
        touched.set(file, Date.now());
      } catch {
        counters.failedWrites++;
        await rm(partial, { force: true }).catch(() => undefined);
      }
    },
  };
}

/**
 * The beginning of a file, as much of it as fits into `buffer`; null where it cannot be read. By callbacks: file handles cost a read of a
 * picture three times as much JavaScript.
 */
function readInto(path: string, buffer: Buffer): Promise<Buffer | null> {
  return new Promise((done) => {
    open(path, 'r', (refused, file) => {
      if (refused !== null) {
        done(null);
        return;
      }
      read(file, buffer, 0, buffer.length, 0, (failed, count) => {
        close(file, () => done(failed === null ? buffer.subarray(0, count) : null));
      });
    });
  });
}

/** Every picture below a cache folder with its length, by name; what was left behind half-written is removed. */
async function listEntries(directory: string): Promise<{ file: string; bytes: number }[]> {
  const list = (folder: string): Promise<string[]> => readdir(folder).catch(() => []);
  const entries: { file: string; bytes: number }[] = [];
  for (const pool of await list(directory)) {
    const bytes = Number(POOL.exec(pool)?.[1]);
    if (Number.isNaN(bytes)) continue;
    for (const group of await list(join(directory, pool))) {
      const folder = join(directory, pool, group);
      for (const name of await list(folder)) {
        const file = join(folder, name);
        if (name.endsWith('.pixels')) entries.push({ file, bytes });
        else if (name.endsWith('.tmp')) await removeAbandoned(file);
      }
    }
  }
  return entries;
}

async function removeAbandoned(file: string): Promise<void> {
  const status = await stat(file).catch(() => null);
  if (status !== null && Date.now() - status.mtimeMs > ABANDONED_MS)
    await rm(file, { force: true }).catch(() => undefined);
}
