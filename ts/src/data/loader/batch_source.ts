/**
 * Batches from columns: which samples, in which order, and everything that belongs to them. Plain synchronous code over typed
 * arrays, so that a worker thread and the calling thread give the same bytes.
 */

import { ArgumentError } from '../../errors.js';
import type { PartName } from '../events.js';
import { type Histories, historyRange } from '../history.js';
import type { AugmentDraw } from '../images/image_augment.js';
import { gatherImages, type ImageStore } from '../images/image_store.js';
import type { FeatureSource } from '../schema.js';
import { gatherVectors, type VectorStore } from '../tables/vectors.js';
import { gatherTokens, type TokenStore } from '../text/token_store.js';
import { timeOrderedUnits } from '../time_windows.js';
import type { Batch, ImageBatch, ItemBatch, Jagged, TokenBatch } from './batch.js';
import { type BatchMemory, ownMemory } from './batch_memory.js';
import { drawNegative, type NegativeTable } from './negatives.js';
import { shuffler } from './shuffle.js';

/** Vocabulary rows, one per row of the table that `source` names. */
export interface CategoricalColumn {
  readonly name: string;
  readonly source: FeatureSource;
  readonly rows: Int32Array;
}

/** Standardised numbers, one per row of the table that `source` names. */
export interface NumericColumn {
  readonly name: string;
  readonly source: FeatureSource;
  readonly values: Float32Array;
}

/** Vocabulary rows, several per row of the table that `source` names. */
export interface SequenceColumn extends Jagged {
  readonly name: string;
  readonly source: FeatureSource;
}

/** An id history: the vocabulary row `rows[item]` of every history item, the last `maxLen`. */
export interface IdHistoryColumn {
  readonly name: string;
  readonly rows: Int32Array;
  readonly maxLen: number;
}

/** Everything a batch is made of; typed arrays over shared memory, so that a worker reads them without a copy. */
export interface BatchColumns {
  /** (n): dense users, item rows, ranks of times. */
  readonly user: Int32Array;
  readonly item: Int32Array;
  readonly time: Int32Array;
  /** Time of each rank, counted from the first, as the data have it; null where they have none. */
  readonly times: Float64Array | null;
  /** (n) or null where the data have none. */
  readonly session: Int32Array | null;
  readonly query: Int32Array | null;
  readonly items: number;
  readonly labels: readonly { readonly name: string; readonly values: Float32Array }[];
  readonly categorical: readonly CategoricalColumn[];
  readonly numeric: readonly NumericColumn[];
  readonly sequences: readonly SequenceColumn[];
  readonly idHistories: readonly IdHistoryColumn[];
  /** null where no history is asked for. `historyLen`: items kept in `Batch.history`, 0 for none. */
  readonly histories: Histories | null;
  readonly historyLen: number;
  readonly itemText: TokenStore | null;
  readonly itemImage: ImageStore | null;
  readonly queryText: TokenStore | null;
  /** Given vectors of items by feature; left out where there are none. */
  readonly itemVectors?: readonly VectorStore[];
  /** False: batches do without them, for models that hold all of them. */
  readonly vectorsInBatches?: boolean;
  /** Event numbers of each part, ascending. With sampled negatives those of train are positives only. */
  readonly parts: Readonly<Record<PartName, Int32Array>>;
  /** Train events by session: session s is `rows[offsets[s] .. offsets[s+1])`; null where there are no sessions. */
  readonly sessions: { readonly rows: Int32Array; readonly offsets: Int32Array } | null;
  readonly negatives: NegativeTable | null;
}

