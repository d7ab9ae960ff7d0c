/** A FuxiCTR experiment of DIN, from its two files to a served model. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Predictor } from '../../src/serve/predictor.js';
import { resolveConfig } from '../../src/train/config.js';
import { trainRun } from '../../src/train/run.js';
import { clickRows, writeClickColumns } from '../train/click_columns.js';
import { temporaryFolder } from '../train/tiny_shop.js';
import { captured, lastJson } from './captured.js';

const folder = temporaryFolder();
const at = (name: string): string => join(folder.path, name);
beforeAll(() => writeClickColumns(folder.path));
afterAll(() => folder[Symbol.dispose]());

/** What a command prints last; it must succeed. */
async function answer(...argv: string[]): Promise<Record<string, unknown>> {
  const { exitCode, stdout, stderr } = await captured([...argv, '--json']);
  expect(exitCode, stderr).toBe(0);
  return lastJson(stdout) as Record<string, unknown>;
}

describe('a FuxiCTR experiment with histories in columns', () => {
  it('is imported, trained, stopped and resumed, evaluated, counted, exported and served', async () => {
    const files = [at('dataset.yaml'), at('model.yaml')];
    const imported = await answer('import', 'fuxictr', ...files, '--expid', 'DIN_clicks', '--out', at('config.yaml'));
    expect(imported['unmatched']).toEqual([]);
    const resolved = resolveConfig({ files: [at('config.yaml')] });
    expect(resolved.config.data).toMatchObject({ user_id: 'user', item_id: 'item' });
    expect(resolved.config.feature_cols.slice(-2)).toMatchObject([
      { name: 'click_his', of: 'item', share_embedding: 'item' },
      { name: 'cate_his', of: 'cate', share_embedding: 'cate' },
    ]);

    const { stderr, stdout } = await captured([
      'train',
      '--config',
      at('config.yaml'),
      '--run-dir',
      at('run'),
      '--json',
    ]);
    expect(stderr).toMatch(/leak check L1 +ok .*click_his is taken as given: it ends with the row's own item in \d/);
    const whole = lastJson(stdout) as { test: object; valid: object; step: number };
    expect(whole.step).toBe(20);
    expect(await answer('eval', at('run'))).toMatchObject({ metrics: whole.valid });
    expect(await answer('eval', at('run'), '--part', 'test')).toMatchObject({ metrics: whole.test });

    const stop = new AbortController();
    const stopped = await trainRun(resolved, {
      runDir: at('stopped'),
      signal: stop.signal,
      onEvent: (event) => event.type === 'step' && event.step === 13 && stop.abort(),
    });
    stopped.model.dispose();
    expect(stopped.stopped).toBe(true);
    expect(await answer('train', '--resume', at('stopped'))).toMatchObject({ test: whole.test, step: 20 });
    const weights = (run: string): Buffer[] => {
      const last = join(at(run), 'checkpoints', 'step-20');
      const tensors = readdirSync(last).filter((name) => name.endsWith('.safetensors'));
      return tensors.sort().map((name) => readFileSync(join(last, name)));
    };
    expect(weights('stopped').map((bytes) => bytes.toString('hex'))).toEqual(
      weights('run').map((bytes) => bytes.toString('hex')),
    );

    const flops = await captured(['inspect', at('config.yaml'), '--flops']);
    expect(flops.stdout, flops.stderr).toMatch(/attention/);

    await answer('export', '--run', at('run'), '--out', at('served'));
    await using predictor = await Predictor.open(at('served'), { device: 'cpu' });
    const { user, item, hour, clicks, categories } = clickRows.test.find((row) => row.clicks.length > 2)!;
    const score = async (clickHis: readonly string[]): Promise<number> =>
      (
        await predictor.predict({
          user,
          candidates: [item],
          context: { hour, click_his: clickHis, cate_his: categories },
        })
      ).scores[0]!;
    expect(await score(clicks)).not.toBe(await score(clicks.slice(1)));
    await answer('export', '--run', at('run'), '--to', 'onnx', '--out', at('onnx'));
    const { graphs } = JSON.parse(readFileSync(join(at('onnx'), 'signature.json'), 'utf8'));
    expect(JSON.stringify(graphs['ranker.onnx'].inputs)).toContain('click_his');
  });
});
