import { ConfigError } from '../errors.js';
import { integer, single, type VerbArguments, type VerbDefinition } from './verb.js';

export const demoDefinition: VerbDefinition = {
  name: 'demo',
  summary:
    'Trains on a generated shop whose best possible score is known, and compares ids, frozen content and content trained end to end.',
  positionals: '',
  options: {
    data: { type: 'string', value: 'folder', help: 'a RecBole atomic folder instead of the generated shop' },
    full: { type: 'boolean', help: 'every mode and modality with three seeds' },
    seed: { type: 'string', value: 'n', help: 'seed of the first run; default 1' },
    'kill-at': { type: 'string', value: 'step', help: 'stop a run at this step, resume it and compare the bytes' },
    device: { type: 'string', value: 'name', help: 'auto, cpu or cuda:N' },
    'run-dir': { type: 'string', value: 'folder', help: 'folder for the runs; without it below runs/' },
  },
  overrides: false,
};

export interface DemoRequest {
  readonly data: string | null;
  readonly full: boolean;
  readonly seed: number;
  readonly killAt: number | null;
  readonly device: string | null;
  readonly runDir: string | null;
}

/** Reads the options of `demo`. Errors: `ConfigError`. */
export function demoRequest(args: VerbArguments): DemoRequest {
  if (args.positionals.length > 0) {
    throw new ConfigError(`demo: expected options only but received ${args.positionals.join(' ')}`, { key: 'demo' });
  }
  return {
    data: single(args, 'data') ?? null,
    full: args.flags.has('full'),
    seed: integer(demoDefinition, args, 'seed', 0) ?? 1,
    killAt: integer(demoDefinition, args, 'kill-at', 1) ?? null,
    device: single(args, 'device') ?? null,
    runDir: single(args, 'run-dir') ?? null,
  };
}
