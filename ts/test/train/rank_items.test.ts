import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import type { DrawnCandidates } from '../../src/data/drawn_candidates.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { em3 } from '../../src/models/em3.js';
import { em3Release, freedom } from '../../src/models/freedom.js';
import { tidy } from '../../src/tidy.js';
import { resolveConfig } from '../../src/train/config.js';
import { encodeItems } from '../../src/train/evaluate.js';
import {
  type RankingMetrics,
  type RankingSettings,
  rankDrawn,
  rankItems,
  rankPart,
  type ScorePairs,
} from '../../src/train/rank_items.js';
import { defaultSettings } from '../../src/train/train_settings.js';
import { Trainer } from '../../src/train/trainer.js';
import { captured } from '../cli/captured.js';
import { topKData } from '../models/top_k_data.js';

const root = mkdtempSync(join(tmpdir(), 'galago-rank-'));
let data: Dataset;
const folder = join(root, 'plane');
beforeAll(async () => {
  mkdirSync(folder);
  data = await topKData(folder, { users: 60, items: 90, events: 3000 });
});
afterAll(async () => {
  await data[Symbol.asyncDispose]();
  rmSync(root, { recursive: true });
});

const settings: RankingSettings = {
  drawn: null,
  metrics: ['Recall@5', 'HR@5', 'NDCG@5', 'MRR@5', 'Recall@20'],
  masked: 'earlier',
  repeatable: false,
  knownUsers: false,
};

/** Scores of few distinct values, so that ties matter. */
const score = (u: number, i: number): number => Math.floor(7 * Math.sin(3 * u + 5 * i * i));

/** Metrics by sorting everything, straight from the definitions of data.md 5 and models.md 10. */
function bruteForce(part: 1 | 2, { masked, repeatable, knownUsers }: RankingSettings): Record<string, number> {
  const { user, item, users } = data.events;
  const rows = [...user.keys()];
  const sums: Record<string, number> = {};
  let cases = 0;
  for (let u = 0; u < users; u++) {
    const own = rows.filter((row) => user[row] === u);
    const targets = [...new Set(own.filter((row) => data.split.part[row] === part).map((row) => item[row]!))];
    const trained = own.some((row) => data.split.part[row] === 0);
    if (targets.length === 0 || (knownUsers && !trained)) continue;
    cases++;
    const hidden = own.filter(
      (row) => data.split.part[row]! < part && (masked === 'earlier' || data.split.part[row] === 0),
    );
    const met = new Set(repeatable ? [] : hidden.map((row) => item[row]!));
    const all = Array.from({ length: data.schema.items }, (_, i) => i).filter(
      (i) => !met.has(i) || targets.includes(i),
    );
    const ranks = targets.map((target) => {
      const better = all.filter((i) => score(u, i) > score(u, target)).length;
      const equal = all.filter((i) => i !== target && score(u, i) === score(u, target)).length;
      return 1 + better + equal / 2;
    });
    for (const k of [5, 20]) {
      const hits = ranks.filter((rank) => rank < k + 1);
      const add = (name: string, value: number): void => {
        sums[`${name}@${k}`] = (sums[`${name}@${k}`] ?? 0) + value;
      };
      add('Recall', hits.length / targets.length);
      add('HR', hits.length > 0 ? 1 : 0);
      add('MRR', hits.length > 0 ? 1 / Math.min(...hits) : 0);
      const ideal = Array.from({ length: Math.min(k, targets.length) }, (_, i) => 1 / Math.log2(i + 2));
      const gain = hits.reduce((sum, rank) => sum + 1 / Math.log2(rank + 1), 0);
      add('NDCG', Math.min(1, gain / ideal.reduce((a, b) => a + b, 0)));
    }
  }
  return { ...Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / cases])), users: cases };
}

