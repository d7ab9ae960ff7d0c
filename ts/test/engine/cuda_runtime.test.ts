import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, parameter, zeroGrad } from '../../src/autograd.js';
import { DeviceUnavailableError, DtypeError, IndexError, OutOfMemoryError } from '../../src/errors.js';
import { addon, moduleFile, native, probeModule } from '../../src/native.js';
import { relu, sigmoid } from '../../src/ops/activation.js';
import { add, mul } from '../../src/ops/elementwise.js';
import { embedding } from '../../src/ops/embedding.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { type DeviceName, device, empty, full, Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { compileEngine, type Engine } from './child.js';

const emu = { device: 'cuda-emu' } as const;
const caught = (promise: Promise<unknown>): Promise<unknown> => promise.catch((reason: unknown) => reason);

// The module is built by `npm run build:emu`, as part of `npm test`.
describe.skipIf(moduleFile('cuda-emu') === null)('the CUDA runtime layer, emulated', () => {
  const control = device('cuda-emu');

  describe('copies', () => {
    it('go through a ring of pinned memory that is smaller than what is under way', async () => {
      const size = 3_000_001; // pieces of different lengths; 120 MB in all, the ring has 32
      const tensors = Array.from({ length: 10 }, (_, k) =>
        tensor(
          Float32Array.from({ length: size }, (__, i) => (i % 1009) + k),
          [size],
          emu,
        ),
      );
      for (const [k, x] of tensors.entries()) {
        const values = (await x.data()) as Float32Array;
        expect(values.findIndex((value, i) => value !== (i % 1009) + k)).toBe(-1);
        x.dispose();
      }
    });

    it('wait for each other where they are more than pinned memory may hold', async () => {
      const size = 3_900_000; // 16 MB of pinned memory each, 64 may be taken
      const tensors = Array.from({ length: 6 }, (_, k) => full([size], k, emu));
      const all = await Promise.all(tensors.map((x) => x.data()));
      for (const [k, values] of all.entries()) {
        expect(values).toHaveLength(size);
        expect([values[0], values[size >> 1], values[size - 1]]).toEqual([k, k, k]);
      }
      for (const x of tensors) x.dispose();
    });

    it('bring back what was there when the read was asked for', async () => {
      using x = full([1000], 1, emu);
      const before = x.data();
      native.fill(x.handle, 2);
      const after = x.data();
      expect((await before).every((value) => value === 1)).toBe(true);
      expect((await after).every((value) => value === 2)).toBe(true);
    });
  });

  describe('F22: an index out of range', () => {
    it('rejects one wait with op, argument, position, value and bound; the device works on', async () => {
      using table = full([5, 2], 1, emu);
      using rows = tensor(Int32Array.of(0, 4, 7, 1), [4], emu);
      using out = embedding(table, rows);
      const error = await caught(out.data());
      expect(error).toBeInstanceOf(IndexError);
      expect((error as IndexError).fields).toMatchObject({ argument: 'indices', position: 2, value: 7, bound: 5 });
      expect(await out.data()).toEqual(Float32Array.of(1, 1, 1, 1, 0, 0, 1, 1));
    });
  });

  describe('a tensor on another device', () => {
    it('is refused before anything is queued', () => {
      using a = full([2], 1);
      using b = full([2], 1, emu);
      expect(() => add(a, b)).toThrow(DtypeError);
      expect(() => add(a, b)).toThrow(/`b` on cpu like the arguments before it, received cuda-emu|on cpu/);
    });
  });

  describe('F29: out of memory', () => {
    const step = (weights: Tensor): Tensor =>
      tidy(() => {
        const loss = sum(sigmoid(mul(weights, full([4], 2, emu))));
        backward(loss);
        native.add_same(weights.handle, (weights.grad as Tensor).handle, weights.handle);
        zeroGrad([weights]);
        return loss;
      });

    it('at any request rejects one wait, leaves the parameters as they were and leaks nothing', async () => {
      await control.synchronize();
      const live = control.memory().live;
      const weights = parameter(tensor(Float32Array.of(1, -2, 3, 0), [4], emu));
      const before = await weights.data();
      let failures = 0;
      for (let k = 1; ; k++) {
        addon.testFailAllocation(k, 'cuda-emu');
        using loss = step(weights);
        const outcome = await caught(loss.item());
        addon.testFailAllocation(0, 'cuda-emu');
        if (typeof outcome === 'number') break;
        expect(outcome).toBeInstanceOf(OutOfMemoryError);
        expect(outcome).toMatchObject({
          code: 'DEVICE_MEMORY',
          message: expect.stringMatching(/^cuda-emu: out of memory/),
        });
        failures++;
        expect(await weights.data()).toEqual(before);
      }
      expect(failures).toBeGreaterThan(5);
      weights.dispose();
      await control.synchronize();
      expect(control.memory().live).toBe(live);
    });
  });

  describe('F29: out of memory beside other work', () => {
    it('is reported by a wait that comes after it, not swallowed by a read that lands meanwhile', async () => {
      using a = full([256, 256], 1, emu);
      using product = matmul(a, a);
      while (control.queued() > 0) await sleep(1);
      await sleep(50); // taken from the queue and launched; the emulator computes when it is waited for
      const landing = product.data();
      addon.testFailAllocation(1, 'cuda-emu');
      using failed = relu(a);
      expect((await landing)[0]).toBe(256);
      await expect(control.synchronize()).rejects.toThrow(OutOfMemoryError);
      await expect(failed.data()).rejects.toThrow(OutOfMemoryError);
      await control.synchronize();
    });

    it('leaves an update of AdamW undone as a whole: the count of steps too', async () => {
      const make = (value: number): Tensor => full([5], value, emu);
      const [param, grad, m, v] = [make(1), make(2), make(0), make(0)];
      using step = tensor(Int32Array.of(3), [], { ...emu, dtype: 'int32' });
      using clip = tensor(Float64Array.of(1), [], { ...emu, dtype: 'float64' });
      const list = (x: Tensor): Float64Array => Float64Array.of(x.handle);
      let failures = 0;
      for (let k = 1; ; k++) {
        await control.synchronize();
        addon.testFailAllocation(k, 'cuda-emu');
        native.adamw(list(param), list(grad), list(m), list(v), list(step), clip.handle, 0.1, 0, 0.9, 0.999, 1e-8);
        const outcome = await caught(control.synchronize());
        addon.testFailAllocation(0, 'cuda-emu');
        if (outcome === undefined) break;
        expect(outcome).toBeInstanceOf(OutOfMemoryError);
        failures++;
        expect([...(await step.data())]).toEqual([3]);
        expect((await param.data())[0]).toBe(1);
      }
      expect(failures).toBe(3);
      expect([...(await step.data())]).toEqual([4]);
      for (const x of [param, grad, m, v]) x.dispose();
    });
  });

  describe('in a process of its own', () => {
    let engine: Engine;
    beforeAll(() => {
      engine = compileEngine();
    });
    afterAll(() => engine.remove());

    it('a kernel that writes behind its tensor is found by the guard band when the memory is freed', async () => {
      const ended = await engine.run(
        `
        const { addon, native, full, empty, device } = await load();
        device('cuda-emu');
        addon.testPoison(true);
        const [x, out] = [full([20], 1, { device: 'cuda-emu' }), full([5], 1, { device: 'cuda-emu' })];
        native.copy(x.handle, out.handle); // 20 values into a tensor of 5
        out.dispose();
        const error = await device('cuda-emu').synchronize().catch((reason) => reason);
        console.log(error.code, error.message);
        process.exit(0);
        `,
      );
      expect(ended).toMatchObject({ code: 0 });
      expect(ended.stdout).toMatch(/DEVICE_LOST cuda-emu: a kernel wrote byte \d+ of a tensor of 20 bytes/);
    });

    it('F29: really no memory left names what is held; a smaller batch then works', async () => {
      const ended = await engine.run(
        `
        const { full, device, relu } = await load();
        const emu = { device: 'cuda-emu' };
        const held = [full([1 << 20], 1, emu), full([2 << 20], 2, emu)];
        const batch = full([64 << 20], 1, emu);
        const error = await batch.data().catch((reason) => reason);
        console.log(JSON.stringify({ code: error.code, ...error.fields }));
        batch.dispose();
        const small = relu(full([1 << 20], 3, emu));
        console.log((await small.data())[5], (await held[1].data())[0]);
        process.exit(0);
        `,
        { GALAGO_EMU_MEMORY: String(64 << 20) },
      );
      expect(ended).toMatchObject({ code: 0, stderr: '' });
      const [fields, values] = ended.stdout.trim().split('\n');
      const { code, requested, free, total, live, largest } = JSON.parse(fields ?? '') as Record<string, unknown>;
      expect({ code, requested, total }).toEqual({ code: 'DEVICE_MEMORY', requested: 256 << 20, total: 64 << 20 });
      expect(live).toBeGreaterThanOrEqual(12 << 20);
      expect(free).toBeLessThan(64 << 20);
      expect(largest).toEqual([8 << 20, 4 << 20]);
      expect(values).toBe('3 2');
    });

    it.each([
      [700, 'cudaErrorIllegalAddress'],
      [716, 'cudaErrorMisalignedAddress'],
      [719, 'cudaErrorLaunchFailure'],
    ])(
      'F31: CUDA error %i in a launch poisons the device: every wait rejects alike, nothing crashes',
      async (code, name) => {
        const ended = await engine.run(
          `
        const { full, device, relu } = await load();
        const x = full([4], 1, { device: 'cuda-emu' });
        const errors = [];
        for (let i = 0; i < 20 && errors.length < 3; i++) {
          device('cuda-emu').setStep(i);
          await relu(x).data().catch((error) => errors.push(error));
        }
        await device('cuda-emu').synchronize().catch((error) => errors.push(error));
        for (const error of errors) console.log(error.constructor.name, error.exitCode, error.fields.kernel, error.message);
        process.exit(0);
        `,
          { GALAGO_EMU_FAIL_CALL: `40:${code}` },
        );
        expect(ended).toMatchObject({ code: 0, stderr: '' });
        const lines = ended.stdout.trim().split('\n');
        expect(lines).toHaveLength(4);
        expect(new Set(lines).size).toBe(1);
        expect(lines[0]).toMatch(/^DeviceLostError 75 \w+ cuda-emu: /);
        expect(lines[0]).toContain(name);
      },
    );

    it('F34: a build without code for the device says so when the device is opened', async () => {
      const ended = await engine.run(
        `
        const { full, DeviceUnavailableError } = await load();
        try { full([4], 1, { device: 'cuda-emu' }); } catch (error) { console.log(error.constructor.name, error.message); }
        process.exit(0);
        `,
        { GALAGO_EMU_FAIL_CALL: '7:209' },
      );
      expect(ended).toMatchObject({ code: 0, stderr: '' });
      expect(ended.stdout).toMatch(/^DeviceUnavailableError cuda-emu: cuda-emu cannot be used: .*no kernel image/);
    });

    it('F41: the end of the process while kernels are launched is an ordinary one', async () => {
      const ended = await engine.run(
        `
        const { full, relu } = await load();
        const x = full([1000], 1, { device: 'cuda-emu' });
        for (let i = 0; i < 50_000; i++) relu(x).dispose();
        void x.data().then(() => console.log('never'));
        setTimeout(() => process.exit(3), 20);
        `,
      );
      expect(ended).toMatchObject({ code: 3, signal: null, stdout: '', stderr: '' });
    });

    it('a kernel that never ends holds up neither the event loop nor the exit', async () => {
      const ended = await engine.run(
        `
        const { full } = await load();
        const x = full([4], 1, { device: 'cuda-emu' });
        void x.data().then(() => console.log('landed'));
        await sleep(200);
        console.log('alive');
        process.exit(0);
        `,
        { GALAGO_EMU_HANG_LAUNCH: '1' },
      );
      expect(ended).toMatchObject({ code: 0, stdout: 'alive' });
    });
  });
});

