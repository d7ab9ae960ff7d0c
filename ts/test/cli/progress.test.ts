import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Progress, progressLine, progressText } from '../../src/cli/progress.js';
import { sink } from './captured.js';

const state: Progress = {
  epoch: 1,
  epochs: 3,
  step: 400,
  steps: 1200,
  loss: 0.55123,
  samplesPerSecond: 48_210,
  dataWait: 0.021,
  valid: { metric: 'AUC', value: 0.77119 },
};

describe('progressText', () => {
  it('has the documented form, and leaves out what is not known', () => {
    expect(progressText(state)).toBe(
      'epoch 1/3  step 400/1200  loss 0.5512  48.2k samples/s  wait 2%  valid AUC 0.7712',
    );
    expect(progressText({ ...state, loss: null, samplesPerSecond: null, dataWait: null, valid: null })).toBe(
      'epoch 1/3  step 400/1200',
    );
    expect(progressText({ ...state, loss: Number.NaN })).toContain('loss NaN');
    const bank = { hitRate: 0.956, age: 31.04, saved: null, cosine: null };
    expect(progressText({ ...state, bank })).toMatch(/ {2}bank hit 96% {2}age 31.0$/);
    expect(progressText({ ...state, bank: { ...bank, saved: 0.734, cosine: 0.9454 } })).toMatch(
      / {2}saved 73% {2}cosine 0.945$/,
    );
  });
});

describe('progressLine', () => {
  beforeEach(() => vi.useFakeTimers());
  afterEach(() => vi.useRealTimers());

  it('writes a line at every interval where there is no terminal, and the last one', async () => {
    const { stream, text } = sink();
    const line = progressLine(stream, 10_000);
    line.update({ ...state, step: 1 });
    for (let step = 2; step < 50; step++) line.update({ ...state, step });
    await vi.advanceTimersByTimeAsync(25_000);
    const during = text()
      .split('\n')
      .filter((part) => part !== '');
    expect(during.length).toBeLessThanOrEqual(4);
    expect(during.at(-1)).toContain('step 49/1200');
    line.note('resumed');
    line.update({ ...state, step: 1200 });
    line.stop();
    await vi.advanceTimersByTimeAsync(0);
    expect(text()).toContain('resumed\n');
    expect(text().trimEnd().split('\n').at(-1)).toContain('step 1200/1200');
    expect(vi.getTimerCount()).toBe(0);
  });

  it('says what goes on beside the last state, and alone where there is none', async () => {
    const { stream, text } = sink();
    const line = progressLine(stream, 10_000);
    line.doing('encoding', 0, 2000);
    line.update(state);
    line.doing('scoring', 4096, 14_400);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(text()).toContain('encoding 0/2,000');
    expect(text().trimEnd().split('\n').at(-1)).toMatch(/valid AUC 0\.7712 {2}scoring 4,096\/14,400$/);
    line.doing('scoring', 14_400, 14_400);
    line.stop();
    expect(text().trimEnd().split('\n').at(-1)).toMatch(/valid AUC 0\.7712$/);
  });

  it('stops without having started', () => {
    const { stream, text } = sink();
    progressLine(stream).stop();
    expect(text()).toBe('');
  });
});
