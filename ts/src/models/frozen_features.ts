/**
 * What frozen encoders give of every item, in host memory: training and evaluation gather rows from here in place of running the encoders.
 * Items are held in blocks, which are also the blocks of the cache on disk.
 */
import { fromBfloat16 } from '../bfloat16.js';
import { ArgumentError } from '../errors.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { ItemContent } from './content.js';

/** Items of a block. */
export const FEATURE_BLOCK = 256;

/** Most rows of an item, and their width. */
export interface FeatureSize {
  readonly most: number;
  readonly width: number;
}

/** Rows of n items: item i owns `counts[i]` rows of `rows`, from `starts[i]` on. */
export interface EncodedRows {
  readonly rows: Tensor;
  readonly starts: Int32Array;
  readonly counts: Int32Array;
}

/** Rows of the items of one block, one after the other. counts (n); values (sum of counts · width), bfloat16 as bits. */
export interface BlockRows {
  readonly counts: Int32Array;
  readonly values: Float32Array | Uint16Array;
}

/** The item encoders of a model, none of which trains. */
export interface FrozenEncoders {
  /** What they give, by name. */
  readonly sizes: ReadonlyMap<string, FeatureSize>;
  /** All that decides their output beside weights and content: two models that differ in it have different features. */
  readonly identity: string;
  /** Their tensors by path. */
  readonly state: ReadonlyMap<string, Tensor>;
  /** Rows of n items by name, without gradient and without dropout. */
  encode(content: ItemContent): ReadonlyMap<string, EncodedRows>;
  /** From now on rows of items come from `features`; null: from the encoders again. */
  use(features: FrozenFeatures | null): void;
}

/** `FrozenEncoders` of these encoders; null where one of them trains and `stays` does not say otherwise. */
export function frozenEncoders(
  encoders: ReadonlyMap<string, { readonly module: Module }>,
  {
    stays,
    identity,
    ...rest
  }: Pick<FrozenEncoders, 'sizes' | 'encode' | 'use'> & {
    readonly stays: boolean;
    readonly identity: Readonly<Record<string, unknown>>;
  },
): FrozenEncoders | null {
  const state = new Map<string, Tensor>();
  for (const [name, { module }] of encoders) {
    if (!stays && module.parameters().size > 0) return null;
    for (const [path, x] of module.state()) state.set(`${name}.${path}`, x);
  }
  return { ...rest, identity: JSON.stringify(identity), state };
}

interface Block extends BlockRows {
  /** (n+1) row where each item begins. */
  readonly offsets: Int32Array;
}

export class FrozenFeatures {
  readonly #blocks = new Map<string, Block[]>();

  constructor(readonly sizes: ReadonlyMap<string, FeatureSize>) {
    for (const name of sizes.keys()) this.#blocks.set(name, []);
  }

  /** Puts the rows of a block, by name. Errors: `ArgumentError` where counts and values do not fit the sizes. */
  put(block: number, rows: ReadonlyMap<string, BlockRows>): void {
    for (const [name, { most, width }] of this.sizes) {
      const given = rows.get(name);
      const offsets = new Int32Array((given?.counts.length ?? 0) + 1);
      given?.counts.forEach((count, i) => {
        offsets[i + 1] = offsets[i]! + count;
      });
      const fits = given?.counts.every((count) => count >= 0 && count <= most) === true;
      if (given === undefined || !fits || offsets.at(-1)! * width !== given.values.length)
        throw new ArgumentError(
          `features: expected rows of ${name} of width ${width}, at most ${most} per item, in block ${block}`,
          { op: 'features', argument: name },
        );
      this.#blocks.get(name)![block] = { ...given, offsets };
    }
  }

  /** Rows of `keys` (n item rows), one after the other: values (total · width), starts and counts (n). Errors: `ArgumentError` for an item without any. */
  gather(name: string, keys: Int32Array): { values: Float32Array; starts: Int32Array; counts: Int32Array } {
    const blocks = this.#blocks.get(name)!;
    const { width } = this.sizes.get(name)!;
    const starts = new Int32Array(keys.length);
    const counts = new Int32Array(keys.length);
    let total = 0;
    keys.forEach((key, i) => {
      const count = blocks[Math.floor(key / FEATURE_BLOCK)]?.counts[key % FEATURE_BLOCK];
      if (count === undefined)
        throw new ArgumentError(`features: expected rows of item ${key} but there are none`, {
          op: 'features',
          argument: 'keys',
        });
      starts[i] = total;
      counts[i] = count;
      total += count;
    });
    const values = new Float32Array(total * width);
    keys.forEach((key, i) => {
      const block = blocks[Math.floor(key / FEATURE_BLOCK)]!;
      const from = block.offsets[key % FEATURE_BLOCK]!;
      const part = block.values.subarray(from * width, (from + counts[i]!) * width);
      values.set(part instanceof Uint16Array ? fromBfloat16(part) : part, starts[i]! * width);
    });
    return { values, starts, counts };
  }
}
