/**
 * A reader of TensorBoard's event files that shares nothing with our writer: records as TensorFlow's `record_writer.h` describes them, their
 * CRC-32C computed bit by bit from the polynomial of RFC 3720, and protocol buffers by the wire types of their specification.
 */

/** CRC-32C: reflected in and out, start and end inverted. */
export function bitwiseCrc32c(bytes: Uint8Array): number {
  let register = 0xffffffff;
  for (const byte of bytes)
    for (let bit = 0; bit < 8; bit++) {
      const differs = ((register ^ (byte >> bit)) & 1) === 1;
      register >>>= 1;
      // x^32 is left out: 0x1edc6f41 with its bits in reverse
      if (differs) register = (register ^ 0x82f63b78) >>> 0;
    }
  return (register ^ 0xffffffff) >>> 0;
}

/** Rotated right by 15 bits, plus a constant. */
export function masked(crc: number): number {
  const rotated = Math.floor(crc / 2 ** 15) + (crc % 2 ** 15) * 2 ** 17;
  return (rotated + 0xa282ead8) % 2 ** 32;
}

/** Whole records, and how many bytes of a torn one stand behind them. Throws for a checksum that is wrong. */
export function readRecords(bytes: Uint8Array): { records: Uint8Array[]; torn: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records: Uint8Array[] = [];
  let at = 0;
  for (;;) {
    const left = bytes.length - at;
    if (left < 12) return { records, torn: left };
    const length = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
    if (view.getUint32(at + 8, true) !== masked(bitwiseCrc32c(bytes.subarray(at, at + 8))))
      throw new Error(`record ${records.length}: the checksum of its length is wrong`);
    if (left < length + 16) return { records, torn: left };
    const payload = bytes.subarray(at + 12, at + 12 + length);
    if (view.getUint32(at + 12 + length, true) !== masked(bitwiseCrc32c(payload)))
      throw new Error(`record ${records.length}: the checksum of its payload is wrong`);
    records.push(payload);
    at += length + 16;
  }
}

type Field = readonly [number: number, value: number | Uint8Array];

/** Fields of a protocol buffer message: number, then an integer, a double, a float or bytes. */
export function readFields(bytes: Uint8Array): Field[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fields: Field[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++]!;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const field = Math.floor(tag / 8);
    const wire = tag % 8;
    if (wire === 0) fields.push([field, varint()]);
    else if (wire === 1) {
      fields.push([field, view.getFloat64(at, true)]);
      at += 8;
    } else if (wire === 5) {
      fields.push([field, view.getFloat32(at, true)]);
      at += 4;
    } else if (wire === 2) {
      const length = varint();
      fields.push([field, bytes.subarray(at, at + length)]);
      at += length;
    } else throw new Error(`wire type ${wire} of field ${field} is none of an event`);
  }
  return fields;
}

/** What TensorBoard shows of an event. */
export interface ReadEvent {
  readonly seconds: number;
  readonly step: number;
  readonly version: string | null;
  readonly sessionStart: boolean;
  readonly scalars: Readonly<Record<string, number>>;
}

export function readEvent(record: Uint8Array): ReadEvent {
  const fields = readFields(record);
  const of = (wanted: number): number | Uint8Array | undefined => fields.find(([field]) => field === wanted)?.[1];
  const text = (value: number | Uint8Array | undefined): string => new TextDecoder().decode(value as Uint8Array);
  const scalars: Record<string, number> = {};
  for (const [field, value] of readFields((of(5) as Uint8Array | undefined) ?? new Uint8Array())) {
    if (field !== 1) continue;
    const parts = readFields(value as Uint8Array);
    scalars[text(parts.find(([part]) => part === 1)?.[1])] = parts.find(([part]) => part === 2)?.[1] as number;
  }
  const log = of(7) as Uint8Array | undefined;
  return {
    seconds: of(1) as number,
    step: (of(2) as number | undefined) ?? 0,
    version: of(3) === undefined ? null : text(of(3)),
    sessionStart: log !== undefined && readFields(log).some(([field, status]) => field === 1 && status === 1),
    scalars,
  };
}

/** The events of a file that has no torn record. */
export function readEvents(bytes: Uint8Array): ReadEvent[] {
  const { records, torn } = readRecords(bytes);
  if (torn > 0) throw new Error(`expected whole records but ${torn} bytes of one stand at the end`);
  return records.map(readEvent);
}
