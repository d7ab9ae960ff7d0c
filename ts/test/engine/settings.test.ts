import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileEngine, type Engine } from './child.js';

let engine: Engine;
beforeAll(() => {
  engine = compileEngine();
});
afterAll(() => engine.remove());

const script = `
  try {
    const { addon } = await load();
    console.log(addon.info().threads, addon.info().isa);
  } catch (error) {
    console.log(error.name, error.code, error.exitCode, error.message);
  }`;

describe('GALAGO_NUM_THREADS', () => {
  it.each(['0', '-1', 'two', '1.5', '257', '99999999999', ' 2', '2x'])('%j is a ConfigError at load', async (value) => {
    const ended = await engine.run(script, { GALAGO_NUM_THREADS: value });
    expect(ended.stdout).toBe(
      `ConfigError CONFIG 78 GALAGO_NUM_THREADS: expected an integer from 1 to 256 but received ${value}`,
    );
    expect(ended.code).toBe(0);
  });

  it('sets the number of threads; empty is the default', async () => {
    expect((await engine.run(script, { GALAGO_NUM_THREADS: '3' })).stdout).toMatch(/^3 /);
    expect((await engine.run(script, { GALAGO_NUM_THREADS: '' })).stdout).toMatch(/^[1-9]\d* /);
  });
});

describe('GALAGO_CPU_ISA', () => {
  it('must be a name', async () => {
    expect((await engine.run(script, { GALAGO_CPU_ISA: 'sse9' })).stdout).toBe(
      'ConfigError CONFIG 78 GALAGO_CPU_ISA: expected portable, avx2 or avx512 but received sse9',
    );
  });

  it('selects the instruction set', async () => {
    expect((await engine.run(script, { GALAGO_CPU_ISA: 'portable' })).stdout).toMatch(/ portable$/);
  });
});
