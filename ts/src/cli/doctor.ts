import { existsSync, readFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, freemem, platform, totalmem } from 'node:os';
import { join } from 'node:path';
import type { ModuleProbe, NativeInfo } from '../native.js';
import { alignedPairs, bytesText } from './text_table.js';
import type { Verb } from './verb.js';

/** What the compiled addon says about itself, or why it is not there and what to do. */
export type AddonReport =
  | ({ loaded: true; path: string | null; cuda: ModuleProbe } & NativeInfo)
  | { loaded: false; reason: string; advice: string };

/** Loads the addon and asks it for its report. Never throws: an addon that does not load is a report too. */
export async function probeAddon(
  load: () => Promise<typeof import('../native.js')> = () => import('../native.js'),
): Promise<AddonReport> {
  try {
    const native = await load();
    const path = native.addonCandidates().find((candidate) => existsSync(candidate)) ?? null;
    return { loaded: true, path, cuda: probeCuda(native), ...native.addon.info() };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { loaded: false, reason, advice: adviceFor(reason) };
  }
}

/** Asks the CUDA module; where there is none, or it does not load, that is the problem it reports. */
function probeCuda({ probeModule }: Pick<typeof import('../native.js'), 'probeModule'>): ModuleProbe {
  try {
    return probeModule('cuda');
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    return { problem, advice: '', driverVersion: 0, runtimeVersion: 0, devices: [] };
  }
}

/** What helps against a load error, by the words of the dynamic loader. */
export function adviceFor(reason: string): string {
  if (/GLIBC(XX)?_/.test(reason))
    return 'this binary was built for a newer system: npm run build compiles one for this machine';
  if (/wrong ELF class|invalid ELF header|Exec format|file too short/.test(reason)) {
    return 'this binary is cut short or for another machine: remove the build folder, then npm run build';
  }
  if (/cannot open shared object/.test(reason)) return 'a system library is missing: install the one named here';
  return 'npm run build compiles it: a C++20 compiler (g++ 12 or newer), CMake 3.20 or newer and make or Ninja';
}

/** Vector instruction sets of the processor that our kernels can use, as the operating system reports them; empty where it does not. */
export function processorFlags(cpuinfo: string): string[] {
  const known = [
    'sse4_2',
    'avx',
    'avx2',
    'fma',
    'f16c',
    'avx512f',
    'avx512bw',
    'avx512vl',
    'avx512_bf16',
    'amx_bf16',
    'asimd',
  ];
  const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? '';
  const flags = new Set(line.split(/\s+/));
  return known.filter((flag) => flags.has(flag));
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Where an NVIDIA driver would be, and its version. Only looks at files: nothing is loaded. */
export function probeCudaDriver(root = '/'): { library: string | null; version: string | null } {
  const folders = [
    'usr/lib/x86_64-linux-gnu',
    'usr/lib/aarch64-linux-gnu',
    'usr/lib64',
    'usr/lib',
    'usr/lib/wsl/lib',
    'usr/local/cuda/compat',
  ];
  const library = folders.map((folder) => join(root, folder, 'libcuda.so.1')).find((path) => existsSync(path)) ?? null;
  const version =
    /Kernel Module\s+(?:for \S+\s+)?(\S+)/.exec(readIfThere(join(root, 'proc/driver/nvidia/version')))?.[1] ?? null;
  return { library, version };
}

/** `galago doctor`: what this machine has and what is missing. */
export const doctor: Verb = {
  name: 'doctor',
  summary:
    'Says what this machine offers: addon, instruction sets, threads, memory, CUDA driver, and what to do about what is missing.',
  positionals: '',
  options: {},
  overrides: false,
  async run(_args, { stdout }) {
    const addon = await probeAddon();
    const driver = probeCudaDriver();
    const flags = processorFlags(readIfThere('/proc/cpuinfo'));
    const cuda = { ...driver, ...(addon.loaded ? addon.cuda : null) };
    const threads = addon.loaded ? addon.threads : availableParallelism();
    const result = {
      node: process.version,
      platform: `${platform()}-${arch()}`,
      processor: cpus()[0]?.model ?? 'unknown',
      cores: availableParallelism(),
      threads,
      instruction_sets: flags,
      memory: { total: totalmem(), free: freemem() },
      addon,
      cuda,
      device: addon.loaded ? (addon.cuda.problem === null ? 'cuda' : 'cpu') : null,
    };
    const addonRows: [string, string][] = addon.loaded
      ? [
          ['addon', `loaded: ${addon.path ?? 'platform package'}`],
          ['kernels', `${addon.isa}, built with ${addon.compiler}`],
        ]
      : [
          ['addon', `not loaded: ${addon.reason}`],
          ['what to do', addon.advice],
        ];
    const setBy = process.env.GALAGO_NUM_THREADS === undefined ? '' : ' (GALAGO_NUM_THREADS)';
    stdout.write(
      alignedPairs([
        ['node', `${result.node} on ${result.platform}`],
        ['processor', `${result.processor}, ${result.cores} cores`],
        ['instruction sets', flags.join(' ') || 'unknown'],
        ['threads', `${threads}${setBy}`],
        ['memory', `${bytesText(result.memory.total)}, ${bytesText(result.memory.free)} free`],
        ...addonRows,
        [
          'CUDA driver',
          driver.library === null ? 'not found' : `${driver.version ?? 'version unknown'}: ${driver.library}`,
        ],
        ...(addon.loaded ? cudaRows(addon.cuda) : []),
        ['device auto', result.device ?? 'none: the addon is needed'],
      ]),
    );
    return result;
  },
};

function cudaRows({ problem, advice, devices }: ModuleProbe): [string, string][] {
  if (problem !== null)
    return [['CUDA', `not usable: ${problem}`], ...(advice ? [['what to do', advice] as [string, string]] : [])];
  return devices.map(({ name, computeCapability, memory }, i) => [
    `cuda:${i}`,
    `${name}, compute ${computeCapability.toFixed(1)}, ${bytesText(memory)}`,
  ]);
}
