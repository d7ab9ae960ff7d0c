/**
 * What the studies share: rows of a table, each a configuration and what differs from it, run over several seeds as `galago train`
 * processes. Runs that a run folder holds already are read, interrupted ones continue.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addon } from '../../ts/src/native.js';
import { configDigest, resolveConfig } from '../../ts/src/train/config.js';

export interface StudyRow {
  readonly name: string;
  /** Path of a configuration, from the root of the repository. */
  readonly config: string;
  /** Keys that differ, as on the command line. */
  readonly overrides: readonly string[];
}

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** Numbers by name, of one run; of several by seed. */
export type Numbers = Record<string, number>;
export type BySeed = Record<number, Numbers>;

/** The folder of a finished run of `row` with `seed` below `runs`: trained now unless it lies there already. `more`: keys of the data. */
export async function finishedRun(
  { name, config, overrides }: StudyRow,
  seed: number,
  { runs, more = [], threads }: { runs: string; more?: readonly string[]; threads?: number },
): Promise<string> {
  const all = [...overrides, `train.seed=${seed}`, ...more];
  const resolved = resolveConfig({ files: [join(root, config)], overrides: all });
  const folder = join(runs, `${name}-seed${seed}-${configDigest(resolved.config).slice(0, 8)}`);
  if (existsSync(join(folder, 'summary.json'))) return folder;
  const started = existsSync(join(folder, 'resolved_config.yaml'));
  const command = started
    ? ['train', '--resume', folder]
    : ['train', join(root, config), ...all.map((one) => `--${one}`), '--run-dir', folder];
  process.stderr.write(`galago ${command.join(' ')}\n`);
  const status = await new Promise<number | null>((resolve, reject) => {
    const child = spawn(process.execPath, [join(root, 'dist', 'cli', 'main.js'), ...command], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, ...(threads === undefined ? {} : { GALAGO_NUM_THREADS: String(threads) }) },
    });
    child.once('error', reject);
    child.once('exit', resolve);
  });
  if (status !== 0) throw new Error(`study: galago ${command.join(' ')} ended with ${status}`);
  return folder;
}

/** Calls `work` for every task, `jobs` at a time, in their order; ends with the first error. */
export async function inOrder<T>(tasks: readonly T[], jobs: number, work: (task: T) => Promise<void>): Promise<void> {
  const left = tasks.values();
  await Promise.all(
    Array.from({ length: jobs }, async () => {
      for (const task of left) await work(task);
    }),
  );
}

/** What a finished run measured on test, by `slice.metric` (`all.` for all rows), with its wall time. */
export function testNumbers(folder: string): Numbers {
  const { test, wall_s } = JSON.parse(readFileSync(join(folder, 'summary.json'), 'utf8')) as {
    test: Numbers;
    wall_s: number;
  };
  const named = Object.entries(test).map(([name, value]) => [name.includes('.') ? name : `all.${name}`, value]);
  return { ...(Object.fromEntries(named) as Numbers), wall_s };
}

export function meanAndDeviation(values: readonly number[]): { mean: number; sd: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, values.length - 1);
  return { mean, sd: Math.sqrt(variance) };
}

/** `0.123 ± 0.004` of one number over seeds. */
export function meanAndSd(results: BySeed, name: string, digits = 3): string {
  const { mean, sd } = meanAndDeviation(Object.values(results).map((one) => one[name]!));
  return `${mean.toFixed(digits)} ± ${sd.toFixed(digits)}`;
}

/** Writes what there is so far, with what made it: a study that is stopped leaves its finished runs. Returns the file. */
export function writeResults(
  results: Record<string, BySeed>,
  { name, out, command }: { name: string; out: string | undefined; command: string },
): string {
  const date = new Date().toISOString().slice(0, 10);
  const file = out ?? join(root, 'bench', 'results', `${name}-${date}.json`);
  mkdirSync(dirname(file), { recursive: true });
  const { isa, threads } = addon.info();
  writeFileSync(
    file,
    `${JSON.stringify({ command, node: process.version, kernels: isa, threads, results }, null, 2)}\n`,
  );
  return file;
}
