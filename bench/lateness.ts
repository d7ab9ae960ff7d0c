/**
 * How late timers of 1 ms come: in all, and without the time for which the thread could have run but waited for a core (Linux counts it
 * in /proc/self/schedstat), which on a machine that others use says nothing about us.
 */
import { openSync, readSync } from 'node:fs';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';

export interface Lateness {
  readonly late: RecordableHistogram;
  /** The same where the system does not tell how long threads wait. */
  readonly own: RecordableHistogram;
}

/** Milliseconds that the main thread has waited for a core since it began; 0 where the system does not tell. */
function waitClock(): () => number {
  const bytes = Buffer.alloc(64);
  try {
    const file = openSync('/proc/self/schedstat', 'r');
    return () => Number(bytes.toString('latin1', 0, readSync(file, bytes, 0, 64, 0)).split(' ')[1]) / 1e6;
  } catch {
    return () => 0;
  }
}

/** Watches timers until `stop`. `take` gives what was seen since the last one. */
export function watchTimers(): { take(): Lateness; stop(): void } {
  const waited = waitClock();
  let seen: Lateness = { late: createHistogram(), own: createHistogram() };
  let [due, before] = [performance.now() + 1, waited()];
  const timer = setInterval(() => {
    const [now, wait] = [performance.now(), waited()];
    const late = now - due;
    seen.late.record(nanoseconds(late));
    seen.own.record(nanoseconds(late - (wait - before)));
    due = performance.now() + 1;
    before = wait;
  }, 1);
  return {
    take() {
      const taken = seen;
      seen = { late: createHistogram(), own: createHistogram() };
      return taken;
    },
    stop: () => clearInterval(timer),
  };
}

function nanoseconds(milliseconds: number): number {
  return Math.max(1, Math.round(milliseconds * 1e6));
}

/** In milliseconds, three digits. */
export function percentile99(histogram: RecordableHistogram): number {
  return histogram.count === 0 ? 0 : Number((histogram.percentile(99) / 1e6).toPrecision(3));
}

export function longest(histogram: RecordableHistogram): number {
  return histogram.count === 0 ? 0 : Number((histogram.max / 1e6).toPrecision(3));
}
