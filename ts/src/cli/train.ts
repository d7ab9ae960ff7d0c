import { ConfigError } from '../errors.js';
import type { ConfigRequest } from '../train/config.js';
import { single, type VerbArguments, type VerbDefinition } from './verb.js';

export const trainDefinition: VerbDefinition = {
  name: 'train',
  summary: 'Trains a model from a configuration, or continues a run.',
  positionals: '[config.yaml ...]',
  options: {
    config: { type: 'string', multiple: true, value: 'file', help: 'configuration; several merge, a later one wins' },
    data: { type: 'string', value: 'folder', help: 'data folder, or folder/stem (data.path)' },
    set: { type: 'string', multiple: true, value: 'json', help: 'keys of the configuration as one JSON object' },
    device: { type: 'string', value: 'name', help: 'auto, cpu or cuda:N (device)' },
    'run-dir': {
      type: 'string',
      value: 'folder',
      help: 'run folder to create; without it runs/<time>-<config hash>-<random>',
    },
    resume: { type: 'string', value: 'run', help: 'continue this run folder with its own configuration' },
  },
  overrides: true,
};

/** What a train command asks for: a new run of a configuration, or the rest of an old run. */
export type TrainRequest =
  | { readonly kind: 'new'; readonly config: ConfigRequest; readonly runDir: string | null }
  | { readonly kind: 'resume'; readonly run: string };

/** Reads the options of `train`. Errors: `ConfigError`, when `--resume` comes with a configuration or nothing says what to train. */
export function trainRequest(args: VerbArguments): TrainRequest {
  const files = [...args.positionals, ...(args.values.config ?? [])];
  const run = single(args, 'resume');
  if (run !== undefined) {
    const others = [...files, ...args.overrides, ...Object.keys(args.values).filter((name) => name !== 'resume')];
    if (others.length > 0) {
      throw new ConfigError(
        `train: --resume takes the configuration of its run but received ${others.join(', ')} too`,
        { key: 'resume' },
      );
    }
    return { kind: 'resume', run };
  }
  const data = single(args, 'data');
  const device = single(args, 'device');
  const overrides = [
    ...(data === undefined ? [] : [`data.path=${data}`]),
    ...(device === undefined ? [] : [`device=${device}`]),
    ...args.overrides,
  ];
  const set = args.values.set ?? [];
  if (files.length + overrides.length + set.length === 0) {
    throw new ConfigError('train: expected a configuration or --data <folder> but received neither', { key: 'config' });
  }
  return { kind: 'new', config: { files, set, overrides }, runDir: single(args, 'run-dir') ?? null };
}
