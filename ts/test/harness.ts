/**
 * One case list through the whole ladder. On the CPU: finite differences and poisoned memory in float64, float32 against float64, equal
 * bits for two runs and for one thread, values saved from PyTorch, every rejection, and no bytes left behind. On other devices see
 * device_rungs.ts.
 */
import { existsSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../src/native.js';
import { normals, streamOf } from '../src/random.js';
import type { Tensor } from '../src/tensor.js';
import { tidy } from '../src/tidy.js';
import { checkOnDevice } from './device_rungs.js';
import {
  evaluate,
  expectClose,
  expectSameBits,
  type Host,
  type Hosts,
  hostOf,
  type Input,
  type Outcome,
  place,
  type Run,
  roundedTo,
  roundTo,
  type Tensors,
  tolerances,
} from './op_evaluation.js';
import { testDevices } from './test_devices.js';

export { denseGrad, expectClose, type Input, type Tensors, tolerances } from './op_evaluation.js';

/** Milliseconds for one case: sanitizers and a busy machine slow the emulator by large factors. */
const patience = process.env['GALAGO_BUILD'] === 'build-sanitize' ? 900_000 : 180_000;

const exactly: Run = { device: 'cpu', dtype: 'float64' };

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
  /** Larger than the table's tolerance of float32 on another device, with the reason in a comment beside it. Default: `float32Tolerance`. */
  readonly deviceTolerance?: number;
  /** `false` where the op computes in float32 only: with the reason in a comment beside it. Default: devices that have bfloat16 run it. */
  readonly bfloat16?: false;
  /** Larger than the table's Frobenius tolerances of bfloat16, with the reason in a comment beside it. The largest error may grow alike. */
  readonly bfloat16Tolerance?: { readonly out: number; readonly gradient: number };
  /** Inputs that stay float32 beside bfloat16 (`wide` in the contract). */
  readonly wide?: readonly string[];
}

async function checkFiniteDifferences(
  op: (tensors: Tensors) => Tensor,
  hosts: Hosts,
  dout: Float64Array,
  grads: Outcome['grads'],
): Promise<void> {
  const { step, absolute, relative } = tolerances.finiteDifference;
  const losses = async (name: string, i: number, sign: number): Promise<number> => {
    const host = hosts[name]!;
    const values = Float64Array.from(host.values);
    values[i] = values[i]! + sign * step;
    const { out } = await evaluate(op, { ...hosts, [name]: { ...host, values, differentiable: false } }, exactly, null);
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

/** Every rung on the CPU for one case. */
async function checkOnCpu<O>(
  suite: OpSuite<O>,
  op: (tensors: Tensors) => Tensor,
  hosts: Hosts,
  dout: Float64Array,
  finiteDifferences: boolean,
): Promise<void> {
  await addon.synchronize('cpu');
  const before = addon.memory('cpu').live;
  const exact = await evaluate(op, hosts, exactly, dout);
  expect(exact.out.some(Number.isNaN), 'out has NaN').toBe(false);
  for (const [key, grad] of Object.entries(exact.grads))
    expect(grad.every(Number.isFinite), `d${key} is finite`).toBe(true);
  if (finiteDifferences) await checkFiniteDifferences(op, hosts, dout, exact.grads);

  const float32: Run = { device: 'cpu', dtype: 'float32' };
  const single = await evaluate(op, hosts, float32, dout);
  const tolerance = suite.float32Tolerance ?? tolerances.float32;
  // Both start from inputs rounded to float32, so the rounding of the inputs does not count against the kernel.
  const reference = await evaluate(op, roundedTo('float32', hosts), exactly, roundTo('float32', dout));
  expectClose(single.out, reference.out, tolerance, 'float32 out');
  for (const [key, grad] of Object.entries(reference.grads))
    expectClose(single.grads[key]!, grad, tolerance, `float32 d${key}`);

  expectSameBits(await evaluate(op, hosts, float32, dout), single, 'second run');
  const { threads } = addon.info();
  addon.setThreads(1);
  const oneThread = await evaluate(op, hosts, float32, dout).finally(() => addon.setThreads(threads));
  expectSameBits(oneThread, single, 'one thread');
  await addon.synchronize('cpu');
  expect(addon.memory('cpu').live, 'live bytes').toBe(before);
}

/** Runs every rung for every case. See `OpSuite`. */
export function opSuite<O = Record<string, never>>(name: string, suite: OpSuite<O>): void {
  describe(name, () => {
    beforeAll(() => addon.testPoison(true));
    afterAll(() => addon.testPoison(false));

    suite.cases.forEach((opCase, index) => {
      const title = opCase.name ?? JSON.stringify(opCase.inputs).slice(0, 80);
      const op = (tensors: Tensors): Tensor => suite.run(tensors, (opCase.options ?? {}) as O);
      const hosts = Object.fromEntries(
        Object.entries(opCase.inputs).map(([key, input]) => [key, hostOf(key, input, index + 1)]),
      );
      const dout = async (): Promise<Float64Array> => {
        const { out } = await evaluate(op, hosts, exactly, null);
        return normals(out.length, index + 1, streamOf('dout'));
      };
      for (const device of testDevices)
        it(device === 'cpu' ? title : `${title}, on ${device}`, { timeout: patience }, async () => {
          const finiteDifferences = suite.differentiable !== false && !opCase.noFiniteDifferences;
          if (device === 'cpu') await checkOnCpu(suite, op, hosts, await dout(), finiteDifferences);
          else await checkOnDevice(device, { ...suite, op }, hosts, await dout());
        });
    });

    if (!testDevices.includes('cpu')) return;
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
          const op = (tensors: Tensors): Tensor => suite.run(tensors, saved.options as O);
          const { out, grads } = await evaluate(op, hosts, exactly, Float64Array.from(saved.dout));
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
              const dtype = reject.float64?.includes(key) ? 'float64' : 'float32';
              return [key, place(hostOf(key, input, 1), { device: 'cpu', dtype })];
            }),
          );
          expect(() => suite.run(tensors, (reject.options ?? {}) as O)).toThrow(reject.says);
        });
      });
    });
  });
}
