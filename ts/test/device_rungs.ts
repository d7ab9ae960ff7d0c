/** The rungs of the ladder on other devices than the CPU. */
import { expect } from 'vitest';
import { addon } from '../src/native.js';
import { type DeviceName, device, type Tensor } from '../src/tensor.js';
import {
  evaluate,
  expectClose,
  expectNear,
  expectSameBits,
  type Hosts,
  type Outcome,
  type Run,
  roundedTo,
  roundTo,
  type Tensors,
  tolerances,
} from './op_evaluation.js';

/** What a suite says about other devices; see `OpSuite`. */
export interface DeviceRung {
  readonly op: (tensors: Tensors) => Tensor;
  readonly float32Tolerance?: number;
  readonly deviceTolerance?: number;
  readonly bfloat16?: false;
  readonly bfloat16Tolerance?: { readonly out: number; readonly gradient: number };
  readonly wide?: readonly string[];
}

/**
 * One case on one device: float32 near CPU float32; the same bits in a second run and with grids of one and of three blocks; no bytes left
 * behind; bfloat16 near float32. Memory is poisoned throughout.
 */
export async function checkOnDevice(
  name: DeviceName,
  rung: DeviceRung,
  hosts: Hosts,
  dout: Float64Array,
): Promise<void> {
  const control = device(name);
  addon.testPoison(true); // also for devices opened since
  await control.synchronize();
  const { live } = control.memory();
  const on = (dtype: Run['dtype']): Run => ({ device: name, dtype, ...(rung.wide && { wide: rung.wide }) });

  const cpu = await evaluate(rung.op, hosts, { device: 'cpu', dtype: 'float32' }, dout);
  const single = await evaluate(rung.op, hosts, on('float32'), dout);
  compare(single, cpu, `${name} float32`, (actual, expected, what) => {
    expectClose(actual, expected, rung.deviceTolerance ?? rung.float32Tolerance ?? tolerances.device, what);
  });
  await checkBits(rung, hosts, on('float32'), dout, single);

  if (rung.bfloat16 !== false) {
    const [rounded, cotangent] = [roundedTo('bfloat16', hosts), roundTo('bfloat16', dout)];
    const reference = await evaluate(rung.op, rounded, on('float32'), cotangent);
    const half = await evaluate(rung.op, rounded, on('bfloat16'), cotangent);
    compare(half, reference, `${name} bfloat16`, (actual, expected, what, kind) => {
      const limits = tolerances.bfloat16[kind];
      expectClose(actual, expected, rung.bfloat16Tolerance?.[kind] ?? limits.frobenius, what);
      const looser = Math.max(1, (rung.bfloat16Tolerance?.[kind] ?? 0) / limits.frobenius);
      expectNear(actual, expected, looser * limits.largest, what);
    });
    await checkBits(rung, rounded, on('bfloat16'), cotangent, half);
  }
  await control.synchronize();
  expect(control.memory().live, `${name}: live bytes`).toBe(live);
}

function compare(
  actual: Outcome,
  expected: Outcome,
  where: string,
  check: (actual: Float64Array, expected: Float64Array, what: string, kind: 'out' | 'gradient') => void,
): void {
  check(actual.out, expected.out, `${where} out`, 'out');
  for (const [key, grad] of Object.entries(expected.grads))
    check(actual.grads[key]!, grad, `${where} d${key}`, 'gradient');
}

/** A second run, runs with fewer blocks than the launches ask for, and in the emulator with threads, warps and blocks in other orders. */
async function checkBits(rung: DeviceRung, hosts: Hosts, run: Run, dout: Float64Array, first: Outcome): Promise<void> {
  for (const blocks of [0, 1, 3]) {
    addon.testGridLimit(blocks);
    const again = await evaluate(rung.op, hosts, run, dout).finally(() => addon.testGridLimit(0));
    expectSameBits(again, first, `${run.device} ${run.dtype}, ${blocks === 0 ? 'second run' : `grid of ${blocks}`}`);
  }
  if (run.device !== 'cuda-emu') return;
  const before = process.env['GALAGO_EMU_ORDER'];
  for (const order of ['backward', 'shuffled']) {
    process.env['GALAGO_EMU_ORDER'] = order; // the emulator reads it before every launch
    const again = await evaluate(rung.op, hosts, run, dout).finally(() => {
      if (before === undefined) delete process.env['GALAGO_EMU_ORDER'];
      else process.env['GALAGO_EMU_ORDER'] = before;
    });
    expectSameBits(again, first, `${run.device} ${run.dtype}, ${order} order`);
  }
}
