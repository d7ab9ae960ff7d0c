import { describe, expect, it } from 'vitest';
import { dice } from '../../src/ops/dice.js';
import { tensor } from '../../src/tensor.js';
import { opSuite } from '../harness.js';

const running = (D: number) => ({
  runningMean: { shape: [D], fixed: true },
  runningVar: { shape: [D], fixed: true, positive: true },
});

opSuite<{ training: boolean }>('dice', {
  run: ({ x, alpha, runningMean, runningVar }, { training }) =>
    dice(x!, alpha!, { runningMean: runningMean!, runningVar: runningVar!, training }),
  golden: 'dice',
  bfloat16: false, // batch statistics: float32 only
  cases: [true, false].flatMap((training) => [
    {
      name: `training ${training}, odd shape`,
      inputs: { x: [5, 3], alpha: [3], ...running(3) },
      options: { training },
    },
    {
      name: `training ${training}, past the lanes`,
      inputs: { x: [3, 17], alpha: [17], ...running(17) },
      options: { training },
    },
    { name: `training ${training}, no rows`, inputs: { x: [0, 3], alpha: [3], ...running(3) }, options: { training } },
    {
      name: `training ${training}, past one chunk`,
      inputs: { x: { shape: [700, 33], fixed: true }, alpha: [33], ...running(33) },
      options: { training },
    },
  ]),
  rejects: [
    {
      inputs: { x: [4, 3], alpha: [1], ...running(3) },
      options: { training: true },
      says: /dice: expected alpha of shape \(D=3\) but received \(1\)/,
    },
    {
      inputs: { x: [4, 3], alpha: [3], ...running(2) },
      options: { training: true },
      says: /dice: expected runningMean of shape \(D=3\)/,
    },
    {
      inputs: { x: [2, 4, 3], alpha: [3], ...running(3) },
      options: { training: true },
      says: /dice: expected x of shape \(B, D\)/,
    },
  ],
});

describe('dice', () => {
  it('moves the running statistics in training', async () => {
    const runningMean = tensor([0]);
    const runningVar = tensor([1]);
    dice(tensor([1, 3], [2, 1]), tensor([0]), { runningMean, runningVar, training: true, momentum: 0.25 });
    expect(await runningMean.item()).toBe(0.5);
    expect(await runningVar.item()).toBe(1.25);
  });
});
