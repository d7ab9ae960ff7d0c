import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { fromBfloat16, toBfloat16 } from '../../src/bfloat16.js';
import { cast } from '../../src/ops/cast.js';
import { normals } from '../../src/random.js';
import { full, type Tensor, tensor } from '../../src/tensor.js';

/** Bits of float32, and of the bfloat16 nearest to it. */
const rounding: [string, number, number][] = [
  ['zero', 0x00000000, 0x0000],
  ['minus zero', 0x80000000, 0x8000],
  ['one', 0x3f800000, 0x3f80],
  ['below half', 0x3f807fff, 0x3f80],
  ['tie, even below', 0x3f808000, 0x3f80],
  ['tie, even above', 0x3f818000, 0x3f82],
  ['above half', 0x3f808001, 0x3f81],
  ['negative tie, even above', 0xbf818000, 0xbf82],
  ['carry into the exponent', 0x3fffffff, 0x4000],
  ['largest', 0x7f7f0000, 0x7f7f],
  ['past the largest: infinity', 0x7f7fffff, 0x7f80],
  ['infinity', 0x7f800000, 0x7f80],
  ['minus infinity', 0xff800000, 0xff80],
  ['NaN', 0x7fc00000, 0x7fff],
  ['NaN whose kept bits are those of infinity', 0x7f800001, 0x7fff],
  ['NaN of all ones', 0xffffffff, 0x7fff],
  ['smallest subnormal', 0x00000001, 0x0000],
  ['subnormal', 0x00018000, 0x0002],
];

const floats = (bits: readonly number[]): Float32Array => new Float32Array(Uint32Array.from(bits).buffer);
const bitsOf = async (x: Tensor): Promise<number[]> => Array.from((await x.data()) as Uint16Array);

describe('cast', () => {
  it.each(rounding)('rounds %s', async (_, from, to) => {
    expect(await bitsOf(cast(tensor(floats([from])), 'bfloat16'))).toEqual([to]);
    expect(Array.from(toBfloat16(floats([from])))).toEqual([to]);
  });

  it('brings every bfloat16 back unchanged', async () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const isNaN = (half: number): boolean => (half & 0x7fff) > 0x7f80;
    const x = tensor(all, [256, 256], { dtype: 'bfloat16' });
    const wide = cast(x, 'float32');
    expect(wide.shape).toEqual([256, 256]);
    const words = new Uint32Array(((await wide.data()) as Float32Array).buffer);
    expect(words).toEqual(Uint32Array.from(all, (half) => half << 16));
    expect(await bitsOf(cast(wide, 'bfloat16'))).toEqual(Array.from(all, (half) => (isNaN(half) ? 0x7fff : half)));
  });

  it('equals the host over many values', async () => {
    const values = Float32Array.from(normals(40_000, 1, 1), (x) => x * 1e3);
    const x = cast(tensor(values), 'bfloat16');
    expect(await bitsOf(x)).toEqual(Array.from(toBfloat16(values)));
    expect(await x.values()).toEqual(fromBfloat16(toBfloat16(values)));
  });

  it('passes the gradient back in the dtype of its input', async () => {
    const x = tensor([1, 2, 3]);
    x.requiresGrad = true;
    const y = cast(x, 'bfloat16');
    backward(y, tensor([0.5, 1.00390625, 3], [3], { dtype: 'bfloat16' }));
    const grad = x.grad as Tensor;
    expect(grad.dtype).toBe('float32');
    expect(Array.from(await grad.values(), Number)).toEqual([0.5, 1, 3]);
  });

  it('returns its input where nothing changes, and takes tensors without elements', async () => {
    const x = tensor([1]);
    expect(cast(x, 'float32')).toBe(x);
    expect(await bitsOf(cast(tensor(new Float32Array(0), [0, 3]), 'bfloat16'))).toEqual([]);
  });

  it('reads bfloat16 as bits, as numbers, and as one number', async () => {
    const x = tensor([1, -2.5], [2], { dtype: 'bfloat16' });
    expect(await bitsOf(x)).toEqual([0x3f80, 0xc020]);
    expect(await x.values()).toEqual(Float32Array.of(1, -2.5));
    expect(await full([], 3, { dtype: 'bfloat16' }).item()).toBe(3);
  });

  it('refuses other dtypes', () => {
    expect(() => cast(tensor([1], [1], { dtype: 'float64' }), 'bfloat16')).toThrow(
      /cast: expected x to be float32 or bfloat16 but received float64/,
    );
    expect(() => cast(tensor([1]), 'float64' as 'float32')).toThrow(/cast: expected dtype float32 or bfloat16/);
    const gone = tensor([1]);
    gone.dispose();
    expect(() => cast(gone, 'bfloat16')).toThrow(/cast: x was released/);
  });
});
