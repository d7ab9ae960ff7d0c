import { expect, it } from 'vitest';
import { addon } from '../../src/native.js';
import { add } from '../../src/ops/elementwise.js';
import { device, full } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';

const cpu = device('cpu');

it('counts calls and time per kernel while asked to, from zero each time', async () => {
  const x = full([64], 1);
  const run = (calls: number) => {
    for (let i = 0; i < calls; i++) tidy(() => void add(x, x));
    return cpu.synchronize();
  };
  cpu.setProfile(true);
  await run(3);
  addon.testKernel('spin', 5);
  await cpu.synchronize();
  const first = cpu.profile();
  expect(first['binary']?.calls).toBe(3);
  expect(first['test_kernel']?.seconds).toBeGreaterThanOrEqual(0.005);
  expect(first['test_kernel']?.cpuSeconds).toBeGreaterThan(0);

  cpu.setProfile(false);
  await run(2);
  expect(cpu.profile()['binary']?.calls).toBe(3);
  cpu.setProfile(true);
  expect(cpu.profile()).toEqual({});
  cpu.setProfile(false);
});
