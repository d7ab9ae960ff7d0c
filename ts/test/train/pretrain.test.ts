import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CheckpointMismatchError, CheckpointNotFoundError, ConfigError } from '../../src/errors.js';
import { loadCheckpoint } from '../../src/io/checkpoint.js';
import { buildModel } from '../../src/train/build_model.js';
import { type ConfigInput, type ResolvedConfig, resolveConfig } from '../../src/train/config.js';
import { encoderTensors, loadEncoders } from '../../src/train/encoder_weights.js';
import { type PretrainResult, pretrainRun } from '../../src/train/pretrain.js';
import { type RunResult, runConfig, runData, trainRun } from '../../src/train/run.js';
import { fromHost } from '../../src/train/state.js';
import { bytesByName } from '../models/tiny_em3.js';
import { temporaryFolder, tinyShop } from './tiny_shop.js';

const encoder = { width: 16, layers: 1, query_layers: 1, heads: 2, ffn: 16 };
const model: ConfigInput['model'] = {
  query_encoder: 'alike',
  two_stage_epochs: 2,
  encoder,
  fusion: { width: 16, heads: 2, ffn: 16 },
  cic: { weight: 0.01 },
};

function shopConfig(changes: ConfigInput = {}): ResolvedConfig {
  return resolveConfig({
    object: {
      data: { shop: { ...tinyShop, ...changes.data?.shop } },
      ...(changes.text && { text: changes.text }),
      model: { ...model, training: 'two_stage', ...changes.model },
      train: { epochs: 1, train_batch_size: 48, ...changes.train },
    },
  });
}

/** Users of two tastes, items whose titles say so; no queries. */
function writeFolder(path: string): void {
  mkdirSync(path);
  const items = Array.from(
    { length: 16 },
    (_, i) => `i${i}\t${i % 2 ? 'red' : 'blue'} ${['lamp', 'chair'][(i >> 1) % 2]}`,
  );
  writeFileSync(join(path, 'set.item'), `item_id:token\ttitle:token_seq\n${items.join('\n')}\n`);
  const events = Array.from({ length: 240 }, (_, i) => {
    const [user, item] = [i % 12, (7 * i + (i >> 4)) % 16];
    return `u${user}\ti${item}\t${user % 2 === item % 2 ? 1 : 0}\t${1000 + i}`;
  });
  writeFileSync(
    join(path, 'set.inter'),
    `user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n${events.join('\n')}\n`,
  );
}

function folderConfig(path: string, changes: ConfigInput = {}): ResolvedConfig {
  return resolveConfig({
    object: {
      data: { path },
      feature_cols: [
        { name: 'user_id', type: 'categorical', embedding_dim: 8 },
        { name: 'item_id', type: 'categorical', embedding_dim: 8 },
        { name: 'history', type: 'history', of: 'item_id', share_embedding: 'item_id', max_len: 10 },
        { name: 'title', type: 'text', source: 'item', max_len: 8 },
      ],
      eval: { order: 'TO' },
      model: {
        ...model,
        modalities: ['text'],
        ranker: 'din',
        history_len: 10,
        training: 'two_stage',
        ...changes.model,
      },
      train: { epochs: 1, train_batch_size: 32, learning_rate: 0.01, ...changes.train },
    },
  });
}

async function pretrain(config: ResolvedConfig, runDir: string, stopAt: number | null = null): Promise<PretrainResult> {
  const stop = new AbortController();
  return pretrainRun(config, {
    runDir,
    signal: stop.signal,
    onEvent: (event) => {
      if (event.type === 'step' && event.step === stopAt) stop.abort();
    },
  });
}

async function train(
  config: ResolvedConfig,
  runDir: string,
  { stopAt = null, resume = false }: { stopAt?: number | null; resume?: boolean } = {},
): Promise<RunResult & { stages: Set<string> }> {
  const stop = new AbortController();
  const stages = new Set<string>();
  const result = await trainRun(config, {
    runDir,
    resume,
    signal: stop.signal,
    onEvent: (event) => {
      if (event.type === 'step') stages.add(event.stage);
      if (event.type === 'step' && event.step === stopAt) stop.abort();
    },
  });
  result.model.dispose();
  return { ...result, stages };
}

