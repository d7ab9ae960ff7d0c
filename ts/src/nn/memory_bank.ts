/**
 * Vectors of items and queries by their 64-bit id, written as they are encoded and read instead of encoding again.
 *
 * A step stages the rows that it has encoded, reads (staged rows first, so that every read sees what was just encoded), and at its end
 * commits them, or discards them when the step is not accepted; until then the bank does not change. `write` is stage and commit. Every key
 * is legal, 0 and negative ones too; padding is a mask, not a key. All calls but `stats`, `check` and `snapshot` only queue work.
 *
 * The bank has room for `capacity` rows, fixed at construction: 13 bytes per slot beside the row, 17 with `ttl`. Saved and loaded like
 * any module, with the model, at the same step.
 */
import { detach, noGrad } from '../autograd.js';
import { ArgumentError, MemoryBankFullError, ShapeError } from '../errors.js';
import { type CastDtype, cast } from '../ops/cast.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import {
  type BankState,
  bucketWidth,
  checkInteger,
  emptyMemoryBank,
  gatherMemoryBank,
  joinMemoryBank,
  type StagedBankRows,
  stageMemoryBank,
  upsertMemoryBank,
} from '../ops/memory_bank.js';
import { shapes } from '../shape.js';
import { type DeviceName, type HostArray, type Shape, type Tensor, tensor } from '../tensor.js';
import { keep } from '../tidy.js';
import { AgeRecord, type AgeStats, type StalenessStats } from './memory_bank_stats.js';
import { Module } from './module.js';

/** Slots are filled to this share at `capacity`: about one key in ten thousand then finds both of its buckets full. */
const fill = 0.9;

const checkTimes = shapes('MemoryBank.stage', { keys: 'n:int64', eventTimes: 'n:int32?' });

export interface MemoryBankOptions {
  /** Rows that the bank has room for. */
  readonly capacity: number;
  /** Elements of a row. */
  readonly width: number;
  /** Of the rows; staged rows are cast to it. Default float32. */
  readonly dtype?: CastDtype;
  readonly device?: DeviceName;
  /** Of the hash: where a key lies. Default 0. */
  readonly seed?: number;
  /**
   * Rows whose event time lies more than this before `eventNow` make room for new keys; by event time, so that a replay evicts nothing.
   * In the units of `eventTimes`. Default: no limit, and no event times.
   */
  readonly ttl?: number | null;
  /**
   * A new key whose bucket is full takes the place of the row written the longest time ago ('evict'), or is dropped and counted ('drop'),
   * and then `check` rejects ('error'). Default 'evict'.
   */
  readonly full?: 'evict' | 'drop' | 'error';
}

/** Keys are a BigInt64Array or a tensor (n) int64 on the bank's device. */
export type BankKeys = BigInt64Array | Tensor;

export interface StageOptions {
  /** The version of the rows: the global step. */
  readonly step: number;
  /** (n) int64: global numbers of the rows. Of rows with one key the highest stays. Default: their order. */
  readonly samples?: Tensor | null;
  /** (n) int32, and the present in the same units: for a bank with `ttl`. */
  readonly eventTimes?: Tensor | null;
  readonly eventNow?: number;
  /** Measures the cosine of these rows with what the bank holds for them, for `stats`. */
  readonly measure?: boolean;
  /** With `measure`: popularity decile 0 .. 9 of each key. */
  readonly deciles?: Uint8Array;
}

export interface ReadOptions {
  /** The present step. */
  readonly now: number;
  /** Older rows count as missing. Default: no limit. */
  readonly maxAge?: number | null;
  /** Name under which `stats` tells hit rate and ages of the last read. */
  readonly sequence?: string;
  /** With `sequence`: popularity decile 0 .. 9 of each key. */
  readonly deciles?: Uint8Array;
  /** 'joined': rows staged in this step keep the gradient of the tensor that was staged. Default 'none'. */
  readonly historyGrad?: 'none' | 'joined';
}

/** (n, width), zero where there is none; age (n) int32 in steps, 0 if staged in this step, -1 if there is none. */
export interface BankRows {
  readonly rows: Tensor;
  readonly age: Tensor;
}

export interface MemoryBankStats {
  readonly slots: number;
  /** Rows in the bank, and their share of the slots. */
  readonly rows: number;
  readonly load: number;
  /** Since construction: what became of every row that was written. */
  readonly inserted: number;
  readonly updated: number;
  readonly evicted: number;
  readonly dropped: number;
  readonly refused: number;
  readonly superseded: number;
  /** Of the last read of each named sequence. */
  readonly sequences: Readonly<Record<string, AgeStats>>;
  /** Cosine of fresh and held rows at the last measured `stage`; null without one. */
  readonly staleness: StalenessStats | null;
}