describe('rankItems', () => {
  it.each([
    ['valid', {}],
    ['test', {}],
    ['test', { masked: 'train' }],
    ['test', { repeatable: true }],
    ['valid', { knownUsers: true }],
  ] as const)('%s with %o equals a brute-force ranking', async (part, change) => {
    const options = { ...settings, ...change };
    const rows = data.columns.parts[part];
    let blocks = 0;
    const metrics = await rankItems(data, part, rows, options, async (users) => {
      blocks++;
      return Float32Array.from({ length: users.length * 90 }, (_, at) => score(users[Math.floor(at / 90)]!, at % 90));
    });
    const expected = bruteForce(part === 'valid' ? 1 : 2, options);
    expect(blocks).toBe(1);
    expect(metrics['users']).toBe(expected['users']);
    for (const name of settings.metrics) expect(metrics[name], name).toBeCloseTo(expected[name]!, 12);
    expect(metrics['candidates']).toBe(90);
  });

  it('has no metrics without users', async () => {
    const metrics = await rankItems(data, 'valid', new Int32Array(0), settings, () => Promise.resolve([]));
    expect(metrics).toMatchObject({ 'Recall@5': null, users: 0, targets: 0 });
  });
});

describe('rankDrawn', () => {
  const pairScores = (users: Int32Array, _: Int32Array, items: Int32Array) =>
    Promise.resolve(Float64Array.from(users, (u, i) => score(u, items[i]!)));
  const draw = (change: Partial<RankingSettings>, drawn: DrawnCandidates, scores: ScorePairs = pairScores) =>
    rankDrawn(data, 'test', data.columns.parts.test, { ...settings, ...change, drawn }, scores);

  it('draws distinct items that the user neither met nor has as targets, the same each time', async () => {
    const met = new Set(
      Array.from(data.events.user, (u, row) => (data.split.part[row]! < 2 ? `${u} ${data.events.item[row]}` : '')),
    );
    const seen: string[] = [];
    const collect: ScorePairs = (users, events, items) => {
      seen.push(`${users.join()} ${items.join()}`);
      users.forEach((u, i) => {
        if (i % 6 !== 0) expect(met.has(`${u} ${items[i]}`), `user ${u} met ${items[i]}`).toBe(false);
        expect(data.events.user[events[i]!]).toBe(u);
      });
      for (let at = 0; at < items.length; at += 6) expect(new Set(items.subarray(at, at + 6)).size).toBe(6);
      return pairScores(users, events, items);
    };
    const uniform = { kind: 'uniform', n: 5, seed: 0 } as const;
    const [first, again] = [await draw({}, uniform, collect), await draw({}, uniform, collect)];
    expect(seen[0]).toBe(seen[1]);
    expect(again).toEqual(first);
    const other = await draw({}, { ...uniform, seed: 1 });
    expect(other['digest']).not.toBe(first['digest']);
    expect(first).toMatchObject({ candidates: 5, uniform: 5 });
  });

  it('with more candidates than there are items is the full ranking, but for the other targets of the user', async () => {
    const all = await draw({ repeatable: true }, { kind: 'uniform', n: 90, seed: 0 });
    const { user, item } = data.events;
    const rows = [...data.columns.parts.test];
    let [sum, users] = [0, 0];
    for (let u = 0; u < data.events.users; u++) {
      const targets = [...new Set(rows.filter((row) => user[row] === u).map((row) => item[row]!))];
      if (targets.length === 0) continue;
      users++;
      const others = Array.from({ length: 90 }, (_, i) => i).filter((i) => !targets.includes(i));
      const rank = (target: number): number =>
        1 +
        others.filter((i) => score(u, i) > score(u, target)).length +
        others.filter((i) => score(u, i) === score(u, target)).length / 2;
      sum += targets.filter((target) => rank(target) < 21).length / targets.length;
    }
    expect(all['users']).toBe(users);
    expect(all['Recall@20']).toBeCloseTo(sum / users, 12);
  });

  it('draws by popularity where asked to', async () => {
    const counts = new Float64Array(90);
    data.events.item.forEach((i, row) => (counts[i]! += Number(data.split.part[row] === 0)));
    const mean = async (kind: 'uniform' | 'popularity'): Promise<number> => {
      let [sum, n] = [0, 0];
      await draw({ repeatable: true }, { kind, n: 5, seed: 0 }, (users, events, items) => {
        items.forEach((i, at) => {
          if (at % 6 !== 0) [sum, n] = [sum + counts[i]!, n + 1];
        });
        return pairScores(users, events, items);
      });
      return sum / n;
    };
    const weighted = counts.reduce((a, c) => a + c * c, 0) / counts.reduce((a, c) => a + c, 0);
    expect(await mean('uniform')).toBeLessThan(1.15 * (counts.reduce((a, c) => a + c, 0) / 90));
    expect(await mean('popularity')).toBeGreaterThan(0.8 * weighted);
  });
});

