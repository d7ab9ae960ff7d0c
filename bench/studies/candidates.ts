/** Ranking among a fixed list of candidates: every candidate scored for every user by the model, from the library's own batches. */

import type { Dataset } from '../../ts/src/data/dataset.js';
import { BatchSource } from '../../ts/src/data/loader/batch_source.js';
import type { RecommenderModel } from '../../ts/src/models/model.js';
import { tidy } from '../../ts/src/tidy.js';
import { encodeItems } from '../../ts/src/train/evaluate.js';

const batchSize = 4096;

/** Area under the curve of `target` among `scores`: the share of the others that score lower, equal ones counted half. */
export function rankAuc(scores: ArrayLike<number>, target: number): number {
  let below = 0;
  for (let i = 0; i < scores.length; i++) {
    if (i === target) continue;
    if (scores[i]! < scores[target]!) below += 1;
    else if (scores[i]! === scores[target]!) below += 0.5;
  }
  return below / (scores.length - 1);
}

/** Whose history a candidate is scored with: what the train part holds of the user before `time` (a rank of `BatchColumns.time`). */
export interface Moment {
  readonly user: number;
  readonly time: number;
}

/**
 * Scores (moments.length x items.length, by moment) of item rows. Evaluation only: content vectors are encoded into the model's
 * overlay, as in every evaluation.
 */
export async function candidateScores(
  model: RecommenderModel,
  data: Dataset,
  moments: readonly Moment[],
  items: readonly number[],
): Promise<Float32Array> {
  const { columns } = data;
  const count = moments.length * items.length;
  const momentOf = (i: number): Moment => moments[Math.floor(i / items.length)]!;
  const each = (value: (i: number) => number): Int32Array => Int32Array.from({ length: count }, (_, i) => value(i));
  // Rows that never happened: at every moment its user meets every candidate.
  const source = new BatchSource(
    {
      ...columns,
      user: each((i) => momentOf(i).user),
      item: each((i) => items[i % items.length]!),
      time: each((i) => momentOf(i).time),
      session: null,
      labels: columns.labels.map(({ name }) => ({ name, values: new Float32Array(count) })),
      parts: { train: new Int32Array(), valid: new Int32Array(), test: each((i) => i) },
      sessions: null,
      negatives: null,
    },
    { part: 'test', epoch: 0, batchSize, seed: data.seed },
  );
  const scores = new Float32Array(count);
  try {
    await encodeItems(
      model,
      data,
      'overlay',
      Int32Array.from({ length: columns.items }, (_, item) => item),
      0,
    );
    for (let batch = source.next(), at = 0; batch !== null; at += batch.size, batch = source.next()) {
      const rows = batch;
      const logits = tidy(() => model.predict(rows, 0));
      scores.set((await logits.data()) as Float32Array, at);
      logits.dispose();
    }
  } finally {
    model.dropOverlay();
  }
  return scores;
}

/** Cold-item ranking AUC: the mean over events, and the mean over users of their means. */
export interface ColdRanking {
  /** Histories end before the event. */
  readonly events: number;
  readonly users: number;
  /** Histories are all that training knows of the user. */
  readonly profile_events: number;
  readonly profile_users: number;
  readonly n_events: number;
  readonly n_users: number;
  readonly n_candidates: number;
}

/** Each test event of a new item ranks its item among all new items for its user. */
export async function coldRanking(model: RecommenderModel, data: Dataset): Promise<ColdRanking> {
  const { columns, items } = data;
  const candidates = [...items.cold.keys()].filter((item) => items.cold[item] === 1);
  const place = new Map(candidates.map((item, i) => [item, i]));
  const rows = [...data.openTest().rows].filter((row) => place.has(columns.item[row]!));
  const users = [...new Set(rows.map((row) => columns.user[row]!))];
  const placeOfUser = new Map(users.map((user, i) => [user, i]));
  const target = (row: number): number => place.get(columns.item[row]!)!;
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  /** `moment` says which block of `scores` belongs to the event at a place of `rows`. */
  const measure = (scores: Float32Array, moment: (event: number) => number): { events: number; users: number } => {
    const byUser = new Map<number, number[]>(users.map((user) => [user, []]));
    rows.forEach((row, event) => {
      const from = moment(event) * candidates.length;
      const auc = rankAuc(scores.subarray(from, from + candidates.length), target(row));
      byUser.get(columns.user[row]!)!.push(auc);
    });
    return { events: mean([...byUser.values()].flat()), users: mean([...byUser.values()].map(mean)) };
  };
  const atEvents = rows.map((row) => ({ user: columns.user[row]!, time: columns.time[row]! }));
  const before = measure(await candidateScores(model, data, atEvents, candidates), (event) => event);
  const end = columns.time.reduce((latest, time) => Math.max(latest, time), 0) + 1;
  const atEnd = users.map((user) => ({ user, time: end }));
  const profile = measure(
    await candidateScores(model, data, atEnd, candidates),
    (event) => placeOfUser.get(columns.user[rows[event]!]!)!,
  );
  return {
    ...before,
    profile_events: profile.events,
    profile_users: profile.users,
    n_events: rows.length,
    n_users: users.length,
    n_candidates: candidates.length,
  };
}
