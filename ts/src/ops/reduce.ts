/** sum and mean over dimensions. */
import { defineOp } from '../autograd.js';
import { ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Shape, type Tensor, zeros } from '../tensor.js';
import { reshape } from './transpose.js';

const check = shapes('sum', { x: '...' });

/** Sums `x` down to `shape`, which broadcasts to the shape of `x`; no tape. `x` itself where the shapes are equal. */
export function reduceTo(x: Tensor, shape: Shape, scale = 1): Tensor {
  if (scale === 1 && shape.join() === x.shape.join()) return x;
  const out = empty(shape, x);
  native.reduce_sum(x.handle, out.handle, scale);
  return out;
}

const op = defineOp({
  name: 'sum',
  forward([x]: readonly [Tensor], { kept, scale }: { kept: Shape; scale: number }) {
    check({ x });
    const out = empty(kept, x);
    native.reduce_sum(x.handle, out.handle, scale);
    return { out, saved: [x] };
  },
  backward(dout, [x], { scale }) {
    // scale * dout, repeated along the summed dimensions
    const scaled = empty(dout.shape, dout);
    native.affine(dout.handle, scaled.handle, scale, 0);
    const dx = empty(x.shape, x);
    native.binary(
      zeros(
        x.shape.map(() => 1),
        x,
      ).handle,
      scaled.handle,
      dx.handle,
      'add',
    );
    return [dx];
  },
});

export interface ReduceOptions {
  /** Dimensions to reduce, negative ones from the end; default all. */
  readonly axes?: readonly number[];
  /** Keeps them as size 1. Default false. */
  readonly keepDims?: boolean;
}

function reduce(name: string, x: Tensor, { axes, keepDims = false }: ReduceOptions, mean: boolean): Tensor {
  const rank = x.shape.length;
  const reduced = new Set((axes ?? x.shape.map((_, d) => d)).map((axis) => (axis < 0 ? axis + rank : axis)));
  for (const axis of reduced)
    if (!Number.isInteger(axis) || axis < 0 || axis >= rank)
      throw new ShapeError(`${name}: expected axes within (${x.shape.join(', ')}) but received ${String(axes)}`, {
        op: name,
        argument: 'axes',
      });
  const kept = x.shape.map((size, d) => (reduced.has(d) ? 1 : size));
  const count = x.shape.reduce((product, size, d) => (reduced.has(d) ? product * size : product), 1);
  const out = op([x], { kept, scale: mean && count > 0 ? 1 / count : 1 });
  return keepDims
    ? out
    : reshape(
        out,
        x.shape.filter((_, d) => !reduced.has(d)),
      );
}

/** Sum over `axes` (default: everything, to a scalar). */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce('sum', x, options, false);
}

/** Mean over `axes` (default: everything, to a scalar); 0 where there is nothing to average. */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce('mean', x, options, true);
}
