/** Content-ID contrast (EM3, models.md 4.2) in the step of a model. */
import type { Batch } from '../data/loader/batch.js';
import { type CicOptions, cic } from '../losses/cic.js';
import type { CicHeads } from '../nn/cic_heads.js';
import type { Embedding } from '../nn/embedding.js';
import { gatherRows } from '../ops/gather_rows.js';
import { type Tensor, tensor } from '../tensor.js';

/** `weight` 0 runs no kernel. */
export interface ContentIdContrastOptions extends Required<Pick<CicOptions, 'mode' | 'temperature' | 'negatives'>> {
  readonly weight: number;
}

/**
 * The loss of `target` (B, width), content vectors of the rows of `batch`, beside the vectors that `table` holds for their vocabulary rows
 * `ids` (B): over the distinct items of the batch, in both modes ('exact' was published over all items of a catalogue). Result ().
 */
export function contentIdContrast(
  heads: CicHeads,
  { items }: Pick<Batch, 'items'>,
  { target, ids, table }: { target: Tensor; ids: Int32Array; table: Embedding },
  { mode, temperature, negatives, seed, step }: ContentIdContrastOptions & { seed: number; step: number },
): Tensor {
  const first = firstRows(items.index, items.rows.length);
  const place = (values: Int32Array): Tensor => tensor(values, [values.length], { device: target.device });
  const projected = heads.forward(
    gatherRows(target, place(first)),
    table.forward(place(first.map((row) => ids[row]!))),
  );
  return cic(projected.content, projected.id, { mode, temperature, negatives, seed, step });
}

/** For each of `count` items, the first batch row that shows it. */
function firstRows(index: Int32Array, count: number): Int32Array {
  const first = new Int32Array(count).fill(-1);
  index.forEach((item, b) => {
    if (first[item] === -1) first[item] = b;
  });
  return first;
}
