import { defineOp } from '../autograd.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('bceWithLogits', { logits: 'N:wide', labels: 'N:wide', weights: 'N:wide?' });

const op = defineOp({
  name: 'bceWithLogits',
  precision: 'float32',
  forward([logits, labels, weights]: readonly [Tensor, Tensor, Tensor | null]) {
    check({ logits, labels, weights });
    const out = empty([], logits);
    native.bce_with_logits_forward(logits.handle, labels.handle, weights?.handle ?? null, out.handle);
    return { out, saved: [logits, labels, weights] };
  },
  backward(dout, [logits, labels, weights]) {
    const dlogits = empty(logits.shape, logits);
    native.bce_with_logits_backward(logits.handle, labels.handle, weights?.handle ?? null, dout.handle, dlogits.handle);
    return [dlogits, null, null]; // labels and weights are data
  },
});

/**
 * Binary cross entropy from logits, mean over rows (weighted by `weights` where given; 0 if they sum to 0):
 * max(x, 0) - x y + log1p(e^-|x|). logits, labels, weights (N); result (). Labels and weights get no gradient.
 */
export function bceWithLogits(
  logits: Tensor,
  labels: Tensor,
  { weights = null }: { weights?: Tensor | null } = {},
): Tensor {
  return op([logits, labels, weights], {});
}
