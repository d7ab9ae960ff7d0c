import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { dropout } from '../../src/ops/dropout.js';
import { philox, randomScope } from '../../src/random.js';
import { full, type Tensor } from '../../src/tensor.js';
import { denseGrad, opSuite } from '../harness.js';

const seed = 2 ** 40 + 12345;
const scoped = <T>(step: number, run: () => T): T => randomScope({ seed, step }, run);

opSuite<{ p: number }>('dropout', {
  run: ({ x }, options) => scoped(3, () => dropout(x!, options)),
  cases: [
    { name: 'odd shape', inputs: { x: [3, 17] }, options: { p: 0.5 } },
    { name: 'one element', inputs: { x: [1] }, options: { p: 0.1 } },
    { name: 'empty', inputs: { x: [0, 3] }, options: { p: 0.1 } },
    { name: 'nearly all dropped', inputs: { x: { shape: [500], fixed: true } }, options: { p: 0.999999 } },
    { name: 'past one chunk', inputs: { x: { shape: [16385 + 129], fixed: true } }, options: { p: 0.3 } },
  ],
  rejects: [
    { inputs: { x: [2] }, options: { p: 1 }, says: /dropout: expected p to be in \[0, 1\) but received 1/ },
    { inputs: { x: [2] }, options: { p: -0.1 }, says: /dropout: expected p to be in \[0, 1\)/ },
    { inputs: { x: [2] }, options: { p: Number.NaN }, says: /dropout: expected p to be in \[0, 1\) but received NaN/ },
    { inputs: { x: { ints: [1] } }, options: { p: 0.5 }, says: /dropout: expected x to be float32 or float64/ },
  ],
});

describe('dropout', () => {
  const ones = (n: number): Tensor => full([n], 1);
  const values = async (x: Tensor): Promise<Float32Array> => (await x.data()) as Float32Array;

  it('drops the elements that Philox names', async () => {
    const out = scoped(7, () => {
      dropout(ones(1), { p: 0.5 }); // call 0
      return dropout(ones(1000), { p: 0.25 });
    });
    const expected = Array.from({ length: 1000 }, (_, i) => {
      const words = philox([i >>> 3, 0, 1, 7], [seed >>> 0, Math.floor(seed / 2 ** 32)]);
      const word = words[(i % 8) >>> 1]!;
      return (i % 2 === 0 ? word & 0xffff : word >>> 16) < 49152 ? Math.fround(1 / 0.75) : 0;
    });
    expect(Array.from(await values(out))).toEqual(expected);
  });

  it('keeps the share and the mean', async () => {
    const out = await values(scoped(1, () => dropout(ones(200_000), { p: 0.3 })));
    const kept = out.filter((x) => x !== 0).length / out.length;
    expect(Math.abs(kept - 0.7)).toBeLessThan(0.005);
    expect(Math.abs(out.reduce((sum, x) => sum + x, 0) / out.length - 1)).toBeLessThan(0.008);
  });

  it('has the same mask in backward, another one per call and per step', async () => {
    const x = ones(64);
    x.requiresGrad = true;
    const [first, second] = scoped(1, () => [dropout(x, { p: 0.5 }), dropout(x, { p: 0.5 })]);
    const next = scoped(2, () => dropout(x, { p: 0.5 }));
    const mask = await values(first!);
    backward(first!, ones(64));
    expect(await denseGrad(x)).toEqual(Float64Array.from(mask));
    expect(await values(second!)).not.toEqual(mask);
    expect(await values(next)).not.toEqual(mask);
  });

  it('returns its input when p is 0, and later masks do not change', async () => {
    const x = ones(64);
    expect(dropout(x, { p: 0 })).toBe(x);
    const after = (p: number): Tensor =>
      scoped(1, () => {
        dropout(x, { p });
        return dropout(x, { p: 0.5 });
      });
    expect(await values(after(0))).toEqual(await values(after(0.2)));
  });
});
