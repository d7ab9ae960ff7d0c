import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, parameter, zeroGrad } from '../../src/autograd.js';
import {
  DeviceUnavailableError,
  DtypeError,
  IndexError,
  OutOfMemoryError,
  QueueFullError,
  ShapeError,
} from '../../src/errors.js';
import { addon, native } from '../../src/native.js';
import { relu, sigmoid } from '../../src/ops/activation.js';
import { bceWithLogits } from '../../src/ops/bce_with_logits.js';
import { add, mul } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { type DeviceName, device, empty, full, Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { compileEngine, type Engine } from './child.js';

describe('what a caller can get wrong', () => {
  it('is thrown before anything is queued', async () => {
    addon.testKernel('spin', 200);
    const [x, y, n] = [full([3], 1), full([4], 1), tensor([1, 2, 3], [3], { dtype: 'int32' })];
    const queued = device().queued();
    expect(() => bceWithLogits(x, y)).toThrow(ShapeError);
    expect(() => add(x, y)).toThrow(ShapeError);
    expect(() => relu(n)).toThrow(DtypeError);
    expect(() => bceWithLogits(x, n)).toThrow(DtypeError);
    expect(() => device('cuda' as DeviceName)).toThrow(DeviceUnavailableError);
    expect(() => full([1.5], 1)).toThrow(ShapeError);
    expect(() => full([2 ** 27, 2 ** 27], 1)).toThrow(/empty: expected a product of dimensions below 2\^53/);
    expect(() => full([2 ** 50, 2 ** 50, 0], 1)).toThrow(ShapeError); // empty, but its rows overflow
    expect(() => full([Number.NaN], 1)).toThrow(ShapeError);
    expect(() => addon.create([2 ** 27, 2 ** 27], 0, 'cpu')).toThrow(ShapeError);
    expect(() => addon.create([1], 9, 'cpu')).toThrow(DtypeError);
    expect(() => addon.alias(x.handle, [2])).toThrow(ShapeError);
    expect(device().queued()).toBeLessThanOrEqual(queued);
    await device().synchronize();
  });
});

describe('F22: an index out of range', () => {
  it('rejects one wait, and the device works on', async () => {
    const before = full([2], 5);
    device().setStep(11);
    addon.testKernel('index', 0);
    const error = await device()
      .synchronize()
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(IndexError);
    expect((error as IndexError).fields).toMatchObject({
      op: 'test_kernel',
      argument: 'index',
      position: 3,
      value: 7,
      bound: 5,
    });
    expect(await relu(before).data()).toEqual(Float32Array.of(5, 5));
  });
});

describe('a full queue', () => {
  it('refuses calls until someone awaits', async () => {
    const x = full([1], 0);
    await device().synchronize();
    addon.testKernel('spin', 4000);
    const flood = () => {
      for (let i = 0; i < 200_000; i++) native.affine(x.handle, x.handle, 1, 1);
    };
    expect(flood).toThrow(QueueFullError);
    expect(flood).toThrow(/131072 calls are queued; await device.synchronize\(\)/);
    expect(() => relu(x)).toThrow(QueueFullError);
    await device().synchronize();
    expect(device().queued()).toBe(0);
    expect(await x.item()).toBeGreaterThan(131_000);
  });
});

describe('F29: out of memory', () => {
  /** One training step on a parameter of 4 values: forward, backward, an update in place. */
  const step = (weights: Tensor): Tensor =>
    tidy(() => {
      const loss = sum(sigmoid(mul(weights, full([4], 2))));
      backward(loss);
      native.add_same(weights.handle, (weights.grad as Tensor).handle, weights.handle);
      zeroGrad([weights]);
      return loss;
    });

  it('at any request rejects one wait, leaves the parameters as they were, leaks nothing and ends', async () => {
    await device().synchronize();
    const live = device().memory().live;
    const weights = parameter(tensor(Float32Array.of(1, -2, 3, 0)));
    const before = await weights.data();
    let failures = 0;
    for (let k = 1; ; k++) {
      addon.testFailAllocation(k, 'cpu');
      using loss = step(weights);
      const outcome = await loss.item().catch((reason: unknown) => reason);
      addon.testFailAllocation(0, 'cpu');
      if (typeof outcome === 'number') break;
      expect(outcome).toBeInstanceOf(OutOfMemoryError);
      expect(outcome).toMatchObject({ code: 'HOST_MEMORY', message: expect.stringMatching(/requested 64 bytes/) });
      const { kernel, requested, reserved, peak } = (outcome as OutOfMemoryError).fields;
      expect(kernel).toBeTruthy();
      expect(requested).toBe(64);
      expect(reserved).toBeGreaterThanOrEqual(live);
      expect(peak).toBeGreaterThanOrEqual(live);
      failures++;
      expect(await weights.data()).toEqual(before); // the device works, the step has not happened
    }
    expect(failures).toBeGreaterThan(5);
    expect(await weights.data()).not.toEqual(before);
    weights.dispose();
    await device().synchronize();
    expect(device().memory().live).toBe(live);
  });

  it('never shows values that were not computed, nor what follows from them', async () => {
    const x = full([4], 1);
    await device().synchronize();
    addon.testFailAllocation(1, 'cpu');
    const failed = relu(x);
    const skipped = sigmoid(x);
    await expect(device().synchronize()).rejects.toBeInstanceOf(OutOfMemoryError);
    await device().synchronize();
    await expect(failed.data()).rejects.toBeInstanceOf(OutOfMemoryError);
    await expect(skipped.data()).rejects.toBeInstanceOf(OutOfMemoryError);
    const follows = add(skipped, x);
    await device().synchronize();
    await expect(follows.data()).rejects.toBeInstanceOf(OutOfMemoryError);
    native.fill(skipped.handle, 2);
    expect(await add(skipped, x).data()).toEqual(Float32Array.of(3, 3, 3, 3));
  });

  it('on the way to the host says what was asked for and queues nothing', async () => {
    const huge = empty([2 ** 46]);
    native.fill(huge.handle, 1);
    const error = await huge.data().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect((error as OutOfMemoryError).fields).toMatchObject({ kernel: 'fill', requested: 2 ** 48 });
    huge.dispose();
    await device().synchronize();
  });

  it('names a tensor too large for the machine and works on', async () => {
    const huge = empty([1 << 22, 1 << 22, 16]);
    native.fill(huge.handle, 1);
    await expect(device().synchronize()).rejects.toThrow(/cpu: out of memory: requested \d+ bytes, live \d+/);
    huge.dispose();
    expect(await full([1], 3).item()).toBe(3);
  });
});

describe('F31: a lost device', () => {
  let engine: Engine;
  beforeAll(() => {
    engine = compileEngine();
  });
  afterAll(() => engine.remove());

  it('rejects every later wait alike, naming kernel and step, and takes later calls without harm', async () => {
    const ended = await engine.run(`
      const { addon, device, full, relu, DeviceLostError } = await load();
      const x = full([2], 1);
      device().setStep(7);
      addon.testKernel('fail', 0);
      const caught = (error) => error;
      const seen = [await device().synchronize().catch(caught)];
      device().setStep(8);
      for (let i = 0; i < 1000; i++) relu(x);
      seen.push(await x.data().catch(caught), await relu(x).item().catch(caught), await device().synchronize().catch(caught));
      console.log(JSON.stringify(seen.map((e) => [e instanceof DeviceLostError || e.code, e.fields?.kernel, e.fields?.step])));
      console.log(seen[0].message);`);
    const [seen, message] = ended.stdout.split('\n');
    const lost = [true, 'test_kernel', 7];
    expect(JSON.parse(seen ?? '')).toEqual([lost, lost, ['SHAPE', null, null], lost]);
    expect(message).toMatch(
      /planned failure \(kernel test_kernel at step 7\); this device accepts no more work in this process/,
    );
    expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' });
  });
});
