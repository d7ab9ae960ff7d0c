/** Item vectors of an export on a device, read by item number, and the learned vector of items that have none. */
import type { ItemBatch } from '../data/loader/batch.js';
import { readPart, type TensorInFile, viewAs } from '../io/safetensors.js';
import type { ServedContent } from '../models/model.js';
import { ContentTable } from '../nn/content_table.js';
import { Initializer } from '../nn/module.js';
import { assign, type DeviceControl, mapped, tensor } from '../tensor.js';
import { keep, tidy } from '../tidy.js';
import { exportFiles, leaveExportTensor, readExportTensors, type Signature } from './export_files.js';

/** Rows written at once: a copy that the event loop does not notice. */
const BLOCK = 512;
const NO_ROW = -1;

/** Ages in steps of the vectors of an export. */
export interface VectorAges {
  readonly mean: number;
  readonly p50: number;
  readonly p99: number;
}

/** Rows of the table: those of the export in their order, the learned vector of items without one, then room for what is added. */
export class VectorStore implements Disposable {
  readonly width: number;
  /** Of the vectors that came with the export. */
  readonly ages: VectorAges;
  readonly #table: ContentTable;
  /** The row for items without a vector. */
  readonly missing: number;
  /** By item number: its row, and whether it has a text, a picture, and given vectors that are content. */
  readonly #rows: Int32Array;
  readonly #flags: ReadonlyMap<string, Uint8Array>;
  readonly #given: readonly string[];
  #nextRow: number;
  #count = 0;

