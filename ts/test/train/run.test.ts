import { createHash } from 'node:crypto';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CheckpointMismatchError, ConfigError, DataError } from '../../src/errors.js';
import type { ConfigInput } from '../../src/train/config.js';
import { type RunResult, runConfig, trainRun } from '../../src/train/run.js';
import { runCurves } from '../../src/train/run_report.js';
import type { TrainEvent } from '../../src/train/train_events.js';
import { temporaryFolder, tinyConfig } from './tiny_shop.js';

async function run(path: string, config = tinyConfig(), stopAt: number | null = null): Promise<RunResult> {
  const stop = new AbortController();
  const result = await trainRun(config, {
    runDir: path,
    signal: stop.signal,
    onEvent: (event) => {
      if (event.type === 'step' && event.step === stopAt) stop.abort();
    },
  });
  result.model.dispose();
  return result;
}

async function resume(path: string): Promise<RunResult & { notes: string[] }> {
  const notes: string[] = [];
  const result = await trainRun(runConfig(path), { runDir: path, resume: true, onNote: (line) => notes.push(line) });
  result.model.dispose();
  return { ...result, notes };
}

/** Digests of the tensor files of a checkpoint. */
function tensorBytes(path: string, name: string): Record<string, string> {
  const folder = join(path, 'checkpoints', name);
  const files = readdirSync(folder).filter((file) => file.endsWith('.safetensors'));
  const digest = (file: string): string =>
    createHash('sha256')
      .update(readFileSync(join(folder, file)))
      .digest('hex');
  return Object.fromEntries(files.map((file) => [file, digest(file)]));
}

const json = (...parts: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(join(...parts), 'utf8')) as Record<string, unknown>;

