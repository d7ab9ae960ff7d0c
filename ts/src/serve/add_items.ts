/** What `Predictor.add` does to the export that is served: features, given vectors and content vectors of new items. */
import { ArgumentError, MemoryBankFullError } from '../errors.js';
import { mismatch } from './export_files.js';
import type { EncodedItems } from './item_encoder.js';
import type { State } from './serving_batch.js';
import { pickRows, usableRows } from './vector_store.js';

/** Ids that were named, how many items were taken in, and how many vectors were zero or not finite. */
export interface AddedItems {
  readonly ids: readonly string[];
  readonly added: number;
  readonly refused: number;
}

/**
 * Takes in items that were encoded by the export of `state`; of an id that comes twice the last one. Without a usable content vector an item
 * is taken in where scores read something else of it. Throws `ExportMismatchError`, `ArgumentError`, `MemoryBankFullError`.
 */
export async function addItems(state: State, encoded: EncodedItems): Promise<AddedItems> {
  const { vectors, items, given, served } = state;
  if (encoded.id !== served.id)
    throw mismatch(served.folder, [`vectors: expected those of export ${served.id} but received ${encoded.id}`]);
  if (vectors === null && given.length === 0) return { ids: [], added: 0, refused: 0 };
  checkShapes(state, encoded);
  const last = new Map(encoded.ids.map((id, i) => [id, i]));
  const usable = new Set(vectors === null ? [] : usableRows(encoded.vectors, vectors.width));
  const brings = (i: number): boolean => given.some(({ name }) => encoded.given[name]?.present[i] === 1);
  const chosen = [...last.values()].filter((i) => vectors === null || usable.has(i) || brings(i));
  requireRoom(state, chosen.filter((i) => items.numberOf(encoded.ids[i]!) < 0).length);
  const numbers = items.put(chosen.map((i) => ({ id: encoded.ids[i]!, fields: encoded.fields[i] ?? {} })));
  chosen.forEach((i, k) => {
    for (const feature of given) {
      const batch = encoded.given[feature.name];
      if (batch?.present[i] === 1)
        feature.put(numbers[k]!, batch.values.subarray(i * feature.dim, (i + 1) * feature.dim));
    }
  });
  if (vectors === null) return { ids: [...last.keys()], added: chosen.length, refused: 0 };
  const written = Int32Array.from(chosen.filter((i) => usable.has(i)));
  const flags = new Map([
    ['text', encoded.text],
    ['image', encoded.image],
    ...served.given.content.map((name) => [name, encoded.given[name]!.present] as const),
  ]);
  await vectors.write(
    written.map((i) => items.numberOf(encoded.ids[i]!)),
    pickRows(encoded.vectors, written, vectors.width),
    new Map([...flags].map(([name, flag]) => [name, Uint8Array.from(written, (i) => flag[i]!)])),
  );
  return { ids: [...last.keys()], added: chosen.length, refused: last.size - written.length };
}

/** `EncodedItems` may come from another thread, or be made by hand. */
function checkShapes({ given, vectors: store, served }: State, encoded: EncodedItems): void {
  const { ids, given: brought, vectors, text, image } = encoded;
  const fail = (argument: string, expected: string, got: string): never => {
    throw new ArgumentError(`Predictor.add: expected ${expected} but received ${got}`, {
      op: 'Predictor.add',
      argument,
    });
  };
  if (store !== null && vectors.length !== ids.length * store.width)
    fail('vectors', `vectors of ${ids.length} x ${store.width} numbers`, String(vectors.length));
  for (const [name, flags] of Object.entries({ text, image }))
    if (flags.length !== ids.length)
      fail(name, `${name} to say of ${ids.length} items which have one`, String(flags.length));
  const refuse = (name: string, expected: string, got: string): never => fail(`given.${name}`, expected, got);
  for (const { name, dim } of given) {
    const batch = brought[name];
    if (batch === undefined) continue;
    const { values, present } = batch;
    if (values.length !== ids.length * dim)
      refuse(name, `given.${name} of ${ids.length} x ${dim} numbers`, String(values.length));
    if (present.length !== ids.length)
      refuse(name, `given.${name} to say of ${ids.length} items which have one`, String(present.length));
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0)
      refuse(name, `finite numbers in given.${name} of item ${ids[Math.floor(bad / dim)]}`, String(values[bad]));
  }
  for (const name of served.given.content)
    if (brought[name]?.present.length !== ids.length)
      refuse(name, `given.${name} to say of ${ids.length} items which have one`, `${brought[name]?.present.length}`);
}

function requireRoom({ items, capacity }: State, fresh: number): void {
  if (items.size + fresh > capacity)
    throw new MemoryBankFullError(
      `Predictor: expected at most ${capacity} items but received ${items.size + fresh}; open with a larger room, or refresh with an export that has them`,
      { rows: items.size, slots: capacity },
    );
}
