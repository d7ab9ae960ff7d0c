/** Scores every row of a part and computes the metrics of its slices. Writes nothing: content vectors live in an overlay. */

import type { Dataset } from '../data/dataset.js';
import type { Batch } from '../data/loader/batch.js';
import type { Loader } from '../data/loader/loader.js';
import { evaluateSlicesAside, type SliceMetrics } from '../metrics/slices.js';
import type { ItemContent } from '../models/content.js';
import type { RecommenderModel } from '../models/model.js';
import { autocast } from '../ops/autocast.js';
import { device, type Tensor } from '../tensor.js';
import { tidy } from '../tidy.js';

/** What activations are computed in: 'bf16' is `autocast`, for devices that have bfloat16. Parameters are float32 in both. */
export type Precision = 'float32' | 'bf16';

/** Runs `run`, which builds a graph, in a precision. */
export function inPrecision<T>(precision: Precision, run: () => T): T {
  return precision === 'bf16' ? autocast(run) : run();
}

/** Told where long work stands: 'encoding' counts items, 'scoring' rows, 'ranking' users. */
export type OnProgress = (doing: 'encoding' | 'scoring' | 'ranking', done: number, of: number) => void;

interface PassSettings {
  /** Default float32. */
  readonly precision?: Precision;
  readonly onProgress?: OnProgress | undefined;
}

/** Scores by row, in the order of the part. */
export interface Predictions {
  readonly logits: Float64Array;
  readonly labels: Float32Array;
  readonly user: Int32Array;
  readonly session: Int32Array;
  readonly events: Int32Array;
  /** 1 where the item has no training impression. */
  readonly cold: Uint8Array;
  /** Of a model of several labels: what it says of the others, by their names. */
  readonly others: Readonly<Record<string, { readonly logits: Float64Array; readonly labels: Float32Array }>>;
}

export type Slices = { readonly all: SliceMetrics } & Readonly<Record<string, SliceMetrics>>;

/** Item rows that an evaluation of `rows` may read: its targets, and every item of the train part (histories). Ascending. */
function readItems(data: Dataset, rows: Int32Array): Int32Array {
  const wanted = Uint8Array.from(data.items.trainCount, (count) => (count > 0 ? 1 : 0));
  for (const event of rows) wanted[data.columns.item[event]!] = 1;
  for (const event of data.columns.parts.valid) wanted[data.columns.item[event]!] = 1;
  return Int32Array.from([...wanted.keys()].filter((item) => wanted[item] === 1));
}

/** Encodes items into the table that `target` names, waiting between blocks so that the queue stays short. */
export async function encodeItems(
  model: RecommenderModel,
  data: Dataset,
  target: 'table' | 'overlay',
  keys: Int32Array,
  step: number,
  { precision = 'float32', onProgress }: PassSettings = {},
): Promise<void> {
  if (target === 'overlay') await model.locateItems?.(keys, step);
  let content: ItemContent = { text: null, image: null };
  const blocks = model.encodeItems(target, keys, () => content, step); // asks for the rows that it has just given
  const next = () => tidy(() => inPrecision(precision, () => blocks.next()));
  let done = 0;
  for (let block = next(); block.done !== true; block = next()) {
    onProgress?.('encoding', done, keys.length);
    content = await data.itemContent(block.value);
    await device(model.device).synchronize();
    done += block.value.length;
  }
  if (done > 0) onProgress?.('encoding', keys.length, keys.length);
}

/** Logits of every row that `loader` gives; `items` are those that targets and histories may name. */
export async function predict(
  model: RecommenderModel,
  data: Dataset,
  loader: Loader,
  rows: Int32Array,
  step: number,
  {
    precision = 'float32',
    onProgress,
    items = readItems(data, rows),
  }: PassSettings & { readonly items?: Int32Array } = {},
): Promise<Predictions> {
  const n = rows.length;
  const others: Record<string, { logits: Float64Array; labels: Float32Array }> = {};
  const result: Predictions = {
    logits: new Float64Array(n),
    labels: new Float32Array(n),
    user: new Int32Array(n),
    session: new Int32Array(n),
    events: new Int32Array(n),
    cold: new Uint8Array(n),
    others,
  };
  let at = 0;
  let pending: { logits: readonly [string, Tensor][]; at: number } | null = null;
  const collect = async ({ logits, at: to }: { logits: readonly [string, Tensor][]; at: number }): Promise<void> => {
    for (const [task, [name, x]] of logits.entries()) {
      (task === 0 ? result : others[name]!).logits.set((await x.values()) as Float32Array, to);
      x.dispose();
    }
  };
  try {
    await encodeItems(model, data, 'overlay', items, step, { precision, onProgress });
    for await (const batch of loader) {
      onProgress?.('scoring', at, n);
      const logits = tidy(() =>
        inPrecision(precision, () => [...(model.predictTasks?.(batch, step) ?? [['', model.predict(batch, step)]])]),
      ) as [string, Tensor][];
      for (const [name] of logits.slice(1)) {
        others[name] ??= { logits: new Float64Array(n), labels: new Float32Array(n) };
        others[name].labels.set(batch.labels[name]!, at);
      }
      if (pending !== null) await collect(pending);
      pending = { logits, at };
      copyRows(batch, data, result, at);
      at += batch.size;
      loader.recycle(batch);
    }
    if (pending !== null) await collect(pending);
    pending = null;
    onProgress?.('scoring', n, n);
  } finally {
    for (const [, x] of pending?.logits ?? []) x.dispose();
    model.dropOverlay();
  }
  return result;
}

function copyRows(batch: Batch, data: Dataset, result: Predictions, at: number): void {
  result.labels.set(batch.labels[data.schema.labels[0]!]!, at);
  result.user.set(batch.user, at);
  result.session.set(batch.session, at);
  result.events.set(batch.events, at);
  batch.items.index.forEach((item, b) => {
    result.cold[at + b] = data.items.cold[batch.items.rows[item]!]!;
  });
}

/**
 * AUC, gAUC, QAUC, logloss and calibration of all rows, and of known (`warm`) and new (`cold`) items. Of other labels than the main one the slices
 * bear its name: `buy`, `buy.warm`, `buy.cold`.
 */
export async function metricsOf({ others, ...predictions }: Predictions): Promise<Slices> {
  const { session: ids } = predictions;
  const session = ids.some((id) => id >= 0) ? ids : undefined;
  const slices: Record<string, SliceMetrics> = {};
  for (const [label, own] of Object.entries(others))
    for (const [slice, metrics] of Object.entries(await evaluateSlicesAside({ ...predictions, ...own, session })))
      slices[slice === 'all' ? label : `${label}.${slice}`] = metrics;
  return { ...(await evaluateSlicesAside({ ...predictions, session })), ...slices };
}

/** The labels beside the main one that slices are of. */
export function otherLabels(slices: Slices): string[] {
  return Object.keys(slices).filter((name) => !/(^|\.)(all|warm|cold)$/.test(name));
}
