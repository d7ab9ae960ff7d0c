/**
 * What a history says to the rest of a row (LEMUR; models.md 6): the other features are compressed to query tokens, which read the
 * history by cross-attention, layer after layer. History rows do not attend to each other.
 */
import { ArgumentError } from '../errors.js';
import { crossAttention } from '../ops/cross_attention.js';
import { add } from '../ops/elementwise.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { type JaggedRows, MultiHeadAttention } from './attention.js';
import { Embedding } from './embedding.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { type Initializer, Module } from './module.js';
import { GAP_BUCKETS, gapBuckets } from './time_gaps.js';
import { unprojectedAttention } from './unprojected_attention.js';

export interface HistoryDecoderOptions {
  /** Of history rows and query tokens. */
  readonly width: number;
  /** Of the features that become the queries. */
  readonly features: number;
  /** [default 2] */
  readonly layers?: number;
  /** Query tokens [default 1]. */
  readonly queries?: number;
  /** [default 4] */
  readonly heads?: number;
  /** Hidden width of the FFN; default 4 `width`. */
  readonly ffn?: number;
  /** Each layer is Q = FFN(sum of a_j h_j), a = softmax(Qᵀ h), and nothing else, as printed. Default false. */
  readonly paperLiteral?: boolean;
  /** A learned vector per position, counted from the latest row, is added to the rows; of older ones the last. Default 0: none. */
  readonly positions?: number;
  /** A learned vector per class of the time between row and target is added to the rows. Default false. */
  readonly timeGaps?: boolean;
}

/** One layer; what `paperLiteral` leaves out is null. */
class DecoderLayer extends Module {
  readonly attention: MultiHeadAttention | null;
  readonly attentionNorm: LayerNorm | null;
  readonly ffnNorm: LayerNorm | null;
  readonly up: Linear;
  readonly down: Linear;

  constructor(
    init: Initializer,
    { width, heads, ffn, paperLiteral }: { width: number; heads: number; ffn: number; paperLiteral: boolean },
  ) {
    super();
    this.attention = paperLiteral ? null : new MultiHeadAttention(init.at('attention'), { width, heads });
    this.attentionNorm = paperLiteral ? null : new LayerNorm(init.at('attentionNorm'), width);
    this.ffnNorm = paperLiteral ? null : new LayerNorm(init.at('ffnNorm'), width);
    this.up = new Linear(init.at('up'), width, ffn);
    this.down = new Linear(init.at('down'), ffn, width);
  }

  feedForward(x: Tensor): Tensor {
    return this.down.forward(this.up.forward(x, 'gelu'));
  }

  forward(queries: JaggedRows, history: JaggedRows): Tensor {
    if (this.attention === null || this.attentionNorm === null || this.ffnNorm === null) {
      const head = (x: Tensor): Tensor => reshape(x, [x.shape[0]!, 1, x.shape[1]!]);
      const rows = head(history.rows);
      const { offsets, mask } = history;
      const options = { offsets, qOffsets: queries.offsets, scale: 1, ...(mask === undefined ? {} : { mask }) };
      return this.feedForward(reshape(crossAttention(head(queries.rows), rows, rows, options), queries.rows.shape));
    }
    const read = this.attentionNorm.forward(queries.rows, unprojectedAttention(this.attention, queries.rows, history));
    return this.ffnNorm.forward(read, this.feedForward(read));
  }
}

export class HistoryDecoder extends Module {
  readonly compress: Linear;
  readonly position: Embedding | null;
  readonly gap: Embedding | null;
  readonly layers: DecoderLayer[];
  /** Of the result: `queries` tokens side by side. */
  readonly width: number;
  readonly #queries: number;

  constructor(
    init: Initializer,
    {
      width,
      features,
      layers = 2,
      queries = 1,
      heads = 4,
      ffn = 4 * width,
      paperLiteral = false,
      positions = 0,
      timeGaps = false,
    }: HistoryDecoderOptions,
  ) {
    super();
    for (const [argument, value] of Object.entries({ layers, queries }))
      if (!Number.isSafeInteger(value) || value < 1)
        throw new ArgumentError(`HistoryDecoder: expected ${argument} of at least 1 but received ${value}`, {
          argument,
        });
    this.compress = new Linear(init.at('compress'), features, queries * width);
    this.position =
      positions === 0 ? null : new Embedding(init.at('position'), positions, width, { std: 1 / Math.sqrt(width) });
    this.gap = timeGaps ? new Embedding(init.at('gap'), GAP_BUCKETS, width, { std: 1 / Math.sqrt(width) }) : null;
    this.layers = Array.from(
      { length: layers },
      (_, i) => new DecoderLayer(init.at(`layers.${i}`), { width, heads, ffn, paperLiteral }),
    );
    this.width = queries * width;
    this.#queries = queries;
  }

  /**
   * features (B, F) and the history of each row: rows (T, width), row b's at offsets[b] .. offsets[b+1] (host), oldest first, to (B,
   * width of the result). `mask` (T) int32 hides rows where negative; `gaps` (T), for `timeGaps`: time from each row to its target. A
   * history without visible rows counts as a sum of zeros. Throws ArgumentError for `timeGaps` without gaps.
   */
  forward(
    features: Tensor,
    {
      rows,
      offsets,
      mask = null,
      gaps,
    }: { rows: Tensor; offsets: Int32Array; mask?: Tensor | null; gaps?: Float32Array | undefined },
  ): Tensor {
    const B = offsets.length - 1;
    const width = this.width / this.#queries;
    let queries = reshape(this.compress.forward(features), [B * this.#queries, width]);
    const starts = this.place(Int32Array.from({ length: B + 1 }, (_, b) => b * this.#queries));
    const history: JaggedRows = {
      rows: this.withGaps(
        this.position === null ? rows : add(rows, this.position.forward(this.place(this.recency(offsets)))),
        gaps,
      ),
      offsets: this.place(offsets),
      ...(mask === null ? {} : { mask }),
    };
    for (const layer of this.layers) queries = layer.forward({ rows: queries, offsets: starts }, history);
    return reshape(queries, [B, this.width]);
  }

  private withGaps(rows: Tensor, gaps: Float32Array | undefined): Tensor {
    if (this.gap === null) return rows;
    if (gaps === undefined)
      throw new ArgumentError('HistoryDecoder: expected times of the events of a history but received none', {
        argument: 'gaps',
      });
    return add(rows, this.gap.forward(this.place(gapBuckets(gaps))));
  }

  /** (T) 0 for the latest row of each history, 1 for the one before it. */
  private recency(offsets: Int32Array): Int32Array {
    const last = this.position!.numEmbeddings - 1;
    const recency = new Int32Array(offsets.at(-1)!);
    for (let b = 0; b + 1 < offsets.length; b++)
      for (let at = offsets[b]!; at < offsets[b + 1]!; at++) recency[at] = Math.min(last, offsets[b + 1]! - 1 - at);
    return recency;
  }
}
