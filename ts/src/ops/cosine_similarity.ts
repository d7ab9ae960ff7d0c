import { defineOp, productFlops } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('cosineSimilarity', { d: 'B D', h: 'T D', offsets: 'B+1:int32', mask: 'T:int32?' });

const op = defineOp({
  name: 'cosineSimilarity',
  forward([d, h, offsets, mask]: readonly [Tensor, Tensor, Tensor, Tensor | null], { eps }: { eps: number }) {
    const { T } = check({ d, h, offsets, mask });
    const out = empty([T], h);
    native.cosine_similarity_forward(d.handle, h.handle, offsets.handle, mask?.handle ?? null, out.handle, eps);
    return { out, saved: [d, h, offsets, mask, out] };
  },
  flops: ([, h], _out, [dd, dh]) => productFlops(h.size, [dd, dh]), // the dot products alone
  backward(dout, [d, h, offsets, mask, out], { eps }, needs) {
    const dd = needs[0] ? empty(d.shape, d) : null;
    const dh = needs[1] ? empty(h.shape, h) : null;
    native.cosine_similarity_backward(
      d.handle,
      h.handle,
      offsets.handle,
      mask?.handle ?? null,
      out.handle,
      dout.handle,
      dd?.handle ?? null,
      dh?.handle ?? null,
      eps,
    );
    return [dd, dh, null, null];
  },
});

/**
 * Cosine of each item's vector with the rows of its history: out_t = d_b . h_t / (max(|d_b|, eps) max(|h_t|, eps)) for
 * t = offsets[b] .. offsets[b+1]. d (B, D), h (T, D), offsets (B+1) int32; returns (T). A negative entry of `mask` (T) int32 makes the
 * cosine 0, without gradient. Bad offsets are clamped and reported as `IndexError` by the next wait on the device.
 */
export function cosineSimilarity(
  d: Tensor,
  h: Tensor,
  { offsets, mask, eps = 1e-8 }: { readonly offsets: Tensor; readonly mask?: Tensor; readonly eps?: number },
): Tensor {
  return op([d, h, offsets, mask ?? null], { eps });
}