/** Mean of many random rankings of the same targets. */
async function randomRecall(): Promise<number> {
  let sum = 0;
  for (let turn = 0; turn < 20; turn++) {
    const metrics = await rankItems(data, 'test', data.columns.parts.test, settings, async (users) =>
      Float32Array.from(
        { length: users.length * 90 },
        (_, at) => (Math.sin((at + 1) * 12.9898 + turn * 78.233) * 43758.5453) % 1,
      ),
    );
    sum += metrics['Recall@20']!;
  }
  return sum / 20;
}

describe('training with full rankings', () => {
  it.each([
    ['freedom', freedom],
    ['em3_release', em3Release],
  ] as const)('%s beats random rankings', async (_, make) => {
    using model = make(data, { seed: 1 });
    const train = { ...defaultSettings, epochs: 12, batchSize: 256, weightDecay: 0, validMetric: 'Recall@20' };
    const rates = { dense: 5e-3, sparse: 5e-3, encoder: 5e-3, lora: 5e-3 };
    await using trainer = new Trainer({
      model,
      data,
      device: 'cpu',
      settings: { ...train, learningRates: rates, ranking: settings },
    });
    const recalls: number[] = [];
    for await (const event of trainer.run())
      if (event.type === 'eval') recalls.push(event.metrics.all.ranking!['Recall@20']!);
    expect(trainer.restoreBest()).toBe(true);
    const { all } = await trainer.evaluate('test');
    const chance = await randomRecall();
    expect(all.AUC).toBeNull(); // every row is a positive
    expect(all.ranking!['Recall@20']).toBeGreaterThan(1.5 * chance);
    expect(Math.max(...recalls)).toBeGreaterThan(recalls[0]!);
    expect(data.testOpenings).toBeGreaterThan(0);
  });

  it('ranks with any model: candidates in the place of the item', async () => {
    await using plain = await topKData(folder, { users: 60, items: 90, events: 3000 }, { vectorsInBatches: true });
    using model = em3(plain.schema, {
      ranker: 'dnn',
      historyLen: 0,
      content: { fusion: { mode: 'exact', queries: 1, layers: 1, heads: 2, width: 8 }, lora: { mode: 'none' } },
    });
    await using trainer = new Trainer({
      model,
      data: plain,
      device: 'cpu',
      settings: { epochs: 1, batchSize: 256, evalBatchSize: 1000, ranking: settings, validMetric: 'Recall@20' },
    });
    let ranking: RankingMetrics | undefined;
    for await (const event of trainer.run()) if (event.type === 'eval') ranking = event.metrics.all.ranking;
    expect(ranking!['users']).toBeGreaterThan(50);

    // The same by hand: every user's row with every item.
    const items = Int32Array.from({ length: 90 }, (_, i) => i);
    await encodeItems(model, plain, 'overlay', items, trainer.step);
    const again = await rankItems(plain, 'valid', plain.columns.parts.valid, settings, async (_, events) => {
      const out: number[] = [];
      for (const event of events) {
        const candidates = { events: Int32Array.of(event), items };
        for await (const batch of plain.loader({ part: 'valid', batchSize: 90, candidates })) {
          expect([...batch.items.rows]).toEqual([...items]);
          expect(new Set(batch.events)).toEqual(new Set([event]));
          const logits = tidy(() => model.predict(batch, trainer.step));
          out.push(...((await logits.values()) as Float32Array));
          logits.dispose();
        }
      }
      return out;
    });
    expect(again).toEqual(ranking);

    // Among drawn items: pairs through the loader, and one by one.
    const drawn = { kind: 'uniform', n: 7, seed: 3 } as const;
    const run = (batch: Batch) => model.predict(batch, trainer.step);
    const rows = plain.columns.parts.valid;
    const load = (candidates: { events: Int32Array; items: Int32Array; paired?: boolean }) =>
      plain.loader({ part: 'valid', batchSize: 64, candidates });
    const ranked = await rankPart(model, plain, 'valid', rows, { ...settings, drawn }, { load, run });
    const one = await rankDrawn(plain, 'valid', rows, { ...settings, drawn }, async (_, events, tried) => {
      const out: number[] = [];
      for await (const batch of load({ events, items: tried, paired: true })) {
        expect([...batch.events]).toEqual([...events.subarray(out.length, out.length + batch.size)]);
        expect(Array.from(batch.items.index, (at) => batch.items.rows[at])).toEqual([
          ...tried.subarray(out.length, out.length + batch.size),
        ]);
        const logits = tidy(() => run(batch));
        out.push(...((await logits.values()) as Float32Array));
        logits.dispose();
      }
      return out;
    });
    model.dropOverlay();
    expect(one).toEqual(ranked);
    expect(ranked['Recall@5']!).toBeGreaterThan(ranking!['Recall@5']!);
  });

  it('prints Recall and NDCG: galago train, then galago eval', async () => {
    const run = join(root, 'run');
    const keys = ['userID', 'itemID'].map((name) => ({ name, type: 'categorical' }));
    const given = ['image', 'text'].map((name) => ({ name, type: 'embedding', file: `${name}_feat.npy` }));
    const set = JSON.stringify({
      data: { path: folder, user_id: 'userID', item_id: 'itemID', label: { column: null } },
      feature_cols: [...keys, ...given],
      model: { name: 'em3_release' },
      train: { epochs: 2, train_batch_size: 512 },
      device: 'cpu',
    });
    const trained = await captured(['train', '--set', set, '--run-dir', run, '--json']);
    expect(trained.exitCode, trained.stderr).toBe(0);
    expect(trained.stdout).toMatch(
      /Recall@20 0\.\d{4} .*NDCG@20 0\.\d{4}\nfull ranking of 90 items for \d+ users, \d+ targets/,
    );
    const evaluated = await captured(['eval', run, '--part', 'test']);
    expect(evaluated.exitCode, evaluated.stderr).toBe(0);
    expect(evaluated.stdout).toContain(/Recall@10 .*NDCG@20 0\.\d{4}/.exec(trained.stdout)![0]);
    const drawn = await captured(['train', '--set', set, '--eval.mode=pop9', '--run-dir', join(root, 'drawn')]);
    expect(drawn.exitCode, drawn.stderr).toBe(0);
    expect(drawn.stdout + drawn.stderr).toMatch(
      /ranking among 9 items drawn by popularity \(digest [0-9a-f]{12}\) for \d+ users, \d+ targets/,
    );
  });

  it('refuses configurations that cannot be ranked', () => {
    const of = (object: Parameters<typeof resolveConfig>[0]['object']) => () => resolveConfig({ object });
    expect(of({ eval: { metrics: ['AUC', 'Recall@5'] } })).toThrow('expected Recall@5 with eval.mode full');
    expect(of({ eval: { mode: 'uni100' } })).toThrow('expected Recall, HR, NDCG or MRR with @K for eval.mode uni100');
    expect(of({ eval: { mode: 'full' } })).toThrow('expected Recall, HR, NDCG or MRR with @K');
    expect(of({ model: { name: 'freedom' }, train: { negatives: { kind: 'none' } } })).toThrow('expected uniform');
    expect(of({ model: { name: 'freedom', modalities: ['text'] } })).toThrow('expected one for each of 1 modalities');
  });
});
