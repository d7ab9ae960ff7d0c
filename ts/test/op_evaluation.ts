/** How an op is run in tests: inputs placed on a device in a dtype, forward and backward, everything read and released. */
import { expect } from 'vitest';
import { backward, zeroGrad } from '../src/autograd.js';
import { fromBfloat16, toBfloat16 } from '../src/bfloat16.js';
import { normals, streamOf } from '../src/random.js';
import { type DeviceName, type HostArray, sizeOf, Tensor, tensor } from '../src/tensor.js';
import { keep, tidy } from '../src/tidy.js';

/** All tolerances. A looser one in a suite needs a comment that explains the rounding. */
export const tolerances = {
  finiteDifference: { step: 1e-6, absolute: 1e-5, relative: 1e-3 },
  /** Relative Frobenius error of CPU float32 against float64. */
  float32: 1e-5,
  /** CPU float64 against values that PyTorch computed in float64. */
  golden: 1e-9,
  /** Relative Frobenius error of float32 on another device against CPU float32. */
  device: 1e-5,
  /** bfloat16 against float32 on one device, from inputs that bfloat16 holds: Frobenius error, and the largest error by the largest value. */
  bfloat16: { out: { frobenius: 5e-3, largest: 2 * 2 ** -8 }, gradient: { frobenius: 1e-2, largest: 4 * 2 ** -8 } },
};

/** A shape: random normal values, differentiable. Or given values; `ints` are int32 and have no gradient; `fixed` has no gradient. */
export type Input =
  | readonly number[]
  | { readonly values: readonly number[]; readonly shape?: readonly number[]; readonly fixed?: boolean }
  | { readonly shape: readonly number[]; readonly fixed?: boolean; readonly positive?: boolean }
  | { readonly ints: readonly number[]; readonly shape?: readonly number[] }
  | { readonly bytes: readonly number[]; readonly shape: readonly number[] };

export type Tensors = Record<string, Tensor>;

export interface Host {
  readonly values: Float64Array | Int32Array | Uint8Array;
  readonly shape: readonly number[];
  readonly differentiable: boolean;
}

function isShape(input: Input): input is readonly number[] {
  return Array.isArray(input);
}

export function hostOf(name: string, input: Input, seed: number): Host {
  if (isShape(input))
    return { values: normals(sizeOf(input), seed, streamOf(name)), shape: input, differentiable: true };
  if ('ints' in input)
    return { values: Int32Array.from(input.ints), shape: input.shape ?? [input.ints.length], differentiable: false };
  if ('bytes' in input) return { values: Uint8Array.from(input.bytes), shape: input.shape, differentiable: false };
  if ('values' in input)
    return {
      values: Float64Array.from(input.values),
      shape: input.shape ?? [input.values.length],
      differentiable: !input.fixed,
    };
  const values = normals(sizeOf(input.shape), seed, streamOf(name));
  return {
    values: input.positive ? values.map((x) => Math.abs(x) + 0.1) : values,
    shape: input.shape,
    differentiable: !input.fixed,
  };
}

/** Where and in what an op runs. With bfloat16 the inputs named in `wide` are float32. */
export interface Run {
  readonly device: DeviceName;
  readonly dtype: 'float32' | 'float64' | 'bfloat16';
  readonly wide?: readonly string[];
}

export function place(host: Host, { device, dtype }: Run): Tensor {
  if (!(host.values instanceof Float64Array)) return tensor(host.values, host.shape, { device });
  const x = tensor(Array.from(host.values), host.shape, { device, dtype });
  x.requiresGrad = host.differentiable;
  return x;
}

export type Hosts = Readonly<Record<string, Host>>;

function placeAll(hosts: Hosts, run: Run): Tensors {
  return Object.fromEntries(
    Object.entries(hosts).map(([name, host]) => {
      const wide = run.dtype === 'bfloat16' && run.wide?.includes(name);
      return [name, place(host, wide ? { ...run, dtype: 'float32' } : run)];
    }),
  );
}

/** The hosts with floating values that `dtype` holds exactly. */
export function roundedTo(dtype: 'float32' | 'bfloat16', hosts: Hosts): Hosts {
  return Object.fromEntries(
    Object.entries(hosts).map(([name, host]) => [
      name,
      host.values instanceof Float64Array ? { ...host, values: roundTo(dtype, host.values) } : host,
    ]),
  );
}

