import { emulatorMissing } from './test_devices.js';

/** Says once per run of the tests what is not tested. */
export default function announce(): void {
  if (emulatorMissing !== null) console.warn(emulatorMissing);
}
