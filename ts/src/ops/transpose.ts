/** Other views of the same values: transpose (a copy), reshape (shares memory). */
import { defineOp } from '../autograd.js';
import { DisposedError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { alias, empty, type Shape, sizeOf, type Tensor } from '../tensor.js';

const check = shapes('transpose', { x: '...' });

function permute(x: Tensor, axes: readonly number[]): Tensor {
  const out = empty(
    axes.map((axis) => x.shape[axis]!),
    x,
  );
  native.transpose(x.handle, out.handle, axes);
  return out;
}

const transposeOp = defineOp({
  name: 'transpose',
  forward([x]: readonly [Tensor], { axes }: { axes: readonly number[] }) {
    check({ x });
    return { out: permute(x, axes), saved: [] };
  },
  backward(dout, _, { axes }) {
    return [
      permute(
        dout,
        Array.from(axes, (_axis, d) => axes.indexOf(d)),
      ),
    ];
  },
});

/** Dimension d of the result is dimension `axes[d]` of x; default swaps the last two. A copy. */
export function transpose(x: Tensor, axes?: readonly number[]): Tensor {
  const rank = x.shape.length;
  const order = axes ?? [...x.shape.keys()].map((d) => (d === rank - 2 ? rank - 1 : d === rank - 1 ? rank - 2 : d));
  if (rank < 1 || order.length !== rank || [...order].sort((a, b) => a - b).some((axis, d) => axis !== d))
    throw new ShapeError(
      `transpose: expected axes to be an order of ${rank} dimensions but received (${order.join(', ')})`,
      { op: 'transpose', argument: 'axes' },
    );
  return transposeOp([x], { axes: order });
}

const reshapeOp = defineOp({
  name: 'reshape',
  forward([x]: readonly [Tensor], { shape }: { shape: Shape }) {
    return { out: alias(x, shape), saved: [x] };
  },
  backward: (dout, [x]) => [alias(dout, x.shape)],
});

/** The same values in another shape, sharing memory. One dimension may be -1: whatever is left. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  if (x.disposed) throw new DisposedError('reshape: x was released before this call', { op: 'reshape', argument: 'x' });
  const known = shape.reduce((product, size) => (size === -1 ? product : product * size), 1);
  const resolved = shape.map((size) => (size === -1 ? x.size / known : size));
  if (
    shape.filter((size) => size === -1).length > 1 ||
    !resolved.every((size) => Number.isInteger(size) && size >= 0) ||
    sizeOf(resolved) !== x.size
  )
    throw new ShapeError(`reshape: expected a shape of ${x.size} elements but received (${shape.join(', ')})`, {
      op: 'reshape',
      argument: 'shape',
    });
  return reshapeOp([x], { shape: resolved });
}
