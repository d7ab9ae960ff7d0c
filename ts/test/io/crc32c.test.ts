import { describe, expect, it } from 'vitest';
import { crc32c, hex32 } from '../../src/io/crc32c.js';

describe('crc32c', () => {
  it('gives the values of RFC 3720, appendix B.4', () => {
    expect(hex32(crc32c(new Uint8Array(32)))).toBe('8a9136aa');
    expect(hex32(crc32c(new Uint8Array(32).fill(0xff)))).toBe('62a8ab43');
    expect(hex32(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)))).toBe('46dd794e');
    expect(hex32(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i)))).toBe('113fdb5c');
    expect(hex32(crc32c(Buffer.from('123456789')))).toBe('e3069283');
    expect(crc32c(new Uint8Array(0))).toBe(0);
  });

  it('continues where it stopped, at every cut', () => {
    const bytes = Uint8Array.from({ length: 41 }, (_, i) => (i * 37) & 255);
    for (let cut = 0; cut <= bytes.length; cut++) {
      expect(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut)))).toBe(crc32c(bytes));
    }
  });
});
