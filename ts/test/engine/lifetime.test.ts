import { describe, expect, it } from 'vitest';
import { ArgumentError, DisposedError } from '../../src/errors.js';
import { addon } from '../../src/native.js';
import { relu } from '../../src/ops/activation.js';
import { add } from '../../src/ops/elementwise.js';
import { reshape } from '../../src/ops/transpose.js';
import { assign, clone, device, full, Tensor, tensor } from '../../src/tensor.js';
import { keep, tidy } from '../../src/tidy.js';

async function memory(): Promise<{ live: number; tensors: number }> {
  await device().synchronize();
  const { live, tensors } = device().memory();
  return { live, tensors };
}

describe('tidy', () => {
  it('releases what it created, except what it returns in any shape, and what is kept', async () => {
    const before = await memory();
    const found: Record<string, Tensor> = {};
    const result = tidy(() => {
      found['lost'] = full([8], 1);
      found['kept'] = keep(full([8], 2));
      const deep = { list: [full([1], 3)], map: new Map([['a', full([1], 4)]]) };
      return { direct: full([1], 5), deep };
    });
    const all = [result.direct, result.deep.list[0]!, result.deep.map.get('a')!, found['kept']!];
    expect(found['lost']!.disposed).toBe(true);
    expect(await Promise.all(all.map(async (x) => (await x.data())[0]))).toEqual([5, 3, 4, 2]);
    for (const x of all) x.dispose();
    expect(await memory()).toEqual(before);
  });

  it('hands what it returns to the scope around it', async () => {
    const before = await memory();
    const value = await tidy(() => {
      const inner = tidy(() => relu(full([3], 1)));
      expect(inner.disposed).toBe(false);
      return add(inner, inner);
    }).data();
    expect(value).toEqual(Float32Array.of(2, 2, 2));
    expect((await memory()).tensors).toBe(before.tensors + 1);
  });

  it('finds tensors in a value that contains itself', async () => {
    const before = await memory();
    const loop: { x?: Tensor; self?: unknown } = {};
    tidy(() => {
      full([8], 1);
      loop.x = full([1], 2);
      loop.self = loop;
      return loop;
    });
    expect(loop.x?.disposed).toBe(false);
    loop.x?.dispose();
    expect(await memory()).toEqual(before);
  });

  it('releases everything when its function throws, and refuses a promise', async () => {
    const before = await memory();
    expect(() =>
      tidy(() => {
        full([100], 1);
        throw new Error('planned');
      }),
    ).toThrow('planned');
    expect(() =>
      tidy(async () => {
        full([100], 1);
        await Promise.resolve();
      }),
    ).toThrow(ArgumentError);
    expect(await memory()).toEqual(before);
  });
});

describe('F44: release', () => {
  it('works with using, and twice', async () => {
    const before = await memory();
    {
      using x = full([10], 1);
      expect(x.disposed).toBe(false);
    }
    const y = full([10], 1);
    y.dispose();
    y.dispose();
    expect(await memory()).toEqual(before);
  });

  it('while work is queued on the tensor lets the work finish', async () => {
    addon.testKernel('spin', 100);
    const x = full([1000], 3);
    const y = relu(x);
    x.dispose();
    expect((await y.data())[999]).toBe(3);
    const pending = y.data();
    y.dispose();
    expect((await pending)[0]).toBe(3);
  });

  it('makes every later use a DisposedError', async () => {
    const x = full([2], 1);
    const other = full([2], 1);
    x.dispose();
    expect(() => relu(x)).toThrow(/activation: x was released before this call/);
    expect(() => add(other, x)).toThrow(DisposedError);
    expect(() => reshape(x, [2, 1])).toThrow(DisposedError);
    expect(() => clone(x)).toThrow(DisposedError);
    expect(() => assign(x, new Float32Array(2))).toThrow(DisposedError);
    await expect(x.data()).rejects.toThrow(DisposedError);
    expect(x.toString()).toContain('released');
  });

  it('invalidates the number of a handle for good', () => {
    const x = full([2], 1);
    const { handle } = x;
    x.dispose();
    using y = full([2], 1); // likely in the same slot
    expect(y.handle).not.toBe(handle);
    expect(addon.release(handle)).toBe(false);
    for (const wrong of [handle, 0, -1, 1e300, 0.5, Number.NaN])
      expect(() => addon.alias(wrong, [2]), String(wrong)).toThrow(DisposedError);
  });

  it('F45: returns to the baseline after 10,000 tensors', async () => {
    const before = await memory();
    const reserved = [];
    for (let round = 0; round < 10; round++) {
      for (let i = 0; i < 1000; i++) tidy(() => void relu(full([1 + (i % 300)], 1)));
      expect(await memory()).toEqual(before);
      reserved.push(device().memory().reserved);
    }
    expect(reserved.at(-1)).toBe(reserved[4]); // the cache has stopped growing
  });
});

it('a shape is copied: the array of the caller may change', async () => {
  const shape = [2, 3];
  const x = full(shape, 1);
  shape[0] = 1000;
  expect(x.shape).toEqual([2, 3]);
  expect((await relu(x).data()).length).toBe(6);
  expect(Object.isFrozen(x.shape)).toBe(true);
});

describe('F44: host arrays', () => {
  it('are copied at the call: later changes do not reach the tensor', async () => {
    addon.testKernel('spin', 50);
    const host = Float32Array.of(1, 2, 3);
    const x = tensor(host);
    host.fill(9);
    expect(await x.data()).toEqual(Float32Array.of(1, 2, 3));
    structuredClone(host.buffer, { transfer: [host.buffer] }); // detaches the buffer
    expect(() => assign(x, host)).toThrow(/assign: expected 3 values/);
    expect(await x.data()).toEqual(Float32Array.of(1, 2, 3));
  });
});
