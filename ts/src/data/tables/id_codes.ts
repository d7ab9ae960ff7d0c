/** Dense numbers for ids, in order of first appearance: strings by a Map, 64-bit integers by a table of their 32-bit halves, without a bigint per row. */
import { sharedInt32 } from '../text/token_store.js';
import { atOnce, type Pass, SLICE, slices, zeroed } from '../turns.js';
import type { Column } from './table.js';

/** Dense codes (rows) of the ids of a column. -1: missing. `ids` by code, as text, exact. */
export interface Codes {
  readonly codes: Int32Array;
  readonly ids: readonly string[];
}

/** A Map holds at most 2^24 keys: ids beyond go into the next one. */
const MAP_SIZE = 1 << 23;

/** Ids and their dense numbers, in the order in which they are first asked for; as many as memory holds. */
export class DenseCodes<K extends string | bigint> {
  /** By code. */
  readonly ids: K[] = [];
  private readonly maps = [new Map<K, number>()];

  constructor(private readonly mapSize = MAP_SIZE) {}

  /** The code of an id that is known; -1 for another. */
  find(id: K): number {
    for (const map of this.maps) {
      const code = map.get(id);
      if (code !== undefined) return code;
    }
    return -1;
  }

  /** The code of an id; the next number for a new one. */
  code(id: K): number {
    const known = this.find(id);
    if (known >= 0) return known;
    let last = this.maps.at(-1)!;
    if (last.size >= this.mapSize) this.maps.push((last = new Map()));
    last.set(id, this.ids.length);
    return this.ids.push(id) - 1;
  }
}

export function encodeStrings(values: readonly string[]): Codes {
  return atOnce(encodeStringsPass(values));
}

export function* encodeStringsPass(values: readonly string[]): Pass<Codes> {
  const known = new DenseCodes<string>();
  const codes = sharedInt32(values.length);
  yield* slices(values.length, (from, to) => {
    for (let i = from; i < to; i++) codes[i] = values[i] === '' ? -1 : known.code(values[i]!);
  });
  return { codes, ids: known.ids };
}

/** Mixes both halves of an integer to 32 bits. */
function mix(low: number, high: number): number {
  let hash = Math.imul(low ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(high ^ (low >>> 15), 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 13), 0x27d4eb2f);
  return hash ^ (hash >>> 16);
}

/** Words of a slot: both halves of an integer, its code plus one (0: the slot is free), and one to fill 16 bytes. */
const SLOT_WORDS = 4;

/** Codes of integers. Every 64-bit value is an id like any other (F19): a slot is free by its code, not by its key. */
class IntegerCodes {
  private slots = new Int32Array(SLOT_WORDS * 1024);
  private keys = new Int32Array(2 * 1024);
  private count = 0;

  /** The code of an integer given by its halves; a new one for a new integer. There must be room for it. */
  code(low: number, high: number): number {
    const at = this.slotOf(low, high);
    const known = this.slots[at + 2]!;
    if (known !== 0) return known - 1;
    const code = this.count++;
    this.put(at, low, high, code);
    if (2 * code === this.keys.length) {
      const keys = new Int32Array(4 * code);
      keys.set(this.keys);
      this.keys = keys;
    }
    this.keys[2 * code] = low;
    this.keys[2 * code + 1] = high;
    return code;
  }

  /** Makes room for `more` integers: at most half of the slots are taken. */
  *makeRoom(more: number): Pass<void> {
    const taken = 2 * SLOT_WORDS * (this.count + more);
    if (taken <= this.slots.length) return;
    let length = this.slots.length;
    while (length < taken) length *= 2;
    this.slots = yield* zeroed(new Int32Array(length));
    const { keys } = this;
    yield* slices(this.count, (from, to) => {
      for (let code = from; code < to; code++) {
        const [low, high] = [keys[2 * code]!, keys[2 * code + 1]!];
        this.put(this.slotOf(low, high), low, high, code);
      }
    });
  }

  /** The integers by code. */
  values(): BigInt64Array {
    return new BigInt64Array(this.keys.buffer, 0, this.count);
  }

  /** Where an integer is, or where it would be. */
  private slotOf(low: number, high: number): number {
    const { slots } = this;
    const mask = slots.length - 1;
    let at = (SLOT_WORDS * mix(low, high)) & mask;
    while (slots[at + 2] !== 0 && (slots[at] !== low || slots[at + 1] !== high)) at = (at + SLOT_WORDS) & mask;
    return at;
  }

  private put(at: number, low: number, high: number, code: number): void {
    const { slots } = this;
    slots[at] = low;
    slots[at + 1] = high;
    slots[at + 2] = code + 1;
  }
}

export function encodeIntegers(values: BigInt64Array | BigUint64Array, missing: Uint8Array | null): Codes {
  return atOnce(encodeIntegersPass(values, missing));
}

export function* encodeIntegersPass(values: BigInt64Array | BigUint64Array, missing: Uint8Array | null): Pass<Codes> {
  const halves = new Int32Array(values.buffer, values.byteOffset, 2 * values.length);
  const table = new IntegerCodes();
  const codes = sharedInt32(values.length);
  for (let start = 0; start < codes.length; start += SLICE) {
    const end = Math.min(codes.length, start + SLICE);
    yield* table.makeRoom(end - start);
    yield* slices(end - start, (from, to) => {
      for (let i = start + from; i < start + to; i++)
        codes[i] = missing?.[i] === 1 ? -1 : table.code(halves[2 * i]!, halves[2 * i + 1]!);
    });
  }
  const distinct = table.values();
  const shown = values instanceof BigInt64Array ? distinct : new BigUint64Array(distinct.buffer, 0, distinct.length);
  const ids = new Array<string>(shown.length);
  yield* slices(shown.length, (from, to) => {
    for (let code = from; code < to; code++) ids[code] = String(shown[code]!);
  });
  return { codes, ids };
}

/** Codes of a column of ids or words; null for a column of float64, which holds none. */
export function encodeColumn(column: Column): Codes | null {
  return atOnce(encodeColumnPass(column));
}

export function* encodeColumnPass(column: Column): Pass<Codes | null> {
  switch (column.kind) {
    case 'int64':
    case 'uint64':
      return yield* encodeIntegersPass(column.values, column.missing);
    case 'token':
    case 'token_seq':
      return yield* encodeStringsPass(column.values);
    default:
      return null;
  }
}
