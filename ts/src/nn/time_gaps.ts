/** Time between an event of a history and the target, as classes of log2. */

/** Number of classes. */
export const GAP_BUCKETS = 32;

/** (T) floor(log2(1 + gap)) of each gap, from 0 to below `GAP_BUCKETS`; a negative gap counts as none. */
export function gapBuckets(gaps: Float32Array): Int32Array {
  return Int32Array.from(gaps, (gap) => Math.min(GAP_BUCKETS - 1, Math.floor(Math.log2(1 + Math.max(0, gap)))));
}