describe('trainRun', () => {
  it('fills the run folder and opens test once', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    const events: TrainEvent[] = [];
    const notes: string[] = [];
    const result = await trainRun(tinyConfig(), {
      runDir: path,
      onEvent: (event) => events.push(event),
      onNote: (line) => notes.push(line),
    });
    result.model.dispose();
    const files = readdirSync(path).map((name) => name.replace(/^events\..*/, 'events'));
    expect(files.sort()).toEqual(
      ['checkpoints', 'events', 'metrics.jsonl', 'report.html', 'resolved_config.yaml', 'run.log'].concat([
        'run_metadata.json',
        'split_manifest.json',
        'summary.json',
      ]),
    );
    expect(json(path, 'summary.json')).toMatchObject({ training: 'end_to_end', test: { openings: 1, rows: 216 } });
    const { rows, items } = result.summary['encoder_calls'] as { rows: number; items: number };
    expect(rows).toBe(2 * 1080);
    expect(items).toBeLessThan(rows);
    expect(result.test?.['cold']?.rows).toBe(72);
    expect(events.filter(({ type }) => type === 'eval')).toHaveLength(2);
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'epochs' });
    expect(notes.join('\n')).toMatch(/^leak check L1 +ok/m);
    const report = readFileSync(join(path, 'report.html'), 'utf8');
    expect(report).toContain('Nearest neighbours');
    expect(report.match(/<img class="picture small"/g)!.length).toBeGreaterThan(8);
  });

  it('tells what the memory bank of LEMUR did', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    const content: Readonly<Record<string, number>>[] = [];
    const result = await trainRun(tinyConfig({ model: { name: 'lemur', bank: { p: 40, q: 40 } } }), {
      runDir: path,
      onEvent: (event) => {
        if (event.type === 'eval') content.push(event.content);
      },
    });
    result.model.dispose();
    const { bank, encoder_calls: calls } = json(path, 'summary.json') as Record<string, Record<string, number>>;
    expect({ ...bank, calls_saved: calls!['saved_by_bank'] }).toEqual(content.at(-1));
    expect(bank).toMatchObject({ rows: 32, evicted: 0, dropped: 0, refused: 0 });
    for (const name of ['short.hit_rate', 'short.age', 'short.age_p99', 'target.hit_rate', 'cosine', 'cosine_d9'])
      expect(Number.isFinite(bank![name]), name).toBe(true);
    for (const name of ['short.hit_rate_d0', 'short.hit_rate_d9', 'short.age_d9'])
      expect(Number.isFinite(bank![name]), name).toBe(true);
    const curves = await runCurves('lemur', path);
    const shown = ['bank hit rate, short', 'bank age in steps, short', 'cosine of stored and fresh vectors'];
    for (const metric of shown) expect(curves.find((curve) => curve.metric === metric)?.points, metric).toHaveLength(2);
    const { rows, slots, distinct, items, live } = calls!;
    expect(rows).toBe(2 * 1080);
    expect(slots).toBeGreaterThan(rows!);
    expect(distinct).toBeGreaterThan(items!);
    expect(items).toBe(live);
    expect(calls!['saved_by_bank']).toBe(1 - items! / distinct!);
    expect(readFileSync(join(path, 'metrics.jsonl'), 'utf8')).toContain('"part":"bank"');
  });

  it.each<[string, ConfigInput['model'], number[]]>([
    ['end_to_end', {}, [3, 8]],
    ['two_stage', { training: 'two_stage', two_stage_epochs: 1 }, [3, 8]],
    ['frozen', { training: 'frozen' }, [8]],
    ['lora_cached and cic', { lora: { mode: 'lora_cached' }, cic: { weight: 0.1 } }, [8]],
    ['lora_block', { lora: { mode: 'lora_block' } }, [3]],
  ])('F27: resumes to the bytes of an uninterrupted run: %s', async (_, model, stops) => {
    using folder = temporaryFolder();
    const config = tinyConfig({ model: { ...model, ranker: 'din' } });
    const whole = await run(join(folder.path, 'whole'), config);
    for (const stopAt of stops) {
      const path = join(folder.path, `stopped-${stopAt}`);
      expect(await run(path, config, stopAt)).toMatchObject({ stopped: true, test: null });
      const resumed = await resume(path);
      expect(resumed.checkpoint).toEqual(whole.checkpoint);
      expect(tensorBytes(path, resumed.checkpoint!.name)).toEqual(
        tensorBytes(join(folder.path, 'whole'), whole.checkpoint!.name),
      );
      expect([resumed.stopped, resumed.bestStep, resumed.test]).toEqual([false, whole.bestStep, whole.test]);
    }
  });

  it('refuses a folder that holds something, and the resume of nothing', async () => {
    using folder = temporaryFolder();
    await expect(run(folder.path)).resolves.toMatchObject({ stopped: false });
    await expect(run(folder.path)).rejects.toThrow(ConfigError);
    await expect(trainRun(tinyConfig(), { runDir: join(folder.path, 'nothing'), resume: true })).rejects.toThrow(
      ConfigError,
    );
    expect(existsSync(join(folder.path, 'nothing', 'summary.json'))).toBe(false);
  });

  it('F01: falls back from a checkpoint that is cut short, and says so', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    const whole = await run(path);
    const file = join(path, 'checkpoints', whole.checkpoint!.name, 'dense.safetensors');
    truncateSync(file, 1000);
    const resumed = await resume(path);
    expect(resumed.notes.join('\n')).toMatch(/warning: checkpoint step-\d+ is bad, kept as bad-step-/);
    expect(resumed.checkpoint).toEqual(whole.checkpoint);
  });

  it('F05: refuses the checkpoint of another model', async () => {
    using folder = temporaryFolder();
    const [one, other] = [join(folder.path, 'one'), join(folder.path, 'other')];
    await run(one);
    await run(other, tinyConfig({ model: { mlp: [16] } }));
    rmSync(join(one, 'checkpoints'), { recursive: true });
    cpSync(join(other, 'checkpoints'), join(one, 'checkpoints'), { recursive: true });
    await expect(resume(one)).rejects.toThrow(CheckpointMismatchError);
  });

  it('ends normally where valid has one class: null metrics, last weights', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    const { loadDataset } = await import('../../src/data/load_dataset.js');
    const { datasetRequest } = await import('../../src/train/dataset_request.js');
    const resolved = tinyConfig();
    const { where, options } = datasetRequest(resolved.config);
    await using data = await loadDataset(where, options);
    const label = data.columns.labels[0]!.values;
    for (const event of data.columns.parts.valid) label[event] = 0;
    const events: TrainEvent[] = [];
    const result = await trainRun(resolved, { runDir: path, data, onEvent: (event) => events.push(event) });
    result.model.dispose();
    const evaluations = events.filter((event) => event.type === 'eval');
    expect(evaluations.map(({ metrics, best }) => [metrics.all.AUC, best])).toEqual([
      [null, false],
      [null, false],
    ]);
    expect(result).toMatchObject({ stopped: false, bestStep: null, valid: null });
    expect(result.test?.all.AUC).toBeTypeOf('number');
    expect(json(path, 'summary.json')).toMatchObject({ best: null });
  });

  it('F05: refuses data that changed', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    await run(path, tinyConfig(), 3);
    const other = tinyConfig();
    const changed = { ...other.config, data: { ...other.config.data, shop: { ...other.config.data.shop!, seed: 2 } } };
    await expect(trainRun({ ...other, config: changed }, { runDir: path, resume: true })).rejects.toSatisfy(
      (error) => error instanceof CheckpointMismatchError || error instanceof DataError,
    );
  });
});