/** A copy of the bank in host memory, to be given to `load` of a bank of the same shape. */
export type MemoryBankSnapshot = ReadonlyMap<string, { readonly data: HostArray; readonly shape: Shape }>;

interface Staged {
  /** Without history, in the bank's dtype. */
  readonly rows: StagedBankRows;
  /** The same with the history of what was staged. */
  readonly live: StagedBankRows;
  readonly options: StageOptions;
}

export class MemoryBank extends Module implements BankState {
  readonly fingerprints: Tensor;
  readonly keys: Tensor;
  readonly stamps: Tensor;
  readonly times: Tensor | null;
  readonly rows: Tensor;
  readonly counters: Tensor;
  /** (1) int64: the seed, as a checkpoint holds it. */
  readonly hashSeed: Tensor;
  /** While true, `commit` and `write` throw; staged rows can be read and discarded. For evaluation. */
  frozen = false;
  #seed: number;
  readonly #dtype: CastDtype;
  #staged: Staged | null = null;
  readonly #ttl: number | null;
  readonly #full: 'evict' | 'drop' | 'error';
  readonly #reads = new Map<string, AgeRecord>();
  #staleness: AgeRecord | null = null;

  constructor({
    capacity,
    width,
    dtype = 'float32',
    device = 'cpu',
    seed = 0,
    ttl = null,
    full = 'evict',
  }: MemoryBankOptions) {
    super();
    if (!Number.isSafeInteger(capacity) || capacity < 1)
      throw new ArgumentError(`MemoryBank: expected capacity to be a positive integer but received ${capacity}`, {
        op: 'MemoryBank',
        argument: 'capacity',
      });
    if (ttl !== null && !(Number.isSafeInteger(ttl) && ttl >= 0))
      throw new ArgumentError(`MemoryBank: expected ttl to be a non-negative integer but received ${ttl}`, {
        op: 'MemoryBank',
        argument: 'ttl',
      });
    const buckets = Math.ceil(capacity / (bucketWidth * fill));
    const state = emptyMemoryBank({ buckets, width, dtype, device, times: ttl !== null, seed });
    this.fingerprints = keep(state.fingerprints);
    this.keys = keep(state.keys);
    this.stamps = keep(state.stamps);
    this.times = state.times && keep(state.times);
    this.rows = keep(state.rows);
    this.counters = keep(state.counters);
    this.hashSeed = keep(tensor(BigInt64Array.of(BigInt(seed)), [1], { device }));
    this.#seed = seed;
    this.#dtype = dtype;
    this.#ttl = ttl;
    this.#full = full;
  }

  get seed(): number {
    return this.#seed;
  }

