/** The gradient of an embedding table: the touched rows only, never a dense table. */
import type { Tensor } from './tensor.js';

/**
 * One lookup's share. Row `indices[i]` of the table receives `weights[i] * values[source[i]]`; without `source`, `values[i]`;
 * without `weights`, factor 1. indices, source (T) int32; weights (T); values (rows, D). A negative index or source is padding.
 */
export interface RowSparsePiece {
  readonly indices: Tensor;
  readonly values: Tensor;
  readonly source: Tensor | null;
  readonly weights: Tensor | null;
}

/** Unreduced: duplicates are summed, in order of position, inside the optimizer. */
export class RowSparseGrad implements Disposable {
  constructor(
    /** (numEmbeddings, D) of the table. */
    readonly shape: readonly number[],
    readonly pieces: readonly RowSparsePiece[],
  ) {}

  /** Both shares, first this one's. */
  concat(other: RowSparseGrad): RowSparseGrad {
    return new RowSparseGrad(this.shape, [...this.pieces, ...other.pieces]);
  }

  tensors(): Tensor[] {
    return this.pieces.flatMap((piece) =>
      [piece.indices, piece.values, piece.source, piece.weights].filter((x) => x !== null),
    );
  }

  dispose(): void {
    for (const x of this.tensors()) x.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
