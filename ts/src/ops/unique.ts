import { DtypeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = { int32: shapes('unique', { keys: 'n:int32' }), int64: shapes('unique', { keys: 'n:int64' }) };

/**
 * The distinct values of keys (n), int32 or int64: `unique` (n) holds them in ascending order and -1 behind the first `count` (1)
 * int32 of them; keys[i] = unique[inverse[i]], inverse (n) int32. Every key is legal, -1 too. Nothing is read back.
 */
export function unique(keys: Tensor): { unique: Tensor; inverse: Tensor; count: Tensor } {
  if (keys.dtype !== 'int32' && keys.dtype !== 'int64')
    throw new DtypeError(`unique: expected keys to be int32 or int64 but received ${keys.dtype}`, {
      op: 'unique',
      argument: 'keys',
    });
  const { n } = check[keys.dtype]({ keys });
  const distinct = empty([n], keys);
  const inverse = empty([n], { dtype: 'int32', device: keys.device });
  const count = empty([1], { dtype: 'int32', device: keys.device });
  native.unique(keys.handle, distinct.handle, inverse.handle, count.handle);
  return { unique: distinct, inverse, count };
}
