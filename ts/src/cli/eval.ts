import { ConfigError } from '../errors.js';
import { single, type VerbArguments, type VerbDefinition } from './verb.js';

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
    device: { type: 'string', value: 'name', help: 'auto, cpu or cuda:N' },
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