/** Which batches of one pass. */
export interface PassOptions {
  readonly part: PartName;
  readonly epoch: number;
  /** Samples of this epoch to leave out at the front: the cursor of a checkpoint. Default 0. */
  readonly position?: number;
  /** Rows, or sessions where `unit` is `session`, before negatives are added. */
  readonly batchSize: number;
  /** `session` shuffles and batches whole sessions (train only). Default `row`. */
  readonly unit?: 'row' | 'session';
  /** Default: true for train, false else (natural order). */
  readonly shuffle?: boolean;
  /** Time order instead, by `timeOrderedUnits` (train only). Default false. */
  readonly byTime?: boolean;
  /** Samples of the whole pass after which it ends, those before `position` included; at the end of a session. Default: all. */
  readonly end?: number;
  readonly seed: number;
  /**
   * Which part of every batch: `rank` of `world` equal slices of its units, in order, so that all ranks together have the batch that one
   * process would have. A slice is empty where a batch has fewer units than ranks. Default 0 of 1.
   */
  readonly rank?: number;
  readonly world?: number;
  /** Pictures differ from pass to pass, where the data say how: for training steps. Default false: they are as an evaluation sees them. */
  readonly augment?: boolean;
  /** Leave out a last batch that is not full. Default false. */
  readonly dropLast?: boolean;
  /**
   * Instead of the rows of the part: each of these `events` with each of these `items` in the place of its own, event after event. `paired`:
   * event i with item i alone.
   */
  readonly candidates?: { readonly events: Int32Array; readonly items: Int32Array; readonly paired?: boolean };
}

/** One pass over a part: `next()` until null. */
export class BatchSource {
  /** Negatives that 100 redraws did not find, so the next free item was taken. */
  negativeFallbacks = 0;
  /** Samples before the next batch. */
  private position = 0;
  private unit = 0;
  private units: number;
  private readonly bySession: BatchColumns['sessions'];
  private readonly rows: Int32Array;
  private readonly order: (k: number) => number;
  /** Marks items (and queries) met in a batch: place in the batch's list + 1. Cleared by the list itself. */
  private readonly itemPlace: Int32Array;
  private queryPlace = new Int32Array(0);

  /** Throws ArgumentError for options that do not fit the data. */
  constructor(
    private readonly columns: BatchColumns,
    private readonly options: PassOptions,
    private readonly memory: BatchMemory = ownMemory,
  ) {
    const {
      part,
      epoch,
      position = 0,
      batchSize,
      unit = 'row',
      seed,
      shuffle = part === 'train',
      byTime = false,
      end,
      rank = 0,
      world = 1,
    } = options;
    if (!Number.isInteger(world) || world < 1 || !Number.isInteger(rank) || rank < 0 || rank >= world) {
      throw new ArgumentError(
        `loader: expected rank in [0, world) and world of at least 1 but received ${rank} of ${world}`,
        {
          argument: 'rank',
        },
      );
    }
    if (!Number.isInteger(batchSize) || batchSize < 1) {
      throw new ArgumentError(`loader: expected batchSize of at least 1 but received ${batchSize}`, {
        argument: 'batchSize',
      });
    }
    if (unit === 'session' && (columns.sessions === null || part !== 'train')) {
      throw new ArgumentError(
        part === 'train'
          ? "loader: expected a session column for unit 'session' but the data have none"
          : `loader: expected unit 'row' for part ${part}: only train is batched by session`,
        { argument: 'unit' },
      );
    }
    this.bySession = unit === 'session' ? columns.sessions : null;
    this.rows = this.bySession?.rows ?? columns.parts[part];
    this.units = this.bySession === null ? this.rows.length : this.bySession.offsets.length - 1;
    if (byTime && part !== 'train')
      throw new ArgumentError(`loader: expected byTime with part train but received ${part}`, { argument: 'byTime' });
    const ordered = byTime ? timeOrderedUnits(columns, unit) : null;
    if (ordered !== null) this.order = (k) => ordered[k]!;
    else this.order = shuffle ? shuffler(this.units, seed, epoch) : (k) => k;
    this.itemPlace = new Int32Array(columns.items);
    if (options.candidates !== undefined) {
      const { events, items, paired = false } = options.candidates;
      if (part === 'train' || position > 0 || end !== undefined)
        throw new ArgumentError('loader: expected candidates for a whole pass over valid or test', {
          argument: 'candidates',
        });
      this.units = paired ? events.length : events.length * items.length;
      return;
    }
    if (end !== undefined) this.units = this.unitsBefore(end, 'end');
    this.unit = this.unitsBefore(position, 'position');
    this.position = position;
  }

