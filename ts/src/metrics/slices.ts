/** The click metrics of an evaluation, over all rows and over slices of them. */
import { setImmediate } from 'node:timers/promises';
import { ArgumentError } from '../errors.js';
import { auc, checkRows, type Numbers } from './auc.js';
import { type GroupedAuc, gauc, qauc } from './grouped_auc.js';
import { calibration, logloss } from './logloss.js';

/** Predictions and labels by row, with the columns that slices and groups need. */
export interface EvaluationRows {
  readonly logits: Numbers;
  /** 0 or 1. */
  readonly labels: Numbers;
  /** Groups of gAUC. */
  readonly user: Numbers;
  /** Query requests, groups of QAUC; negative = none. Without it QAUC is null. */
  readonly session?: Numbers | undefined;
  /** 1: the item has no training impression. With it come the slices `warm` and `cold`. */
  readonly cold?: Numbers | undefined;
  /** Further slices by name: the rows with a value other than 0. */
  readonly slices?: Readonly<Record<string, Numbers>> | undefined;
}

export interface SliceMetrics {
  readonly AUC: number | null;
  readonly gAUC: number | null;
  readonly QAUC: number | null;
  readonly logloss: number | null;
  readonly calibration: number | null;
  readonly rows: number;
  readonly positives: number;
  /** What gAUC rests on. */
  readonly users: Omit<GroupedAuc, 'value'>;
  /** What QAUC rests on. Null without sessions. */
  readonly requests: Omit<GroupedAuc, 'value'> | null;
  /** Of a full ranking, where one was made: `Recall@20` and its like, and the numbers of users, targets and candidates behind them. */
  readonly ranking?: Readonly<Record<string, number | null>>;
}

/** Metrics of `all`, of `warm` and `cold` where known, and of the slices given. See `metricDefinitions` for the formulas. */
export function evaluateSlices(rows: EvaluationRows): SlicesOfRows {
  const steps = slicesInSteps(rows);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** `evaluateSlices`, one metric of one slice per turn of the event loop. */
export async function evaluateSlicesAside(rows: EvaluationRows): Promise<SlicesOfRows> {
  const steps = slicesInSteps(rows);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    await setImmediate();
  }
}

type SlicesOfRows = { readonly all: SliceMetrics } & Record<string, SliceMetrics>;

function* slicesInSteps(rows: EvaluationRows): Generator<void, SlicesOfRows> {
  const { logits, labels, user, session, cold, slices = {} } = rows;
  checkRows('evaluateSlices', logits, { labels, user, ...slices });
  if (session) checkRows('evaluateSlices', logits, { session });
  if (cold) checkRows('evaluateSlices', logits, { cold });
  const masks = new Map<string, (row: number) => boolean>();
  if (cold) {
    masks.set('warm', (row) => cold[row] === 0);
    masks.set('cold', (row) => cold[row] !== 0);
  }
  for (const [name, mask] of Object.entries(slices)) {
    if (name === 'all' || masks.has(name))
      throw new ArgumentError(`evaluateSlices: slices must not redefine ${name}`, {
        op: 'evaluateSlices',
        argument: 'slices',
      });
    masks.set(name, (row) => mask[row] !== 0);
  }
  const result: Record<string, SliceMetrics> = {};
  for (const [name, inSlice] of masks) {
    const chosen: number[] = [];
    for (let row = 0; row < logits.length; row++) if (inSlice(row)) chosen.push(row);
    const take = (column: Numbers) => Float64Array.from(chosen, (row) => column[row]!);
    result[name] = yield* clickMetrics(take(logits), take(labels), take(user), session && take(session));
  }
  return { all: yield* clickMetrics(logits, labels, user, session), ...result };
}

function* clickMetrics(
  logits: Numbers,
  labels: Numbers,
  user: Numbers,
  session: Numbers | undefined,
): Generator<void, SliceMetrics> {
  yield;
  const { value: gAUC, ...users } = gauc(logits, labels, user);
  yield;
  const { value: QAUC, ...requests } = session ? qauc(logits, labels, session) : { value: null };
  yield;
  let positives = 0;
  for (let row = 0; row < labels.length; row++) positives += labels[row]!;
  return {
    AUC: auc(logits, labels),
    gAUC,
    QAUC,
    logloss: logloss(logits, labels),
    calibration: calibration(logits, labels),
    rows: logits.length,
    positives,
    users,
    requests: 'groups' in requests ? requests : null,
  };
}

/** Facts about rows from which the default slices follow; what is not given makes no slice. */
export interface SliceFacts {
  /** Training impressions of the row's item. */
  readonly trainImpressions?: Numbers;
  /** Popularity decile of the row's item in training, 0 (least) .. 9. */
  readonly popularityDecile?: Numbers;
  /** Age of the item at the row's time, days. */
  readonly itemAgeDays?: Numbers;
  readonly historyLength?: Numbers;
  /** 1: missing. */
  readonly imageMissing?: Numbers;
  readonly textMissing?: Numbers;
}

/** Masks of the default slices, for `evaluateSlices`. */
export function defaultSlices(facts: SliceFacts): Record<string, Uint8Array> {
  const slices: Record<string, Uint8Array> = {};
  const add = (name: string, column: Numbers | undefined, holds: (value: number) => boolean) => {
    if (column) slices[name] = Uint8Array.from(column, (value) => (holds(value) ? 1 : 0));
  };
  for (const limit of [5, 10, 20]) add(`few_${limit}`, facts.trainImpressions, (n) => n < limit);
  for (let decile = 0; decile < 10; decile++)
    add(`popularity_${decile}`, facts.popularityDecile, (value) => value === decile);
  add('age_below_1d', facts.itemAgeDays, (days) => days < 1);
  add('age_1d_7d', facts.itemAgeDays, (days) => days >= 1 && days < 7);
  add('age_7d_30d', facts.itemAgeDays, (days) => days >= 7 && days < 30);
  add('age_from_30d', facts.itemAgeDays, (days) => days >= 30);
  add('history_0', facts.historyLength, (n) => n === 0);
  add('history_1_5', facts.historyLength, (n) => n >= 1 && n <= 5);
  add('history_6_20', facts.historyLength, (n) => n >= 6 && n <= 20);
  add('history_above_20', facts.historyLength, (n) => n > 20);
  add('image_missing', facts.imageMissing, (missing) => missing !== 0);
  add('text_missing', facts.textMissing, (missing) => missing !== 0);
  return slices;
}
