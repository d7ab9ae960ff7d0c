/** What the memory bank must do, said as plainly as possible: buckets of 16 entries, one row after the other. */

const mask = (1n << 64n) - 1n;

function mix(input: bigint): bigint {
  let x = (input + 0x9e3779b97f4a7c15n) & mask;
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & mask;
  return x ^ (x >> 31n);
}

/** The two buckets of a key. */
export function bucketsOf(key: bigint, buckets: number, seed: number): [number, number] {
  const hash = mix(BigInt.asUintN(64, key) ^ mix(BigInt(seed)));
  return [Number(((hash >> 32n) * BigInt(buckets)) >> 32n), Number(((hash & 0xffffffffn) * BigInt(buckets)) >> 32n)];
}

export interface ModelEntry {
  readonly key: bigint;
  step: number;
  time: number;
  row: readonly number[];
}

export interface ModelRow {
  readonly key: bigint;
  readonly row: readonly number[];
  readonly step: number;
  readonly time?: number;
  readonly sample?: number;
}

function unusable(row: readonly number[]): boolean {
  return row.every((x) => x === 0) || row.some((x) => !Number.isFinite(x));
}

export class MemoryBankModel {
  readonly slots: (ModelEntry | null)[][];
  readonly counters = { inserted: 0, updated: 0, evicted: 0, dropped: 0, refused: 0, superseded: 0 };

  constructor(
    readonly buckets: number,
    readonly seed: number,
    readonly timed = false,
  ) {
    this.slots = Array.from({ length: buckets }, () => new Array<ModelEntry | null>(16).fill(null));
  }

  find(key: bigint): { slot: number; entry: ModelEntry } | null {
    for (const bucket of bucketsOf(key, this.buckets, this.seed)) {
      const s = this.slots[bucket]!.findIndex((entry) => entry?.key === key);
      if (s >= 0) return { slot: 16 * bucket + s, entry: this.slots[bucket]![s]! };
    }
    return null;
  }

  upsert(rows: readonly ModelRow[], { evict = true, expiredBefore = Number.NEGATIVE_INFINITY } = {}): void {
    const newest = new Map<bigint, ModelRow>();
    for (const row of rows) {
      const other = newest.get(row.key);
      if (unusable(row.row)) this.counters.refused++;
      else if (other === undefined) newest.set(row.key, row);
      else {
        this.counters.superseded++;
        const order = row.step - other.step || (row.sample ?? 0) - (other.sample ?? 0);
        if (order >= 0) newest.set(row.key, row);
      }
    }
    // places are chosen before anything is written
    const taken = this.slots.map((bucket) => bucket.filter((entry) => entry !== null).length);
    const plans = [...newest.values()].map((row) => {
      const found = this.find(row.key);
      const [first, second] = bucketsOf(row.key, this.buckets, this.seed);
      const bucket = found ? Math.floor(found.slot / 16) : taken[second]! < taken[first]! ? second : first;
      return { row, found, bucket };
    });
    for (const { row, found } of plans) {
      if (found === null) continue;
      if (found.entry.step > row.step) this.counters.superseded++;
      else {
        this.counters.updated++;
        Object.assign(found.entry, { step: row.step, time: row.time ?? 0, row: row.row });
      }
    }
    const fresh = plans.filter(({ found }) => found === null);
    fresh.sort((a, b) => (a.row.key < b.row.key ? -1 : 1));
    for (const { row, bucket } of fresh) {
      const slots = this.slots[bucket]!;
      let s = slots.indexOf(null);
      if (s < 0 && this.timed) {
        const times = slots.map((entry) => entry!.time);
        const oldest = Math.min(...times);
        if (oldest < expiredBefore) s = times.indexOf(oldest);
      }
      if (s < 0 && evict) {
        const steps = slots.map((entry) => entry!.step);
        const oldest = Math.min(...steps);
        if (oldest < row.step) s = steps.indexOf(oldest);
      }
      if (s < 0) {
        this.counters.dropped++;
        continue;
      }
      this.counters.inserted++;
      if (slots[s] !== null) this.counters.evicted++;
      slots[s] = { key: row.key, step: row.step, time: row.time ?? 0, row: row.row };
    }
  }
}
