import { describe, expect, it } from 'vitest';
import { unique } from '../../src/ops/unique.js';
import { uniforms } from '../../src/random.js';
import { type DeviceName, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { testDevices } from '../test_devices.js';

async function check<A extends Int32Array | BigInt64Array>(keys: A, device: DeviceName): Promise<void> {
  const found = tidy(() => unique(tensor(keys, [keys.length], { device })));
  const expected = Array.from(new Set<number | bigint>(keys)).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const values = (await found.unique.data()) as A;
  const inverse = (await found.inverse.data()) as Int32Array;
  expect(await found.count.item()).toBe(expected.length);
  expect(Array.from<number | bigint>(values).slice(0, expected.length)).toEqual(expected);
  expect(
    Array.from(values as ArrayLike<number | bigint>)
      .slice(expected.length)
      .every((x) => Number(x) === -1),
  ).toBe(true);
  expect(Array.from(inverse, (slot) => values[slot])).toEqual(Array.from(keys as ArrayLike<number | bigint>));
  for (const x of Object.values(found)) x.dispose();
}

describe.each(testDevices)('unique on %s', (device) => {
  it('int32, with repeats and the extremes', () =>
    check(Int32Array.of(5, -1, 5, 2147483647, -2147483648, 0, -1), device));
  it('int64, with repeats and the extremes', () =>
    check(BigInt64Array.of(-1n, 2n ** 63n - 1n, -(2n ** 63n), 0n, 3n, -1n, 2n ** 40n, 3n), device));
  it('no keys', () => check(new Int32Array(0), device));
  it('one key', () => check(BigInt64Array.of(7n), device));
  it('all equal', () => check(new Int32Array(3000).fill(4), device));
  it('many', () =>
    check(
      BigInt64Array.from(uniforms(20000, 1, 2), (u) => BigInt(Math.floor(u * 5000)) * 10n ** 12n),
      device,
    ));
});

describe('unique', () => {
  it('refuses other dtypes and shapes', () => {
    tidy(() => {
      expect(() => unique(tensor([1, 2]))).toThrow(/unique: expected keys to be int32 or int64 but received float32/);
      expect(() => unique(tensor(Int32Array.of(1, 2), [1, 2]))).toThrow(/expected keys of shape \(n\)/);
    });
  });
});
