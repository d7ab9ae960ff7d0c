/** Joining and cutting along a dimension: concat, stack, slice. */
import { defineOp } from '../autograd.js';
import { ArgumentError, DisposedError, DtypeError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { empty, handlesOf, type Tensor } from '../tensor.js';
import { reshape } from './transpose.js';

function checkAxis(op: string, axis: number, rank: number): number {
  const resolved = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(resolved) || resolved < 0 || resolved >= rank)
    throw new ShapeError(`${op}: expected an axis within ${rank} dimensions but received ${axis}`, {
      op,
      argument: 'axis',
    });
  return resolved;
}

function checkLike(op: string, first: Tensor, x: Tensor, i: number, axis: number): void {
  const argument = `tensors[${i}]`;
  if (x.disposed) throw new DisposedError(`${op}: ${argument} was released before this call`, { op, argument });
  if (x.dtype !== first.dtype)
    throw new DtypeError(`${op}: expected ${argument} to be ${first.dtype} like the first but received ${x.dtype}`, {
      op,
      argument,
    });
  if (x.shape.length !== first.shape.length || x.shape.some((size, d) => d !== axis && size !== first.shape[d]))
    throw new ShapeError(
      `${op}: expected ${argument} of shape (${first.shape.map((size, d) => (d === axis ? '*' : size)).join(', ')}) but received (${x.shape.join(', ')})`,
      { op, argument },
    );
}

const concatOp = defineOp({
  name: 'concat',
  forward(inputs: readonly Tensor[], { axis }: { axis: number }) {
    const first = inputs[0]!;
    inputs.forEach((x, i) => checkLike('concat', first, x, i, axis));
    const length = inputs.reduce((total, x) => total + x.shape[axis]!, 0);
    const out = empty(first.shape.with(axis, length), first);
    native.concat_forward(handlesOf(inputs), out.handle, axis);
    return { out, saved: inputs };
  },
  backward(dout, inputs, { axis }) {
    const gradients = inputs.map((x) => empty(x.shape, x));
    native.concat_backward(dout.handle, handlesOf(gradients), axis);
    return gradients;
  },
});

/** `tensors`, equal but for `axis`, side by side along it. Any dtype; gradients for floating ones. */
export function concat(tensors: readonly Tensor[], { axis = -1 }: { axis?: number } = {}): Tensor {
  const first = tensors[0];
  if (first === undefined)
    throw new ArgumentError('concat: expected at least one tensor but received none', {
      op: 'concat',
      argument: 'tensors',
    });
  const resolved = checkAxis('concat', axis, first.shape.length);
  return tensors.length === 1 ? first : concatOp(tensors, { axis: resolved });
}

/** `tensors` of one shape, as the slices of a new dimension `axis` (default first). */
export function stack(tensors: readonly Tensor[], { axis = 0 }: { axis?: number } = {}): Tensor {
  const views = tensors.map((x) => {
    const at = checkAxis('stack', axis, x.shape.length + 1);
    return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
  });
  return concat(views, { axis });
}

const sliceOp = defineOp({
  name: 'slice',
  forward([x]: readonly [Tensor], { axis, start, end }: { axis: number; start: number; end: number }) {
    if (x.disposed) throw new DisposedError('slice: x was released before this call', { op: 'slice', argument: 'x' });
    const out = empty(x.shape.with(axis, end - start), x);
    native.slice_forward(x.handle, out.handle, axis, start);
    return { out, saved: [x] };
  },
  backward(dout, [x], { axis, start }) {
    const dx = empty(x.shape, x);
    native.slice_backward(dout.handle, dx.handle, axis, start);
    return [dx];
  },
});

/** x[start .. end) along `axis`. 0 <= start <= end <= size. */
export function slice(
  x: Tensor,
  { axis = 0, start = 0, end }: { axis?: number; start?: number; end?: number },
): Tensor {
  const resolved = checkAxis('slice', axis, x.shape.length);
  const size = x.shape[resolved]!;
  const stop = end ?? size;
  if (!Number.isInteger(start) || !Number.isInteger(stop) || start < 0 || stop < start || stop > size)
    throw new ShapeError(`slice: expected 0 <= start <= end <= ${size} but received [${start}, ${stop})`, {
      op: 'slice',
      argument: 'start',
    });
  return sliceOp([x], { axis: resolved, start, end: stop });
}
