/**
 * TensorBoard's event files. A file is a row of records, each framed as
 *
 *   length (uint64)   masked CRC-32C of the length (uint32)   payload   masked CRC-32C of the payload (uint32)
 *
 * and each payload is a protocol buffer `Event`, of which we write four fields: wall_time = 1 (double), step = 2 (int64), file_version = 3
 * (string), summary = 5 and session_log = 7 (messages). The encoding of so few fields is shorter than any library's set-up.
 */
import { join } from 'node:path';
import { StorageError } from '../errors.js';
import { AppendFile } from './append_file.js';
import { crc32c } from './crc32c.js';
import { type Env, type EnvFile, guard, nodeEnv, writeAll } from './env.js';

const WIRE_VARINT = 0;
const WIRE_FIXED64 = 1;
const WIRE_BYTES = 2;
const WIRE_FIXED32 = 5;
const SESSION_START = 1;

/** TensorFlow's mask, which keeps the checksum of data that hold their own checksum from being special. */
export function maskedCrc32c(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** One framed record. */
export function frameRecord(payload: Uint8Array): Uint8Array {
  const record = Buffer.alloc(payload.length + 16);
  record.writeBigUInt64LE(BigInt(payload.length), 0);
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8);
  record.set(payload, 12);
  record.writeUInt32LE(maskedCrc32c(payload), 12 + payload.length);
  return record;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return bytes;
}

const key = (field: number, wire: number) => Buffer.from([(field << 3) | wire]);
const integerField = (field: number, value: number) => Buffer.from([...key(field, WIRE_VARINT), ...varint(value)]);

function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([key(field, WIRE_FIXED64), bytes]);
}

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(field, WIRE_FIXED32), bytes]);
}

function bytesField(field: number, value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([key(field, WIRE_BYTES), Buffer.from(varint(bytes.length)), bytes]);
}

/** An `Event`; `seconds` since 1970, `content` the fields after the step. */
function encodeEvent(seconds: number, step: number, content: Buffer): Buffer {
  return Buffer.concat([doubleField(1, seconds), ...(step > 0 ? [integerField(2, step)] : []), content]);
}

/** Bytes of an event that holds scalars: summary.value = { tag = 1, simple_value = 2 } for each. */
export function encodeScalars(seconds: number, step: number, scalars: Readonly<Record<string, number>>): Uint8Array {
  const values = Object.entries(scalars).map(([tag, value]) =>
    bytesField(1, Buffer.concat([bytesField(1, tag), floatField(2, value)])),
  );
  return encodeEvent(seconds, step, bytesField(5, Buffer.concat(values)));
}

/** Options of `openEventFile`. */
export interface EventFileOptions {
  /** Set where a run resumes: the file begins with a session start at this step, and TensorBoard drops what earlier files say later. */
  readonly resumedAt?: number;
  /** Milliseconds since 1970; default the clock. */
  readonly now?: () => number;
  readonly env?: Env;
}

/** Writes scalars for TensorBoard. Never throws after it is open: see `AppendFile`. */
export class EventWriter {
  constructor(
    readonly file: AppendFile,
    private readonly now: () => number,
  ) {}

  /** Writes scalars of one step under tags such as `train/loss`. Non-finite values are legal. */
  scalars(step: number, scalars: Readonly<Record<string, number>>): void {
    if (Object.keys(scalars).length === 0) return;
    this.file.append(frameRecord(encodeScalars(this.now() / 1000, step, scalars)));
  }

  flush(): Promise<void> {
    return this.file.flush();
  }

  close(): Promise<void> {
    return this.file.close();
  }
}

function nameAt(milliseconds: number): string {
  return `events.out.tfevents.${Math.floor(milliseconds / 1000)}.galago.${String(milliseconds % 1000).padStart(3, '0')}`;
}

/** Creates the first event file that does not exist, named after `time` in milliseconds or a later one. */
async function createAfter(directory: string, time: number, env: Env): Promise<{ path: string; file: EnvFile }> {
  for (let at = time; ; at++) {
    const path = join(directory, nameAt(at));
    try {
      return { path, file: await guard('create', path, () => env.create(path)) };
    } catch (error) {
      if (!(error instanceof StorageError && error.code === 'EEXIST')) throw error;
    }
  }
}

/**
 * Opens a new event file in `directory`, named after the time: an earlier one may end in a torn record, behind which nothing is read (so does one
 * that a full disk cut: the next record goes to a new file). Throws
 * `StorageError`.
 */
export async function openEventFile(directory: string, options: EventFileOptions = {}): Promise<EventWriter> {
  const { resumedAt, now = Date.now, env = nodeEnv } = options;
  const start = now();
  const version = (time: number): Uint8Array =>
    frameRecord(encodeEvent(time / 1000, 0, bytesField(3, 'brain.Event:2')));
  const first = await createAfter(directory, start, env);
  const file = new AppendFile(first.path, first.file, async () => {
    const time = now();
    const next = await createAfter(directory, time, env);
    try {
      await writeAll(next.file, next.path, version(time));
      return next.file;
    } catch (error) {
      await next.file.close().catch(() => undefined);
      await env.remove(next.path).catch(() => undefined);
      throw error;
    }
  });
  file.append(version(start));
  if (resumedAt !== undefined) {
    const session = bytesField(7, integerField(1, SESSION_START));
    file.append(frameRecord(encodeEvent(start / 1000, resumedAt, session)));
  }
  return new EventWriter(file, now);
}
