import { expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { bpr } from '../../src/losses/bpr.js';
import { type Tensor, tensor } from '../../src/tensor.js';

it('bpr: mean of -log sigmoid of the difference, also far out', async () => {
  const positive = tensor(Float64Array.from([1, -2, 100, -100]));
  const negative = tensor(Float64Array.from([0, 1, -100, 100]));
  positive.requiresGrad = negative.requiresGrad = true;
  const loss = bpr(positive, negative);
  backward(loss);
  expect(await loss.item()).toBeCloseTo((Math.log1p(Math.exp(-1)) + Math.log1p(Math.exp(3)) + 0 + 200) / 4, 12);
  const [dp, dn] = await Promise.all(
    [positive, negative].map(async (x) => Array.from((await (x.grad as Tensor).data()) as Float64Array)),
  );
  const slopes = [1, -3, 200, -200].map((x) => -1 / (1 + Math.exp(x)) / 4);
  slopes.forEach((slope, i) => {
    expect(dp![i]).toBeCloseTo(slope, 12);
    expect(dn![i]).toBeCloseTo(-slope, 12);
  });
});

it('bpr: no pairs is 0', async () => {
  expect(await bpr(tensor(new Float32Array(0)), tensor(new Float32Array(0))).item()).toBe(0);
});
