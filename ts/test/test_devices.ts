/**
 * Where tests run. `GALAGO_TEST_DEVICE` names devices, separated by commas: cpu, cuda-emu, cuda, cuda:N. Without it they run on the CPU, and
 * on cuda-emu where that is built.
 */
import { moduleFile } from '../src/native.js';
import type { DeviceName } from '../src/tensor.js';

const emulator = moduleFile('cuda-emu');

/** Why tests do not run on cuda-emu; null where they do, or where the variable says where to run. */
export const emulatorMissing =
  emulator === null && process.env['GALAGO_TEST_DEVICE'] === undefined
    ? 'cuda-emu: skipped, build/Release/galago_cuda_emu.so is not there (npm run build:emu)'
    : null;

function devicesOf(text: string | undefined): readonly DeviceName[] {
  if (text === undefined) return emulator === null ? ['cpu'] : ['cpu', 'cuda-emu'];
  return text.split(',').map((part) => {
    const name = part.trim();
    if (!/^(cpu|cuda|cuda:\d+|cuda-emu)$/.test(name))
      throw new Error(`GALAGO_TEST_DEVICE: expected cpu, cuda, cuda:N or cuda-emu but received ${name}`);
    return name as DeviceName;
  });
}

/** Where tests run. */
export const testDevices = devicesOf(process.env['GALAGO_TEST_DEVICE']);
