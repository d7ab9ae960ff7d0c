/**
 * Rankings of items (data.md 5). Full: every item of the catalogue is a candidate for every user of a part; what the user met earlier is
 * masked. Drawn: each target stands among items that were drawn for it once.
 */
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import type { Dataset } from '../data/dataset.js';
import { candidateDraws, type DrawnCandidates } from '../data/drawn_candidates.js';
import { groupRows, PARTS, TRAIN } from '../data/events.js';
import type { Batch } from '../data/loader/batch.js';
import type { PassOptions } from '../data/loader/batch_source.js';
import type { Loader } from '../data/loader/loader.js';
import { RankingMeter, rankTargets } from '../metrics/ranking.js';
import type { RecommenderModel } from '../models/model.js';
import { mul } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { matmul } from '../ops/matmul.js';
import { sum } from '../ops/reduce.js';
import { device, type Tensor, tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import type { OnProgress } from './evaluate.js';

/** How a ranking is made. */
export interface RankingSettings {
  /** Candidates of each target, drawn evenly from the catalogue or in proportion to train events; null: all items. */
  readonly drawn: DrawnCandidates | null;
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
  data: RankedData,
  part: 'valid' | 'test',
  events: Int32Array,
  settings: RankingSettings,
  scores: ScoreUsers,
  onProgress?: OnProgress,
): Promise<RankingMetrics> {
  const { known, asked, hiddenOf, targetsOf, firstEvent } = rankingCases(data, part, events, settings);
  const items = data.schema.items;
  const { wanted, meter } = meterOf(settings.metrics);
  const block = Math.max(1, Math.floor(BLOCK_SCORES / Math.max(1, items)));
  const mask = new Uint8Array(items);
  let count = 0;
  for (let at = 0; at < known.length; at += block) {
    onProgress?.('ranking', at, known.length);
    const some = known.subarray(at, at + block);
    const values = await scores(some, some.map(firstEvent));
    for (const [place, u] of some.entries()) {
      const own =
        values instanceof Float32Array
          ? values.subarray(place * items, (place + 1) * items)
          : Float64Array.from({ length: items }, (_, i) => values[place * items + i]!);
      const hidden = hiddenOf(u);
      const targets = targetsOf(u);
      for (const item of hidden) mask[item] = 1;
      count += targets.length;
      meter.add(rankTargets(own, targets, mask));
      for (const item of hidden) mask[item] = 0;
      if (place % 16 === 15) await setImmediate();
    }
  }
  onProgress?.('ranking', known.length, known.length);
  return { ...result(meter, wanted), unknownUsers: asked - known.length, targets: count, candidates: items };
}

/** Scores of pairs: users by number, events (the first target event of the user), items. All (P). */
export type ScorePairs = (users: Int32Array, events: Int32Array, items: Int32Array) => Promise<ArrayLike<number>>;

/** Pairs whose scores are asked for at a time. */
const BLOCK_PAIRS = 1 << 17;

/**
 * The same among drawn candidates: the rank of a target is that among `drawn.n` items which the user neither met earlier nor has as
 * targets. `digest`: the first 48 bits of the SHA-256 of all draws, the same for every model that is compared.
 */
export async function rankDrawn(
  data: RankedData,
  part: 'valid' | 'test',
  events: Int32Array,
  settings: RankingSettings & { readonly drawn: DrawnCandidates },
  scores: ScorePairs,
  onProgress?: OnProgress,
): Promise<RankingMetrics> {
  const { known, asked, hiddenOf, targetsOf, firstEvent } = rankingCases(data, part, events, settings);
  const { wanted, meter } = meterOf(settings.metrics);
  const { kind, n } = settings.drawn;
  const draw = candidateDraws(data, settings.drawn);
  const digest = createHash('sha256');
  const taken = new Uint8Array(data.schema.items);
  let count = 0;
  for (let at = 0; at < known.length; ) {
    onProgress?.('ranking', at, known.length);
    const pairs = { user: [] as number[], event: [] as number[], item: [] as number[] };
    const lengths: number[][] = [];
    for (; at < known.length && pairs.user.length < BLOCK_PAIRS; at++) {
      const u = known[at]!;
      const targets = targetsOf(u);
      const event = firstEvent(u);
      const out = [...hiddenOf(u), ...targets];
      for (const item of out) taken[item] = 1;
      lengths.push([]);
      for (const target of targets) {
        const drawn = draw(u, target, taken);
        digest.update(drawn);
        for (const item of [target, ...drawn]) {
          pairs.user.push(u);
          pairs.event.push(event);
          pairs.item.push(item);
        }
        lengths.at(-1)!.push(1 + drawn.length);
      }
      for (const item of out) taken[item] = 0;
    }
    const values = await scores(Int32Array.from(pairs.user), Int32Array.from(pairs.event), Int32Array.from(pairs.item));
    let from = 0;
    for (const own of lengths) {
      const ranks = own.map((length) => {
        const rank = rankTargets(
          Float64Array.from({ length }, (_, i) => values[from + i]!),
          [0],
        );
        from += length;
        return rank[0]!;
      });
      count += ranks.length;
      meter.add(ranks);
    }
    await setImmediate();
  }
  onProgress?.('ranking', known.length, known.length);
  return {
    ...result(meter, wanted),
    unknownUsers: asked - known.length,
    targets: count,
    candidates: n,
    [kind]: n,
    digest: Number.parseInt(digest.digest('hex').slice(0, 12), 16),
  };
}

type RankedData = Pick<Dataset, 'events' | 'split' | 'positive' | 'schema'>;

/** Users that are asked for: those with targets, the distinct items of their positive events; items that are no candidates of theirs. */
function rankingCases(
  data: RankedData,
  part: 'valid' | 'test',
  events: Int32Array,
  { masked, repeatable, knownUsers }: RankingSettings,
) {
  const { user, item, users, time } = data.events;
  const code = PARTS.indexOf(part);
  const targets = groupRows(user, users, events.filter((row) => data.positive[row] === 1).sort());
  const met = groupRows(
    user,
    users,
    Int32Array.from(user.keys()).filter((row) => data.split.part[row]! < code),
  );
  const metBy = (u: number): Int32Array => met.rows.subarray(met.offsets[u], met.offsets[u + 1]);
  const rowsOf = (u: number): Int32Array => targets.rows.subarray(targets.offsets[u], targets.offsets[u + 1]);
  const itemsOf = (rows: Int32Array): Int32Array => rows.map((row) => item[row]!);
  const asked = Int32Array.from({ length: users }, (_, u) => u).filter((u) => rowsOf(u).length > 0);
  return {
    known: knownUsers ? asked.filter((u) => metBy(u).some((row) => data.split.part[row] === TRAIN)) : asked,
    asked: asked.length,
    firstEvent: (u: number): number => rowsOf(u).reduce((a, b) => (time[b]! < time[a]! ? b : a)),
    targetsOf: (u: number): Int32Array => Int32Array.from(new Set(itemsOf(rowsOf(u)))),
    hiddenOf: (u: number): Int32Array =>
      repeatable
        ? new Int32Array(0)
        : itemsOf(metBy(u).filter((row) => masked === 'earlier' || data.split.part[row] === TRAIN)),
  };
}

function meterOf(metrics: readonly string[]) {
  const wanted = metrics.flatMap((name) => {
    const metric = rankingMetric(name);
    return metric === null ? [] : [{ name, ...metric }];
  });
  return { wanted, meter: new RankingMeter([...new Set(wanted.map(({ k }) => k))]) };
}

function result(meter: RankingMeter, wanted: ReturnType<typeof meterOf>['wanted']): Record<string, number | null> {
  const { cases, at } = meter.result();
  return {
    ...Object.fromEntries(wanted.map(({ name, field, k }) => [name, at.get(k)?.[field] ?? null])),
    users: cases,
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

/** Scores of pairs by dot products. Null for models without vectors. */
function vectorPairScores(model: RecommenderModel): ScorePairs | null {
  if (model.rankingVectors === undefined) return null;
  return async (users, _, items) => {
    const place = (rows: Int32Array): Tensor => tensor(rows, [rows.length], { device: model.device });
    const scores = tidy(() => {
      const vectors = model.rankingVectors!();
      return sum(mul(gatherRows(vectors.users, place(users)), gatherRows(vectors.items, place(items))), { axes: [1] });
    });
    const values = await scores.values();
    scores.dispose();
    return values as Float32Array;
  };
}

/** How batches of candidates are made, and scored. */
interface Scoring {
  readonly load: (candidates: NonNullable<PassOptions['candidates']>) => Loader;
  readonly run: (batch: Batch) => Tensor;
  readonly onProgress?: OnProgress | undefined;
}

/** Ranking metrics of a model whose items are encoded: by products of vectors where it has them, else batches of a user's row as of the first target event. */
export function rankPart(
  model: RecommenderModel,
  data: RankedData,
  part: 'valid' | 'test',
  rows: Int32Array,
  { drawn, ...settings }: RankingSettings,
  { load, run, onProgress }: Scoring,
): Promise<RankingMetrics> {
  if (drawn !== null) {
    const scores: ScorePairs = (_, events, items) =>
      allScores(model, load({ events, items, paired: true }), events.length, run);
    return rankDrawn(data, part, rows, { ...settings, drawn }, vectorPairScores(model) ?? scores, onProgress);
  }
  const catalogue = Int32Array.from({ length: data.schema.items }, (_, item) => item);
  const scores: ScoreUsers = (_, events) =>
    allScores(model, load({ events, items: catalogue }), events.length * catalogue.length, run);
  return rankItems(data, part, rows, { ...settings, drawn }, vectorScores(model) ?? scores, onProgress);
}

async function allScores(
  model: RecommenderModel,
  loader: Loader,
  count: number,
  run: (batch: Batch) => Tensor,
): Promise<Float32Array> {
  const scores = new Float32Array(count);
  let at = 0;
  for await (const batch of loader) {
    const logits = tidy(() => run(batch));
    scores.set((await logits.values()) as Float32Array, at);
    logits.dispose();
    at += batch.size;
  }
  await device(model.device).synchronize();
  return scores;
}
