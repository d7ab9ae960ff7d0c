/** The addon: where it is found, what it offers, and how its failures become typed errors. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  ArgumentError,
  ConfigError,
  DeviceLostError,
  DeviceUnavailableError,
  DisposedError,
  DtypeError,
  GalagoError,
  IndexError,
  OutOfMemoryError,
  QueueFullError,
  ShapeError,
  StorageError,
} from './errors.js';
import type { Kernels } from './native_kernels.js';

/** A tensor in the addon's table: slot and generation in one safe integer; 0 after release. */
export type Handle = number;

/** Bytes on a device. `live` in use, `reserved` taken from the system, `peak` of live; `tensors` counts handles of this thread. */
export interface MemoryStatistics {
  readonly live: number;
  readonly reserved: number;
  readonly peak: number;
  readonly allocations: number;
  readonly tensors: number;
}

/** What this build and this processor offer. */
export interface NativeInfo {
  readonly isa: 'portable' | 'avx2' | 'avx512';
  readonly threads: number;
  readonly compiler: string;
}

/** What the CUDA module found: `problem` and what to do about it, or the devices that can be used. */
export interface ModuleProbe {
  readonly problem: string | null;
  readonly advice: string;
  /** As CUDA counts: 13000 is 13.0, 0 no driver. */
  readonly driverVersion: number;
  readonly runtimeVersion: number;
  /** `computeCapability` such as 9.0, `memory` in bytes. */
  readonly devices: readonly { readonly name: string; readonly computeCapability: number; readonly memory: number }[];
}

/** `cuda` is `cuda:0`; `cuda-emu` runs the CUDA kernels on the CPU, for tests. */
export type DeviceName = 'cpu' | 'cuda' | `cuda:${number}` | 'cuda-emu';

/** Devices that live in a shared object of their own, loaded on demand. */
export type ModuleKind = 'cuda' | 'cuda-emu';

/** Calls of a kernel, the seconds they took, and the CPU seconds of the executor's own thread in them (workers not counted). */
export interface KernelTime {
  readonly calls: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
}

interface Addon {
  create(shape: readonly number[], dtype: number, device: string): Handle;
  map(shape: readonly number[], dtype: number, path: string, offset: number, fileBytes: number): Handle;
  alias(handle: Handle, shape: readonly number[]): Handle;
  release(handle: Handle): boolean;
  write(handle: Handle, data: ArrayBufferView): void;
  read(handle: Handle): Promise<ArrayBuffer>;
  synchronize(device: string): Promise<void>;
  memory(device: string): MemoryStatistics;
  setProfile(device: string, on: boolean): void;
  profile(device: string): Record<string, KernelTime>;
  /** Throws when a variable of the environment (GALAGO_NUM_THREADS, GALAGO_CPU_ISA) holds what the engine cannot obey. */
  checkSettings(): void;
  info(): NativeInfo;
  queued(device: string): number;
  setStep(device: string, step: number): void;
  setThreads(count: number): void;
  resetPeak(device: string): void;
  loadModule(kind: ModuleKind, path: string): void;
  probeModule(kind: ModuleKind): ModuleProbe;
  setErrorFactory(make: (code: string, message: string, fields: Record<string, unknown>) => Error): void;
  /** Test mode, all devices: fresh and freed memory reads as NaN. */
  testPoison(on: boolean): void;
  /** Test mode: the k-th coming request for memory of the device fails. */
  testFailAllocation(k: number, device: string): void;
  /** Test mode: kernels of other devices than the CPU run with at most this many blocks; 0 = no limit. */
  testGridLimit(blocks: number): void;
  /** A kernel for tests: takes `milliseconds`, then ends well, fails, or reports an index. */
  testKernel(kind: 'spin' | 'fail' | 'index', milliseconds: number): void;
  readonly kernels: Kernels;
  readonly declarations: string;
}

function makeError(code: string, message: string, fields: Record<string, unknown>): Error {
  switch (code) {
    case 'SHAPE':
      return new ShapeError(message, fields);
    case 'DTYPE':
      return new DtypeError(message, fields);
    case 'DISPOSED':
      return new DisposedError(message, fields);
    case 'ARGUMENT':
      return new ArgumentError(message, fields);
    case 'INDEX':
      return new IndexError(message, fields);
    case 'QUEUE_FULL':
      return new QueueFullError(message, fields);
    case 'DEVICE_UNAVAILABLE':
      return new DeviceUnavailableError(message, fields);
    case 'STORAGE':
      return new StorageError(code, message, fields);
    case 'DEVICE_MEMORY':
    case 'HOST_MEMORY':
      return new OutOfMemoryError(
        code,
        fields['kernel'] === undefined // thrown by the call itself: nothing was queued
          ? message
          : `${located(message, fields)}; what was queued since was skipped, the device works on`,
        fields,
      );
    case 'DEVICE_LOST':
      return new DeviceLostError(
        `${located(message, fields)}; this device accepts no more work in this process`,
        fields,
      );
    default:
      return new GalagoError(code, message, fields);
  }
}

