/**
 * Attention of few rows over many without projecting the many: score = (Wq x)_h · (Wk y)_h = (Wk_hᵀ (Wq x)_h) · y, and
 * Σ p (Wv y + bv) = Wv Σ p y + bv. The key bias adds the same to all scores of a row and changes nothing. Work per row of history falls from
 * 4 W² to 4 H W multiply-adds for each row that asks (W width, H heads), and no projected row is stored.
 */
import { crossAttention } from '../ops/cross_attention.js';
import { add } from '../ops/elementwise.js';
import { matmul } from '../ops/matmul.js';
import { reshape, transpose } from '../ops/transpose.js';
import { full, type Tensor } from '../tensor.js';
import type { JaggedRows, MultiHeadAttention } from './attention.js';

/** What `attention.forward` gives where every item asks with equally many rows: from (B N, W) over the rows of each of B items, (B N, W). */
export function unprojectedAttention(
  { query, key, value, out, heads }: MultiHeadAttention,
  from: Tensor,
  to: JaggedRows,
): Tensor {
  const [R, W] = [from.shape[0]!, from.shape[1]!];
  const B = to.offsets.shape[0]! - 1;
  const head = W / heads;
  const perHead = (weight: Tensor): Tensor => reshape(weight, [heads, head, W]);
  const swapped = (x: Tensor): Tensor => transpose(x, [1, 0, 2]);
  const asked = swapped(reshape(query.forward(from), [R, heads, head]));
  // The heads of a row are rows of their own over the unprojected rows.
  const asking = reshape(swapped(matmul(asked, perHead(key.weight))), [B, (R / B) * heads, 1, W]);
  const rows = reshape(to.rows, [to.rows.shape[0]!, 1, W]);
  const visible = { offsets: to.offsets, ...(to.mask === undefined ? {} : { mask: to.mask }) };
  const read = crossAttention(asking, rows, rows, { ...visible, scale: 1 / Math.sqrt(head) });
  const mixed = matmul(swapped(reshape(read, [R, heads, W])), perHead(value.weight), { transposeB: true });
  const attended = reshape(swapped(mixed), [R, W]);
  if (value.bias === null) return out.forward(attended);
  // 1 for a row that sees anything, else 0: probabilities of ones.
  const ones = full([to.rows.shape[0]!, 1, 1], 1, from);
  const seen = crossAttention(full([B, R / B, 1, 1], 0, from), ones, ones, visible);
  return out.forward(add(attended, matmul(reshape(seen, [R, 1]), reshape(value.bias, [1, W]))));
}