describe('F34: CUDA that cannot be used', () => {
  it('says what is missing and what to do, on opening', () => {
    if (moduleFile('cuda') === null) {
      expect(() => probeModule('cuda')).toThrow(/cuda: this installation has no galago_cuda\.so\. .*build:cuda/);
      expect(() => empty([1], { device: 'cuda' })).toThrow(DeviceUnavailableError);
      return;
    }
    const { problem, advice, devices } = probeModule('cuda');
    if (problem === null) {
      expect(devices.length).toBeGreaterThan(0);
      expect(() => device(`cuda:${devices.length}`)).toThrow(/this machine has \d+ devices?, counted from 0/);
      return;
    }
    expect(advice).toMatch(/install|CUDA_VISIBLE_DEVICES|nvidia-smi|supported/);
    expect(() => empty([1], { device: 'cuda' })).toThrow(DeviceUnavailableError);
    expect(() => empty([1], { device: 'cuda:1' })).toThrow(problem);
  });

  it('names the devices there are when it is none', () => {
    for (const name of ['cuda:', 'cuda:-1', 'cuda:x', 'gpu', 'cuda:1234'])
      expect(() => empty([1], { device: name as DeviceName })).toThrow(/expected cpu, cuda or cuda:0/);
  });

  it('leaves the CPU as it was', async () => {
    expect(await relu(full([2], -1)).data()).toEqual(Float32Array.of(0, 0));
  });
});
