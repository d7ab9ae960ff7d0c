import { type Options, Presets, SingleBar } from 'cli-progress';
import { shortNumber } from './text_table.js';

/** What the line shows. Numbers that are not known yet are null. */
export interface Progress {
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  readonly step: number;
  readonly steps: number;
  readonly loss: number | null;
  readonly samplesPerSecond: number | null;
  /** Share of the time spent waiting for data, 0 to 1. */
  readonly dataWait: number | null;
  /** Name and last value of the validation metric. */
  readonly valid: { readonly metric: string; readonly value: number } | null;
  readonly bank?: BankProgress | null;
}

/** Of a memory bank, at the last evaluation. */
export interface BankProgress {
  /** Share of the history found, and its mean age in steps. */
  readonly hitRate: number;
  readonly age: number;
  /** Share of the different items so far that no encoder ran for, and cosine of fresh and stored vectors; null: not known. */
  readonly saved: number | null;
  readonly cosine: number | null;
}

/** `epoch 1/3  step 400/1200  loss 0.5512  48.2k samples/s  wait 2%  valid AUC 0.7712  bank hit 96%  age 31  saved 73%  cosine 0.945` */
export function progressText({
  epoch,
  epochs,
  step,
  steps,
  loss,
  samplesPerSecond,
  dataWait,
  valid,
  bank = null,
}: Progress): string {
  const parts = [`epoch ${epoch}/${epochs}`, `step ${step}/${steps}`];
  if (loss !== null) parts.push(`loss ${Number.isFinite(loss) ? loss.toFixed(4) : loss}`);
  if (samplesPerSecond !== null) parts.push(`${shortNumber(samplesPerSecond)} samples/s`);
  if (dataWait !== null) parts.push(`wait ${Math.round(100 * dataWait)}%`);
  if (valid !== null) parts.push(`valid ${valid.metric} ${valid.value.toFixed(4)}`);
  if (bank !== null) {
    parts.push(`bank hit ${Math.round(100 * bank.hitRate)}%`, `age ${shortNumber(bank.age)}`);
    if (bank.saved !== null) parts.push(`saved ${Math.round(100 * bank.saved)}%`);
    if (bank.cosine !== null) parts.push(`cosine ${bank.cosine.toFixed(3)}`);
  }
  return parts.join('  ');
}

/** The progress line of the CLI. */
export interface ProgressLine {
  update(progress: Progress): void;
  /** What is going on beside the last state, until it is done or the next update: `scoring 4,096/14,400`. */
  doing(what: string, done: number, of: number): void;
  /** Prints `text` on lines of its own, above the progress line. */
  note(text: string): void;
  /** Leaves the last state on screen and stops the timer. */
  stop(): void;
}

/**
 * A progress line on `stream` (stderr): redrawn in place on a terminal, at most ten times a second; elsewhere a line every
 * `scheduleMs` milliseconds (10 s) and the last one.
 */
export function progressLine(stream: NodeJS.WritableStream, scheduleMs = 10_000): ProgressLine {
  let text = '';
  const terminal = (stream as { isTTY?: boolean }).isTTY === true;
  const options: Options = {
    format: () => text,
    stream,
    fps: 10,
    hideCursor: true,
    noTTYOutput: true,
    notTTYSchedule: scheduleMs,
    gracefulExit: false,
    linewrap: false,
  };
  const bar = new SingleBar(options, Presets.legacy);
  let started = false;
  let state = '';
  const show = (now: string, step: number, steps: number): void => {
    text = now;
    if (started) bar.update(step);
    else bar.start(steps, step);
    started = true;
  };
  return {
    update(progress) {
      state = progressText(progress);
      show(state, progress.step, progress.steps);
    },
    doing(what, done, of) {
      const count = `${what} ${done.toLocaleString('en')}/${of.toLocaleString('en')}`;
      if (state === '') show(count, done, of);
      else text = done === of ? state : `${state}  ${count}`;
    },
    note(line) {
      stream.write(terminal && started ? `\r\x1b[K${line}\n` : `${line}\n`);
    },
    stop() {
      if (started) bar.stop();
      started = false;
    },
  };
}
