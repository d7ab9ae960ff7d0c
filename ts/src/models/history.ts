/** Histories as rankers take them: jagged rows beside their target. */
import type { Jagged } from '../data/loader/batch.js';
import { ArgumentError } from '../errors.js';
import { gapBuckets } from '../nn/time_gaps.js';
import { concat } from '../ops/concat.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import { crossAttention } from '../ops/cross_attention.js';
import { reshape } from '../ops/transpose.js';
import { full, type Tensor, tensor } from '../tensor.js';
import type { AttendedRows, HistoryInput } from './ranker.js';

/** The segment (T) of each row: b for rows offsets[b] .. offsets[b+1]. offsets (B+1). */
export function segmentsOf(offsets: Int32Array): Int32Array {
  const segments = new Int32Array(offsets.at(-1)!);
  for (let b = 0; b + 1 < offsets.length; b++) segments.fill(b, offsets[b]!, offsets[b + 1]!);
  return segments;
}

/** The last `count` entries of every row, with their gaps where there are some. */
export function lastEntries(history: Jagged, count: number): Jagged {
  const { values, offsets, gaps } = history;
  const rows = offsets.length - 1;
  const bounds = new Int32Array(rows + 1);
  for (let b = 0; b < rows; b++) bounds[b + 1] = bounds[b]! + Math.min(count, offsets[b + 1]! - offsets[b]!);
  if (bounds[rows] === values.length) return history;
  const kept = new Int32Array(bounds[rows]!);
  const keptGaps = gaps && new Float32Array(kept.length);
  for (let b = 0; b < rows; b++) {
    const from = offsets[b + 1]! - (bounds[b + 1]! - bounds[b]!);
    kept.set(values.subarray(from, offsets[b + 1]), bounds[b]);
    if (gaps) keptGaps!.set(gaps.subarray(from, offsets[b + 1]), bounds[b]);
  }
  return { values: kept, offsets: bounds, ...(keptGaps && { gaps: keptGaps }) };
}

/** A `HistoryInput` of target (B, D), rows (T, D), and offsets (B+1) on the host; `mask` (T) int32 hides rows where negative. */
export function makeHistory({
  name,
  target,
  rows,
  offsets: hostOffsets,
  mask = null,
  ...known
}: {
  readonly name: string;
  readonly target: Tensor;
  readonly rows: Tensor;
  readonly offsets: Int32Array;
  readonly mask?: Tensor | null;
} & Pick<HistoryInput, 'same' | 'gaps'>): HistoryInput {
  const place = (values: Int32Array): Tensor => tensor(values, [values.length], { device: target.device });
  const offsets = place(hostOffsets);
  let cached: Tensor | null = null;
  const pooled = (): Tensor => {
    const [B, D] = target.shape;
    const keys = reshape(rows, [rows.shape[0]!, 1, D!]);
    const options = { offsets, ...(mask === null ? {} : { mask }) };
    cached ??= reshape(crossAttention(reshape(target, [B!, 1, 1, D!]), keys, keys, options), [B!, D!]);
    return cached;
  };
  let segments: Tensor | null = null; // few rankers ask
  return {
    name,
    target,
    rows,
    offsets,
    hostOffsets,
    get segments() {
      segments ??= place(segmentsOf(hostOffsets));
      return segments;
    },
    mask,
    pooled,
    ...known,
  };
}

/** Name of what a history gives beside vectors, which may bear the history's name. */
export function historyField(name: string): string {
  return `${name} history`;
}

/** (T) int32: the class of each event's gap. Errors: ArgumentError where the history has no gaps. */
export function timeGaps({ name, gaps, rows }: HistoryInput): Tensor {
  if (gaps === undefined)
    throw new ArgumentError(`timeGaps: expected times of the events of history ${name} but received none`, {
      argument: 'history',
    });
  return tensor(gapBuckets(gaps), [gaps.length], { device: rows.device });
}

/** What DNN, DCNv2 and the MLP behind DIN read, side by side: `vectors`, and one vector per history. (B, sum of widths). */
export function sideBySide(vectors: ReadonlyMap<string, Tensor>, histories: readonly Tensor[]): Tensor {
  return concat([...vectors.values(), ...histories], { axis: 1 });
}

/** 1 for rows that count and 0 for those that the mask hides, (T) in the dtype of the rows; null where all count. */
export function visibility({ rows, offsets, mask, visible }: AttendedRows): Tensor | null {
  if (visible !== undefined) return visible;
  if (mask === null) return null;
  // The cosine of (1) and (1) is exactly 1, and 0 where masked: the mask stays on the device.
  const items = offsets.shape[0]! - 1;
  return cosineSimilarity(full([items, 1], 1, rows), full([rows.shape[0]!, 1], 1, rows), { offsets, mask });
}
