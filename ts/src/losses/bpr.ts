import { bceWithLogits } from '../ops/bce_with_logits.js';
import { sub } from '../ops/elementwise.js';
import { full, type Tensor } from '../tensor.js';

/**
 * Bayesian personalised ranking (Rendle et al., 2009): mean over pairs of -log sigmoid(positive - negative), weighted by `weights`
 * where given. positive, negative, weights (N) scores; result (). 0 without pairs, or where the weights sum to 0.
 */
export function bpr(positive: Tensor, negative: Tensor, { weights = null }: { weights?: Tensor | null } = {}): Tensor {
  const difference = sub(positive, negative);
  return bceWithLogits(difference, full(difference.shape, 1, difference), { weights });
}
