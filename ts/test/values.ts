/** Reading tensors in tests. */
import type { Tensor } from '../src/tensor.js';

/** The values of a floating or 32-bit integer tensor as float64. */
export async function valuesOf(x: Tensor): Promise<Float64Array> {
  const data = await x.data();
  if (data instanceof BigInt64Array) throw new TypeError('valuesOf: expected numbers but received int64');
  return Float64Array.from(data);
}

/** The bytes of a tensor, for comparisons bit for bit. */
export async function bytesOf(x: Tensor): Promise<Buffer> {
  const { buffer, byteOffset, byteLength } = await x.data();
  return Buffer.from(buffer, byteOffset, byteLength);
}

/** Rows of a matrix (n, width). */
export function rowsOf(values: Float64Array, width: number): Float64Array[] {
  return Array.from({ length: values.length / width }, (_, i) => values.slice(i * width, (i + 1) * width));
}

/** Largest of |a_i - b_i| / (1 + |b_i|); infinite for different lengths, NaN if one is met. */
export function worstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!) / (1 + Math.abs(b[i]!));
    worst = difference <= worst ? worst : difference; // NaN becomes the worst
  }
  return worst;
}
