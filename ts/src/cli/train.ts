import { ConfigError } from '../errors.js';
import { type ConfigRequest, resolveConfig } from '../train/config.js';
import { type RunResult, runConfig } from '../train/run.js';
import { reportRows } from '../train/run_report.js';
import { interruptible } from './interrupt.js';
import { rankingText, resultTable } from './result_table.js';
import { shownRun } from './shown_run.js';
import { type Output, single, type Verb, type VerbArguments, type VerbDefinition } from './verb.js';

/** Options of verbs that make a run. */
export const runOptions: VerbDefinition['options'] = {
  config: { type: 'string', multiple: true, value: 'file', help: 'configuration; several merge, a later one wins' },
  data: { type: 'string', value: 'path', help: 'data file or folder (data.path)' },
  set: { type: 'string', multiple: true, value: 'json', help: 'keys of the configuration as one JSON object' },
  device: { type: 'string', value: 'name', help: 'auto, cpu, cuda or cuda:N (device); also with --resume' },
  precision: { type: 'string', value: 'type', help: 'fp32, or bf16 on cuda (train.precision)' },
  'run-dir': {
    type: 'string',
    value: 'folder',
    help: 'run folder to create; without it runs/<time>-<config hash>-<random>',
  },
  resume: { type: 'string', value: 'run', help: 'continue this run folder with its own configuration' },
};

export const trainDefinition: VerbDefinition = {
  name: 'train',
  summary: 'Trains a model from a configuration, or continues a run.',
  positionals: '[config.yaml ...]',
  options: {
    ...runOptions,
    from: {
      type: 'string',
      value: 'run',
      help: 'begin with the encoders of this run, for example of galago pretrain (train.from)',
    },
  },
  overrides: true,
};

/** What a train command asks for: a new run of a configuration, or the rest of an old run. */
export type TrainRequest =
  | { readonly kind: 'new'; readonly config: ConfigRequest; readonly runDir: string | null }
  | { readonly kind: 'resume'; readonly run: string; readonly device: string | null };

/** Reads the options of `train`, or of a verb that takes the same. Errors: `ConfigError`, when `--resume` comes with a configuration or nothing says what to train. */
export function trainRequest(args: VerbArguments, verb = 'train'): TrainRequest {
  const files = [...args.positionals, ...(args.values.config ?? [])];
  const run = single(args, 'resume');
  if (run !== undefined) {
    const others = [
      ...files,
      ...args.overrides,
      ...Object.keys(args.values).filter((name) => name !== 'resume' && name !== 'device'),
    ];
    if (others.length > 0) {
      throw new ConfigError(
        `${verb}: --resume takes the configuration of its run but received ${others.join(', ')} too`,
        { key: 'resume' },
      );
    }
    return { kind: 'resume', run, device: single(args, 'device') ?? null };
  }
  const data = single(args, 'data');
  const device = single(args, 'device');
  const precision = single(args, 'precision');
  const from = single(args, 'from');
  const overrides = [
    ...(data === undefined ? [] : [`data.path=${data}`]),
    ...(device === undefined ? [] : [`device=${device}`]),
    ...(from === undefined ? [] : [`train.from=${from}`]),
    ...(precision === undefined ? [] : [`train.precision=${precision}`]),
    ...args.overrides,
  ];
  const set = args.values.set ?? [];
  if (files.length + overrides.length + set.length === 0) {
    throw new ConfigError(`${verb}: expected a configuration or --data <folder> but received neither`, {
      key: 'config',
    });
  }
  return { kind: 'new', config: { files, set, overrides }, runDir: single(args, 'run-dir') ?? null };
}

/** `galago train`. */
export const train: Verb = {
  ...trainDefinition,
  async run(args, output) {
    const request = trainRequest(args);
    const resolved = request.kind === 'new' ? resolveConfig(request.config) : runConfig(request.run, request.device);
    return interruptible(output.stderr, async (signal) => {
      try {
        const result = await shownRun(resolved, output, {
          signal,
          runDir: request.kind === 'new' ? request.runDir : request.run,
          resume: request.kind === 'resume',
        });
        result.model.dispose();
        return tell(result, resolved.config.model.training, output);
      } catch (error) {
        if (!signal.aborted || error !== signal.reason) throw error;
        output.stderr.write('stopped before training began\n');
        return { stopped: true };
      }
    });
  },
};

function tell(result: RunResult, name: string, { stdout }: Output): Record<string, unknown> {
  const { path, stopped, step, checkpoint, valid, test, summary, footer } = result;
  if (stopped) {
    stdout.write(`stopped at step ${step}; galago train --resume ${path} continues\n`);
    return { run: path, stopped, step, checkpoint };
  }
  if (test !== null) {
    const { ranking } = test.all;
    if (ranking !== undefined) stdout.write(rankingText(ranking));
    if (test.all.AUC === null && ranking !== undefined) stdout.write(`${footer}\n`);
    else stdout.write(resultTable(reportRows(name, test), footer));
  }
  stdout.write(`run ${path}\n`);
  return { run: path, stopped, step, best_step: result.bestStep, checkpoint, valid, test, summary };
}
