import { isRecording } from '../autograd.js';
import { ArgumentError, AutogradError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('topK', { x: 'B L' });

/**
 * The k largest entries of each row of x (B, L), largest first, ties by position, NaN first: `values` (B, k) and their columns
 * `indices` (B, k) int32. It has no gradient and throws where one would be needed: detach `x`, or gather by `indices`.
 */
export function topK(x: Tensor, { k }: { k: number }): { values: Tensor; indices: Tensor } {
  const { B, L } = check({ x });
  if (!Number.isInteger(k) || k < 0 || k > L)
    throw new ArgumentError(`topK: expected k to be an integer in [0, ${L}] but received ${k}`, {
      op: 'topK',
      argument: 'k',
    });
  if (isRecording() && x.requiresGrad)
    throw new AutogradError('topK: has no gradient, but an input requires one; detach it first', { op: 'topK' });
  const values = empty([B, k], x);
  const indices = empty([B, k], { dtype: 'int32', device: x.device });
  native.top_k(x.handle, values.handle, indices.handle);
  return { values, indices };
}
