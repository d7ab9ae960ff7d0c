import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { describe, expect, it } from 'vitest';
import { temporaryFolder, tinyShopOptions } from '../train/tiny_shop.js';
import { captured, lastJson } from './captured.js';

const short = [...tinyShopOptions, '--train.epochs=1', '--train.train_batch_size=32'];

describe('galago train and eval', () => {
  it('trains, prints the table, and evaluates the same numbers again', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    const trained = await captured(['train', ...short, '--run-dir', path, '--json']);
    expect(trained).toMatchObject({ exitCode: 0 });
    expect(trained.stdout).toMatch(/^end_to_end +0\.\d{3}/m);
    expect(trained.stdout).toMatch(
      /^split by time \.75\/\.10\/\.15, shop seed 1; new = 20 % of items.* seed 7; \d+ s on \d+ threads$/m,
    );
    expect(trained.stderr).toMatch(/epoch 1\/1 {2}step \d+\/6/);
    expect(trained.stderr).toMatch(
      /best possible AUC on test, by the true click probabilities: 0\.[89]\d+ known items, 0\.\d+ new/,
    );
    const result = lastJson(trained.stdout) as { valid: object; test: object };
    expect(result).toMatchObject({ verb: 'train', run: path, stopped: false, step: 6 });

    const valid = await captured(['eval', path, '--json']);
    expect(lastJson(valid.stdout)).toMatchObject({
      verb: 'eval',
      part: 'valid',
      openings: null,
      metrics: result.valid,
    });
    const test = await captured(['eval', path, '--part', 'test', '--checkpoint', 'last', '--json']);
    expect(lastJson(test.stdout)).toMatchObject({ part: 'test', openings: 2, metrics: result.test });
    const summary = JSON.parse(readFileSync(join(path, 'summary.json'), 'utf8')) as { test: { openings: number } };
    expect(summary.test.openings).toBe(2);
  });

  it('trains on a Parquet file, and resolves its tables from the configuration', async () => {
    using folder = temporaryFolder();
    const column = (name: string, data: bigint[]): { name: string; data: bigint[]; type: 'INT64' } => ({
      name,
      data,
      type: 'INT64',
    });
    const rows = Array.from({ length: 400 }, (_, i) => BigInt(i));
    const file = join(folder.path, 'events.parquet');
    const bytes = parquetWriteBuffer({
      columnData: [
        column(
          'uid',
          rows.map((i) => 7305112233445566778n + (i % 20n)),
        ),
        column(
          'item_id',
          rows.map((i) => ((i * 7n) % 30n) - 1n),
        ),
        column('timestamp', rows),
        column(
          'click',
          rows.map((i) => (i % 3n === 0n ? 1n : 0n)),
        ),
      ],
    });
    writeFileSync(file, new Uint8Array(bytes));
    writeFileSync(
      join(folder.path, 'catalogue.csv'),
      `item_id,price\n${rows
        .slice(0, 29)
        .map((i) => `${i},${i}.5`)
        .join('\n')}\n`,
    );
    const path = join(folder.path, 'run');
    const { exitCode, stdout, stderr } = await captured([
      'train',
      '--data',
      file,
      '--data.items=catalogue.csv',
      '--data.user_id=uid',
      '--data.label.column=click',
      '--model.training=id_only',
      '--train.epochs=1',
      '--device=cpu',
      '--run-dir',
      path,
      '--json',
    ]);
    expect([exitCode, stderr]).toEqual([0, expect.stringMatching(/epoch 1\/1/)]);
    expect(lastJson(stdout)).toMatchObject({ verb: 'train', run: path, stopped: false });
    expect(lastJson((await captured(['eval', path, '--json'])).stdout)).toMatchObject({ verb: 'eval', part: 'valid' });
    const absent = await captured(['train', '--data', file, '--run-dir', join(folder.path, 'other')]);
    expect([absent.exitCode, absent.stderr]).toEqual([
      65,
      expect.stringContaining('expected columns user_id, label, the file has uid'),
    ]);
  });

  it('exits 78 for a run folder that exists', async () => {
    using folder = temporaryFolder();
    const argv = ['train', ...short, '--model.training=id_only', '--run-dir', join(folder.path, 'run')];
    expect((await captured(argv)).exitCode).toBe(0);
    const { exitCode, stderr } = await captured(argv);
    expect(exitCode).toBe(78);
    expect(stderr).toContain('run: expected a new or empty folder but');
  });

  it('refuses to evaluate data that were split otherwise', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'run');
    expect((await captured(['train', ...short, '--model.training=id_only', '--run-dir', path])).exitCode).toBe(0);
    const config = join(path, 'resolved_config.yaml');
    writeFileSync(config, readFileSync(config, 'utf8').replace('sessions: 240', 'sessions: 250'));
    const { exitCode, stderr } = await captured(['eval', path]);
    expect(exitCode).toBe(65);
    expect(stderr).toContain('are not split as they were');
  });

  it('names a run that does not exist', async () => {
    expect(await captured(['eval', 'no such run'])).toMatchObject({ exitCode: 78 });
    expect(await captured(['train', '--resume', 'no such run'])).toMatchObject({ exitCode: 78 });
  });
});

