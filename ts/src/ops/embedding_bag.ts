import { defineOp, isRecording } from '../autograd.js';
import { ArgumentError } from '../errors.js';
import { native } from '../native.js';
import { RowSparseGrad } from '../row_sparse_grad.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('embeddingBag', {
  table: 'V D:wide',
  indices: 'T:int32',
  offsets: 'B+1:int32',
  weights: 'T:wide?',
});

const op = defineOp({
  name: 'embeddingBag',
  precision: 'float32',
  forward(
    [table, indices, offsets, weights]: readonly [Tensor, Tensor, Tensor, Tensor | null],
    { mean }: { mean: boolean },
  ) {
    const { B, D, T } = check({ table, indices, offsets, weights });
    const out = empty([B, D], table);
    const tracked = isRecording() && table.requiresGrad;
    const source = tracked ? empty([T], indices) : null;
    const factor = tracked ? empty([T], table) : null;
    native.embedding_bag_forward(
      table.handle,
      indices.handle,
      offsets.handle,
      weights?.handle ?? null,
      out.handle,
      source?.handle ?? null,
      factor?.handle ?? null,
      mean,
    );
    return { out, saved: [table, indices, offsets, source, factor] };
  },
  backward(dout, [table, indices, offsets, source, factor], { mean }, needs) {
    const dweights = needs[3] ? empty(indices.shape, table) : null;
    if (dweights !== null)
      native.embedding_bag_backward_weights(
        table.handle,
        indices.handle,
        offsets.handle,
        dout.handle,
        dweights.handle,
        mean,
      );
    const piece = { indices, values: dout, source, weights: factor };
    return [needs[0] ? new RowSparseGrad(table.shape, [piece]) : null, null, null, dweights];
  },
});

export interface EmbeddingBagOptions {
  /** (B+1) int32: bag b holds indices offsets[b] .. offsets[b+1). Indices past offsets[B] belong to no bag. */
  readonly offsets: Tensor;
  /** 'mean' divides by the bag's number of indices that are no padding, with or without weights. Default 'sum'. */
  readonly mode?: 'sum' | 'mean';
  /** (T), differentiable. */
  readonly weights?: Tensor;
}

/**
 * out_b = sum over bag b of weights_i table[indices_i]: table (V, D), indices (T) int32, out (B, D). A negative index is padding;
 * an index of V or more counts as padding and makes the next wait reject with `IndexError`. An empty bag is a zero row. The
 * table's gradient is a `RowSparseGrad`.
 */
export function embeddingBag(
  table: Tensor,
  indices: Tensor,
  { offsets, mode = 'sum', weights }: EmbeddingBagOptions,
): Tensor {
  if (mode !== 'sum' && mode !== 'mean')
    throw new ArgumentError(`embeddingBag: expected mode to be 'sum' or 'mean' but received ${String(mode)}`, {
      op: 'embeddingBag',
      argument: 'mode',
    });
  return op([table, indices, offsets, weights ?? null], { mean: mode === 'mean' });
}