  /** Samples of the whole pass. */
  get samples(): number {
    return this.rows.length;
  }

  /** Units that make up the first `samples` samples of the pass. */
  private unitsBefore(samples: number, argument: 'position' | 'end'): number {
    if (!Number.isInteger(samples) || samples < 0 || samples > this.rows.length) {
      throw new ArgumentError(`loader: expected ${argument} in [0, ${this.rows.length}] but received ${samples}`, {
        argument,
      });
    }
    if (this.bySession === null) return samples;
    let unit = 0;
    let before = 0;
    while (before < samples) before += this.unitSize(this.order(unit++));
    if (before === samples) return unit;
    throw new ArgumentError(`loader: expected ${argument} at the start of a session but received ${samples}`, {
      argument,
    });
  }

  private unitSize(unit: number): number {
    return this.bySession === null ? 1 : this.bySession.offsets[unit + 1]! - this.bySession.offsets[unit]!;
  }

  /** The next batch; null at the end. */
  next(): Batch | null {
    const end = this.batchEnd();
    if (end === null) return null;
    const { rank = 0, world = 1 } = this.options;
    const units = end - this.unit;
    const from = this.unit + Math.floor((units * rank) / world);
    const to = this.unit + Math.floor((units * (rank + 1)) / world);
    const pairs = this.options.candidates === undefined ? null : this.takePairs(this.options.candidates, from, to);
    const samples = pairs?.events ?? this.takeSamples(from, to);
    const position = this.position;
    this.advance(end);
    return this.assemble(samples, position, pairs?.items);
  }

  /** Passes over `count` batches without making them. */
  skip(count: number): void {
    for (let i = 0; i < count; i++) {
      const end = this.batchEnd();
      if (end === null) return;
      this.advance(end);
    }
  }

  /** The unit before which the next batch (of all ranks) ends; null where there is none. */
  private batchEnd(): number | null {
    const { batchSize, dropLast = false } = this.options;
    const end = Math.min(this.unit + batchSize, this.units);
    return this.unit >= end || (dropLast && end - this.unit < batchSize) ? null : end;
  }

  private advance(end: number): void {
    if (this.bySession === null) this.position += end - this.unit;
    else for (let unit = this.unit; unit < end; unit++) this.position += this.unitSize(this.order(unit));
    this.unit = end;
  }

  /** Event numbers of units. */
  private takeSamples(from: number, to: number): Int32Array {
    const { bySession, rows } = this;
    if (bySession === null) {
      const samples = this.memory.int32(to - from);
      for (let unit = from; unit < to; unit++) samples[unit - from] = rows[this.order(unit)]!;
      return samples;
    }
    const samples: number[] = [];
    for (let unit = from; unit < to; unit++) {
      const session = this.order(unit);
      for (let at = bySession.offsets[session]!; at < bySession.offsets[session + 1]!; at++) samples.push(rows[at]!);
    }
    const out = this.memory.int32(samples.length);
    out.set(samples);
    return out;
  }

  /** Pairs `from` .. `to` of events and candidates. */
  private takePairs(
    { events, items, paired = false }: NonNullable<PassOptions['candidates']>,
    from: number,
    to: number,
  ): { events: Int32Array; items: Int32Array } {
    if (paired) return { events: events.slice(from, to), items: items.slice(from, to) };
    const taken = { events: this.memory.int32(to - from), items: new Int32Array(to - from) };
    for (let pair = from; pair < to; pair++) {
      taken.events[pair - from] = events[Math.floor(pair / items.length)]!;
      taken.items[pair - from] = items[pair % items.length]!;
    }
    return taken;
  }

