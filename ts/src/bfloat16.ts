/** bfloat16 on the host: the upper half of a float32. */

/** The bits of `values` rounded to bfloat16 (through float32): to nearest, ties to even; NaN becomes 0x7fff. */
export function toBfloat16(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint32Array(Float32Array.from(values).buffer);
  return Uint16Array.from(bits, (word) =>
    (word & 0x7fffffff) > 0x7f800000 ? 0x7fff : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16,
  );
}

/** The numbers that bfloat16 `bits` stand for; exact. */
export function fromBfloat16(bits: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer);
}
