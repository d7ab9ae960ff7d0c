/** Typed arrays over shared memory: one copy for all threads. */

import { sharedInt32 } from '../text/token_store.js';

/** A float32 array of `length` zeros over shared memory. */
export function sharedFloat32(length: number): Float32Array {
  return new Float32Array(new SharedArrayBuffer(4 * length));
}

/** The same value with all its int32 and float64 arrays over shared memory; those that are there already and other values stay. */
export function shared<T>(value: T): T;
export function shared(value: unknown): unknown {
  if (ArrayBuffer.isView(value) && value.buffer instanceof SharedArrayBuffer) return value;
  if (value instanceof Int32Array) {
    const out = sharedInt32(value.length);
    out.set(value);
    return out;
  }
  if (value instanceof Float64Array) {
    const out = new Float64Array(new SharedArrayBuffer(value.byteLength));
    out.set(value);
    return out;
  }
  if (typeof value !== 'object' || value === null) return value;
  const done = new Map<unknown, unknown>(); // logs that parts share stay one
  return Object.fromEntries(
    Object.entries(value as Record<string, unknown>).map(([key, part]) => {
      if (!done.has(part)) done.set(part, shared(part));
      return [key, done.get(part)];
    }),
  );
}
