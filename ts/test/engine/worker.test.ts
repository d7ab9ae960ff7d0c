import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileEngine, type Engine } from './child.js';

let engine: Engine;
beforeAll(() => {
  engine = compileEngine();
});
afterAll(() => engine.remove());

/** A worker that adds up `n` numbers and reports; with a `pause` it leaves a kernel running and a wait pending behind it. */
const worker = `
  const compute = async (n) => {
    const { full, relu, sum } = await load();
    return await sum(relu(full([n], 1))).item();
  };
  if (!isMainThread) {
    const { n, pause } = workerData;
    if (pause !== undefined) {
      const { addon, full, relu } = await load();
      addon.testKernel('spin', pause);
      for (let i = 0; i < 50; i++) relu(full([n], 1));
      void full([n], 1).data();
    }
    parentPort.postMessage(await compute(n));
  }
  const start = (data) => new Worker(self, { workerData: data });
  const answer = (w) => new Promise((done, fail) => { w.once('message', done); w.once('error', fail); });
`;

describe('F42: worker threads', () => {
  it('load the addon after the main thread, and eight at once', async () => {
    const ended = await engine.run(`${worker}
      if (isMainThread) {
        const first = await compute(1000);
        const sums = await Promise.all(Array.from({ length: 8 }, (_, i) => answer(start({ n: 10000 + i }))));
        console.log(first, ...sums, await compute(1001));
      }`);
    expect(ended.stdout).toBe('1000 10000 10001 10002 10003 10004 10005 10006 10007 1001');
    expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' });
  });

  it('load the addon where the main thread never does, one after the other', async () => {
    const ended = await engine.run(`${worker}
      if (isMainThread) {
        for (const n of [5, 6, 7]) {
          const w = start({ n });
          console.log(await answer(w));
          await w.terminate();
        }
      }`);
    expect(ended).toMatchObject({ code: 0, signal: null, stdout: '5\n6\n7', stderr: '' });
  });

  it('end at once when terminated in a kernel; the device goes on for others', async () => {
    const ended = await engine.run(`${worker}
      if (isMainThread) {
        const w = start({ n: 1000, pause: 1500 });
        await new Promise((done) => w.once('online', done));
        await sleep(300);
        await w.terminate();
        console.log(await compute(123));
      }`);
    expect(ended).toMatchObject({ code: 0, signal: null, stdout: '123', stderr: '' });
  });

  it('survive fifty terminations at any moment', async () => {
    const ended = await engine.run(`${worker}
      if (isMainThread) {
        for (let i = 0; i < 50; i += 5) {
          await Promise.all(Array.from({ length: 5 }, async (_, k) => {
            const w = start({ n: 1000, pause: 2 });
            w.on('error', (error) => { console.log(error); process.exitCode = 1; });
            await sleep(((i + k) * 37) % 120); // before, while and after it loads and computes
            await w.terminate();
          }));
        }
        console.log(await compute(77));
      }`);
    expect(ended, ended.stderr).toMatchObject({ code: 0, signal: null, stdout: '77' });
  });
});
