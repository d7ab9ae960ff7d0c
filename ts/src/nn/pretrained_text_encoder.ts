/**
 * Text encoders as others publish them: BERT and MiniLM (post-norm, token types), RoBERTa, the text towers of CLIP (causal) and SigLIP.
 * One class, since they differ in a few choices; what a folder's configuration chooses is decided by who reads it.
 */
import { tanh } from '../ops/activation.js';
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import type { Tensor } from '../tensor.js';
import { type FeedForwardActivation, type JaggedRows, type Queries, TransformerBlock } from './attention.js';
import { Embedding } from './embedding.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';
import type { TokenSequences } from './text_encoder.js';

/** Which token's output stands for a text: the first, the last, or the first one of this id (the last where there is none). */
export type PooledToken = 'first' | 'last' | { readonly id: number };

export interface PretrainedTextOptions {
  readonly vocabularySize: number;
  /** Rows of the position table. */
  readonly positions: number;
  /** Row of the first token of a text: RoBERTa starts behind its padding row. */
  readonly firstPosition: number;
  /** Rows of the table of token types; 0: there is none. */
  readonly types: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly ffn: number;
  readonly activation: FeedForwardActivation;
  /** Post-norm encoders normalise the embeddings, pre-norm ones the output of the last block. */
  readonly norm: 'pre' | 'post';
  readonly eps: number;
  readonly causal: boolean;
  readonly pooled: PooledToken;
  /** What follows the pooled token: BERT's pooler, a projection into a common space, or nothing. */
  readonly head: { readonly out: number; readonly bias: boolean; readonly activation: 'none' | 'tanh' } | null;
  /** Of hidden rows while it trains; the rate in a folder's configuration is that of its own training. Default 0. */
  readonly dropout?: number;
}

export class PretrainedTextEncoder extends Module {
  readonly token: Embedding;
  readonly position: Embedding;
  readonly type: Embedding | null;
  readonly embeddingNorm: LayerNorm | null;
  readonly blocks: TransformerBlock[];
  readonly norm: LayerNorm | null;
  readonly head: Linear | null;
  readonly width: number;
  readonly options: PretrainedTextOptions;

  constructor(init: Initializer, options: PretrainedTextOptions) {
    super();
    const { vocabularySize, positions, types, width, layers, norm, eps, head } = options;
    this.options = options;
    this.width = width;
    this.token = new Embedding(init.at('token'), vocabularySize, width);
    this.position = new Embedding(init.at('position'), positions, width);
    this.type = types === 0 ? null : new Embedding(init.at('type'), types, width);
    this.embeddingNorm = norm === 'post' ? new LayerNorm(init.at('embeddingNorm'), width, { eps }) : null;
    this.blocks = Array.from({ length: layers }, (_, i) => new TransformerBlock(init.at(`blocks.${i}`), options));
    this.norm = norm === 'pre' ? new LayerNorm(init.at('norm'), width, { eps }) : null;
    this.head = head === null ? null : new Linear(init.at('head'), width, head.out, { bias: head.bias });
  }

  /** Tokens that a text may have. */
  get maxTokens(): number {
    return this.options.positions - this.options.firstPosition;
  }

  private embed({ tokens, types, positions, offsets }: TokenSequences): JaggedRows {
    const { firstPosition } = this.options;
    const places = firstPosition === 0 ? positions : positions.map((position) => position + firstPosition);
    let rows = add(this.token.forward(this.place(tokens)), this.position.forward(this.place(places)));
    if (this.type !== null) rows = add(rows, this.type.forward(this.place(types)));
    return { rows: this.embeddingNorm?.forward(rows) ?? rows, offsets: this.place(offsets) };
  }

  /** The last hidden state: all token rows (T, width). `types` are those of the encoder, 0 for a single text. */
  tokens(batch: TokenSequences, context: ForwardContext): JaggedRows {
    let x = this.embed(batch);
    for (const block of this.blocks) x = block.forward(x, context);
    return { rows: this.norm?.forward(x.rows) ?? x.rows, offsets: x.offsets };
  }

  /** The last hidden state of the pooled token (n, width), one per text; a zero row for a text without tokens. */
  vectors(batch: TokenSequences, context: ForwardContext): Tensor {
    const { causal } = this.options;
    const { index, offsets, found, present } = this.pooledTokens(batch);
    const only: Queries = { index: this.place(index), offsets: this.place(offsets) };
    let x = this.embed(batch);
    this.blocks.forEach((block, i) => {
      x = block.forward(x, context, i === this.blocks.length - 1 && !causal ? only : undefined);
    });
    const rows = this.blocks.length === 0 || causal ? gatherRows(x.rows, only.index) : x.rows;
    const vectors = this.norm?.forward(rows) ?? rows;
    return found === present.length ? vectors : gatherRows(vectors, this.place(present));
  }

  /** What the head makes of `vectors` (n, out): BERT's pooler output, the text embedding of CLIP or SigLIP. Without a head, `vectors`. */
  pooled(batch: TokenSequences, context: ForwardContext): Tensor {
    const vectors = this.vectors(batch, context);
    if (this.head === null) return vectors;
    const out = this.head.forward(vectors);
    return this.options.head?.activation === 'tanh' ? tanh(out) : out;
  }

  /** Row of the pooled token of every text that has tokens, how many of them each text has (as offsets), and where each text's row is. */
  private pooledTokens({ tokens, offsets }: TokenSequences): {
    index: Int32Array;
    offsets: Int32Array;
    found: number;
    present: Int32Array;
  } {
    const { pooled } = this.options;
    const texts = offsets.length - 1;
    const index = new Int32Array(texts);
    const bounds = new Int32Array(texts + 1);
    const present = new Int32Array(texts).fill(-1);
    let found = 0;
    for (let b = 0; b < texts; b++) {
      const [begin, end] = [offsets[b]!, offsets[b + 1]!];
      if (end > begin) {
        const named = typeof pooled === 'string' ? -1 : tokens.subarray(begin, end).indexOf(pooled.id);
        present[b] = found;
        index[found++] = pooled === 'first' ? begin : named >= 0 ? begin + named : end - 1;
      }
      bounds[b + 1] = found;
    }
    return { index: index.slice(0, found), offsets: bounds, found, present };
  }
}
