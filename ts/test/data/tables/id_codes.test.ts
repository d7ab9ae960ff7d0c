import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { rankTimes } from '../../../src/data/events.js';
import { DenseCodes, encodeIntegers, encodeStrings } from '../../../src/data/tables/id_codes.js';
import { EXTREME_IDS } from './tables_written.js';

const int64 = fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n);
/** Few values, extremes, and integers that differ in one half only. */
const ids = fc.array(
  fc.oneof(
    fc.constantFrom(...EXTREME_IDS),
    int64,
    fc.bigInt(-4n, 4n),
    fc.bigInt(0n, 40n).map((i) => i << 32n),
  ),
  { maxLength: 400 },
);

function definition(values: readonly (bigint | string)[]): { codes: number[]; ids: string[] } {
  const codeOf = new Map<bigint | string, number>();
  const codes = values.map((value) => {
    if (!codeOf.has(value)) codeOf.set(value, codeOf.size);
    return codeOf.get(value)!;
  });
  return { codes, ids: [...codeOf.keys()].map(String) };
}

describe('codes of ids', () => {
  it('F17, F19: equal a Map of bigint, in order of first appearance, signed and unsigned', () => {
    fc.assert(
      fc.property(ids, (values) => {
        const { codes, ids: shown } = encodeIntegers(BigInt64Array.from(values), null);
        expect({ codes: [...codes], ids: shown }).toEqual(definition(values));
        const unsigned = values.map((value) => BigInt.asUintN(64, value));
        const other = encodeIntegers(BigUint64Array.from(unsigned), null);
        expect({ codes: [...other.codes], ids: other.ids }).toEqual(definition(unsigned));
      }),
    );
  });

  it('F20: many ids that share their low bits keep their own codes', () => {
    const values = BigInt64Array.from({ length: 20_000 }, (_, i) => BigInt(i) << 40n);
    const { codes, ids: shown } = encodeIntegers(values, null);
    expect(codes.every((code, i) => code === i)).toBe(true);
    expect(shown[19_999]).toBe(String(19_999n << 40n));
  });

  it('go on where a Map is full', () => {
    const codes = new DenseCodes<string>(2);
    expect(['a', 'b', 'c', 'a', 'd', 'e', 'c'].map((id) => codes.code(id))).toEqual([0, 1, 2, 0, 3, 4, 2]);
    expect([codes.find('e'), codes.find('f'), codes.ids.join('')]).toEqual([4, -1, 'abcde']);
  });

  it('missing rows have no code and make no id', () => {
    const integers = encodeIntegers(BigInt64Array.of(0n, 5n, 0n), Uint8Array.of(1, 0, 0));
    expect([[...integers.codes], integers.ids]).toEqual([
      [-1, 0, 1],
      ['5', '0'],
    ]);
    const strings = encodeStrings(['', 'b', 'a', 'b']);
    expect([[...strings.codes], strings.ids]).toEqual([
      [-1, 0, 1, 0],
      ['b', 'a'],
    ]);
  });
});

describe('rankTimes', () => {
  it('ranks exact times: 64-bit integers and floats, negative ones and both zeros', () => {
    const check = (values: Float64Array | BigInt64Array): void => {
      const { time, times } = rankTimes(values);
      const plain = [...new Set<number | bigint>(values)].map((value) => (value === 0 ? 0 : value));
      const sorted = [...new Set(plain)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
      expect([...times].map((value) => (value === 0 ? 0 : value))).toEqual(sorted);
      for (let i = 0; i < values.length; i++) expect(times[time[i]!] === values[i]).toBe(true);
    };
    fc.assert(fc.property(ids, (values) => check(BigInt64Array.from(values))));
    const float = fc.oneof(fc.double({ noNaN: true }), fc.integer(), fc.constantFrom(0, -0, 1e-310, -1e-310));
    fc.assert(fc.property(fc.array(float, { maxLength: 200 }), (values) => check(Float64Array.from(values))));
    expect(() => rankTimes(Float64Array.of(1, Number.NaN))).toThrow(/row 1 has none/);
  });
});
