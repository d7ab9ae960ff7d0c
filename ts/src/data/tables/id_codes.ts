/** Dense numbers for ids, in order of first appearance: strings by a Map, 64-bit integers by a table of their 32-bit halves, without a bigint per row. */
import type { Column } from './table.js';

/** Dense codes (rows) of the ids of a column. -1: missing. `ids` by code, as text, exact. */
export interface Codes {
  readonly codes: Int32Array;
  readonly ids: readonly string[];
}

/** A Map holds at most 2^24 keys: ids beyond go into the next one. */
const MAP_SIZE = 1 << 23;

export function encodeStrings(values: readonly string[]): Codes {
  const maps = [new Map<string, number>()];
  const ids: string[] = [];
  const codes = new Int32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value === '') {
      codes[i] = -1;
      continue;
    }
    let code: number | undefined;
    for (let m = 0; m < maps.length && code === undefined; m++) code = maps[m]!.get(value);
    if (code === undefined) {
      code = ids.push(value) - 1;
      let last = maps.at(-1)!;
      if (last.size >= MAP_SIZE) maps.push((last = new Map()));
      last.set(value, code);
    }
    codes[i] = code;
  }
  return { codes, ids };
}

/** Mixes both halves of an integer to 32 bits. */
function mix(low: number, high: number): number {
  let hash = Math.imul(low ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(high ^ (low >>> 15), 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 13), 0x27d4eb2f);
  return hash ^ (hash >>> 16);
}

/** Every 64-bit value is an id like any other (F19): a slot holds a code, not a key, and -1 where it is free. */
export class IntegerCodes {
  private keys = new Int32Array(2 * 1024);
  private slots = new Int32Array(4096).fill(-1);
  private count = 0;

  /** Distinct integers so far. */
  get size(): number {
    return this.count;
  }

  /** The code of an integer given by its halves; a new one for a new integer. */
  code(low: number, high: number): number {
    const { slots, keys } = this;
    const mask = slots.length - 1;
    let slot = mix(low, high) & mask;
    for (let code = slots[slot]!; code >= 0; code = slots[slot]!) {
      if (keys[2 * code] === low && keys[2 * code + 1] === high) return code;
      slot = (slot + 1) & mask;
    }
    slots[slot] = this.count;
    if (2 * this.count === keys.length) {
      this.keys = new Int32Array(2 * keys.length);
      this.keys.set(keys);
    }
    this.keys[2 * this.count] = low;
    this.keys[2 * this.count + 1] = high;
    const code = this.count++;
    if (2 * this.count > slots.length) this.grow();
    return code;
  }

  /** The integers by code. */
  values(): BigInt64Array {
    return new BigInt64Array(this.keys.buffer, 0, this.count);
  }

  private grow(): void {
    const slots = new Int32Array(2 * this.slots.length).fill(-1);
    const mask = slots.length - 1;
    for (let code = 0; code < this.count; code++) {
      let slot = mix(this.keys[2 * code]!, this.keys[2 * code + 1]!) & mask;
      while (slots[slot]! >= 0) slot = (slot + 1) & mask;
      slots[slot] = code;
    }
    this.slots = slots;
  }
}

export function encodeIntegers(values: BigInt64Array | BigUint64Array, missing: Uint8Array | null): Codes {
  const halves = new Int32Array(values.buffer, values.byteOffset, 2 * values.length);
  const table = new IntegerCodes();
  const codes = new Int32Array(values.length);
  for (let i = 0; i < codes.length; i++)
    codes[i] = missing?.[i] === 1 ? -1 : table.code(halves[2 * i]!, halves[2 * i + 1]!);
  const distinct = table.values();
  const shown = values instanceof BigInt64Array ? distinct : new BigUint64Array(distinct.buffer, 0, distinct.length);
  return { codes, ids: Array.from<bigint, string>(shown, String) };
}

/** Codes of a column of ids or words; null for a column of float64, which holds none. */
export function encodeColumn(column: Column): Codes | null {
  switch (column.kind) {
    case 'int64':
    case 'uint64':
      return encodeIntegers(column.values, column.missing);
    case 'token':
    case 'token_seq':
      return encodeStrings(column.values);
    default:
      return null;
  }
}
