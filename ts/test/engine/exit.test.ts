import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileEngine, type Engine } from './child.js';

let engine: Engine;
beforeAll(() => {
  engine = compileEngine();
});
afterAll(() => engine.remove());

/** Far below the 60 s that the kernel of these scripts would take, far above the start of a process on a busy machine. */
const promptly = 20_000;

describe('F41: the end of a process', () => {
  it('process.exit ends it while a kernel runs and a wait is pending', async () => {
    const ended = await engine.run(`
      const { addon, full } = await load();
      addon.testKernel('spin', 60000);
      full([4], 1).data().then(() => console.log('never'));
      setTimeout(() => process.exit(3), 50);`);
    expect(ended).toMatchObject({ code: 3, signal: null, stdout: '' });
    expect(ended.milliseconds).toBeLessThan(promptly);
  });

  it('a finished script ends by itself: idle threads hold nothing', async () => {
    const ended = await engine.run(`
      const { full, relu, sum } = await load();
      console.log(await sum(relu(full([100000], 1))).item());`);
    expect(ended).toMatchObject({ code: 0, signal: null, stdout: '100000', stderr: '' });
  });

  it('a script that awaits nothing ends while its work still runs', async () => {
    const ended = await engine.run(`
      const { addon, full, relu } = await load();
      addon.testKernel('spin', 60000);
      for (let i = 0; i < 100; i++) relu(full([1000], 1));`);
    expect(ended).toMatchObject({ code: 0, signal: null });
    expect(ended.milliseconds).toBeLessThan(promptly);
  });

  it('a pending wait keeps it alive until the answer came', async () => {
    const ended = await engine.run(`
      const { addon, full } = await load();
      addon.testKernel('spin', 300);
      full([2], 7).data().then((values) => console.log(String(values)));`);
    expect(ended).toMatchObject({ code: 0, signal: null, stdout: '7,7' });
  });

  it('an uncaught error ends it with code 1 while a kernel runs', async () => {
    const ended = await engine.run(`
      const { addon, full } = await load();
      addon.testKernel('spin', 60000);
      full([4], 1).data();
      throw new Error('planned');`);
    expect(ended.code).toBe(1);
    expect(ended.stderr).toContain('planned');
    expect(ended.milliseconds).toBeLessThan(promptly);
  });
});
