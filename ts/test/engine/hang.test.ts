import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileEngine, type Engine } from './child.js';

let engine: Engine;
beforeAll(() => {
  engine = compileEngine();
});
afterAll(() => engine.remove());

const told = `
  const { addon, device, full } = await load();
  const tell = (wait) => wait.then(() => 'well', ({ name, code, exitCode, fields }) => [name, code, exitCode, fields.queued].join(' '));`;

describe('a device on which nothing ends', () => {
  it('F33: a kernel that never ends rejects what waits for it, and later waits at once', async () => {
    const ended = await engine.run(
      `${told}
      addon.testKernel('spin', 60000);
      console.log((await Promise.all([full([4], 1).data(), device().synchronize()].map(tell))).join());
      const start = performance.now();
      console.log(await tell(device().synchronize()), performance.now() - start < 100);
      process.exit(75);`,
      { GALAGO_HANG_SECONDS: '0.4' },
    );
    expect(ended.stderr).toBe('');
    const lost = 'DeviceLostError DEVICE_LOST 75 3';
    expect(ended.stdout).toBe(`${lost},${lost}\n${lost} true`);
    expect(ended.code).toBe(75);
  });

  it('F33: work that is long but moves on, and a wait of less than the limit, end well', async () => {
    const ended = await engine.run(
      `${told}
      for (let i = 0; i < 12; i++) addon.testKernel('spin', 200);
      console.log(await tell(device().synchronize()));
      addon.testKernel('spin', 300);
      console.log(await tell(device().synchronize()));`,
      { GALAGO_HANG_SECONDS: '1.6' },
    );
    expect(ended).toMatchObject({ code: 0, stdout: 'well\nwell', stderr: '' });
  });

  it('F33: waits end well again once the kernel has ended after all', async () => {
    const ended = await engine.run(
      `${told}
      addon.testKernel('spin', 1500);
      console.log(await tell(device().synchronize()));
      await sleep(2500);
      console.log(await tell(device().synchronize()));`,
      { GALAGO_HANG_SECONDS: '0.4' },
    );
    expect(ended).toMatchObject({ code: 0, stdout: 'DeviceLostError DEVICE_LOST 75 1\nwell', stderr: '' });
  });

  it.each(['-1', 'two', 'Infinity'])('GALAGO_HANG_SECONDS %j is a ConfigError at load', async (value) => {
    const script = `await load().catch(({ name, exitCode, message }) => console.log(name, exitCode, message));`;
    expect((await engine.run(script, { GALAGO_HANG_SECONDS: value })).stdout).toBe(
      `ConfigError 78 GALAGO_HANG_SECONDS: expected seconds, 0 for no limit, but received '${value}'`,
    );
  });
});
