import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adviceFor, probeAddon, probeCudaDriver, processorFlags } from '../../src/cli/doctor.js';
import { DeviceUnavailableError } from '../../src/errors.js';
import { captured, lastJson } from './captured.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galago-doctor-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('doctor', () => {
  it('reports addon, processor, memory and the missing CUDA backend', async () => {
    const { exitCode, stdout, stderr } = await captured(['doctor', '--json']);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toMatch(/^(CUDA +not usable: .+|cuda:0 +NVIDIA.+)$/m);
    expect(stdout).toMatch(/^addon +(loaded|not loaded)/m);
    expect(lastJson(stdout)).toMatchObject({ verb: 'doctor', node: process.version });
  });

  it('says why an addon is not there, and what to do', async () => {
    const broken = () =>
      Promise.reject(new DeviceUnavailableError('galago: could not be loaded (galago.node: file too short)'));
    expect(await probeAddon(broken)).toEqual({
      loaded: false,
      reason: 'galago: could not be loaded (galago.node: file too short)',
      advice: 'this binary is cut short or for another machine: remove the build folder, then npm run build',
    });
  });

  it('advises by the words of the loader', () => {
    expect(adviceFor("version `GLIBCXX_3.4.32' not found")).toMatch(/newer system/);
    expect(adviceFor('libfoo.so: cannot open shared object file')).toMatch(/system library is missing/);
    expect(adviceFor('something else')).toMatch(/npm run build compiles it/);
  });

  it('reads instruction sets from the flags line alone', () => {
    expect(processorFlags('model name: avx2\nflags\t\t: fpu avx avx2 fma avx512f\n')).toEqual([
      'avx',
      'avx2',
      'fma',
      'avx512f',
    ]);
    expect(processorFlags('Features\t: fp asimd\n')).toEqual(['asimd']);
    expect(processorFlags('')).toEqual([]);
  });

  it('finds a driver by its files', () => {
    expect(probeCudaDriver(folder)).toEqual({ library: null, version: null });
    mkdirSync(join(folder, 'usr/lib64'), { recursive: true });
    mkdirSync(join(folder, 'proc/driver/nvidia'), { recursive: true });
    writeFileSync(join(folder, 'usr/lib64/libcuda.so.1'), '');
    const version = 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:19:19 UTC 2025\n';
    writeFileSync(join(folder, 'proc/driver/nvidia/version'), version);
    expect(probeCudaDriver(folder)).toEqual({ library: join(folder, 'usr/lib64/libcuda.so.1'), version: '580.65.06' });
  });
});
