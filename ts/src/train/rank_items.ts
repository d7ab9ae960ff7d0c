/** Full ranking (data.md 5): every item of the catalogue is a candidate for every user of a part; what the user met earlier is masked. */
import { setImmediate } from 'node:timers/promises';
import type { Dataset } from '../data/dataset.js';
import { groupRows, PARTS, TRAIN } from '../data/events.js';
import type { Batch } from '../data/loader/batch.js';
import type { Loader } from '../data/loader/loader.js';
import { RankingMeter, rankTargets } from '../metrics/ranking.js';
import type { RecommenderModel } from '../models/model.js';
import { gatherRows } from '../ops/gather_rows.js';
import { matmul } from '../ops/matmul.js';
import { device, type Tensor, tensor } from '../tensor.js';
import { tidy } from '../tidy.js';

/** How a full ranking is made. */
export interface RankingSettings {
  /** Names with a cut-off: `Recall@20`, `HR@10`, `NDCG@20`, `MRR@10`. */
  readonly metrics: readonly string[];
  /** Parts whose items of the user are no candidates: all earlier parts, or train alone. */
  readonly masked: 'earlier' | 'train';
  /** Items met earlier stay candidates. */
  readonly repeatable: boolean;
  /** Only users with a train event. */
  readonly knownUsers: boolean;
}

/** Means over users by metric name, null where no user counts; `users` that count, `unknownUsers` left out, `targets` and `candidates`. */
export type RankingMetrics = Readonly<Record<string, number | null>>;

/** Scores that are held at a time: 16 MiB in float32, or one user's if the catalogue is larger. */
const BLOCK_SCORES = 1 << 22;

const FIELDS = { Recall: 'recall', HR: 'hitRate', NDCG: 'ndcg', MRR: 'mrr' } as const;

/** `Recall@20` to its value and cut-off; null for the name of a click metric. */
export function rankingMetric(name: string): { field: (typeof FIELDS)[keyof typeof FIELDS]; k: number } | null {
  const match = /^(Recall|HR|NDCG|MRR)@([1-9]\d*)$/.exec(name);
  return match === null ? null : { field: FIELDS[match[1] as keyof typeof FIELDS], k: Number(match[2]) };
}

/** Scores (users, items) of a block of users, row after row: users by number, with their first target event. */
export type ScoreUsers = (users: Int32Array, events: Int32Array) => Promise<ArrayLike<number>>;

/**
 * Metrics of a part. A case is a user: its targets are the distinct items of its positive `events` (event numbers of the part). Memory is
 * one block of scores, whatever the number of users.
 */
export async function rankItems(
  data: Pick<Dataset, 'events' | 'split' | 'positive' | 'schema'>,
  part: 'valid' | 'test',
  events: Int32Array,
  { metrics, masked, repeatable, knownUsers }: RankingSettings,
  scores: ScoreUsers,
): Promise<RankingMetrics> {
  const { user, item, users } = data.events;
  const code = PARTS.indexOf(part);
  const items = data.schema.items;
  const wanted = metrics.flatMap((name) => {
    const metric = rankingMetric(name);
    return metric === null ? [] : [{ name, ...metric }];
  });
  const meter = new RankingMeter([...new Set(wanted.map(({ k }) => k))]);
  const targets = groupRows(user, users, events.filter((row) => data.positive[row] === 1).sort());
  const met = groupRows(
    user,
    users,
    Int32Array.from(user.keys()).filter((row) => data.split.part[row]! < code),
  );
  const metBy = (u: number): Int32Array => met.rows.subarray(met.offsets[u], met.offsets[u + 1]);
  const targetsOf = (u: number): Int32Array => targets.rows.subarray(targets.offsets[u], targets.offsets[u + 1]);
  const asked = Int32Array.from({ length: users }, (_, u) => u).filter((u) => targetsOf(u).length > 0);
  const known = knownUsers ? asked.filter((u) => metBy(u).some((row) => data.split.part[row] === TRAIN)) : asked;
  const block = Math.max(1, Math.floor(BLOCK_SCORES / Math.max(1, items)));
  const mask = new Uint8Array(items);
  let count = 0;
  for (let at = 0; at < known.length; at += block) {
    const some = known.subarray(at, at + block);
    const values = await scores(
      some,
      some.map((u) => targetsOf(u)[0]!),
    );
    for (const [place, u] of some.entries()) {
      const own =
        values instanceof Float32Array
          ? values.subarray(place * items, (place + 1) * items)
          : Float64Array.from({ length: items }, (_, i) => values[place * items + i]!);
      const hidden = repeatable ? [] : metBy(u).filter((row) => masked === 'earlier' || data.split.part[row] === TRAIN);
      for (const row of hidden) mask[item[row]!] = 1;
      const distinct = Int32Array.from(new Set(Array.from(targetsOf(u), (row) => item[row]!)));
      count += distinct.length;
      meter.add(rankTargets(own, distinct, mask));
      for (const row of hidden) mask[item[row]!] = 0;
      if (place % 16 === 15) await setImmediate();
    }
  }
  const { cases, at } = meter.result();
  return {
    ...Object.fromEntries(wanted.map(({ name, field, k }) => [name, at.get(k)?.[field] ?? null])),
    users: cases,
    unknownUsers: asked.length - known.length,
    targets: count,
    candidates: items,
  };
}

/** Scores of a model of user and item vectors, by products of blocks. Null for other models. */
export function vectorScores(model: RecommenderModel): ScoreUsers | null {
  if (model.rankingVectors === undefined) return null;
  return async (users) => {
    const scores = tidy(() => {
      const { users: all, items } = model.rankingVectors!();
      return matmul(gatherRows(all, tensor(users, [users.length], { device: model.device })), items, {
        transposeB: true,
      });
    });
    const values = await scores.values();
    scores.dispose();
    return values as Float32Array;
  };
}

/** Scores of any model: batches of a user's row, as of the first target event, with every item in the item's place. */
export function candidateScores(
  model: RecommenderModel,
  loader: (candidates: { events: Int32Array; items: Int32Array }) => Loader,
  items: number,
  run: (batch: Batch) => Tensor,
): ScoreUsers {
  const catalogue = Int32Array.from({ length: items }, (_, item) => item);
  return async (_, events) => {
    const scores = new Float32Array(events.length * items);
    let at = 0;
    for await (const batch of loader({ events, items: catalogue })) {
      const logits = tidy(() => run(batch));
      scores.set((await logits.values()) as Float32Array, at);
      logits.dispose();
      at += batch.size;
    }
    await device(model.device).synchronize();
    return scores;
  };
}
