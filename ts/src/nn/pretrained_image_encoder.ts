/** Picture encoders as others publish them: ViT, and the vision towers of CLIP and SigLIP. Pre-norm Transformers over patches. */
import { ShapeError } from '../errors.js';
import { tanh } from '../ops/activation.js';
import { concat, slice } from '../ops/concat.js';
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import { patchEmbedding } from '../ops/patch_embedding.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { type FeedForwardActivation, type JaggedRows, type Queries, TransformerBlock } from './attention.js';
import { AttentionPooling } from './attention_pooling.js';
import type { Pictures } from './image_encoder.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

export interface PretrainedImageOptions {
  /** Pixels along a side, a multiple of `patch`. */
  readonly size: number;
  readonly patch: number;
  readonly patchBias: boolean;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly ffn: number;
  readonly activation: FeedForwardActivation;
  readonly eps: number;
  /** Per channel, of pixels divided by 255. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** 'class': a learned token stands before the patches and for the picture; 'attention': there is none, a probe reads the patches. */
  readonly pooling: 'class' | 'attention';
  /** CLIP normalises what enters the first block. */
  readonly normsInput: boolean;
  /** What the last norm reads: all tokens, or (CLIP) the class token alone. */
  readonly lastNorm: 'tokens' | 'pooled';
  /** ViT's pooler, CLIP's projection, or nothing. */
  readonly head: { readonly out: number; readonly bias: boolean; readonly activation: 'none' | 'tanh' } | null;
  /** Of hidden rows while it trains. Default 0. */
  readonly dropout?: number;
}

export class PretrainedImageEncoder extends Module {
  /** (width, 3 patch²), columns by channel, row, column. */
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  /** (1, width). */
  readonly classToken: Tensor | null;
  /** (tokenCount, width). */
  readonly position: Tensor;
  readonly inputNorm: LayerNorm | null;
  readonly blocks: TransformerBlock[];
  readonly norm: LayerNorm;
  readonly pooling: AttentionPooling | null;
  readonly head: Linear | null;
  readonly width: number;
  /** Tokens of a picture: patches, and the class token where there is one. */
  readonly tokenCount: number;
  readonly #patches: number;
  readonly options: PretrainedImageOptions;

  constructor(init: Initializer, options: PretrainedImageOptions) {
    super();
    const { size, patch, patchBias, width, layers, eps, pooling, normsInput, head } = options;
    if (size % patch !== 0)
      throw new ShapeError(
        `PretrainedImageEncoder: expected size to be a multiple of patch ${patch} but received ${size}`,
        {
          argument: 'size',
        },
      );
    this.options = options;
    this.#patches = (size / patch) ** 2;
    this.width = width;
    this.tokenCount = this.#patches + (pooling === 'class' ? 1 : 0);
    const inputs = 3 * patch * patch;
    this.weight = init.uniform('weight', [width, inputs], 1 / Math.sqrt(inputs));
    this.bias = patchBias ? init.constant('bias', [width], 0) : null;
    this.classToken = pooling === 'class' ? init.normal('classToken', [1, width], 1 / Math.sqrt(width)) : null;
    this.position = init.normal('position', [this.tokenCount, width], 1 / Math.sqrt(width));
    this.inputNorm = normsInput ? new LayerNorm(init.at('inputNorm'), width, { eps }) : null;
    this.blocks = Array.from({ length: layers }, (_, i) => new TransformerBlock(init.at(`blocks.${i}`), options));
    this.norm = new LayerNorm(init.at('norm'), width, { eps });
    this.pooling = pooling === 'attention' ? new AttentionPooling(init.at('pooling'), options) : null;
    this.head = head === null ? null : new Linear(init.at('head'), width, head.out, { bias: head.bias });
  }

  /** Parameters that `vectors` reads and `tokens` does not. */
  get ofVectors(): RegExp {
    return this.options.lastNorm === 'pooled' ? /^(norm|pooling)\./ : /^pooling\./;
  }

  private embed({ pixels, present, size }: Pictures): JaggedRows {
    const { size: expected, patch, mean, std } = this.options;
    if (size !== expected)
      throw new ShapeError(`PretrainedImageEncoder: expected pictures of size ${expected} but received ${size}`, {
        argument: 'size',
      });
    const n = present.length;
    const count = this.#patches;
    const images = this.place(pixels, [n, size, size, 3]);
    const patches = patchEmbedding(images, this.weight, this.bias, { patchSize: patch, mean, std });
    const offsets = this.place(Int32Array.from({ length: n + 1 }, (_, i) => i * this.tokenCount));
    const flat = [n * count, this.width];
    let rows: Tensor;
    if (this.classToken === null) rows = reshape(add(patches, this.position), flat);
    else {
      const first = add(this.classToken, slice(this.position, { end: 1 }));
      const others = reshape(add(patches, slice(this.position, { start: 1 })), flat);
      const order = Int32Array.from({ length: n * this.tokenCount }, (_, i) => {
        const token = i % this.tokenCount;
        return token === 0 ? n * count : Math.floor(i / this.tokenCount) * count + token - 1;
      });
      rows = gatherRows(concat([others, first], { axis: 0 }), this.place(order));
    }
    return { rows: this.inputNorm?.forward(rows) ?? rows, offsets };
  }

  /** The last hidden state (n · tokenCount, width) of every picture, missing ones included. CLIP's is not normalised. */
  tokens(pictures: Pictures, context: ForwardContext): JaggedRows {
    let x = this.embed(pictures);
    for (const block of this.blocks) x = block.forward(x, context);
    return this.options.lastNorm === 'tokens' ? { ...x, rows: this.norm.forward(x.rows) } : x;
  }

  /** One normalised vector (n, width) per picture: its class token, or what SigLIP's probe reads. */
  vectors(pictures: Pictures, context: ForwardContext): Tensor {
    if (this.pooling !== null) return this.pooling.forward(this.tokens(pictures, context));
    const n = pictures.present.length;
    const only: Queries = {
      index: this.place(Int32Array.from({ length: n }, (_, i) => i * this.tokenCount)),
      offsets: this.place(Int32Array.from({ length: n + 1 }, (_, i) => i)),
    };
    let x = this.embed(pictures);
    this.blocks.forEach((block, i) => {
      x = block.forward(x, context, i === this.blocks.length - 1 ? only : undefined);
    });
    return this.norm.forward(this.blocks.length === 0 ? gatherRows(x.rows, only.index) : x.rows);
  }

  /** What the head makes of `vectors` (n, out): ViT's pooler output, CLIP's image embedding. Without a head, `vectors`. */
  pooled(pictures: Pictures, context: ForwardContext): Tensor {
    const vectors = this.vectors(pictures, context);
    if (this.head === null) return vectors;
    const out = this.head.forward(vectors);
    return this.options.head?.activation === 'tanh' ? tanh(out) : out;
  }
}