  private assemble(samples: Int32Array, position: number, items?: Int32Array): Batch {
    const { columns, memory } = this;
    const { part, epoch } = this.options;
    const { events, item, negative } =
      items === undefined ? this.withNegatives(samples) : { events: samples, item: items, negative: null };
    const size = events.length;
    const user = pick(columns.user, events, memory);
    const unique = this.unique(item, this.itemPlace);
    let queryPick: Int32Array | null = null;
    let queries: Batch['queries'] = null;
    if (columns.query !== null) {
      queryPick = pick(columns.query, events, ownMemory);
      if (columns.queryText !== null) {
        if (this.queryPlace.length === 0) this.queryPlace = new Int32Array(columns.queryText.offsets.length - 1);
        const list = this.unique(queryPick, this.queryPlace);
        queries = { ...list, text: gatherTokens(columns.queryText, list.rows, memory) };
      }
    }
    const joined = (source: FeatureSource): Int32Array => {
      if (source === 'inter') return events;
      if (source === 'item') return item;
      return source === 'user' ? user : queryPick!;
    };

    const labels: Record<string, Float32Array> = {};
    for (const { name, values } of columns.labels) {
      const label = memory.float32(size);
      for (let b = 0; b < size; b++) label[b] = negative?.[b] ? 0 : values[events[b]!]!;
      labels[name] = label;
    }
    const categorical: Record<string, Int32Array> = {};
    for (const { name, source, rows } of columns.categorical) categorical[name] = pick(rows, joined(source), memory);
    const numeric: Record<string, Float32Array> = {};
    for (const { name, source, values } of columns.numeric) {
      const rows = joined(source);
      const out = memory.float32(size);
      for (let b = 0; b < size; b++) out[b] = values[rows[b]!]!;
      numeric[name] = out;
    }
    const sequences: Record<string, Jagged> = {};
    for (const column of columns.sequences)
      sequences[column.name] = gatherJagged(column, joined(column.source), memory);
    const history = columns.historyLen > 0 ? this.history(events, user, part, columns.historyLen, null) : null;
    for (const { name, rows, maxLen } of columns.idHistories) {
      sequences[name] = this.history(events, user, part, maxLen, rows)!;
    }

    const text: TokenBatch | null = columns.itemText && gatherTokens(columns.itemText, unique.rows, memory);
    const draw = imageDraw(this.options, position);
    const image: ImageBatch | null = columns.itemImage && gatherImages(columns.itemImage, unique.rows, draw, memory);
    return {
      part,
      epoch,
      position,
      end: this.position,
      size,
      events,
      user,
      session: columns.session === null ? memory.int32(size).fill(-1) : pick(columns.session, events, memory),
      labels,
      categorical,
      numeric,
      sequences,
      items: {
        ...unique,
        text,
        image,
        ...(columns.vectorsInBatches === false ? {} : vectorsOf(columns.itemVectors, unique.rows, memory)),
      },
      queries,
      history,
    };
  }

  /** Batch rows: every sample, in train followed by its sampled negatives. */
  private withNegatives(samples: Int32Array): { events: Int32Array; item: Int32Array; negative: Uint8Array | null } {
    const { item, user, negatives } = this.columns;
    if (negatives === null || this.options.part !== 'train') {
      return { events: samples, item: pick(item, samples, ownMemory), negative: null };
    }
    const { seed, epoch } = this.options;
    const each = 1 + negatives.n;
    const events = this.memory.int32(samples.length * each);
    const items = new Int32Array(samples.length * each);
    const negative = new Uint8Array(samples.length * each).fill(1);
    for (let i = 0; i < samples.length; i++) {
      const sample = samples[i]!;
      events.fill(sample, i * each, (i + 1) * each);
      items[i * each] = item[sample]!;
      negative[i * each] = 0;
      for (let draw = 0; draw < negatives.n; draw++) {
        const drawn = drawNegative(negatives, { seed, epoch, sample, draw, user: user[sample]! });
        items[i * each + 1 + draw] = drawn.item;
        if (drawn.fallback) this.negativeFallbacks++;
      }
    }
    return { events, item: items, negative };
  }

