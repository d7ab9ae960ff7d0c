/**
 * CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), the checksum of checkpoints and of TensorBoard's event files.
 * Slicing by 8: eight tables let one round consume eight bytes. `node:zlib` has CRC-32 with another polynomial only.
 */

const POLYNOMIAL = 0x82f63b78;

/** Table t maps a byte to its remainder when t zero bytes follow it. */
function makeTables(): Int32Array[] {
  const tables = Array.from({ length: 8 }, () => new Int32Array(256));
  const first = tables[0]!;
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    first[byte] = crc;
  }
  for (let t = 1; t < 8; t++) {
    const previous = tables[t - 1]!;
    for (let byte = 0; byte < 256; byte++) {
      tables[t]![byte] = (previous[byte]! >>> 8) ^ first[previous[byte]! & 0xff]!;
    }
  }
  return tables;
}

const [T0, T1, T2, T3, T4, T5, T6, T7] = makeTables() as [
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
];

/** CRC-32C of `bytes` as an unsigned 32-bit number; pass the checksum of what came before to continue it. */
export function crc32c(bytes: Uint8Array, previous = 0): number {
  let crc = ~previous;
  let i = 0;
  for (const end = bytes.length - 7; i < end; i += 8) {
    crc ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    crc =
      T7[crc & 0xff]! ^
      T6[(crc >>> 8) & 0xff]! ^
      T5[(crc >>> 16) & 0xff]! ^
      T4[crc >>> 24]! ^
      T3[bytes[i + 4]!]! ^
      T2[bytes[i + 5]!]! ^
      T1[bytes[i + 6]!]! ^
      T0[bytes[i + 7]!]!;
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ T0[(crc ^ bytes[i]!) & 0xff]!;
  return ~crc >>> 0;
}

/** A checksum as eight hexadecimal digits, the way manifests spell it. */
export function hex32(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
