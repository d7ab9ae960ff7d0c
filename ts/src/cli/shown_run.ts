/** A run as the CLI shows it: notes and a progress line on stderr. */
import type { ResolvedConfig } from '../train/config.js';
import { metricValue } from '../train/metric_values.js';
import { type RunResult, type TrainRunOptions, trainRun } from '../train/run.js';
import { type BankProgress, type Progress, progressLine } from './progress.js';
import type { Output } from './verb.js';

type ShownOptions = Omit<TrainRunOptions, 'onNote'>;

export function shownRun(resolved: ResolvedConfig, output: Output, options: ShownOptions = {}): Promise<RunResult> {
  return shown(resolved, output, options, trainRun);
}

/** Any run that takes what `trainRun` takes. */
export async function shown<Result>(
  resolved: ResolvedConfig,
  { stderr }: Output,
  options: ShownOptions,
  run: (resolved: ResolvedConfig, options: TrainRunOptions) => Promise<Result>,
): Promise<Result> {
  const { valid_metric: metric } = resolved.config.train;
  const line = progressLine(stderr);
  let valid: Progress['valid'] = null;
  let bank: Progress['bank'] = null;
  try {
    return await run(resolved, {
      ...options,
      onNote: line.note,
      onProgress: line.doing,
      onEvent: (event, steps) => {
        options.onEvent?.(event, steps);
        if (event.type === 'eval') {
          const value = metricValue(event.metrics.all, metric);
          valid = value === null ? null : { metric, value };
          bank = historyOfBank(event.content);
        } else if (event.type === 'window') {
          bank = historyOfBank(event.content);
          const { AUC, logloss, rows } = event.metrics.all;
          const shown = (value: number | null) => value?.toFixed(4) ?? '-';
          const scores = `AUC ${shown(AUC)}, logloss ${shown(logloss)}`;
          line.note(`window ${event.window}/${event.windows} before training on its ${rows} rows: ${scores}`);
        } else if (event.type === 'step') {
          const { epoch, epochs, loss, samplesPerSecond, dataWait } = event;
          const step = (event.epoch - 1) * steps + event.epochStep;
          line.update({ epoch, epochs, step, steps: epochs * steps, loss, samplesPerSecond, dataWait, valid, bank });
        }
      },
    });
  } finally {
    line.stop();
  }
}

/** What the memory bank did, its hit rate and mean age those of the longest history that was read; null where there is none. */
export function historyOfBank(content: Readonly<Record<string, number>>): BankProgress | null {
  for (const sequence of ['long', 'short']) {
    const [hitRate, age] = [content[`${sequence}.hit_rate`], content[`${sequence}.age`]];
    if (hitRate !== undefined && age !== undefined)
      return { hitRate, age, saved: content['calls_saved'] ?? null, cosine: content['cosine'] ?? null };
  }
  return null;
}
