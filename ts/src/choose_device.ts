/** Which device `auto` means on this machine, and why. */
import { probeModule } from './native.js';

/** A device and one line on why it was taken. */
export interface ChosenDevice {
  readonly device: 'cpu' | 'cuda';
  readonly reason: string;
}

/** CUDA where its module is installed and finds a usable device, else the CPU. Never throws. */
export function chooseDevice(): ChosenDevice {
  try {
    const { problem, devices } = probeModule('cuda');
    const first = devices[0];
    if (problem === null && first !== undefined) return { device: 'cuda', reason: first.name };
    return { device: 'cpu', reason: `no CUDA: ${problem ?? 'there is no device'}` };
  } catch (error) {
    return { device: 'cpu', reason: `no CUDA: ${error instanceof Error ? error.message : String(error)}` };
  }
}