  private constructor(
    private readonly served: ServedContent,
    private readonly place: DeviceControl,
    private readonly step: number,
    { exported, missing, items, given, ages, file }: Layout,
  ) {
    this.width = missing.length;
    this.ages = ages;
    const shape = [items + 1, this.width];
    const init = new Initializer(0, 'float32', place.name);
    this.#table = new ContentTable(init, shape[0]!, this.width, file === null ? undefined : keep(mapped(file, shape)));
    this.missing = exported;
    this.#nextRow = exported + 1;
    this.#rows = new Int32Array(items).fill(NO_ROW);
    this.#given = given;
    this.#flags = new Map(['text', 'image', ...given].map((name) => [name, new Uint8Array(items)]));
    served.readFrom(this.#table);
    // A model may have learned exactly zero: then the row stays what it is, zero.
    this.commit(Int32Array.of(exported), missing);
  }

  /**
   * Copies the vectors of an export to the device in blocks, or with `mapped` leaves them in the file, whose pages processes share (CPU only).
   * `items`: numbers that there is room for; `given`: names of given vectors that are content. Throws `ExportMismatchError`, `StorageError`.
   */
  static async open(
    folder: string,
    signature: Signature,
    {
      served,
      place,
      items,
      given,
      mapped: maps,
    }: { served: ServedContent; place: DeviceControl; items: number; given: readonly string[]; mapped: boolean },
  ): Promise<VectorStore> {
    const { tensors, left } = maps
      ? await leaveExportTensor(folder, signature, exportFiles.vectors, 'vectors')
      : { tensors: await readExportTensors(folder, signature, exportFiles.vectors), left: null };
    const keys = Int32Array.from(viewAs(tensors.get('keys')!, 'I64'), Number);
    const missing = viewAs(tensors.get('missing')!, 'F32');
    const ages = agesOf(viewAs(tensors.get('ages')!, 'I32'));
    const layout = { exported: keys.length, missing, items, given, ages, file: left };
    const store = new VectorStore(served, place, signature.step, layout);
    try {
      const rowBytes = 4 * missing.length;
      const vectors = left === null ? viewAs(tensors.get('vectors')!, 'F32') : null;
      await inBlocks(keys.length, async (from, to) => {
        const block =
          vectors?.subarray(from * missing.length, to * missing.length) ??
          (await readPart(left!, from * rowBytes, to * rowBytes));
        const good = usableRows(block, missing.length);
        const rows = good.map((i) => from + i);
        if (left === null) store.commit(rows, pickRows(block, good, missing.length));
        else store.served.noteRows(rows, pickRows(block, good, missing.length));
        for (const row of rows) store.#rows[keys[row]!] = row;
        await place.synchronize();
      });
      if (left !== null) {
        const steps = new Int32Array(items + 1).fill(-1);
        for (const row of store.#rows) if (row !== NO_ROW) steps[row] = signature.step;
        steps[store.missing] = usable(missing) ? signature.step : -1;
        assign(store.#table.steps, steps);
      }
      for (const [name, into] of store.#flags) {
        const found = tensors.get(`present.${name}`);
        if (found !== undefined) viewAs(found, 'U8').forEach((flag, i) => (into[keys[i]!] = flag));
      }
      store.#count = store.#rows.reduce((count, row) => count + Number(row !== NO_ROW), 0);
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

  has(item: number): boolean {
    return this.historyRow(item) !== NO_ROW;
  }

  /** The table row of a target. */
  targetRow(item: number): number {
    return this.has(item) ? this.#rows[item]! : this.missing;
  }

  /** The table row of a history item, -1 (masked) where it has none. */
  historyRow(item: number): number {
    return item < 0 ? NO_ROW : (this.#rows[item] ?? NO_ROW);
  }

  /**
   * Writes usable vectors (n, width) of items (n, distinct) in blocks, and what of each is there by name; a request sees each from the moment
   * it is written.
   */
  async write(items: Int32Array, vectors: Float32Array, flags: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const taken = items.map((item) => (this.has(item) ? this.#rows[item]! : this.#nextRow++));
    const rowOf = (i: number): number => taken[i]!;
    const order = Int32Array.from(items.keys()).sort((a, b) => rowOf(a) - rowOf(b));
    await inBlocks(order.length, async (from, to) => {
      const part = order.subarray(from, to);
      this.commit(part.map(rowOf), pickRows(vectors, part, this.width));
      for (const i of part) {
        const item = items[i]!;
        if (!this.has(item)) this.#count++;
        this.#rows[item] = rowOf(i);
        for (const [name, into] of this.#flags) into[item] = flags.get(name)![i]!;
      }
      await this.place.synchronize();
    });
  }

  /** Queues vectors (n, width) at table rows (n, ascending). */
  private commit(rows: Int32Array, vectors: Float32Array): void {
    if (rows.length === 0) return;
    tidy(() => {
      this.#table.stage(rows, tensor(vectors, [rows.length, this.width], { device: this.place.name }));
      this.#table.commit(this.step);
    });
    this.served.noteRows(rows, vectors);
  }

  /** Content of targets in the form of a batch. Nothing reads it but whether it is there: vectors come from the table. */
  content(items: Int32Array): Required<Pick<ItemBatch, 'text' | 'image' | 'vectors'>> {
    const none = new Int32Array(0);
    const there = (name: string): Uint8Array => {
      const flags = this.#flags.get(name)!;
      return Uint8Array.from(items, (item) => (this.has(item) ? flags[item]! : 0));
    };
    const offsets = new Int32Array(items.length + 1);
    there('text').forEach((flag, i) => {
      offsets[i + 1] = offsets[i]! + flag;
    });
    const given = (name: string) => ({ values: new Float32Array(0), present: there(name), dim: 0 });
    return {
      text: { tokens: none, types: none, positions: none, offsets },
      image: { pixels: new Uint8Array(0), present: there('image'), size: 0 },
      vectors: Object.fromEntries(this.#given.map((name) => [name, given(name)])),
    };
  }

  [Symbol.dispose](): void {
    this.#table.dispose();
  }
}

interface Layout {
  /** Vectors of the export. */
  readonly exported: number;
  readonly missing: Float32Array;
  readonly items: number;
  readonly given: readonly string[];
  readonly ages: VectorAges;
  /** Where the vectors lie, if they stay there. */
  readonly file: TensorInFile | null;
}

async function inBlocks(count: number, work: (from: number, to: number) => Promise<void>): Promise<void> {
  for (let from = 0; from < count; from += BLOCK) await work(from, Math.min(from + BLOCK, count));
}

function usable(row: Float32Array): boolean {
  return row.every(Number.isFinite) && row.some((value) => value !== 0);
}

/** Positions of the rows (n, width) that are neither zero nor have a value that is not finite. */
export function usableRows(rows: Float32Array, width: number): Int32Array {
  return Int32Array.from({ length: rows.length / width }, (_, i) => i).filter((i) =>
    usable(rows.subarray(i * width, (i + 1) * width)),
  );
}

/** The rows (n, width) at `positions`, as an array of their own. */
export function pickRows(rows: Float32Array, positions: Int32Array, width: number): Float32Array {
  const picked = new Float32Array(positions.length * width);
  positions.forEach((i, k) => picked.set(rows.subarray(i * width, (i + 1) * width), k * width));
  return picked;
}

function agesOf(ages: Int32Array): VectorAges {
  const sorted = Int32Array.from(ages).sort();
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  const mean = sorted.length === 0 ? 0 : sorted.reduce((total, age) => total + age, 0) / sorted.length;
  return { mean, p50: at(0.5), p99: at(0.99) };
}
