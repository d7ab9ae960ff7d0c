/**
 * What a loader hands to a model: host arrays of one batch. Vocabulary rows index id embeddings, item rows index the item
 * table (every item, also cold ones). A batch of B rows names its U unique items once; content is given per unique item.
 */

/** Values of row b: `values[offsets[b] .. offsets[b+1])`. offsets (B+1). */
export interface Jagged {
  readonly values: Int32Array;
  readonly offsets: Int32Array;
  /** Histories: time units between each event and the target of its row, rows where the data have no times. */
  readonly gaps?: Float32Array;
}

/** Jagged token sequences of n texts, special tokens included. tokens, types (which field), positions: (T); offsets (n+1). A missing text has length 0. */
export interface TokenBatch {
  readonly tokens: Int32Array;
  readonly types: Int32Array;
  readonly positions: Int32Array;
  readonly offsets: Int32Array;
}

/** uint8 pixels (n, size, size, 3) and, per picture, 1 when it exists, 0 when it is a missing modality (pixels are then meaningless). */
export interface ImageBatch {
  readonly pixels: Uint8Array;
  readonly present: Uint8Array;
  readonly size: number;
}

/** Given vectors of n rows, values (n, dim); `present` 0 marks a row without one (its values are 0). */
export interface VectorBatch {
  readonly values: Float32Array;
  readonly present: Uint8Array;
  readonly dim: number;
}

/** The U distinct target items of a batch, ascending by item row. `index` (B): position in `rows` of each batch row's item. */
export interface ItemBatch {
  readonly rows: Int32Array;
  readonly index: Int32Array;
  readonly text: TokenBatch | null;
  readonly image: ImageBatch | null;
  /** Given vectors by feature name; left out where the data have none. */
  readonly vectors?: Readonly<Record<string, VectorBatch>>;
}

/** The distinct query texts of a batch; null where the data have no queries. `index` (B). */
export interface QueryBatch {
  readonly rows: Int32Array;
  readonly index: Int32Array;
  readonly text: TokenBatch;
}

/** One batch of B rows. */
export interface Batch {
  readonly part: 'train' | 'valid' | 'test';
  readonly epoch: number;
  /** Samples of this epoch before this batch (before the whole batch, where ranks share it). Negatives are no samples of their own. */
  readonly position: number;
  /** Samples of this epoch before the next batch: the cursor that a checkpoint stores. */
  readonly end: number;
  /** B. */
  readonly size: number;
  /** Event numbers (B). Sampled negatives carry the event number of their positive. */
  readonly events: Int32Array;
  /** Dense user numbers (B): groups of gAUC. */
  readonly user: Int32Array;
  /** Request (session) numbers (B), groups of QAUC and of the SQDC mask; -1 where there is none. */
  readonly session: Int32Array;
  /** One array (B) per task; the first is the main label. */
  readonly labels: Readonly<Record<string, Float32Array>>;
  /** Vocabulary rows (B) by feature name. */
  readonly categorical: Readonly<Record<string, Int32Array>>;
  /** Numeric features (B). */
  readonly numeric: Readonly<Record<string, Float32Array>>;
  /** Vocabulary rows of sequence features (item or user multi-value fields) and of id histories, oldest first. */
  readonly sequences: Readonly<Record<string, Jagged>>;
  readonly items: ItemBatch;
  readonly queries: QueryBatch | null;
  /** Item rows of the user's earlier positives, oldest first; null where no history feature is asked for. */
  readonly history: Jagged | null;
}
