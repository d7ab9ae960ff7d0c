import { ConfigError } from '../errors.js';
import { type ExportFormat, exportFormats } from '../serve/export_formats.js';
import { exportRun } from '../serve/export_run.js';
import { bytesText } from './text_table.js';
import { single, type Verb, type VerbArguments, type VerbDefinition } from './verb.js';

export const exportDefinition: VerbDefinition = {
  name: 'export',
  summary: 'Writes a run for serving, or in the forms that other programs read: ONNX graphs, weights, item vectors.',
  positionals: '',
  options: {
    run: { type: 'string', value: 'folder', help: 'the run' },
    out: { type: 'string', value: 'folder', help: 'a new folder for what is written' },
    to: {
      type: 'string',
      value: 'forms',
      help: `what the folder holds, by commas: ${exportFormats.join(', ')}; default serving, for Predictor.open`,
    },
    checkpoint: { type: 'string', value: 'which', help: 'best (default), last or step-N' },
    items: {
      type: 'string',
      value: 'which',
      help: 'items that get a vector: all (default), or train: those with training events',
    },
    vectors: {
      type: 'string',
      value: 'file.npy',
      help: 'also writes item vectors for a search index, ids beside them in file.ids.txt (FREEDOM: users in file.users.npy); enough without --out',
    },
    data: { type: 'string', value: 'folder', help: 'where the data are now, if they moved' },
    device: { type: 'string', value: 'name', help: 'auto, cpu, cuda or cuda:N; default: that of the run' },
  },
  overrides: false,
  notes: [
    'encoder.safetensors serves to encode new items alone; scoring works without it. Any other file that is missing, altered or of',
    'another step is refused when the folder is opened.',
  ],
};

export interface ExportRequest {
  readonly run: string;
  readonly out: string | null;
  readonly to: readonly ExportFormat[];
  readonly checkpoint: string;
  readonly items: 'all' | 'train';
  readonly vectors: string | null;
  readonly data: string | null;
  readonly device: string | null;
}

/** Reads the options of `export`. Errors: `ConfigError`. */
export function exportRequest(args: VerbArguments): ExportRequest {
  const fail = (key: string, expected: string, received: string): never => {
    throw new ConfigError(`export: expected ${expected} but received ${received}`, { key });
  };
  if (args.positionals[0] !== undefined) fail('run', '--run <folder> and --out <folder>', args.positionals[0]);
  const run = single(args, 'run') ?? fail('run', '--run <folder>', 'none');
  const [out, vectors] = [single(args, 'out') ?? null, single(args, 'vectors') ?? null];
  if (out === null && vectors === null) fail('out', '--out <folder> or --vectors <file.npy>', 'neither');
  if (vectors?.endsWith('.npy') === false) fail('vectors', '--vectors to end in .npy', vectors);
  const to = (single(args, 'to') ?? 'serving').split(',').map((word) => {
    const format = exportFormats.find((name) => name === word.trim());
    return format ?? fail('to', `--to to name ${exportFormats.join(', ')}`, word);
  });
  if (out === null && single(args, 'to') !== undefined) fail('out', '--out <folder> with --to', 'none');
  const which = single(args, 'checkpoint') ?? 'best';
  if (!/^(best|last|step-\d+)$/.test(which)) fail('checkpoint', '--checkpoint best, last or step-N', which);
  const items = single(args, 'items') ?? 'all';
  if (items !== 'all' && items !== 'train') return fail('items', '--items all or train', items);
  return {
    run,
    out,
    to,
    checkpoint: which === 'last' ? 'latest' : which,
    items,
    vectors,
    data: single(args, 'data') ?? null,
    device: single(args, 'device') ?? null,
  };
}

/** `galago export`: a checkpoint of a run as a folder that a predictor opens, or its item vectors, or both. */
export const exportVerb: Verb = {
  ...exportDefinition,
  async run(args, { stdout, stderr }) {
    const request = exportRequest(args);
    const { checkpoint, step, exported, parity } = await exportRun({
      ...request,
      onNote: (line) => stderr.write(`${line}\n`),
    });
    if (exported !== null) {
      const { path, step, vectors, items, bytes, id } = exported;
      stdout.write(
        `${path}  step ${step}  ${vectors} vectors of ${items} items  ${bytesText(bytes)}  ${id.slice(0, 16)}\n`,
      );
    } else if (request.out !== null) stdout.write(`${request.out}  step ${step}  ${request.to.join(', ')}\n`);
    if (request.vectors !== null) stdout.write(`${request.vectors}\n`);
    return {
      run: request.run,
      out: request.out,
      to: request.to,
      checkpoint,
      step,
      vectors: request.vectors,
      exported,
      parity,
    };
  },
};
