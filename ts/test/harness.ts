/**
 * One case list through the whole ladder: finite differences and poisoned memory in float64, float32 against float64, equal bits for
 * two runs and for one thread, values saved from PyTorch, every rejection, and no bytes left behind.
 */
import { existsSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../src/autograd.js';
import { addon } from '../src/native.js';
import { normals, streamOf } from '../src/random.js';
import { type DType, type HostArray, sizeOf, Tensor, tensor } from '../src/tensor.js';
import { keep, tidy } from '../src/tidy.js';

/** All tolerances. A looser one in a suite needs a comment that explains the rounding. */
export const tolerances = {
  finiteDifference: { step: 1e-6, absolute: 1e-5, relative: 1e-3 },
  /** Relative Frobenius error of CPU float32 against float64. */
  float32: 1e-5,
  /** CPU float64 against values that PyTorch computed in float64. */
  golden: 1e-9,
};

/** A shape: random normal values, differentiable. Or given values; `ints` are int32 and have no gradient; `fixed` has no gradient. */
export type Input =
  | readonly number[]
  | { readonly values: readonly number[]; readonly shape?: readonly number[]; readonly fixed?: boolean }
  | { readonly shape: readonly number[]; readonly fixed?: boolean; readonly positive?: boolean }
  | { readonly ints: readonly number[]; readonly shape?: readonly number[] }
  | { readonly bytes: readonly number[]; readonly shape: readonly number[] };

export type Tensors = Record<string, Tensor>;

export interface OpCase<Options> {
  readonly name?: string;
  readonly inputs: Record<string, Input>;
  readonly options?: Options;
  /** Skips finite differences where the function has a corner at these values. */
  readonly noFiniteDifferences?: boolean;
}

export interface OpReject<Options> {
  readonly name?: string;
  readonly inputs: Record<string, Input>;
  /** float64 instead of float32 for these arguments: a mix is refused. */
  readonly float64?: readonly string[];
  readonly options?: Options;
  readonly says: RegExp;
}

export interface OpSuite<Options> {
  readonly run: (tensors: Tensors, options: Options) => Tensor;
  readonly cases: readonly OpCase<Options>[];
  readonly rejects?: readonly OpReject<Options>[];
  /** Stem of ts/test/golden/<stem>.json, written by <stem>.py beside it. Default: none. */
  readonly golden?: string;
  /** Larger than the table's float32 tolerance, with the reason in a comment beside it. */
  readonly float32Tolerance?: number;
  readonly differentiable?: boolean;
}

interface Host {
  readonly values: Float64Array | Int32Array | Uint8Array;
  readonly shape: readonly number[];
  readonly differentiable: boolean;
}

function isShape(input: Input): input is readonly number[] {
  return Array.isArray(input);
}

function hostOf(name: string, input: Input, seed: number): Host {
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

function place(host: Host, dtype: 'float32' | 'float64'): Tensor {
  if (!(host.values instanceof Float64Array)) return tensor(host.values, host.shape);
  const x = dtype === 'float64' ? tensor(host.values, host.shape) : tensor(Float32Array.from(host.values), host.shape);
  x.requiresGrad = host.differentiable;
  return x;
}

type Hosts = Record<string, Host>;

function placeAll(hosts: Hosts, dtype: 'float32' | 'float64'): Tensors {
  return Object.fromEntries(Object.entries(hosts).map(([name, host]) => [name, place(host, dtype)]));
}

/** Reads a gradient as a dense host array; zeros where there is none. */
export async function denseGrad(x: Tensor): Promise<Float64Array> {
  const dense = new Float64Array(x.size);
  if (x.grad === null) return dense;
  if (x.grad instanceof Tensor) return Float64Array.from((await x.grad.data()) as Float64Array);
  const width = x.size / x.shape[0]!;
  for (const { indices, values, source, weights } of x.grad.pieces) {
    const rows = (await indices.data()) as Int32Array;
    const data = (await values.data()) as Float64Array;
    const from = source === null ? null : ((await source.data()) as Int32Array);
    const factors = weights === null ? null : ((await weights.data()) as Float64Array);
    rows.forEach((row, i) => {
      if (row < 0 || (from?.[i] ?? 0) < 0) return;
      for (let d = 0; d < width; d++)
        dense[row * width + d] = dense[row * width + d]! + (factors?.[i] ?? 1) * data[(from?.[i] ?? i) * width + d]!;
    });
  }
  return dense;
}

interface Outcome {
  readonly out: Float64Array;
  readonly raw: HostArray;
  readonly grads: Record<string, Float64Array>;
}

async function evaluate<O>(
  suite: OpSuite<O>,
  hosts: Hosts,
  options: O,
  dtype: 'float32' | 'float64',
  dout: Float64Array | null,
): Promise<Outcome> {
  const leaves: Tensors = {};
  const out = tidy(() => {
    const tensors = placeAll(hosts, dtype);
    for (const [name, x] of Object.entries(tensors)) leaves[name] = keep(x);
    const y = suite.run(tensors, options);
    if (dout !== null && y.requiresGrad) {
      const cotangent = dtype === 'float64' ? tensor(dout, y.shape) : tensor(Float32Array.from(dout), y.shape);
      backward(y, cotangent);
    }
    return y;
  });
  const raw = await out.data();
  const grads: Record<string, Float64Array> = {};
  for (const [name, x] of Object.entries(leaves)) if (x.requiresGrad) grads[name] = await denseGrad(x);
  zeroGrad(Object.values(leaves));
  for (const x of Object.values(leaves)) x.dispose();
  out.dispose();
  return { out: Float64Array.from(raw as Float64Array), raw, grads };
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

async function checkFiniteDifferences<O>(
  suite: OpSuite<O>,
  hosts: Hosts,
  options: O,
  dout: Float64Array,
  grads: Outcome['grads'],
): Promise<void> {
  const { step, absolute, relative } = tolerances.finiteDifference;
  const losses = async (name: string, i: number, sign: number): Promise<number> => {
    const host = hosts[name]!;
    const values = Float64Array.from(host.values);
    values[i] = values[i]! + sign * step;
    const { out } = await evaluate(
      suite,
      { ...hosts, [name]: { ...host, values, differentiable: false } },
      options,
      'float64',
      null,
    );
    return out.reduce((sum, x, k) => sum + x * dout[k]!, 0);
  };
  for (const [name, grad] of Object.entries(grads)) {
    const numeric = await Promise.all(
      Array.from(grad, async (_, i) => {
        const [above, below] = await Promise.all([losses(name, i, 1), losses(name, i, -1)]);
        return (above - below) / (2 * step);
      }),
    );
    numeric.forEach((expected, i) => {
      const error = Math.abs(grad[i]! - expected);
      expect(
        error <= absolute + relative * Math.abs(expected),
        `d${name}[${i}]: backward says ${grad[i]}, finite differences ${expected}`,
      ).toBe(true);
    });
  }
}

interface Golden {
  readonly cases: readonly {
    readonly name: string;
    readonly inputs: Record<
      string,
      { shape: number[]; values?: number[]; ints?: number[]; bytes?: number[]; fixed?: boolean }
    >;
    readonly options: unknown;
    readonly dout: number[];
    readonly out: number[];
    readonly grads: Record<string, number[]>;
  }[];
}

/** Runs every rung for every case. See `OpSuite`. */
export function opSuite<O = Record<string, never>>(name: string, suite: OpSuite<O>): void {
  describe(name, () => {
    beforeAll(() => addon.testPoison(true));
    afterAll(() => addon.testPoison(false));

    suite.cases.forEach((opCase, index) => {
      const title = opCase.name ?? JSON.stringify(opCase.inputs).slice(0, 80);
      const options = (opCase.options ?? {}) as O;
      it(`${title}`, { timeout: 60_000 }, async () => {
        const hosts = Object.fromEntries(
          Object.entries(opCase.inputs).map(([key, input]) => [key, hostOf(key, input, index + 1)]),
        );
        await addon.synchronize('cpu');
        const before = addon.memory('cpu').live;
        const probe = await evaluate(suite, hosts, options, 'float64', null);
        const dout = normals(probe.out.length, index + 1, streamOf('dout'));

        const exact = await evaluate(suite, hosts, options, 'float64', dout);
        expect(exact.out.some(Number.isNaN), 'out has NaN').toBe(false);
        for (const [key, grad] of Object.entries(exact.grads))
          expect(grad.every(Number.isFinite), `d${key} is finite`).toBe(true);
        if (suite.differentiable !== false && !opCase.noFiniteDifferences)
          await checkFiniteDifferences(suite, hosts, options, dout, exact.grads);

        const single = await evaluate(suite, hosts, options, 'float32', dout);
        const tolerance = suite.float32Tolerance ?? tolerances.float32;
        // Both start from inputs rounded to float32, so the rounding of the inputs does not count against the kernel.
        const rounded = Object.fromEntries(
          Object.entries(hosts).map(([key, host]) => [
            key,
            host.values instanceof Float64Array
              ? { ...host, values: Float64Array.from(Float32Array.from(host.values)) }
              : host,
          ]),
        );
        const reference = await evaluate(
          suite,
          rounded,
          options,
          'float64',
          Float64Array.from(Float32Array.from(dout)),
        );
        expectClose(single.out, reference.out, tolerance, 'float32 out');
        for (const [key, grad] of Object.entries(reference.grads))
          expectClose(single.grads[key]!, grad, tolerance, `float32 d${key}`);

        const again = await evaluate(suite, hosts, options, 'float32', dout);
        const { threads } = addon.info();
        addon.setThreads(1);
        const oneThread = await evaluate(suite, hosts, options, 'float32', dout).finally(() =>
          addon.setThreads(threads),
        );
        for (const other of [again, oneThread]) {
          expect(Buffer.from(other.raw.buffer).equals(Buffer.from(single.raw.buffer)), 'equal bits: out').toBe(true);
          for (const key of Object.keys(single.grads))
            expect(other.grads[key], `equal bits: d${key}`).toEqual(single.grads[key]);
        }
        await addon.synchronize('cpu');
        expect(addon.memory('cpu').live, 'live bytes').toBe(before);
      });
    });

    if (suite.golden !== undefined) {
      const file = new URL(`./golden/${suite.golden}.json`, import.meta.url);
      it('equals the values saved from PyTorch', async () => {
        expect(existsSync(file), `golden/${suite.golden}.json, written by golden/${suite.golden}.py`).toBe(true);
        const golden = JSON.parse(readFileSync(file, 'utf8')) as Golden;
        expect(golden.cases.length).toBeGreaterThan(0);
        for (const saved of golden.cases) {
          const hosts = Object.fromEntries(
            Object.entries(saved.inputs).map(([key, { shape, values, ints, bytes, fixed }]): [string, Host] => {
              if (ints) return [key, { values: Int32Array.from(ints), shape, differentiable: false }];
              if (bytes) return [key, { values: Uint8Array.from(bytes), shape, differentiable: false }];
              return [key, { values: Float64Array.from(values ?? []), shape, differentiable: !fixed }];
            }),
          );
          const { out, grads } = await evaluate(
            suite,
            hosts,
            saved.options as O,
            'float64',
            Float64Array.from(saved.dout),
          );
          expectClose(out, saved.out, tolerances.golden, `${saved.name}: out`);
          for (const [key, grad] of Object.entries(saved.grads))
            expectClose(grads[key]!, grad, tolerances.golden, `${saved.name}: d${key}`);
        }
      });
    }

    suite.rejects?.forEach((reject) => {
      it(`refuses ${reject.name ?? String(reject.says)}`, () => {
        tidy(() => {
          const tensors = Object.fromEntries(
            Object.entries(reject.inputs).map(([key, input]) => {
              const dtype: DType = reject.float64?.includes(key) ? 'float64' : 'float32';
              return [key, place(hostOf(key, input, 1), dtype)];
            }),
          );
          expect(() => suite.run(tensors, (reject.options ?? {}) as O)).toThrow(reject.says);
        });
      });
    });
  });
}
