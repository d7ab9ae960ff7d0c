import { monitorEventLoopDelay } from 'node:perf_hooks';
import { describe, expect, it } from 'vitest';
import { addon } from '../../src/native.js';
import { relu } from '../../src/ops/activation.js';
import { sum } from '../../src/ops/reduce.js';
import { device, full } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';

const busy = 1000; // milliseconds

describe('F40: the event loop', () => {
  it('is not where ops compute: calls return while the device is busy', async () => {
    addon.testKernel('spin', busy);
    const start = performance.now();
    const total = tidy(() => {
      let x = full([4_000_000], 1);
      for (let i = 0; i < 20; i++) x = relu(x);
      return sum(x);
    });
    expect(performance.now() - start).toBeLessThan(busy / 2);
    expect(device().queued()).toBeGreaterThan(0);
    expect(await total.item()).toBe(4_000_000);
    expect(performance.now() - start).toBeGreaterThan(busy);
  });

  it('keeps turning while kernels run', async () => {
    const delay = monitorEventLoopDelay({ resolution: 5 });
    delay.enable();
    addon.testKernel('spin', busy);
    await tidy(() => sum(relu(full([4_000_000], 1)))).item();
    delay.disable();
    expect(delay.max / 1e6).toBeLessThan(busy / 2);
    expect(delay.count).toBeGreaterThan(busy / 100);
  });
});