describe('galago demo', () => {
  it('prints table, ceilings and report; a stopped run ends in the same bytes', async () => {
    using folder = temporaryFolder();
    const options = ['--train.epochs=1', '--train.train_batch_size=32', '--kill-at=3', '--run-dir', folder.path];
    const { exitCode, stdout, stderr } = await captured(['demo', ...tinyShopOptions, ...options, '--json']);
    expect({ exitCode, stderr: exitCode === 0 ? '' : stderr }).toEqual({ exitCode: 0, stderr: '' });
    for (const row of [
      'item mean',
      'ids only',
      'content as features \\(frozen\\)',
      'raw content, end to end',
      'best possible \\(generated set\\)',
      'ceiling for new items',
    ])
      expect(stdout).toMatch(new RegExp(`^${row} +`, 'm'));
    expect(stdout).toMatch(/stopped at step \d and resumed: final digests (\S+) and \1, equal/);
    expect(lastJson(stdout)).toMatchObject({ verb: 'demo', killed: { equal: true }, leak_alarms: [] });
    const report = readFileSync(join(folder.path, 'report.html'), 'utf8');
    expect(report).toContain('raw content, end to end');
    expect(report).toContain('Nearest neighbours');
  });
});

describe('galago pretrain', () => {
  it('trains encoders that galago train --from begins with', async () => {
    using folder = temporaryFolder();
    const path = join(folder.path, 'encoders');
    const stages = ['--model.two_stage_epochs=1', '--model.training=end_to_end'];
    const pretrained = await captured(['pretrain', ...short, ...stages, '--run-dir', path, '--json']);
    expect(pretrained).toMatchObject({ exitCode: 0 });
    expect(pretrained.stdout).toMatch(/^loss by epoch: \d+\.\d{4}$/m);
    expect(lastJson(pretrained.stdout)).toMatchObject({ verb: 'pretrain', run: path, stopped: false, step: 6 });
    const run = join(folder.path, 'run');
    const trained = await captured([
      'train',
      ...short,
      '--model.training=frozen',
      '--from',
      path,
      '--run-dir',
      run,
      '--json',
    ]);
    expect(trained).toMatchObject({ exitCode: 0 });
    expect(trained.stderr).toContain(`encoders: ${path}, step-6`);
    expect(lastJson(trained.stdout)).toMatchObject({ summary: { training: 'frozen', encoders_from: path } });
    const wide = await captured(['train', ...short, '--model.encoder.width=64', '--from', path, '--json']);
    expect(wide.exitCode).toBe(65);
    expect(lastJson(wide.stdout)).toMatchObject({ error: { code: 'CHECKPOINT_MISMATCH' } });
    expect((await captured(['pretrain', ...short, '--from', path])).exitCode).toBe(78);
  });
});