/** Digests of the encoder tensors of the newest checkpoint of a run. */
async function encodersOf(run: string): Promise<Record<string, string>> {
  const { tensors } = await loadCheckpoint({ dir: join(run, 'checkpoints') });
  const encoders = [...tensors['dense']!].filter(([name]) =>
    /^content\.(text|image|query|fusion|document)\./.test(name),
  );
  expect(encoders.length).toBeGreaterThan(10);
  return Object.fromEntries(encoders.map(([name, { data }]) => [name, Buffer.from(data).toString('base64')]));
}

describe('pretraining on the shop', () => {
  const folder = temporaryFolder();
  afterAll(() => folder[Symbol.dispose]());
  const at = (name: string): string => join(folder.path, name);
  let first: PretrainResult;
  beforeAll(async () => {
    first = await pretrain(shopConfig(), at('first'));
  });

  it('trains the encoders alone, for the epochs of the first stage, and writes a checkpoint', async () => {
    expect(first).toMatchObject({ path: at('first'), stopped: false, step: 8 });
    expect(first.losses).toHaveLength(2);
    expect(first.losses[1]).toBeLessThan(first.losses[0]!);
    const { config } = shopConfig();
    await using data = await runData(config);
    using before = buildModel(config, data.schema);
    const start = await bytesByName(before.state());
    const { tensors } = await loadCheckpoint({ dir: join(at('first'), 'checkpoints') });
    using after = buildModel(config, data.schema);
    after.load(fromHost(tensors['dense']!));
    const end = await bytesByName(after.state());
    for (const name of Object.keys(start)) {
      if (name.startsWith('ranker.')) expect(end[name], name).toBe(start[name]);
      if (/^(heads|features\.tables\.item_id)\./.test(name) && !name.includes('bias'))
        expect(end[name], name).not.toBe(start[name]);
    }
    expect(data.testOpenings).toBe(0);

    const origin = await loadEncoders(before, data, at('first'));
    expect(origin).toEqual({ run: at('first'), checkpoint: 'step-8', step: 8, digest: first.checkpoint!.digest });
    const loaded = await bytesByName(encoderTensors(before));
    expect(Object.keys(loaded).some((name) => name.startsWith('content.query.'))).toBe(true);
    for (const [name, bytes] of Object.entries(loaded))
      if (!/norm|bias/i.test(name)) expect(bytes, name).not.toBe(start[name]);
  });

  it('F02: stopped and resumed equals uninterrupted', async () => {
    expect(await pretrain(shopConfig(), at('stopped'), 3)).toMatchObject({ stopped: true });
    const rest = await pretrainRun(runConfig(at('stopped')), { runDir: at('stopped'), resume: true });
    expect(rest.checkpoint).toEqual(first.checkpoint);
  });

  it.each(['two_stage', 'frozen'] as const)(
    '%s from it leaves the bytes of the encoders as they are',
    async (training) => {
      const config = shopConfig({ model: { training }, train: { from: at('first') } });
      const result = await train(config, at(training));
      expect([...result.stages]).toEqual(['ranker']);
      expect(result.summary).toMatchObject({ training, encoders_from: at('first') });
      expect(await encodersOf(at(training))).toEqual(await encodersOf(at('first')));
    },
  );

  it('end_to_end from it trains the encoders on, and resumes to the same bytes', async () => {
    const config = shopConfig({ model: { training: 'end_to_end' }, train: { from: at('first'), epochs: 2 } });
    const whole = await train(config, at('whole'));
    expect(await encodersOf(at('whole'))).not.toEqual(await encodersOf(at('first')));
    expect(await train(config, at('cut'), { stopAt: 2 })).toMatchObject({ stopped: true });
    const rest = await train(runConfig(at('cut')), at('cut'), { resume: true });
    expect(rest.checkpoint).toEqual(whole.checkpoint);
    const scratch = await train(shopConfig({ model: { training: 'end_to_end' }, train: { epochs: 2 } }), at('scratch'));
    expect(scratch.checkpoint).not.toEqual(whole.checkpoint);
  });

  it.each<[string, ConfigInput, RegExp[]]>([
    [
      'widths',
      { model: { encoder: { ...encoder, width: 32 } } },
      [/content\.text\.token\.table: expected F32 \(\d+, 32\) but received F32 \(\d+, 16\)/],
    ],
    [
      'vocabulary',
      { text: { min_count: 9 } },
      [
        /item text: tokenizer: expected words/,
        /item text: vocabulary: expected \d+ but received \d+/,
        /query text: tokenizer/,
      ],
    ],
    [
      'split',
      { data: { shop: { seed: 2 } } },
      [/split: expected by time \.75\/\.10\/\.15, shop seed 2 but received by time \.75\/\.10\/\.15, shop seed 1/],
    ],
    ['encoders', { model: { modalities: ['text'] } }, [/extra content\.image\./]],
  ])(
    'F05: refuses encoders of other %s with every difference, before a run folder is made',
    async (name, changes, lines) => {
      const config = shopConfig({ ...changes, train: { from: at('first') } });
      const error = await train(config, at(`other-${name}`)).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(CheckpointMismatchError);
      const { fields, message } = error as CheckpointMismatchError;
      expect(message).toMatch(/^train: the encoders of .*first \(step-8\) do not belong to this model and data: /);
      for (const line of lines)
        expect(
          (fields['diff'] as string[]).some((text) => line.test(text)),
          String(line),
        ).toBe(true);
      expect(existsSync(at(`other-${name}`))).toBe(false);
    },
  );

  it('refuses models without encoders, folders without a run, and other modes', async () => {
    const ids = shopConfig({ model: { training: 'id_only' }, train: { from: at('first') } });
    await expect(train(ids, at('ids'))).rejects.toThrow(ConfigError);
    const nowhere = shopConfig({ train: { from: at('nowhere') } });
    await expect(train(nowhere, at('none'))).rejects.toThrow(CheckpointNotFoundError);
    await expect(pretrain(shopConfig({ model: { training: 'frozen' } }), at('frozen-first'))).rejects.toThrow(
      /expected model.training two_stage but received frozen/,
    );
    await expect(pretrain(nowhere, at('twice'))).rejects.toThrow(/expected train.from null/);
  });
});

