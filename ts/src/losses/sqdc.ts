import { ArgumentError, ShapeError } from '../errors.js';
import { gatherRows } from '../ops/gather_rows.js';
import { infoNce } from '../ops/info_nce.js';
import { normalize } from '../ops/normalize.js';
import { type Tensor, tensor } from '../tensor.js';

/** Options of `sqdc`. Host arrays of a batch: which rows are anchors is known before anything runs. */
export interface SqdcOptions {
  /** (B): rows with label 1 are anchors. */
  readonly labels: Float32Array;
  /** (B) request (session) numbers: other rows of the anchor's request are no negatives. -1 hides nothing. */
  readonly sessions: Int32Array;
  /** Multiplies the cosine similarities. Default 50. */
  readonly scale?: number;
  /** Candidates: documents of the rows with label 1 (default), or of all rows. */
  readonly columns?: 'positives' | 'all';
  /** Also hides other rows of the anchor's item; needs `items`. Default false: an item shown twice counts twice. */
  readonly maskSameItem?: boolean;
  /** (B) item numbers. */
  readonly items?: Int32Array | null;
}

/**
 * Session-masked query-to-document contrastive loss (LEMUR): mean over rows i with label 1 of
 * -log(e^(scale sim(q_i, d_i)) / sum over j of A_ij e^(scale sim(q_i, d_j))), sim the cosine, A_ij = 0 for other rows of the same session.
 * q, d (B, D), one row per row of the batch, of any length; result (). 0 where the batch has no positive row, or only one session.
 */
export function sqdc(
  q: Tensor,
  d: Tensor,
  { labels, sessions, scale = 50, columns = 'positives', maskSameItem = false, items = null }: SqdcOptions,
): Tensor {
  const B = q.shape[0] ?? 0;
  if (d.shape[0] !== B)
    throw new ShapeError(`sqdc: expected d with B=${B} rows like q but received (${d.shape.join(', ')})`, {
      op: 'sqdc',
      argument: 'd',
    });
  for (const [argument, values] of Object.entries({ labels, sessions, items }))
    if (values !== null && values.length !== B)
      throw new ShapeError(`sqdc: expected ${argument} of length B=${B} but received ${values.length}`, {
        op: 'sqdc',
        argument,
      });
  if (maskSameItem && items === null)
    throw new ArgumentError('sqdc: expected items for maskSameItem but received none', {
      op: 'sqdc',
      argument: 'items',
    });

  const rows = Int32Array.from([...labels.keys()].filter((i) => labels[i] === 1));
  const kinds = maskSameItem && items !== null ? [sessions, items] : [sessions];
  const groupsOf = (wanted: Int32Array) =>
    tensor(
      Int32Array.from(kinds.flatMap((kind) => Array.from(wanted, (i) => kind[i]!))),
      [kinds.length, wanted.length],
      { device: q.device },
    );

  const anchors = tensor(rows, [rows.length], { device: q.device });
  const query = normalize(gatherRows(q, anchors));
  if (columns === 'positives') {
    const groups = groupsOf(rows);
    const document = normalize(gatherRows(d, anchors));
    return infoNce(query, document, { scale, rowGroups: groups, colGroups: groups });
  }
  const every = Int32Array.from({ length: B }, (_, i) => i);
  return infoNce(query, normalize(d), {
    scale,
    positives: anchors,
    rowGroups: groupsOf(rows),
    colGroups: groupsOf(every),
  });
}
