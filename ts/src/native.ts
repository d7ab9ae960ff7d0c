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
  readonly cuda: boolean;
}

/** Calls of a kernel, the seconds they took, and the CPU seconds of the executor's own thread in them (workers not counted). */
export interface KernelTime {
  readonly calls: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
}

interface Addon {
  create(shape: readonly number[], dtype: number, device: string): Handle;
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
  releaseCached(): void;
  resetPeak(): void;
  setErrorFactory(make: (code: string, message: string, fields: Record<string, unknown>) => Error): void;
  /** Test mode: fresh and freed memory reads as NaN. */
  testPoison(on: boolean): void;
  /** Test mode: the k-th coming request for memory fails. */
  testFailAllocation(k: number): void;
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

/** Places where the addon may lie: a build of this checkout, then the platform package. */
export function addonCandidates(): string[] {
  const here = dirname(fileURLToPath(import.meta.url)); // dist/ or ts/src/
  const roots = [join(here, '..'), join(here, '..', '..')];
  const flavour = process.env['GALAGO_BUILD'] ?? 'build';
  return roots.map((root) => join(root, flavour, 'Release', 'galago.node'));
}

function load(): Addon {
  const require = createRequire(import.meta.url);
  const candidates = addonCandidates();
  const platform = `galago-${process.platform}-${process.arch}-gnu`;
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