export function roundTo(dtype: 'float32' | 'bfloat16', values: Float64Array): Float64Array {
  return Float64Array.from(dtype === 'float32' ? Float32Array.from(values) : fromBfloat16(toBfloat16(values)));
}

/** Reads a gradient as a dense host array; zeros where there is none. */
export async function denseGrad(x: Tensor): Promise<Float64Array> {
  const dense = new Float64Array(x.size);
  if (x.grad === null) return dense;
  if (x.grad instanceof Tensor) return Float64Array.from((await x.grad.values()) as Float64Array);
  const width = x.size / x.shape[0]!;
  for (const { indices, values, source, weights } of x.grad.pieces) {
    const rows = (await indices.data()) as Int32Array;
    const data = (await values.values()) as Float64Array;
    const from = source === null ? null : ((await source.data()) as Int32Array);
    const factors = weights === null ? null : ((await weights.values()) as Float64Array);
    rows.forEach((row, i) => {
      if (row < 0 || (from?.[i] ?? 0) < 0) return;
      for (let d = 0; d < width; d++)
        dense[row * width + d] = dense[row * width + d]! + (factors?.[i] ?? 1) * data[(from?.[i] ?? i) * width + d]!;
    });
  }
  return dense;
}

export interface Outcome {
  readonly out: Float64Array;
  readonly raw: HostArray;
  readonly grads: Record<string, Float64Array>;
}

/** What `op` gives for these inputs, and with `dout` its gradients. Nothing stays on the device. */
export async function evaluate(
  op: (tensors: Tensors) => Tensor,
  hosts: Hosts,
  run: Run,
  dout: Float64Array | null,
): Promise<Outcome> {
  const leaves: Tensors = {};
  const out = tidy(() => {
    const tensors = placeAll(hosts, run);
    for (const [name, x] of Object.entries(tensors)) leaves[name] = keep(x);
    const y = op(tensors);
    if (dout !== null && y.requiresGrad)
      backward(y, tensor(Array.from(dout), y.shape, { device: y.device, dtype: y.dtype }));
    return y;
  });
  const raw = await out.data();
  const values = await out.values();
  const grads: Record<string, Float64Array> = {};
  for (const [name, x] of Object.entries(leaves)) if (x.requiresGrad) grads[name] = await denseGrad(x);
  zeroGrad(Object.values(leaves));
  for (const x of Object.values(leaves)) x.dispose();
  out.dispose();
  return { out: Float64Array.from(values as Float64Array), raw, grads };
}

function frobenius(a: Float64Array): number {
  let sum = 0;
  for (const x of a) sum += x * x;
  return Math.sqrt(sum);
}

/** Expects |a - b| <= tolerance * |b| in the Frobenius norm; NaN never passes. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  expect(actual.length, `${what}: length`).toBe(expected.length);
  const a = Float64Array.from(actual);
  const b = Float64Array.from(expected);
  const difference = frobenius(a.map((x, i) => (Object.is(x, b[i]) || x === b[i] ? 0 : x - b[i]!)));
  const limit = tolerance * frobenius(b.map((x) => (Number.isFinite(x) ? x : 0))) + 1e-12;
  expect(difference <= limit, `${what}: relative error ${difference / (frobenius(b) || 1)} above ${tolerance}`).toBe(
    true,
  );
}

/** Expects |a - b| <= tolerance * max |b| everywhere. */
export function expectNear(a: Float64Array, b: Float64Array, tolerance: number, what: string): void {
  let [largest, difference] = [0, 0];
  b.forEach((x, i) => {
    if (x === a[i] || (Number.isNaN(x) && Number.isNaN(a[i]))) return;
    const error = Math.abs(x - a[i]!);
    difference = error <= difference ? difference : error; // NaN replaces
  });
  for (const x of b) if (Number.isFinite(x)) largest = Math.max(largest, Math.abs(x));
  expect(
    difference <= tolerance * largest + 1e-12,
    `${what}: error ${difference} above ${tolerance} of the largest value ${largest}`,
  ).toBe(true);
}

/** Expects the same bits in out and in every gradient. */
export function expectSameBits(actual: Outcome, expected: Outcome, what: string): void {
  expect(Buffer.from(actual.raw.buffer).equals(Buffer.from(expected.raw.buffer)), `equal bits, ${what}: out`).toBe(
    true,
  );
  for (const [key, grad] of Object.entries(expected.grads))
    expect(actual.grads[key], `equal bits, ${what}: d${key}`).toEqual(grad);
}
