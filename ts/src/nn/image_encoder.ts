/** Picture encoder over patches (models.md 2.2): patch embedding, learned positions, pre-norm Transformer. */
import { ShapeError } from '../errors.js';
import { add } from '../ops/elementwise.js';
import { patchEmbedding } from '../ops/patch_embedding.js';
import { mean } from '../ops/reduce.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { type JaggedRows, TransformerBlock } from './attention.js';
import { LayerNorm } from './layer_norm.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

/** uint8 pixels (n, size, size, 3) on the host (a batch's `image`); `present` is 0 for a missing picture. */
export interface Pictures {
  readonly pixels: Uint8Array;
  readonly present: Uint8Array;
  readonly size: number;
}

export interface ImageEncoderOptions {
  /** Pixels along a side, a multiple of `patch`. */
  readonly size: number;
  readonly patch?: number;
  readonly width?: number;
  readonly layers?: number;
  readonly heads?: number;
  readonly ffn?: number;
  /** Per channel, of pixels divided by 255. Default .5 and .5: x / 127.5 - 1. */
  readonly mean?: readonly [number, number, number];
  readonly std?: readonly [number, number, number];
  readonly dropout?: number;
}

export class ImageEncoder extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly position: Tensor;
  readonly blocks: TransformerBlock[];
  readonly norm: LayerNorm;
  readonly width: number;
  /** Patches per picture: its tokens. */
  readonly tokenCount: number;
  readonly #size: number;
  readonly #patch: number;
  readonly #mean: readonly [number, number, number];
  readonly #std: readonly [number, number, number];

  constructor(
    init: Initializer,
    {
      size,
      patch = 8,
      width = 32,
      layers = 1,
      heads = 4,
      ffn = 2 * width,
      mean = [0.5, 0.5, 0.5],
      std = [0.5, 0.5, 0.5],
      dropout = 0,
    }: ImageEncoderOptions,
  ) {
    super();
    if (size % patch !== 0)
      throw new ShapeError(`ImageEncoder: expected size to be a multiple of patch ${patch} but received ${size}`, {
        argument: 'size',
      });
    this.width = width;
    this.tokenCount = (size / patch) ** 2;
    this.#size = size;
    this.#patch = patch;
    this.#mean = mean;
    this.#std = std;
    const inputs = 3 * patch * patch;
    this.weight = init.uniform('weight', [width, inputs], 1 / Math.sqrt(inputs));
    this.bias = init.constant('bias', [width], 0);
    this.position = init.normal('position', [this.tokenCount, width], 1 / Math.sqrt(width));
    this.blocks = Array.from(
      { length: layers },
      (_, i) => new TransformerBlock(init.at(`blocks.${i}`), { width, heads, ffn, dropout }),
    );
    this.norm = new LayerNorm(init.at('norm'), width);
  }

  /** Pixels along a side of a picture and of a patch, and what makes (pixel / 255 - mean) / std of each channel. */
  get pixels(): {
    readonly size: number;
    readonly patch: number;
    readonly mean: readonly [number, number, number];
    readonly std: readonly [number, number, number];
  } {
    return { size: this.#size, patch: this.#patch, mean: this.#mean, std: this.#std };
  }

  /** Patch rows (n · tokenCount, width) of every picture, missing ones included (whoever fuses them leaves those out). */
  tokens({ pixels, present, size }: Pictures, context: ForwardContext): JaggedRows {
    if (size !== this.#size)
      throw new ShapeError(`ImageEncoder: expected pictures of size ${this.#size} but received ${size}`, {
        argument: 'size',
      });
    const n = present.length;
    const images = this.place(pixels, [n, size, size, 3]);
    const patches = patchEmbedding(images, this.weight, this.bias, {
      patchSize: this.#patch,
      mean: this.#mean,
      std: this.#std,
    });
    const rows = reshape(add(patches, this.position), [n * this.tokenCount, this.width]);
    let x: JaggedRows = {
      rows,
      offsets: this.place(Int32Array.from({ length: n + 1 }, (_, i) => i * this.tokenCount)),
    };
    for (const block of this.blocks) x = block.forward(x, context);
    return { rows: this.norm.forward(x.rows), offsets: x.offsets };
  }

  /** The mean over its patches (n, width) of every picture. */
  vectors(pictures: Pictures, context: ForwardContext): Tensor {
    const { rows } = this.tokens(pictures, context);
    return mean(reshape(rows, [pictures.present.length, this.tokenCount, this.width]), { axes: [1] });
  }
}
