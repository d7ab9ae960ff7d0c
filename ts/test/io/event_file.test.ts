import { describe, expect, it } from 'vitest';
import { openAppendFile } from '../../src/io/append_file.js';
import type { Env, EnvFile } from '../../src/io/env.js';
import { encodeScalars, frameRecord, maskedCrc32c, openEventFile } from '../../src/io/event_file.js';
import { bitwiseCrc32c, masked, readEvents, readRecords } from './event_reader.js';
import { FaultyEnv } from './faulty_env.js';
import { MemoryEnv } from './memory_env.js';

/** Checksums of RFC 3720, appendix B.4, and the one of every catalogue of checksums. */
const published: [string, Uint8Array, number][] = [
  ['32 bytes of 0', new Uint8Array(32), 0x8a9136aa],
  ['32 bytes of 255', new Uint8Array(32).fill(255), 0x62a8ab43],
  ['0 to 31', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ['31 to 0', Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
  ['123456789', Buffer.from('123456789'), 0xe3069283],
];

async function folder(): Promise<MemoryEnv> {
  const env = MemoryEnv.empty();
  await env.makeDirectory('run');
  return env;
}
const files = async (env: MemoryEnv): Promise<string[]> => (await env.list('run')).map(({ name }) => name).sort();

/** A disk that is full within the write of record `at`, of which it takes half, and has room again for the next. */
class FullDisk extends FaultyEnv {
  private writes = 0;

  constructor(
    private readonly env: Env,
    private readonly at: number,
  ) {
    super(env);
  }

  private half(file: EnvFile): EnvFile {
    return {
      ...file,
      write: async (bytes) => {
        const write = this.writes++;
        if (write === this.at) return file.write(bytes.subarray(0, bytes.length >> 1));
        if (write === this.at + 1) throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
        return file.write(bytes);
      },
    };
  }

  override create = async (path: string) => this.half(await this.env.create(path));
  override append = async (path: string) => this.half(await this.env.append(path));
}

describe('files of lines', () => {
  it('begin a new line after one that a full disk cut', async () => {
    const env = await folder();
    const file = await openAppendFile('run/log', new FullDisk(env, 1));
    for (const line of ['{"a":1}\n', '{"a":2}\n', '{"a":3}\n']) file.append(line);
    await file.close();
    expect(file.failures).toBe(1);
    expect(Buffer.from(await env.read('run/log')).toString()).toBe('{"a":1}\n{"a"\n{"a":3}\n');
  });
});

describe('event files', () => {
  it.each(published)('have the published checksum of %s, masked', (_name, bytes, crc) => {
    expect(bitwiseCrc32c(bytes)).toBe(crc);
    expect(maskedCrc32c(bytes)).toBe(masked(crc));
  });

  it('start with the bytes that TensorBoard expects', () => {
    // An Event of wall_time 0 and file_version alone, as any writer of the format frames it.
    const payload = Buffer.concat([Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 0, 26, 13]), Buffer.from('brain.Event:2')]);
    expect(Buffer.from(frameRecord(payload)).subarray(0, 12).toString('hex')).toBe('1800000000000000a37f4b22');
  });

  it('encodes a scalar', () => {
    const bytes = Buffer.from(encodeScalars(1.5, 300, { 'train/loss': 0.5 }));
    expect(bytes.toString('hex')).toBe(
      `09000000000000f83f10ac022a130a110a0a${Buffer.from('train/loss').toString('hex')}150000003f`,
    );
  });

  it('are read back by another reader: version, session start of a resume, scalars', async () => {
    const env = await folder();
    const writer = await openEventFile('run', { env, now: () => 1_700_000_000_250, resumedAt: 400 });
    writer.scalars(500, { 'train/loss': 0.25, 'train/lr': Number.NaN });
    writer.scalars(500, {});
    writer.scalars(2 ** 40, { x: -1 });
    await writer.close();
    expect(await files(env)).toEqual(['events.out.tfevents.1700000000.galago.250']);
    const plain = { seconds: 1_700_000_000.25, version: null, sessionStart: false, scalars: {} };
    expect(readEvents(await env.read('run/events.out.tfevents.1700000000.galago.250'))).toEqual([
      { ...plain, step: 0, version: 'brain.Event:2' },
      { ...plain, step: 400, sessionStart: true },
      { ...plain, step: 500, scalars: { 'train/loss': 0.25, 'train/lr': Number.NaN } },
      { ...plain, step: 2 ** 40, scalars: { x: -1 } },
    ]);
  });

  it('are refused by that reader where a bit of them is another', async () => {
    const env = await folder();
    const writer = await openEventFile('run', { env, now: () => 1 });
    writer.scalars(1, { x: 1 });
    await writer.close();
    const bytes = await env.read(`run/${(await files(env))[0]}`);
    const whole = readRecords(bytes).records.length;
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      const flipped = Uint8Array.from(bytes, (byte, at) => (at === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte));
      expect(() => readRecords(flipped), `bit ${bit}`).toThrow(/checksum/);
    }
    expect(whole).toBe(2);
  });

  it('are new for a run that goes on, whatever an earlier one was torn at', async () => {
    const env = await folder();
    const first = await openEventFile('run', { env, now: () => 5_000 });
    for (let step = 1; step <= 3; step++) first.scalars(step, { x: step });
    await first.close();
    const [name] = await files(env);
    const bytes = await env.read(`run/${name}`);
    const { records } = readRecords(bytes);
    const torn = bytes.subarray(0, bytes.length - 5);
    await env.remove(`run/${name}`);
    await (await env.create(`run/${name}`)).write(torn);
    // Within the same millisecond: the clock says the same name.
    const second = await openEventFile('run', { env, now: () => 5_000, resumedAt: 2 });
    second.scalars(3, { x: 30 });
    await second.close();
    const names = await files(env);
    expect(names).toEqual(['events.out.tfevents.5.galago.000', 'events.out.tfevents.5.galago.001']);
    expect(Buffer.from(await env.read(`run/${names[0]}`))).toEqual(Buffer.from(torn));
    expect(readRecords(torn)).toEqual({ records: records.slice(0, -1), torn: records.at(-1)!.length + 11 });
    const events = readEvents(await env.read(`run/${names[1]}`));
    expect(events.map(({ step, sessionStart }) => [step, sessionStart])).toEqual([
      [0, false],
      [2, true],
      [3, false],
    ]);
  });

  it('go on in a new file where a full disk cut a record', async () => {
    const env = await folder();
    const writer = await openEventFile('run', { env: new FullDisk(env, 2), now: () => 5_000 });
    for (let step = 1; step <= 4; step++) writer.scalars(step, { x: step });
    await writer.close();
    expect(writer.file.failures).toBe(1);
    const [first, second] = await files(env);
    expect(readRecords(await env.read(`run/${first}`)).records.length).toBe(2);
    const events = readEvents(await env.read(`run/${second}`));
    expect(events.map(({ step, version }) => [step, version])).toEqual([
      [0, 'brain.Event:2'],
      [3, null],
      [4, null],
    ]);
  });

  it('counts what could not be written instead of throwing', async () => {
    const env = await folder();
    const writer = await openEventFile('run', {
      env: new FaultyEnv(env, { at: 2, kind: 'fail', code: 'ENOSPC', lasting: true }),
    });
    writer.scalars(1, { x: 1 });
    await writer.flush();
    expect(writer.file.failures).toBe(1);
    expect(writer.file.lastFailure).toMatchObject({ code: 'ENOSPC', exitCode: 74 });
  });
});
