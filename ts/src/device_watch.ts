/**
 * A kernel that never ends would hold its device, and all who wait for it, for ever. So waits are watched: where nothing of a device ends for
 * `GALAGO_HANG_SECONDS` (default 900, 0: no limit) they reject, and later ones too until something does end. The thread of the device cannot be
 * stopped: what is left is to end the process and to resume.
 */
import { ConfigError, DeviceLostError } from './errors.js';
import { addon, type DeviceName } from './native.js';

const TICK_MS = 1000;
const limitMs = 1000 * hangSeconds(process.env['GALAGO_HANG_SECONDS']);

function hangSeconds(text: string | undefined): number {
  const seconds = text ? Number(text) : 900;
  if (!Number.isFinite(seconds) || seconds < 0)
    throw new ConfigError(`GALAGO_HANG_SECONDS: expected seconds, 0 for no limit, but received '${text}'`, {
      key: 'GALAGO_HANG_SECONDS',
    });
  return seconds;
}

interface Watch {
  /** How to reject each wait that is under way. */
  readonly waits: Set<(error: Error) => void>;
  queued: number;
  /** Milliseconds in which nothing ended, as counted by ticks: a process that was stopped meanwhile does not count. */
  still: number;
  hung: DeviceLostError | null;
}

const watches = new Map<DeviceName, Watch>();
let timer: NodeJS.Timeout | null = null;

/** The same as `wait`, which waits for `device`; rejects with `DeviceLostError` where the device hangs. */
export function watched<T>(device: DeviceName, wait: Promise<T>): Promise<T> {
  if (limitMs === 0) return wait;
  const watch = watches.get(device) ?? { waits: new Set(), queued: 0, still: 0, hung: null };
  watches.set(device, watch);
  return new Promise((resolve, reject) => {
    if (watch.hung === null) watch.waits.add(reject);
    else reject(watch.hung);
    const over = (): void => {
      watch.waits.delete(reject);
      watch.still = 0;
      watch.hung = null;
    };
    wait.then(
      (value) => {
        over();
        resolve(value);
      },
      (error: unknown) => {
        over();
        reject(error);
      },
    );
    const tick = Math.min(TICK_MS, limitMs / 4);
    timer ??= setInterval(() => look(tick), tick).unref();
  });
}

function look(tick: number): void {
  let waiting = 0;
  for (const [device, watch] of watches) {
    const queued = addon.queued(device);
    watch.still = watch.waits.size === 0 || queued < watch.queued ? 0 : watch.still + tick;
    watch.queued = queued;
    if (watch.still >= limitMs) {
      watch.hung = new DeviceLostError(
        `${device}: nothing ended for ${watch.still / 1000} s with ${queued} calls in the queue: a kernel hangs, and only the end of this process ends it`,
        { device, queued, seconds: watch.still / 1000 },
      );
      for (const reject of watch.waits) reject(watch.hung);
      watch.waits.clear();
    }
    waiting += watch.waits.size;
  }
  if (waiting > 0 || timer === null) return;
  clearInterval(timer);
  timer = null;
}
