/** Text encoder over token fields (models.md 2.1): token + position + type embeddings, pre-norm Transformer, jagged. */
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import type { Tensor } from '../tensor.js';
import { type JaggedRows, TransformerBlock } from './attention.js';
import { Embedding } from './embedding.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

/** Jagged token sequences on the host, special tokens included (a batch's `text`). tokens, types, positions (T); offsets (n+1). */
export interface TokenSequences {
  readonly tokens: Int32Array;
  readonly types: Int32Array;
  readonly positions: Int32Array;
  readonly offsets: Int32Array;
}

export interface TextEncoderOptions {
  readonly vocabularySize: number;
  /** Rows of the position table. */
  readonly positions: number;
  /** Number of token types (fields). */
  readonly types: number;
  readonly width?: number;
  readonly layers?: number;
  readonly heads?: number;
  readonly ffn?: number;
  /** Width of the vector of a text; a linear follows where it differs from `width`. */
  readonly out?: number;
  readonly dropout?: number;
}

/** Encoded texts: `tokens` for a fusion module, or `vectors` (n, out), one per text; texts without tokens give zero rows. */
export class TextEncoder extends Module {
  readonly token: Embedding;
  readonly position: Embedding;
  readonly type: Embedding;
  readonly blocks: TransformerBlock[];
  readonly norm: LayerNorm;
  readonly project: Linear | null;
  readonly width: number;

  constructor(
    init: Initializer,
    {
      vocabularySize,
      positions,
      types,
      width = 128,
      layers = 4,
      heads = 4,
      ffn = 4 * width,
      out = width,
      dropout = 0,
    }: TextEncoderOptions,
  ) {
    super();
    this.width = width;
    const std = 1 / Math.sqrt(width);
    this.token = new Embedding(init.at('token'), vocabularySize, width, { std });
    this.position = new Embedding(init.at('position'), positions, width, { std });
    this.type = new Embedding(init.at('type'), types, width, { std });
    this.blocks = Array.from(
      { length: layers },
      (_, i) => new TransformerBlock(init.at(`blocks.${i}`), { width, heads, ffn, dropout }),
    );
    this.norm = new LayerNorm(init.at('norm'), width);
    this.project = out === width ? null : new Linear(init.at('project'), width, out, { init: std });
  }

  private embed(batch: TokenSequences): JaggedRows {
    const rows = add(
      add(this.token.forward(this.place(batch.tokens)), this.position.forward(this.place(batch.positions))),
      this.type.forward(this.place(batch.types)),
    );
    return { rows, offsets: this.place(batch.offsets) };
  }

  /** All token rows (T, width), normalised. */
  tokens(batch: TokenSequences, context: ForwardContext): JaggedRows {
    let x = this.embed(batch);
    for (const block of this.blocks) x = block.forward(x, context);
    return { rows: this.norm.forward(x.rows), offsets: x.offsets };
  }

  /** The `cls` row of each text, normalised and projected: (n, out). */
  vectors(batch: TokenSequences, context: ForwardContext): Tensor {
    const texts = batch.offsets.length - 1;
    const first = new Int32Array(texts);
    const present = new Int32Array(texts).fill(-1);
    const offsets = new Int32Array(texts + 1);
    let found = 0;
    for (let b = 0; b < texts; b++) {
      if (batch.offsets[b + 1]! > batch.offsets[b]!) {
        present[b] = found;
        first[found++] = batch.offsets[b]!;
      }
      offsets[b + 1] = found;
    }
    const only = { index: this.place(first.slice(0, found)), offsets: this.place(offsets) };
    let x = this.embed(batch);
    this.blocks.forEach((block, i) => {
      x = block.forward(x, context, i === this.blocks.length - 1 ? only : undefined);
    });
    const cls = this.blocks.length === 0 ? gatherRows(x.rows, only.index) : x.rows;
    const vectors = this.norm.forward(cls);
    const projected = this.project?.forward(vectors) ?? vectors;
    return found === texts ? projected : gatherRows(projected, this.place(present));
  }
}
