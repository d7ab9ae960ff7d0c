import { ConfigError } from '../errors.js';
import { openRun } from '../train/open_run.js';
import { countTestOpening } from '../train/run.js';
import { progressLine } from './progress.js';
import { rankingText } from './result_table.js';
import { textTable } from './text_table.js';
import { single, type Verb, type VerbArguments, type VerbDefinition } from './verb.js';

export const evalDefinition: VerbDefinition = {
  name: 'eval',
  summary: 'Evaluates a checkpoint of a run on one part of its data.',
  positionals: '<run>',
  options: {
    part: {
      type: 'string',
      value: 'part',
      help: 'valid (default) or test; each opening of test is counted in summary.json',
    },
    checkpoint: { type: 'string', value: 'which', help: 'best (default), last or step-N' },
    data: {
      type: 'string',
      value: 'folder',
      help: 'where the data are now, if they moved; their digests must be the same',
    },
    device: { type: 'string', value: 'name', help: 'auto, cpu, cuda or cuda:N; default: that of the run' },
  },
  overrides: false,
};

export interface EvalRequest {
  readonly run: string;
  readonly part: 'valid' | 'test';
  /** `best`, `last` or a step number. */
  readonly checkpoint: 'best' | 'last' | number;
  readonly data: string | null;
  readonly device: string | null;
}

/** Reads the options of `eval`. Errors: `ConfigError`. */
export function evalRequest(args: VerbArguments): EvalRequest {
  const [run, extra] = args.positionals;
  if (run === undefined || extra !== undefined) {
    throw new ConfigError(`eval: expected one run folder but received ${args.positionals.length}`, { key: 'run' });
  }
  const part = single(args, 'part') ?? 'valid';
  if (part !== 'valid' && part !== 'test') {
    throw new ConfigError(`eval: expected --part valid or test but received ${part}`, { key: 'part' });
  }
  const which = single(args, 'checkpoint') ?? 'best';
  const step = /^step-(\d+)$/.exec(which)?.[1];
  if (which !== 'best' && which !== 'last' && step === undefined) {
    throw new ConfigError(`eval: expected --checkpoint best, last or step-N but received ${which}`, {
      key: 'checkpoint',
    });
  }
  const checkpoint = which === 'best' || which === 'last' ? which : Number(step);
  return { run, part, checkpoint, data: single(args, 'data') ?? null, device: single(args, 'device') ?? null };
}

/** `galago eval`: metrics of one part by a checkpoint of a run, on data that are those of the run. */
export const evaluate: Verb = {
  ...evalDefinition,
  async run(args, { stdout, stderr }) {
    const request = evalRequest(args);
    const checkpoint = { best: 'best', last: 'latest' }[String(request.checkpoint)] ?? `step-${request.checkpoint}`;
    const { data: path, device } = request;
    const line = progressLine(stderr);
    const { note: onNote, doing: onProgress } = line;
    await using opened = await openRun(request.run, { checkpoint, data: path, device, onNote, onProgress });
    const { data, trainer, checkpoint: name, step } = opened;
    const openings = request.part === 'test' ? await countTestOpening(request.run) : null;
    const metrics = await trainer.evaluate(request.part).finally(line.stop);
    const columns = ['AUC', 'gAUC', 'QAUC', 'logloss', 'calibration'] as const;
    const rows = Object.entries(metrics).map(([slice, values]) => [
      slice,
      String(values.rows),
      ...columns.map((column) => values[column]?.toFixed(4) ?? '-'),
    ]);
    stdout.write(textTable([request.part, 'rows', ...columns], rows));
    if (metrics.all.ranking !== undefined) stdout.write(rankingText(metrics.all.ranking));
    const counted = openings === null ? '' : `; test opened ${openings} times`;
    stdout.write(`${name}, split ${data.splitManifest.rule}${counted}\n`);
    return { run: request.run, part: request.part, checkpoint: name, step, openings, metrics };
  },
};