describe('pretraining on a folder without queries', () => {
  it('contrasts the latest click with the next and content with ids; every mode trains from it', async () => {
    using folder = temporaryFolder();
    const set = join(folder.path, 'set');
    writeFolder(set);
    const from = join(folder.path, 'pretrained');
    const { losses } = await pretrain(folderConfig(set, { model: { two_stage_epochs: 4 } }), from);
    expect(losses).toHaveLength(4);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    for (const training of ['two_stage', 'frozen', 'end_to_end'] as const) {
      const path = join(folder.path, training);
      const { test, stages } = await train(folderConfig(set, { model: { training }, train: { from } }), path);
      expect([...stages]).toEqual(['ranker']);
      expect(test!.all.AUC).toBeTypeOf('number');
      const same = JSON.stringify(await encodersOf(path)) === JSON.stringify(await encodersOf(from));
      expect(same).toBe(training !== 'end_to_end');
    }
    const noHistory = folderConfig(set, { model: { history_len: 0 } });
    await expect(
      pretrain(
        {
          ...noHistory,
          config: {
            ...noHistory.config,
            feature_cols: noHistory.config.feature_cols.filter(({ type }) => type !== 'history'),
          },
        },
        join(folder.path, 'none'),
      ),
    ).rejects.toThrow(/expected queries or a history for the first stage/);
  });

  it('lemur: the same config with one word changed', async () => {
    using folder = temporaryFolder();
    const set = join(folder.path, 'set');
    writeFolder(set);
    const lemur = { name: 'lemur', sequences: { short: 8, long: 0 } } as const;
    const from = join(folder.path, 'pretrained');
    await pretrain(folderConfig(set, { model: lemur }), from);
    for (const training of ['two_stage', 'end_to_end'] as const) {
      const path = join(folder.path, training);
      await train(folderConfig(set, { model: { ...lemur, training }, train: { from } }), path);
      const same = JSON.stringify(await encodersOf(path)) === JSON.stringify(await encodersOf(from));
      expect(same).toBe(training === 'two_stage');
    }
  });
});
