/** Floating tensors of files as float32 on the host. */
import { fromBfloat16 } from '../bfloat16.js';
import { type HostTensor, type SafetensorsDtype, viewAs } from './safetensors.js';

/** Dtypes that `floatValues` takes. */
export const FLOAT_DTYPES: readonly SafetensorsDtype[] = ['F32', 'F16', 'BF16'];

function numberOf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Every float16 by its bits: encoders have a hundred million of them. */
let numbers: Float32Array | null = null;

/** The numbers that float16 `bits` stand for; exact. */
export function fromFloat16(bits: Uint16Array): Float32Array {
  numbers ??= Float32Array.from({ length: 0x10000 }, (_, half) => numberOf(half));
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = numbers[bits[i]!]!;
  return values;
}

/** Values of a tensor of F32 (a view where alignment allows it), F16 or BF16. Throws `ModelFileError` for another dtype (rule 16). */
export function floatValues(tensor: HostTensor): Float32Array {
  if (tensor.dtype === 'F16') return fromFloat16(viewAs(tensor, 'F16'));
  if (tensor.dtype === 'BF16') return fromBfloat16(viewAs(tensor, 'BF16'));
  return viewAs(tensor, 'F32');
}
