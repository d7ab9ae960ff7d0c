/** The gate of the CUDA kernels on reports of ptxas with planted faults. It needs no CUDA compiler. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const program = fileURLToPath(new URL('../../../scripts/check_cuda.mjs', import.meta.url));

interface Planted {
  readonly registers?: number;
  readonly stores?: number;
  readonly loads?: number;
  readonly shared?: number;
  readonly target?: string;
}

/** What ptxas prints of one kernel. */
function entry(
  name: string,
  { registers = 32, stores = 0, loads = 0, shared = 0, target = 'sm_80' }: Planted = {},
): string {
  return [
    `ptxas info    : Compiling entry function '${name}' for '${target}'`,
    `ptxas info    : Function properties for ${name}`,
    `    ${stores} bytes stack frame, ${stores} bytes spill stores, ${loads} bytes spill loads`,
    `ptxas info    : Used ${registers} registers, used 1 barriers${shared > 0 ? `, ${shared} bytes smem` : ''}, 400 bytes cmem[0]`,
    'ptxas info    : Compile time = 12.3 ms\n',
  ].join('\n');
}

const add = '_ZN6galago4cuda10add_kernelIfEEvPKT_PS2_l';
const addText = 'add_kernel<float>(float const*, float*, long)';
const scale = '_ZN6galago4cuda12scale_kernelIfEEvPT_f';
const header = 'file\ttarget\tkernel\tregisters\tspill\tshared\tallowed_spill\treason';

describe('check:cuda', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'galago-check-cuda-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function report(file: string, text: string): void {
    const path = join(folder, 'reports/portable.dir', `${file}.o.ptxas`);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
  function check(...words: string[]): { status: number | null; text: string } {
    const place = ['--reports', join(folder, 'reports'), '--table', join(folder, 'table.tsv')];
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...place, ...words], { encoding: 'utf8' });
    return { status, text: stdout + stderr };
  }
  const table = (): string => readFileSync(join(folder, 'table.tsv'), 'utf8');

  it('writes a table that the same reports satisfy, and others do not', () => {
    report('add.cu', `ptxas info    : 0 bytes gmem\n${entry(add, { shared: 1024 })}${entry(scale)}`);
    expect(check('--update').status).toBe(0);
    expect(table()).toContain(`add.cu\tsm_80\t${addText}\t32\t0\t1024\t\t`);
    expect(check()).toEqual({
      status: 0,
      text: expect.stringMatching(/2 kernels of 1 files, at most 32 registers, 0 of them spill/) as string,
    });

    report('add.cu', entry(add, { shared: 1024, registers: 40 }) + entry(scale));
    expect(check().status).toBe(0);
    report('add.cu', entry(add, { shared: 1024, registers: 41 }) + entry(scale));
    expect(check()).toEqual({
      status: 1,
      text: expect.stringMatching(/add_kernel<float>.* uses 41 registers, the table says 32/) as string,
    });
    report('add.cu', entry(add, { shared: 2048 }) + entry(scale));
    expect(check().text).toMatch(/uses 2048 bytes of static shared memory, the table says 1024/);
    report('add.cu', entry(add, { shared: 1024 }));
    expect(check().text).toMatch(/scale_kernel<float>.*is in the table, but not compiled any more/);
  });

  it('knows kernels by file and target', () => {
    report('add.cu', entry(add));
    check('--update');
    report('add.cu', entry(add) + entry(add, { target: 'sm_90' }));
    expect(check().text).toMatch(/add.cu \(sm_90\): add_kernel.* is not in the table/);
  });

  it.each([
    ['stores', { stores: 16, loads: 0 }],
    ['loads', { stores: 0, loads: 16 }],
  ])('refuses spills (%s) that the table does not allow', (_, spill) => {
    report('add.cu', entry(add, spill));
    expect(check('--update').text).toMatch(/spills 16 bytes/);
    expect(check()).toEqual({ status: 1, text: expect.stringMatching(/spills 16 bytes, 0 are allowed/) as string });

    const row = (allowed: string) =>
      writeFileSync(join(folder, 'table.tsv'), `${header}\nadd.cu\tsm_80\t${addText}\t32\t16\t0\t${allowed}\n`);
    row('16\t');
    expect(check().text).toMatch(/may spill 16 bytes, but the table gives no reason/);
    row('16\tcold path');
    expect(check().status).toBe(0);
    check('--update');
    expect(table()).toMatch(/16\tcold path$/m);
    row('8\tcold path');
    expect(check().text).toMatch(/spills 16 bytes, 8 are allowed/);
  });

  it.each([
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources in function 'x'",
    "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum register requirements in function 'x'",
    'ptxas info    : (C7514) something said in other words',
  ])('refuses %s', (line) => {
    report('add_sm90.cu', `${line}\n${entry(add)}`);
    check('--update');
    expect(check()).toEqual({ status: 1, text: expect.stringContaining(line) as string });
  });

  it('does not guess where ptxas is silent', () => {
    report('add.cu', entry(add).replace(/.*Used.*\n/, ''));
    expect(check()).toEqual({
      status: 1,
      text: expect.stringMatching(/add.cu: ptxas says nothing of the registers/) as string,
    });
  });
});