  /**
   * Makes rows (n, width) with their keys ready to be read in this step and written at its end. Rows that are zero or not finite are
   * refused and counted; of equal keys the newest stays. Their gradient is kept for `historyGrad: 'joined'`, the bank holds values.
   */
  stage(keys: BankKeys, rows: Tensor, options: StageOptions): void {
    if (this.#staged !== null)
      throw new ArgumentError('MemoryBank.stage: rows are staged already; commit or discard them first', {
        op: 'MemoryBank.stage',
      });
    if ((this.#ttl === null) !== (options.eventTimes === undefined || options.eventTimes === null))
      throw new ArgumentError(
        `MemoryBank.stage: expected eventTimes ${this.#ttl === null ? 'only in a bank with ttl' : 'in a bank with ttl'}`,
        { op: 'MemoryBank.stage', argument: 'eventTimes' },
      );
    const width = this.rows.shape[1];
    if (rows.shape[1] !== width)
      throw new ShapeError(
        `MemoryBank.stage: expected rows of shape (n, ${width}) but received (${rows.shape.join(', ')})`,
        { op: 'MemoryBank.stage', argument: 'rows' },
      );
    checkInteger('MemoryBank.stage', 'step', options.step, 0, 2 ** 31 - 1);
    const given = this.#keysOf(keys);
    checkTimes({ keys: given, eventTimes: options.eventTimes });
    const live = cast(rows, this.#dtype);
    const staged = stageMemoryBank(given, detach(live), { samples: options.samples ?? null });
    if (options.measure) this.#measure(given, staged.rows, options);
    this.#staged = { rows: staged, live: { ...staged, rows: live }, options };
  }

  /** Rows of `keys` (n): staged ones first, then the bank's. Nothing is read back from the device. */
  read(keys: BankKeys, { now, maxAge = null, sequence, deciles, historyGrad = 'none' }: ReadOptions): BankRows {
    const staged = historyGrad === 'joined' ? this.#staged?.live : this.#staged?.rows;
    const { out, age } = gatherMemoryBank(this, this.#keysOf(keys), { staged: staged ?? null, now, maxAge });
    if (sequence !== undefined) {
      this.#reads.get(sequence)?.dispose();
      this.#reads.set(sequence, new AgeRecord(age, null, deciles));
    }
    return { rows: out, age };
  }

  /** What was read before the rows of this step were staged, with those rows in the place of older ones. */
  join(
    { rows, age }: BankRows,
    keys: BankKeys,
    { historyGrad = 'none' }: Pick<ReadOptions, 'historyGrad'> = {},
  ): BankRows {
    if (this.#staged === null) return { rows, age };
    const staged = historyGrad === 'joined' ? this.#staged.live : this.#staged.rows;
    const joined = joinMemoryBank(rows, age, this.#keysOf(keys), staged);
    return { rows: joined.out, age: joined.age };
  }

  /** Writes the staged rows, unless `factor` (1) float64, the optimizer's clip factor, is NaN or 0: then the step leaves no trace. */
  commit({ factor = null }: { factor?: Tensor | null } = {}): void {
    if (this.#staged === null) return;
    if (this.frozen)
      throw new ArgumentError('MemoryBank.commit: the bank is frozen; discard what was staged', {
        op: 'MemoryBank.commit',
      });
    const { rows, options } = this.#staged;
    upsertMemoryBank(this, rows, {
      now: options.step,
      factor,
      eventTimes: options.eventTimes ?? null,
      expiredBefore: this.#ttl === null || options.eventNow === undefined ? null : options.eventNow - this.#ttl,
      evict: this.#full === 'evict',
    });
    this.#staged = null;
  }

  /** Forgets the staged rows. */
  discard(): void {
    this.#staged = null;
  }

  /** `stage` and `commit`. Large loads lose least in parts of half a percent of the capacity. */
  write(keys: BankKeys, rows: Tensor, options: StageOptions): void {
    this.stage(keys, rows, options);
    try {
      this.commit();
    } finally {
      this.discard();
    }
  }

  /** Rejects with `MemoryBankFullError` if rows were dropped from a bank with `full: 'error'`. */
  async check(): Promise<void> {
    const { dropped, rows, slots } = await this.#counts();
    if (this.#full === 'error' && dropped > 0)
      throw new MemoryBankFullError(
        `MemoryBank: expected room for every new key but ${dropped} rows were dropped with ${rows} of ${slots} slots in use; give it a larger capacity`,
        { dropped, rows, slots },
      );
  }

  /** Counters since construction, hit rate and ages of the last reads, cosines of the last measured stage. Waits for the device. */
  async stats(): Promise<MemoryBankStats> {
    const counts = await this.#counts();
    const sequences: Record<string, AgeStats> = {};
    for (const [name, record] of this.#reads) sequences[name] = await record.ages();
    return { ...counts, sequences, staleness: this.#staleness === null ? null : await this.#staleness.staleness() };
  }

  /** The bank as it stands, without what is staged. */
  async snapshot(): Promise<MemoryBankSnapshot> {
    const entries = [...this.state()].map(
      async ([name, x]) => [name, { data: await x.data(), shape: x.shape }] as const,
    );
    return new Map(await Promise.all(entries));
  }

  /** Takes over a snapshot or a checkpoint of a bank of the same shape, its seed included. */
  override load(values: MemoryBankSnapshot): void {
    super.load(values);
    this.#seed = Number(values.get('hashSeed')!.data[0]);
    this.discard();
  }

  override dispose(): void {
    super.dispose();
    this.discard();
    for (const record of this.#reads.values()) record.dispose();
    this.#staleness?.dispose();
  }

  #keysOf(keys: BankKeys): Tensor {
    return keys instanceof BigInt64Array ? this.place(keys) : keys;
  }

  /** Cosine of each row with what the bank holds for its key, 0 and age -1 where it holds nothing. */
  #measure(keys: Tensor, rows: Tensor, { step, deciles }: StageOptions): void {
    const { cosine, age } = noGrad(() => {
      const held = gatherMemoryBank(this, keys, { now: step });
      const offsets = this.place(Int32Array.from({ length: keys.size + 1 }, (_, i) => i));
      return {
        cosine: cosineSimilarity(cast(rows, 'float32'), cast(held.out, 'float32'), { offsets, mask: held.age }),
        age: held.age,
      };
    });
    this.#staleness?.dispose();
    this.#staleness = new AgeRecord(age, cosine, deciles);
  }

  async #counts(): Promise<Omit<MemoryBankStats, 'sequences' | 'staleness'>> {
    const counted = Array.from((await this.counters.data()) as BigInt64Array, Number);
    const [inserted = 0, updated = 0, evicted = 0, dropped = 0, refused = 0, superseded = 0] = counted;
    const slots = this.fingerprints.size;
    const rows = inserted - evicted;
    return { slots, rows, load: rows / slots, inserted, updated, evicted, dropped, refused, superseded };
  }
}
