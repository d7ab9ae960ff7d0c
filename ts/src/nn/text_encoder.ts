/** Text encoder over token fields (models.md 2.1): token + position + type embeddings, pre-norm Transformer, jagged. */
import { concat } from '../ops/concat.js';
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import type { Tensor } from '../tensor.js';
import { type JaggedRows, TransformerBlock } from './attention.js';
import { Embedding } from './embedding.js';
import type { ModalityTokens } from './fusion_q_former.js';
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
  /** A learned token stands for a text without tokens, so that it has a vector too. Default false: its row is zero. */
  readonly absent?: boolean;
}

/** Encoded texts: `tokens` for a fusion module, or `vectors` (n, out), one per text. */
export class TextEncoder extends Module {
  readonly token: Embedding;
  readonly position: Embedding;
  readonly type: Embedding;
  /** (1, width), or null. */
  readonly absent: Tensor | null;
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
      absent = false,
    }: TextEncoderOptions,
  ) {
    super();
    this.width = width;
    const std = 1 / Math.sqrt(width);
    this.token = new Embedding(init.at('token'), vocabularySize, width, { std });
    this.position = new Embedding(init.at('position'), positions, width, { std });
    this.type = new Embedding(init.at('type'), types, width, { std });
    this.absent = absent ? init.normal('absent', [1, width], std) : null;
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

  /** What stands first in the sequence of each text, its `cls` or the token for an absent text, then the text and what is `added` to it. */
  private sequences(batch: TokenSequences, added: ModalityTokens | null): { x: JaggedRows; offsets: Int32Array } {
    const { offsets } = batch;
    const texts = offsets.length - 1;
    const embedded = this.embed(batch);
    const missing = (b: number): boolean => this.absent !== null && offsets[b] === offsets[b + 1];
    const bounds = new Int32Array(texts + 1);
    let anyMissing = false;
    for (let b = 0; b < texts; b++) {
      anyMissing ||= missing(b);
      bounds[b + 1] =
        bounds[b]! + (missing(b) ? 1 : offsets[b + 1]! - offsets[b]!) + (added === null ? 0 : added.counts[b]!);
    }
    if (!anyMissing && added === null) return { x: embedded, offsets };
    const tokens = embedded.rows.shape[0]!;
    const index = new Int32Array(bounds[texts]!);
    for (let b = 0, to = 0; b < texts; b++) {
      if (missing(b)) index[to++] = tokens;
      else for (let at = offsets[b]!; at < offsets[b + 1]!; at++) index[to++] = at;
      const first = tokens + (this.absent === null ? 0 : 1) + (added?.starts[b] ?? 0);
      for (let k = 0; k < (added?.counts[b] ?? 0); k++) index[to++] = first + k;
    }
    const parts = [
      embedded.rows,
      ...(this.absent === null ? [] : [this.absent]),
      ...(added === null ? [] : [added.rows]),
    ];
    const rows = gatherRows(concat(parts, { axis: 0 }), this.place(index));
    return { x: { rows, offsets: this.place(bounds) }, offsets: bounds };
  }

  /**
   * The first row of each text's sequence (its `cls`), normalised and projected: (n, out). `added`: more tokens of `width`, behind those
   * of each text. A sequence without any token gives a zero row.
   */
  vectors(batch: TokenSequences, context: ForwardContext, added: ModalityTokens | null = null): Tensor {
    const sequences = this.sequences(batch, added);
    const texts = batch.offsets.length - 1;
    const first = new Int32Array(texts);
    const present = new Int32Array(texts).fill(-1);
    const offsets = new Int32Array(texts + 1);
    let found = 0;
    for (let b = 0; b < texts; b++) {
      if (sequences.offsets[b + 1]! > sequences.offsets[b]!) {
        present[b] = found;
        first[found++] = sequences.offsets[b]!;
      }
      offsets[b + 1] = found;
    }
    const only = { index: this.place(first.slice(0, found)), offsets: this.place(offsets) };
    let { x } = sequences;
    this.blocks.forEach((block, i) => {
      x = block.forward(x, context, i === this.blocks.length - 1 ? only : undefined);
    });
    const cls = this.blocks.length === 0 ? gatherRows(x.rows, only.index) : x.rows;
    const vectors = this.norm.forward(cls);
    const projected = this.project?.forward(vectors) ?? vectors;
    return found === texts ? projected : gatherRows(projected, this.place(present));
  }
}
