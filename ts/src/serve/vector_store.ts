/** Item vectors of an export on a device, read by item number, and the learned vector of items that have none. */
import type { ImageBatch, TokenBatch } from '../data/loader/batch.js';
import { MemoryBankFullError } from '../errors.js';
import { type HostTensor, viewAs } from '../io/safetensors.js';
import type { ServedContent } from '../models/model.js';
import { ContentTable } from '../nn/content_table.js';
import { Initializer } from '../nn/module.js';
import { type DeviceControl, tensor } from '../tensor.js';
import { tidy } from '../tidy.js';

/** Rows written at once: a copy that the event loop does not notice. */
const BLOCK = 512;
/** Row of the table that stands for items without a vector. */
const MISSING = 0;

/** Ages in steps of the vectors of an export. */
export interface VectorAges {
  readonly mean: number;
  readonly p50: number;
  readonly p99: number;
}

export class VectorStore implements Disposable {
  readonly width: number;
  /** Of the vectors that came with the export. */
  readonly ages: VectorAges;
  readonly #table: ContentTable;
  /** By item number: 1 where there is a vector, a text, a picture. */
  readonly #held: Uint8Array;
  readonly #text: Uint8Array;
  readonly #image: Uint8Array;
  #count = 0;

  private constructor(
    private readonly served: ServedContent,
    private readonly place: DeviceControl,
    private readonly step: number,
    { width, items, ages }: { width: number; items: number; ages: VectorAges },
  ) {
    this.width = width;
    this.ages = ages;
    this.#table = new ContentTable(new Initializer(0, 'float32', place.name), items + 1, width);
    this.#held = new Uint8Array(items);
    this.#text = new Uint8Array(items);
    this.#image = new Uint8Array(items);
    served.readFrom(this.#table);
  }

  /** Copies the vectors to the device in blocks. `items`: numbers that there is room for. */
  static async open(
    tensors: ReadonlyMap<string, HostTensor>,
    { served, place, step, items }: { served: ServedContent; place: DeviceControl; step: number; items: number },
  ): Promise<VectorStore> {
    const keys = Int32Array.from(viewAs(tensors.get('keys')!, 'I64'), Number);
    const missing = viewAs(tensors.get('missing')!, 'F32');
    const ages = agesOf(viewAs(tensors.get('ages')!, 'I32'));
    const store = new VectorStore(served, place, step, { width: missing.length, items, ages });
    const flags = (name: string): Uint8Array | null => {
      const found = tensors.get(name);
      return found === undefined ? null : viewAs(found, 'U8');
    };
    const none = new Uint8Array(keys.length);
    try {
      // A model may have learned exactly zero: then the row stays what it is, zero.
      store.commit(Int32Array.of(MISSING), missing);
      await store.write(
        keys,
        viewAs(tensors.get('vectors')!, 'F32'),
        flags('present.text') ?? none,
        flags('present.image') ?? none,
      );
      return store;
    } catch (error) {
      store[Symbol.dispose]();
      throw error;
    }
  }

  /** Items with a vector. */
  get count(): number {
    return this.#count;
  }

  /** Throws MemoryBankFullError where there is no room for so many item numbers. */
  requireRoom(items: number): void {
    const room = this.#held.length;
    if (items > room)
      throw new MemoryBankFullError(
        `Predictor: expected at most ${room} items but received ${items}; open with a larger room, or refresh with an export that has them`,
        { rows: this.#count, slots: room },
      );
  }

  has(item: number): boolean {
    return item >= 0 && this.#held[item] === 1;
  }

  /** The table row of a target. */
  targetRow(item: number): number {
    return this.has(item) ? item + 1 : MISSING;
  }

  /** The table row of a history item, -1 (masked) where it has none. */
  historyRow(item: number): number {
    return this.has(item) ? item + 1 : -1;
  }

  /**
   * Writes vectors (n, width) of items (n, distinct) in blocks; a request sees each from the moment it is written. Rows that are zero or
   * not finite are left out; returns how many.
   */
  async write(items: Int32Array, vectors: Float32Array, text: Uint8Array, image: Uint8Array): Promise<number> {
    const { width } = this;
    const order = Int32Array.from(items.keys()).sort((a, b) => items[a]! - items[b]!);
    let refused = 0;
    for (let at = 0; at < order.length; at += BLOCK) {
      const part = order.subarray(at, at + BLOCK).filter((i) => usable(vectors.subarray(i * width, (i + 1) * width)));
      refused += Math.min(BLOCK, order.length - at) - part.length;
      if (part.length === 0) continue;
      const rows = new Float32Array(part.length * width);
      part.forEach((i, k) => rows.set(vectors.subarray(i * width, (i + 1) * width), k * width));
      this.commit(
        part.map((i) => items[i]! + 1),
        rows,
      );
      for (const i of part) {
        const item = items[i]!;
        this.#count += 1 - this.#held[item]!;
        this.#held[item] = 1;
        this.#text[item] = text[i]!;
        this.#image[item] = image[i]!;
      }
      await this.place.synchronize();
    }
    return refused;
  }

  /** Queues rows (n, width) at table rows `keys` (ascending). */
  private commit(keys: Int32Array, rows: Float32Array): void {
    tidy(() => {
      this.#table.stage(keys, tensor(rows, [keys.length, this.width], { device: this.place.name }));
      this.#table.commit(this.step);
    });
    this.served.noteRows(keys, rows);
  }

  /** Texts and pictures of targets in the form of a batch. Nothing reads them but whether they are there: vectors come from the table. */
  content(items: Int32Array): { text: TokenBatch; image: ImageBatch } {
    const none = new Int32Array(0);
    const offsets = new Int32Array(items.length + 1);
    const present = new Uint8Array(items.length);
    items.forEach((item, i) => {
      const held = this.has(item);
      offsets[i + 1] = offsets[i]! + (held ? this.#text[item]! : 0);
      present[i] = held ? this.#image[item]! : 0;
    });
    return {
      text: { tokens: none, types: none, positions: none, offsets },
      image: { pixels: new Uint8Array(0), present, size: 0 },
    };
  }

  [Symbol.dispose](): void {
    this.#table.dispose();
  }
}

function usable(row: Float32Array): boolean {
  return row.every(Number.isFinite) && row.some((value) => value !== 0);
}

function agesOf(ages: Int32Array): VectorAges {
  const sorted = Int32Array.from(ages).sort();
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  const mean = sorted.length === 0 ? 0 : sorted.reduce((total, age) => total + age, 0) / sorted.length;
  return { mean, p50: at(0.5), p99: at(0.99) };
}