  /** Distinct values ascending, and the place of each value among them. `place` is all zero before and after. */
  private unique(values: Int32Array, place: Int32Array): { rows: Int32Array; index: Int32Array } {
    const found = new Int32Array(values.length);
    let count = 0;
    for (const value of values) {
      if (place[value] === 0) {
        place[value] = 1;
        found[count++] = value;
      }
    }
    const rows = this.memory.int32(count);
    rows.set(found.subarray(0, count));
    rows.sort();
    for (let i = 0; i < count; i++) place[rows[i]!] = i;
    const index = pick(place, values, this.memory);
    for (const row of rows) place[row] = 0;
    return { rows, index };
  }

  /** Histories of the rows; item rows, or what `rows` makes of them. */
  private history(
    events: Int32Array,
    user: Int32Array,
    part: PartName,
    maxLen: number,
    rows: Int32Array | null,
  ): Jagged | null {
    const { memory } = this;
    const { histories, time, times } = this.columns;
    if (histories === null) return null;
    const starts = new Int32Array(events.length);
    const offsets = memory.int32(events.length + 1);
    offsets[0] = 0;
    for (let b = 0; b < events.length; b++) {
      const row = events[b]!;
      const [start, end] = historyRange(histories, part, { user: user[b]!, time: time[row]!, row }, maxLen);
      starts[b] = start;
      offsets[b + 1] = offsets[b]! + end - start;
    }
    const values = memory.int32(offsets[events.length]!);
    const gaps = memory.float32(values.length);
    const log = histories[part];
    const clock = (rank: number): number => times?.[rank] ?? rank;
    for (let b = 0; b < events.length; b++) {
      const now = clock(time[events[b]!]!);
      for (let at = starts[b]!, to = offsets[b]!; to < offsets[b + 1]!; at++, to++) {
        values[to] = rows === null ? log.item[at]! : rows[log.item[at]!]!;
        gaps[to] = now - clock(log.time[at]!);
      }
    }
    return { values, offsets, gaps };
  }
}

/** Given vectors of item rows as a batch has them; nothing where the data have none. */
export function vectorsOf(
  stores: BatchColumns['itemVectors'],
  rows: ArrayLike<number>,
  memory: BatchMemory = ownMemory,
): Pick<ItemBatch, 'vectors'> {
  if (stores === undefined || stores.length === 0) return {};
  return { vectors: Object.fromEntries(stores.map((store) => [store.name, gatherVectors(store, rows, memory)])) };
}

/** The draws of the pictures of the batch at `position`; null without augmentation. */
export function imageDraw({ augment = false, seed, epoch }: PassOptions, position: number): AugmentDraw | null {
  return augment ? { seed, epoch, position } : null;
}

function pick(column: Int32Array, rows: Int32Array, memory: BatchMemory): Int32Array {
  const out = memory.int32(rows.length);
  for (let b = 0; b < rows.length; b++) out[b] = column[rows[b]!]!;
  return out;
}

function gatherJagged(column: Jagged, rows: Int32Array, memory: BatchMemory): Jagged {
  const offsets = memory.int32(rows.length + 1);
  offsets[0] = 0;
  for (let b = 0; b < rows.length; b++) {
    offsets[b + 1] = offsets[b]! + column.offsets[rows[b]! + 1]! - column.offsets[rows[b]!]!;
  }
  const values = memory.int32(offsets[rows.length]!);
  for (let b = 0; b < rows.length; b++) {
    values.set(column.values.subarray(column.offsets[rows[b]!]!, column.offsets[rows[b]! + 1]!), offsets[b]!);
  }
  return { values, offsets };
}

/** The memory of a batch, for handing it to another thread without a copy. */
export function batchBuffers(batch: Batch): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  const collect = (value: unknown): void => {
    if (ArrayBuffer.isView(value)) {
      if (value.buffer instanceof ArrayBuffer) buffers.add(value.buffer);
    } else if (typeof value === 'object' && value !== null) Object.values(value).forEach(collect);
  };
  collect(batch);
  return [...buffers];
}
