import { existsSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { formatOf } from '../data/tables/data_files.js';
import { ConfigError } from '../errors.js';
import { listCheckpoints, verifyCheckpoint } from '../io/checkpoint.js';
import { MANIFEST } from '../io/manifest.js';
import { readSafetensorsFile } from '../io/safetensors.js';
import { resolveConfig } from '../train/config.js';
import { inspectData } from './inspect_data.js';
import { inspectFlops } from './inspect_flops.js';
import { alignedPairs, bytesText, textTable } from './text_table.js';
import type { Output, Verb, VerbArguments } from './verb.js';

type Result = Record<string, unknown>;

/** `galago inspect`: what a file or folder holds. */
export const inspect: Verb = {
  name: 'inspect',
  summary:
    'Shows what a data file or folder, a run, a checkpoint, a .safetensors file or a configuration holds, after checking it.',
  positionals: '<path>',
  options: {
    flops: { type: 'boolean', help: 'of a configuration: the FLOPs of one training step, by module' },
    pictures: { type: 'boolean', help: 'of a data folder: decode every picture, not an even sample of 2,000' },
  },
  overrides: true,
  notes: [
    'A data folder may be folder/stem; --data.user_id=... and the like name its columns.',
    'A configuration is shown complete: every value with the file and line, or the default, that it comes from.',
  ],
  async run(args, output) {
    const [path, extra] = args.positionals;
    if (path === undefined || extra !== undefined) {
      throw new ConfigError(`inspect: expected one path but received ${args.positionals.length}`, { key: 'path' });
    }
    const status = statSync(path, { throwIfNoEntry: false });
    const isConfig = status?.isFile() === true && ['.yaml', '.yml', '.json'].includes(extname(path));
    if (args.flags.has('flops') && !isConfig)
      throw new ConfigError(`inspect: expected a .yaml or .json configuration with --flops but received ${path}`, {
        key: 'flops',
      });
    if (args.flags.has('flops')) return inspectFlops(path, args, output);
    if (existsSync(join(path, MANIFEST))) return inspectCheckpoint(path, output);
    if (existsSync(join(path, 'checkpoints'))) return inspectRun(join(path, 'checkpoints'), output);
    const isData = status?.isFile() === true && formatOf(path) !== null;
    if (status?.isDirectory() || isData || (!status && existsSync(`${path}.inter`)))
      return inspectData(path, args.overrides, output, args.flags.has('pictures'));
    if (!status) throw new ConfigError(`inspect: expected a file or folder but ${path} does not exist`, { file: path });
    if (extname(path) === '.safetensors') return inspectSafetensors(path, output);
    if (isConfig) return inspectConfig(path, args, output);
    throw new ConfigError(
      `inspect: expected a folder, a .parquet, .csv, .jsonl, .safetensors, .yaml or .json file but received ${path}`,
      {
        file: path,
      },
    );
  },
};

async function inspectSafetensors(path: string, { stdout }: Output): Promise<Result> {
  const { tensors, metadata } = await readSafetensorsFile(path);
  const list = [...tensors].map(([name, { dtype, shape, data }]) => ({ name, dtype, shape, bytes: data.byteLength }));
  const bytes = list.reduce((sum, tensor) => sum + tensor.bytes, 0);
  const values = list.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  stdout.write(`${path}: ${list.length} tensors, ${values} values, ${bytesText(bytes)}\n`);
  for (const [key, value] of metadata) stdout.write(`${key}: ${value}\n`);
  stdout.write(
    textTable(
      ['tensor', 'dtype', 'shape', 'size'],
      list.map((tensor) => [tensor.name, tensor.dtype, `(${tensor.shape.join(', ')})`, bytesText(tensor.bytes)]),
    ),
  );
  return { kind: 'safetensors', path, bytes, values, metadata: Object.fromEntries(metadata), tensors: list };
}

function inspectConfig(path: string, args: VerbArguments, { stdout }: Output): Result {
  const resolved = resolveConfig({ files: [path], overrides: args.overrides });
  stdout.write(resolved.toYaml());
  return { kind: 'config', path, config: resolved.config };
}

/** Every byte of a checkpoint is read and checked before anything is printed. */
async function inspectCheckpoint(path: string, { stdout }: Output): Promise<Result> {
  const { step, score, digest, digests, versions, files } = await verifyCheckpoint(path);
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  stdout.write(`${path}: step ${step}, score ${score ?? 'none'}, ${bytesText(bytes)}, every checksum holds\n`);
  stdout.write(
    textTable(
      ['file', 'size', 'crc32c'],
      files.map((file) => [file.name, bytesText(file.bytes), file.crc32c]),
    ),
  );
  stdout.write(alignedPairs(Object.entries({ digest, ...digests, ...versions })));
  return {
    kind: 'checkpoint',
    path,
    step,
    score,
    bytes,
    digest,
    digests,
    versions,
    files: files.map(({ name }) => name),
  };
}

/** The checkpoints of a run, by their manifests alone. */
async function inspectRun(folder: string, { stdout }: Output): Promise<Result> {
  const checkpoints = (await listCheckpoints(folder)).map(({ name, manifest, error }) => ({
    name,
    step: manifest?.step ?? null,
    score: manifest?.score ?? null,
    error: error?.message ?? null,
  }));
  stdout.write(
    textTable(
      ['checkpoint', 'step', 'score', 'fault'],
      checkpoints.map(({ name, step, score, error }) => [name, String(step ?? '-'), String(score ?? '-'), error ?? '']),
    ),
  );
  return { kind: 'run', path: folder, checkpoints };
}
