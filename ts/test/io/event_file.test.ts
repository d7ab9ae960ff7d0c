import { describe, expect, it } from 'vitest';
import { encodeScalars, frameRecord, maskedCrc32c, openEventFile } from '../../src/io/event_file.js';
import { FaultyEnv } from './faulty_env.js';
import { MemoryEnv } from './memory_env.js';

/** Fields of a protocol buffer message: number, then an integer, a double, a float or bytes. */
function decode(bytes: Buffer): [number, number | Buffer][] {
  const fields: [number, number | Buffer][] = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag & 7;
    if (wire === 0) fields.push([tag >> 3, varint()]);
    else if (wire === 1) fields.push([tag >> 3, bytes.readDoubleLE((at += 8) - 8)]);
    else if (wire === 5) fields.push([tag >> 3, bytes.readFloatLE((at += 4) - 4)]);
    else {
      const length = varint();
      fields.push([tag >> 3, bytes.subarray(at, (at += length))]);
    }
  }
  return fields;
}

function records(bytes: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc32c(bytes.subarray(at, at + 8)));
    const payload = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(payload));
    found.push(payload);
    at += length + 16;
  }
  return found;
}

describe('event files', () => {
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

  it('decodes back: version, session start of a resume, scalars', async () => {
    const env = MemoryEnv.empty();
    await env.makeDirectory('run');
    const writer = await openEventFile('run', { env, now: () => 1_700_000_000_250, resumedAt: 400 });
    writer.scalars(500, { 'train/loss': 0.25, 'train/lr': Number.NaN });
    writer.scalars(500, {});
    writer.scalars(2 ** 40, { x: -1 });
    await writer.close();
    const { name } = (await env.list('run'))[0]!;
    expect(name).toBe('events.out.tfevents.1700000000.galago.250');
    const events = records(Buffer.from(await env.read(`run/${name}`))).map(decode);
    expect(events.length).toBe(4);
    expect(events[0]).toEqual([
      [1, 1_700_000_000.25],
      [3, Buffer.from('brain.Event:2')],
    ]);
    expect(events[1]!.slice(1)).toEqual([
      [2, 400],
      [7, Buffer.from([8, 1])],
    ]);
    const values = decode(events[2]![2]![1] as Buffer).map(([, value]) => decode(value as Buffer));
    expect(values).toEqual([
      [
        [1, Buffer.from('train/loss')],
        [2, 0.25],
      ],
      [
        [1, Buffer.from('train/lr')],
        [2, Number.NaN],
      ],
    ]);
    expect(events[3]![1]).toEqual([2, 2 ** 40]);
  });

  it('counts what could not be written instead of throwing', async () => {
    const env = MemoryEnv.empty();
    await env.makeDirectory('run');
    const writer = await openEventFile('run', {
      env: new FaultyEnv(env, { at: 2, kind: 'fail', code: 'ENOSPC', lasting: true }),
    });
    writer.scalars(1, { x: 1 });
    await writer.flush();
    expect(writer.file.failures).toBe(1);
    expect(writer.file.lastFailure).toMatchObject({ code: 'ENOSPC', exitCode: 74 });
  });
});
