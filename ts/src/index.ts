// The public API. One line per module, in the order of the import arrow.

export { backward, defineOp, detach, noGrad, parameter, zeroGrad } from './autograd.js';
export * from './errors.js';
// ops
export { activation, gelu, relu, sigmoid, silu, tanh } from './ops/activation.js';
export { randomScope } from './random.js';
export { RowSparseGrad } from './row_sparse_grad.js';
export {
  type DeviceControl,
  type DeviceName,
  type DType,
  device,
  empty,
  full,
  type HostArray,
  type Shape,
  Tensor,
  tensor,
  zeros,
} from './tensor.js';
export { keep, tidy } from './tidy.js';
