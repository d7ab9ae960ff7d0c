import { describe, expect, it } from 'vitest';
import { DtypeError } from '../src/errors.js';
import { shapes } from '../src/shape.js';
import { type DeviceName, type DType, empty, statistics } from '../src/tensor.js';
import { testDevices } from './test_devices.js';

const check = shapes('op', { x: 'N', y: 'N?', mean: 'N:wide?' });
const of = (device: DeviceName, dtype: DType) => empty([2], { device, dtype });

describe('float arguments on cpu', () => {
  it('are float32 or float64, all the same, wide ones too', () => {
    for (const dtype of ['float32', 'float64'] as const)
      expect(check({ x: of('cpu', dtype), y: of('cpu', dtype), mean: of('cpu', dtype) })).toEqual({ N: 2 });
    expect(() => check({ x: of('cpu', 'float32'), y: of('cpu', 'float64'), mean: null })).toThrow(
      /op: expected y to be float32 like x but received float64/,
    );
    expect(() => check({ x: of('cpu', 'float64'), y: null, mean: of('cpu', 'float32') })).toThrow(
      /op: expected mean to be float64 like x but received float32/,
    );
  });

  it('are never bfloat16', () => {
    expect(() => check({ x: of('cpu', 'bfloat16'), y: null, mean: null })).toThrow(DtypeError);
    expect(() => check({ x: of('cpu', 'bfloat16'), y: null, mean: null })).toThrow(
      /op: expected x to be float32 or float64 on cpu but received bfloat16/,
    );
    expect(() => check({ x: of('cpu', 'int32'), y: null, mean: null })).toThrow(
      /op: expected x to be float32 or float64 but received int32/,
    );
  });
});

describe.each(testDevices.filter((name) => name !== 'cpu'))('float arguments on %s', (name) => {
  it('are float32 or bfloat16, wide ones float32', () => {
    for (const dtype of ['float32', 'bfloat16'] as const)
      expect(check({ x: of(name, dtype), y: of(name, dtype), mean: of(name, 'float32') })).toEqual({ N: 2 });
    expect(() => check({ x: of(name, 'bfloat16'), y: of(name, 'float32'), mean: null })).toThrow(
      /op: expected y to be bfloat16 like x but received float32/,
    );
    expect(() => check({ x: of(name, 'bfloat16'), y: null, mean: of(name, 'bfloat16') })).toThrow(
      /op: expected mean to be float32 on .* but received bfloat16/,
    );
  });

  it('are never float64', () => {
    expect(() => check({ x: of(name, 'float64'), y: null, mean: null })).toThrow(
      /op: expected x to be float32 or bfloat16 on .* but received float64/,
    );
  });
});

it('statistics are float32 beside bfloat16, else of the same dtype', () => {
  expect(statistics([3], of('cpu', 'bfloat16'))).toMatchObject({ dtype: 'float32', device: 'cpu', shape: [3] });
  expect(statistics([3], of('cpu', 'float64')).dtype).toBe('float64');
});
