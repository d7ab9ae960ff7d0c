import { describe, expect, it } from 'vitest';
import { batchNorm } from '../../src/ops/batch_norm.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';

const running = (D: number) => ({
  runningMean: { shape: [D], fixed: true },
  runningVar: { shape: [D], fixed: true, positive: true },
});
const affine = (D: number) => ({ weight: [D], bias: [D] });

opSuite<{ training: boolean }>('batchNorm', {
  run: ({ x, weight, bias, runningMean, runningVar }, { training }) =>
    batchNorm(x!, {
      runningMean: runningMean!,
      runningVar: runningVar!,
      ...(weight && { weight }),
      ...(bias && { bias }),
      training,
    }),
  golden: 'batch_norm',
  bfloat16: false, // batch statistics: float32 only
  cases: [true, false].flatMap((training) => [
    {
      name: `training ${training}, odd shape`,
      inputs: { x: [5, 3], ...affine(3), ...running(3) },
      options: { training },
    },
    { name: `training ${training}, plain`, inputs: { x: [4, 17], ...running(17) }, options: { training } },
    {
      name: `training ${training}, no rows`,
      inputs: { x: [0, 3], ...affine(3), ...running(3) },
      options: { training },
    },
    {
      name: `training ${training}, packs`,
      inputs: { x: { shape: [70, 40], fixed: true }, ...affine(40), ...running(40) },
      options: { training },
    },
    {
      name: `training ${training}, past one chunk`,
      inputs: { x: { shape: [700, 33], fixed: true }, ...affine(33), ...running(33) },
      options: { training },
    },
  ]),
  rejects: [
    {
      inputs: { x: [4], ...running(4) },
      options: { training: true },
      says: /batchNorm: expected x of shape \(B, D\) but received \(4\)/,
    },
    {
      inputs: { x: [4, 3], weight: [2], ...running(3) },
      options: { training: true },
      says: /batchNorm: expected weight of shape \(D=3\)/,
    },
    {
      inputs: { x: [4, 3], ...running(2) },
      options: { training: true },
      says: /batchNorm: expected runningMean of shape \(D=3\)/,
    },
    {
      inputs: { x: [4, 3], ...running(3) },
      float64: ['x'],
      options: { training: true },
      says: /batchNorm: expected runningMean to be float64 like x/,
    },
  ],
});

describe('batchNorm', () => {
  const call = (x: readonly number[], shape: readonly number[], training: boolean) => {
    const runningMean = tensor([1, 2]);
    const runningVar = tensor([3, 4]);
    const out = batchNorm(tensor(x, shape), { runningMean, runningVar, training, momentum: 0.5 });
    return { out, runningMean, runningVar };
  };

  it('moves the running statistics in training only', async () => {
    const training = call([1, 0, 3, 6], [2, 2], true);
    expect(Array.from((await training.runningMean.data()) as Float32Array)).toEqual([1.5, 2.5]);
    expect(Array.from((await training.runningVar.data()) as Float32Array)).toEqual([2.5, 11]); // unbiased 2, 18
    const evaluation = call([1, 0, 3, 6], [2, 2], false);
    expect(Array.from((await evaluation.runningMean.data()) as Float32Array)).toEqual([1, 2]);
    expect(Array.from((await evaluation.runningVar.data()) as Float32Array)).toEqual([3, 4]);
  });

  it('F26: a column that is not finite leaves its running statistics as they were', async () => {
    const { runningMean, runningVar } = call([1, Number.NaN, 3, 6], [2, 2], true);
    expect(Array.from((await runningMean.data()) as Float32Array)).toEqual([1.5, 2]);
    expect(Array.from((await runningVar.data()) as Float32Array)).toEqual([2.5, 4]);
  });

  it('takes a batch of one row', async () => {
    const { out, runningVar } = call([5, 7], [1, 2], true);
    expect(Array.from((await out.data()) as Float32Array)).toEqual([0, 0]);
    expect(Array.from((await runningVar.data()) as Float32Array)).toEqual([1.5, 2]);
  });
});
