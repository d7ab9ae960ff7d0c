import { describe, expect, it } from 'vitest';
import { type BenchLine, floorOf } from '../../src/cli/bench.js';
import { benchedOps, benchSizes, kernelCases } from '../../src/cli/kernel_cases.js';
import { captured, lastJson } from './captured.js';

const jsonLines = (text: string): unknown[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);

describe('galago bench', () => {
  it('prints a line per pass, then the result', async () => {
    const { exitCode, stdout } = await captured([
      'bench',
      'rmsNorm',
      '--case',
      '128',
      '--device',
      'cpu',
      '--size',
      'tiny',
      '--rounds',
      '1',
      '--json',
    ]);
    expect(exitCode).toBe(0);
    const lines = jsonLines(stdout) as BenchLine[];
    expect(lines.slice(0, -1).map(({ op, pass }) => `${op} ${pass}`)).toEqual(['rmsNorm forward', 'rmsNorm backward']);
    for (const line of lines.slice(0, -1)) {
      expect(line).toMatchObject({
        impl: 'galago',
        variant: 'portable',
        dtype: 'float32',
        floor_us: null,
        share: null,
      });
      expect(line.us_p10).toBeGreaterThan(0);
      expect(line.us_median).toBeGreaterThanOrEqual(line.us_p10);
      expect(line.peak_mb).toBeGreaterThan(0);
    }
    expect(lastJson(stdout)).toMatchObject({ verb: 'bench', lines: 2 });
  });

  it('runs every case of every op, and leaves no memory behind', async () => {
    const { addon } = await import('../../src/native.js');
    await captured(['bench', 'gelu', '--device', 'cpu', '--size', 'tiny', '--rounds', '1']);
    const before = addon.memory('cpu').live;
    const { exitCode, stdout, stderr } = await captured([
      'bench',
      '--device',
      'cpu',
      '--size',
      'tiny',
      '--rounds',
      '1',
    ]);
    expect(stderr).not.toMatch(/expected/);
    expect(exitCode).toBe(0);
    for (const op of benchedOps) expect(stdout).toContain(op);
    expect(addon.memory('cpu').live).toBe(before);
  });

  it('lists cases of a device that is not there', async () => {
    const { exitCode, stdout } = await captured(['bench', 'infoNce', '--device', 'cuda', '--list', '--json']);
    expect(exitCode).toBe(0);
    const [first] = jsonLines(stdout);
    expect(first).toMatchObject({
      op: 'infoNce',
      case: '2048x128',
      dtype: 'bfloat16',
      pass: 'forward',
      sizes: { rows: 2048, width: 128 },
      exps: 2048 ** 2,
    });
  });

  it.each([
    [['bench', 'crossAtention'], /nearest is crossAttention/],
    [['bench', '--size', 'huge'], /expected --size to be full, small, tiny but received huge/],
    [['bench', '--device', 'gpu'], /expected --device/],
    [['bench', '--device', 'cpu', '--dtype', 'bfloat16'], /no bfloat16/],
    [['bench', 'gelu', '--case', 'none such'], /no case contains none such/],
  ])('refuses %j', async (argv, message) => {
    const { exitCode, stderr } = await captured(argv);
    expect(exitCode).toBe(78);
    expect(stderr).toMatch(message);
  });
});

describe('floors on an H200', () => {
  // microseconds, counted by hand from shapes: bytes at 4.3 TB/s, products at 790 TFLOP/s, 3.6e12 exponentials per second
  it.each([
    ['crossAttention', 'qformer_32x257', 'forward', 847],
    ['crossAttention', 'qformer_32x257', 'backward', 1693],
    ['crossAttention', 'self_docs_115', 'forward', 56],
    ['crossAttention', 'joint_inner_261', 'backward', 3055],
    ['loraLinear', '131072x768x768_r16', 'forward', 204],
    ['loraLinear', '131072x768x768_r16', 'backward', 212],
    ['infoNce', '65536x256', 'forward', 2784],
    ['infoNce', '65536x256', 'backward', 8351],
    ['memoryBank', 'gather_1024x1000_w256', 'gather', 261],
    ['memoryBank', 'upsert_262144_w256', 'upsert', 67],
    ['linear', '8192x8192x8192', 'forward', 1392],
    ['linear', '131072x768x768', 'forward', 196],
    ['rmsNorm', '131072x768', 'forward', 94],
    ['rmsNorm', '131072x768', 'backward', 140],
    ['embeddingBag', '1048576_of_350k_w128', 'step', 209],
  ])('%s %s %s', (op, name, pass, expected) => {
    const one = kernelCases([op], 'full', 'bfloat16').find((candidate) => candidate.case === name)!;
    const floor = floorOf(one.passes[pass]!, one.dtype, 'NVIDIA H200')!;
    expect(Math.abs(floor / expected - 1)).toBeLessThan(0.03);
  });

  it('is unknown elsewhere', () => {
    expect(floorOf({ bytes: 1, flops: 1 }, 'float32', 'some processor')).toBeNull();
  });

  it('has every case at every size, float32 where an op knows nothing else', () => {
    for (const size of benchSizes)
      for (const { sizes, passes, dtype, op } of kernelCases([], size, 'bfloat16')) {
        expect(Object.values(sizes).every(Number.isSafeInteger)).toBe(true);
        expect(Object.values(passes).every(({ bytes }) => bytes > 0)).toBe(true);
        if (op === 'adamw') expect(dtype).toBe('float32');
      }
  });
});
