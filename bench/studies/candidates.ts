/** Ranking among a fixed list of candidates: every candidate scored for every user by the model, from the library's own batches. */

import { BatchSource } from '../../ts/src/data/batch_source.js';
import type { Dataset } from '../../ts/src/data/dataset.js';
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

/**
 * Scores (users.length x items.length, by user) of item rows for users, each with the history of all that the train part holds of
 * them. Evaluation only: content vectors are encoded into the model's overlay, as in every evaluation.
 */
export async function candidateScores(
  model: RecommenderModel,
  data: Dataset,
  users: readonly number[],
  items: readonly number[],
): Promise<Float32Array> {
  const { columns } = data;
  const count = users.length * items.length;
  const ofUser = Int32Array.from({ length: count }, (_, i) => users[Math.floor(i / items.length)]!);
  const ofItem = Int32Array.from({ length: count }, (_, i) => items[i % items.length]!);
  const later = columns.time.reduce((latest, time) => Math.max(latest, time), 0) + 1;
  // Rows that never happened: every user meets every candidate after the last event.
  const source = new BatchSource(
    {
      ...columns,
      user: ofUser,
      item: ofItem,
      time: new Int32Array(count).fill(later),
      session: null,
      labels: columns.labels.map(({ name }) => ({ name, values: new Float32Array(count) })),
      parts: {
        train: new Int32Array(),
        valid: new Int32Array(),
        test: Int32Array.from({ length: count }, (_, i) => i),
      },
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

/**
 * Cold-item ranking AUC: each test event of a new item ranks its item among all new items for its user.
 * `events` is the mean over events, `users` the mean over users of their mean; null without such events.
 */
export async function coldRanking(
  model: RecommenderModel,
  data: Dataset,
): Promise<{ events: number; users: number; count: { events: number; users: number; candidates: number } }> {
  const { columns, items } = data;
  const candidates = [...items.cold.keys()].filter((item) => items.cold[item] === 1);
  const place = new Map(candidates.map((item, i) => [item, i]));
  const rows = [...data.openTest().rows].filter((row) => place.has(columns.item[row]!));
  const users = [...new Set(rows.map((row) => columns.user[row]!))];
  const scores = await candidateScores(model, data, users, candidates);
  const byUser = new Map<number, number[]>(users.map((user) => [user, []]));
  const start = new Map(users.map((user, i) => [user, i * candidates.length]));
  for (const row of rows) {
    const user = columns.user[row]!;
    const from = start.get(user)!;
    const own = scores.subarray(from, from + candidates.length);
    byUser.get(user)!.push(rankAuc(own, place.get(columns.item[row]!)!));
  }
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    events: mean([...byUser.values()].flat()),
    users: mean([...byUser.values()].map(mean)),
    count: { events: rows.length, users: users.length, candidates: candidates.length },
  };
}
