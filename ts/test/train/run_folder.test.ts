import { describe, expect, it } from 'vitest';
import { CheckpointBusyError, ConfigError } from '../../src/errors.js';
import { saveCheckpoint } from '../../src/io/checkpoint.js';
import {
  metricsLine,
  openRunFolder,
  parseMetrics,
  type RunFolderOptions,
  readMetrics,
} from '../../src/train/run_folder.js';
import { FaultyEnv } from '../io/faulty_env.js';
import { MemoryEnv } from '../io/memory_env.js';

const clock = () => Date.parse('2026-05-04T09:12:01.250Z');

function options(env: MemoryEnv | FaultyEnv): RunFolderOptions {
  return {
    resolvedConfig: 'train: { epochs: 2 }\n',
    configDigest: 'abcdef0123456789',
    metadata: { device: 'cpu' },
    splitManifest: { rule: 'RS' },
    now: clock,
    env,
  };
}

const text = async (env: MemoryEnv, path: string) => Buffer.from(await env.read(path)).toString();
const names = async (env: MemoryEnv, path: string) => (await env.list(path)).map(({ name }) => name).sort();

describe('run folder', () => {
  it('holds what a run leaves, under a name of time, configuration and chance', async () => {
    const env = MemoryEnv.empty();
    const run = await openRunFolder(options(env));
    expect(run.path).toMatch(/^runs\/20260504-091201-abcdef01-[0-9a-f]{6}$/);
    run.metrics({ step: 400, epoch: 0, part: 'train', loss: 0.5 });
    run.metrics({ step: 400, part: 'valid', split: 'RS', AUC: Number.NaN });
    run.log('warn', 'bad picture', { step: 400, code: 'DATA_IMAGE' });
    await run.writeSummary({ best: 0.7 });
    await saveCheckpoint({ dir: run.checkpointDir, step: 400, tensors: {}, lock: run.lock, env });
    await run.close();
    expect(run.failures).toEqual({ count: 0, last: null });
    expect(await names(env, run.path)).toEqual([
      'checkpoints',
      'events.out.tfevents.1777885921.galago.250',
      'metrics.jsonl',
      'resolved_config.yaml',
      'run.log',
      'run_metadata.json',
      'split_manifest.json',
      'summary.json',
    ]);
    expect(await text(env, `${run.path}/metrics.jsonl`)).toBe(
      '{"time":"2026-05-04T09:12:01.250Z","step":400,"epoch":0,"part":"train","loss":0.5}\n' +
        '{"time":"2026-05-04T09:12:01.250Z","step":400,"part":"valid","split":"RS","AUC":null,"nonfinite":["AUC"]}\n',
    );
    expect(await text(env, `${run.path}/run.log`)).toContain(
      '{"level":"warn","time":"2026-05-04T09:12:01.250Z","msg":"bad picture","step":400,"code":"DATA_IMAGE"}\n',
    );
    expect(JSON.parse(await text(env, `${run.path}/run_metadata.json`))).toEqual({
      device: 'cpu',
      config_digest: 'abcdef0123456789',
    });
  });

  it('refuses a folder that holds something, and to resume one that does not', async () => {
    const env = MemoryEnv.empty();
    await (await openRunFolder({ ...options(env), runDir: 'mine' })).close();
    const again = openRunFolder({ ...options(env), runDir: 'mine' });
    await expect(again).rejects.toThrow(/mine holds files; --resume mine continues/);
    await expect(again).rejects.toBeInstanceOf(ConfigError);
    await expect(openRunFolder({ ...options(env), runDir: 'none', resume: { step: 3 } })).rejects.toThrow(
      /none is empty or missing/,
    );
  });

  it('F06: is written by one', async () => {
    const env = MemoryEnv.empty();
    const run = await openRunFolder({ ...options(env), runDir: 'mine' });
    await expect(openRunFolder({ ...options(env), runDir: 'mine', resume: { step: 1 } })).rejects.toBeInstanceOf(
      CheckpointBusyError,
    );
    await run.close();
    await run.close();
    await (await openRunFolder({ ...options(env), runDir: 'mine', resume: { step: 1 } })).close();
  });

  it('resumes: keeps the first files, ends a torn line, and readers drop steps that ran again', async () => {
    const env = MemoryEnv.empty();
    const first = await openRunFolder({ ...options(env), runDir: 'mine' });
    for (const step of [100, 200, 300]) first.metrics({ step, part: 'train', loss: step });
    await first.close();
    await (await env.append('mine/metrics.jsonl')).write(Buffer.from('{"time":"2026-05-0'));
    expect(await readMetrics('mine', env)).toMatchObject({
      torn: 1,
      records: [{ step: 100 }, { step: 200 }, { step: 300 }],
    });

    const config = { ...options(env), resolvedConfig: 'other\n', now: () => clock() + 5000 };
    const second = await openRunFolder({ ...config, runDir: 'mine', resume: { step: 200 } });
    second.metrics({ step: 300, part: 'train', loss: 1 });
    await second.close();
    const { records, torn } = await readMetrics('mine', env);
    expect(torn).toBe(1);
    expect(records.map(({ step, event, loss }) => [step, event ?? loss])).toEqual([
      [100, 100],
      [200, 200],
      [200, 'resume'],
      [300, 1],
    ]);
    expect(await text(env, 'mine/resolved_config.yaml')).toBe('train: { epochs: 2 }\n');
    expect((await names(env, 'mine')).filter((name) => name.startsWith('events')).length).toBe(2);
  });

  it('F04: counts lines that could not be written and goes on', async () => {
    const env = MemoryEnv.empty();
    const counted = new FaultyEnv(env);
    await (await openRunFolder({ ...options(counted), runDir: 'count' })).flush();
    const faulty = new FaultyEnv(env, { at: counted.calls, kind: 'fail', code: 'ENOSPC' });
    const run = await openRunFolder({ ...options(faulty), runDir: 'mine' });
    run.metrics({ step: 1, part: 'train', loss: 1 });
    run.metrics({ step: 2, part: 'train', loss: 1 });
    await run.flush();
    expect(run.failures).toMatchObject({ count: 1, last: { code: 'ENOSPC' } });
    await run.close();
  });

  it('names every number that is not finite', () => {
    expect(metricsLine({ a: 1, b: { c: [Number.POSITIVE_INFINITY, 2] }, d: 5n })).toBe(
      '{"a":1,"b":{"c":[null,2]},"d":"5","nonfinite":["b.c.0"]}\n',
    );
  });

  it('reads the first metrics of data.md', () => {
    const lines = '{"step":400,"part":"train"}\n\n[1]\n{"step":"x"}\n{"event":"resume","step":300}\n';
    expect(parseMetrics(lines)).toEqual({ torn: 2, records: [{ event: 'resume', step: 300 }] });
  });
});
