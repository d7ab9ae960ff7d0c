/** Given vectors of items (`type: embedding`): those that rankers read as they are, by item number, and those that new items bring. */
import type { Dataset } from '../data/dataset.js';
import type { VectorBatch } from '../data/loader/batch.js';
import type { EmbeddingFeature } from '../data/schema.js';
import { ArgumentError } from '../errors.js';
import { type HostTensor, hostTensor, viewAs } from '../io/safetensors.js';
import type { IdValue } from './feature_values.js';
import { pickRows } from './vector_store.js';

/** Given vectors of n items by feature name. */
export type VectorBatches = Readonly<Record<string, VectorBatch>>;

/** `<feature>.items` (k) and `<feature>.vectors` (k, dim), of the items among `keys` that have one. */
export function givenTensors(
  { columns }: Dataset,
  names: readonly string[],
  keys: Int32Array,
): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  for (const { name, values, present, dim } of columns.itemVectors ?? []) {
    if (!names.includes(name)) continue;
    const held = keys.filter((key) => present[key] === 1);
    tensors.set(`${name}.items`, hostTensor('I32', [held.length], held));
    tensors.set(`${name}.vectors`, hostTensor('F32', [held.length, dim], pickRows(values, held, dim)));
  }
  return tensors;
}

/** One feature: the vectors of an export, and those that were added. */
export class GivenVectors {
  readonly name: string;
  readonly dim: number;
  /** By item number: its row in `#exported`, -1 for none. */
  readonly #rows: Int32Array;
  readonly #exported: Float32Array;
  readonly #added = new Map<number, Float32Array>();

  /** `items`: rows of the item table. */
  constructor({ name, dim }: EmbeddingFeature, tensors: ReadonlyMap<string, HostTensor>, items: number) {
    this.name = name;
    this.dim = dim;
    this.#rows = new Int32Array(items).fill(-1);
    viewAs(tensors.get(`${name}.items`)!, 'I32').forEach((item, row) => {
      this.#rows[item] = row;
    });
    this.#exported = viewAs(tensors.get(`${name}.vectors`)!, 'F32');
  }

  /** Copies the vector of an item. */
  put(item: number, vector: Float32Array): void {
    this.#added.set(item, vector.slice());
  }

  private of(item: number): Float32Array | null {
    const added = this.#added.get(item);
    if (added !== undefined) return added;
    const row = this.#rows[item] ?? -1;
    return row < 0 ? null : this.#exported.subarray(row * this.dim, (row + 1) * this.dim);
  }

  /** As a batch has them: zeros where an item has none. */
  gather(items: Int32Array): VectorBatch {
    const { dim } = this;
    const values = new Float32Array(items.length * dim);
    const present = new Uint8Array(items.length);
    items.forEach((item, i) => {
      const vector = this.of(item);
      if (vector === null) return;
      values.set(vector, i * dim);
      present[i] = 1;
    });
    return { values, present, dim };
  }
}

/** Vectors that new items bring, in their order. Throws ArgumentError for a name that is no feature, another length, a value that is not finite. */
export function givenBatches(
  who: string,
  features: readonly EmbeddingFeature[],
  items: readonly { readonly id: IdValue; readonly vectors?: Readonly<Record<string, Float32Array | null>> | null }[],
): VectorBatches {
  const batches = Object.fromEntries(
    features.map(({ name, dim }): [string, VectorBatch] => [
      name,
      { values: new Float32Array(items.length * dim), present: new Uint8Array(items.length), dim },
    ]),
  );
  for (const [i, { id, vectors }] of items.entries())
    for (const [name, vector] of Object.entries(vectors ?? {})) {
      const refuse = (expected: string, got: string): never => {
        throw new ArgumentError(`${who}: item ${id}: expected ${expected} but received ${got}`, {
          op: who,
          argument: `vectors.${name}`,
          item: String(id),
        });
      };
      if (!Object.hasOwn(batches, name)) refuse(`vectors ${features.map((f) => f.name).join(', ') || '(none)'}`, name);
      if (vector === null) continue;
      const { values, present, dim } = batches[name]!;
      if (!(vector instanceof Float32Array)) refuse(`vectors.${name} to be a Float32Array`, kindOf(vector));
      if (vector.length !== dim) refuse(`vectors.${name} of ${dim} numbers`, String(vector.length));
      const bad = vector.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) refuse(`finite numbers in vectors.${name}`, `${vector[bad]} at position ${bad}`);
      values.set(vector, i * dim);
      present[i] = 1;
    }
  return batches;
}

function kindOf(value: unknown): string {
  return typeof value === 'object' ? (value?.constructor.name ?? 'null') : typeof value;
}

/** Vectors `from` .. `to` of each batch. */
export function sliceBatches(batches: VectorBatches, from: number, to: number): VectorBatches {
  return Object.fromEntries(
    Object.entries(batches).map(([name, { values, present, dim }]) => [
      name,
      { values: values.subarray(from * dim, to * dim), present: present.subarray(from, to), dim },
    ]),
  );
}