function located(message: string, fields: Record<string, unknown>): string {
  const step = fields['step'] === undefined ? '' : ` at step ${String(fields['step'])}`;
  return `${message} (kernel ${String(fields['kernel'])}${step})`;
}

/** Places where a file of the build may lie: this checkout, or the folder above `dist`. */
function builtFile(file: string): string[] {
  const here = dirname(fileURLToPath(import.meta.url)); // dist/ or ts/src/
  const roots = [join(here, '..'), join(here, '..', '..')];
  const flavour = process.env['GALAGO_BUILD'] ?? 'build';
  return roots.map((root) => join(root, flavour, 'Release', file));
}

/** Places where the addon may lie; after them comes the platform package. */
export function addonCandidates(): string[] {
  return builtFile('galago.node');
}

const platform = `galago-${process.platform}-${process.arch}-gnu`;

function load(): Addon {
  const require = createRequire(import.meta.url);
  const candidates = addonCandidates();
  let addon: Addon | null = null;
  let reason: unknown = null;
  const path = candidates.find((candidate) => existsSync(candidate));
  try {
    addon = require(path ?? platform) as Addon;
  } catch (error) {
    reason = error;
  }
  if (addon === null) {
    const detail = reason instanceof Error ? reason.message.split('\n')[0] : String(reason);
    throw new DeviceUnavailableError(
      `galago: the native addon could not be loaded (${path ?? `no file at ${candidates.join(' or ')}, no package ${platform}`}: ${detail}). ` +
        'In a checkout run `npm run build` (needs a C++20 compiler and CMake); as a dependency run `npm install` again on this machine.',
      { candidates, reason: detail },
      { cause: reason },
    );
  }
  addon.setErrorFactory(makeError);
  try {
    addon.checkSettings();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new ConfigError(message, { key: message.split(':')[0] }, { cause: error });
  }
  return addon;
}

/** The loaded addon. Importing this module throws `DeviceUnavailableError` where it cannot be loaded, `ConfigError` on bad settings. */
export const addon: Addon = load();

/** The kernels of native/kernels.inl: each checks its arguments, enqueues, and returns at once. */
export const native: Kernels = addon.kernels;

const modules: Readonly<Record<ModuleKind, { file: string; advice: string }>> = {
  cuda: {
    file: 'galago_cuda.so',
    advice: `In a checkout run \`npm run build:cuda\` (needs nvcc 13); as a dependency install ${platform}-cuda13.`,
  },
  'cuda-emu': { file: 'galago_cuda_emu.so', advice: 'It is for tests, in a checkout: `npm run build:emu`.' },
};

/** Where the module of a kind lies: a build of this checkout, then the platform package; null where there is none. */
export function moduleFile(kind: ModuleKind): string | null {
  const built = builtFile(modules[kind].file).find((path) => existsSync(path));
  if (built !== undefined || kind !== 'cuda') return built ?? null;
  try {
    return createRequire(import.meta.url).resolve(`${platform}-cuda13/${modules[kind].file}`);
  } catch {
    return null;
  }
}

const loaded = new Set<ModuleKind>();

function openModule(kind: ModuleKind, device: string = kind): void {
  if (loaded.has(kind)) return;
  const path = moduleFile(kind);
  if (path === null)
    throw new DeviceUnavailableError(
      `${device}: this installation has no ${modules[kind].file}. ${modules[kind].advice}`,
      { device, reason: 'no module' },
    );
  addon.loadModule(kind, path);
  loaded.add(kind);
}

/** Every spelling of a device asked for so far, with its one name. */
const opened = new Map<string, DeviceName>([['cpu', 'cpu']]);

/**
 * The one name of a device (`cuda` is `cuda:0`), after loading the module behind it. Throws `DeviceUnavailableError` saying what to
 * install, or which names there are.
 */
export function openDevice(device: string): DeviceName {
  const known = opened.get(device);
  if (known !== undefined) return known;
  if (!/^cuda(:\d{1,3}|-emu)?$/.test(device))
    throw new DeviceUnavailableError(`${device}: expected cpu, cuda or cuda:0, cuda:1, ...`, { device });
  openModule(device === 'cuda-emu' ? 'cuda-emu' : 'cuda', device);
  const name = (device === 'cuda' ? 'cuda:0' : device) as DeviceName;
  opened.set(device, name);
  return name;
}

/** What the module of a kind finds on this machine. Throws `DeviceUnavailableError` where there is no module. */
export function probeModule(kind: ModuleKind): ModuleProbe {
  openModule(kind);
  return addon.probeModule(kind);
}
