/** add, sub, mul, div with broadcasting; scale and shift by constants; exp, log, sqrt, square, abs, reciprocal. */
import { defineOp } from '../autograd.js';
import { ShapeError } from '../errors.js';
import { native } from '../native.js';
import type { Binary, Unary } from '../native_kernels.js';
import { shapes } from '../shape.js';
import { empty, type Shape, type Tensor } from '../tensor.js';
import { reduceTo } from './reduce.js';

const checkBinary = shapes('binary', { a: '...', b: '...' });
const checkUnary = shapes('unary', { x: '...' });

/** The shape that `a` and `b` broadcast to, aligned from the right. */
function broadcast(kind: Binary, a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1)
      throw new ShapeError(
        `${kind}: expected shapes that broadcast but received (${a.join(', ')}) and (${b.join(', ')})`,
        { op: kind },
      );
    return x === 1 ? y : x;
  });
}

function compute(kind: Binary, a: Tensor, b: Tensor): Tensor {
  const out = empty(broadcast(kind, a.shape, b.shape), a);
  native.binary(a.handle, b.handle, out.handle, kind);
  return out;
}

function affineOf(x: Tensor, scale: number, shift: number): Tensor {
  const out = empty(x.shape, x);
  native.affine(x.handle, out.handle, scale, shift);
  return out;
}

const binaryOp = defineOp({
  name: 'binary',
  forward([a, b]: readonly [Tensor, Tensor], { kind }: { kind: Binary }) {
    checkBinary({ a, b });
    const out = compute(kind, a, b);
    return { out, saved: [a, b, out] };
  },
  backward(dout, [a, b, out], { kind }, [needsA, needsB]) {
    const da = (): Tensor => {
      if (kind === 'mul') return compute('mul', dout, b);
      return kind === 'div' ? compute('div', dout, b) : dout;
    };
    const db = (): Tensor => {
      if (kind === 'mul') return compute('mul', dout, a);
      if (kind === 'div') return affineOf(compute('div', compute('mul', dout, out), b), -1, 0);
      return kind === 'sub' ? affineOf(dout, -1, 0) : dout;
    };
    return [needsA ? reduceTo(da(), a.shape) : null, needsB ? reduceTo(db(), b.shape) : null];
  },
});

/** a + b. Shapes broadcast from the right: equal or 1. float32 or float64. */
export const add = (a: Tensor, b: Tensor): Tensor => binaryOp([a, b], { kind: 'add' });
/** a - b, broadcasting like `add`. */
export const sub = (a: Tensor, b: Tensor): Tensor => binaryOp([a, b], { kind: 'sub' });
/** a b element by element, broadcasting like `add`. */
export const mul = (a: Tensor, b: Tensor): Tensor => binaryOp([a, b], { kind: 'mul' });
/** a / b element by element, broadcasting like `add`. */
export const div = (a: Tensor, b: Tensor): Tensor => binaryOp([a, b], { kind: 'div' });

const affineOp = defineOp({
  name: 'affine',
  forward([x]: readonly [Tensor], { scale, shift }: { scale: number; shift: number }) {
    checkUnary({ x });
    return { out: affineOf(x, scale, shift), saved: [] };
  },
  backward(dout, _, { scale }) {
    return [affineOf(dout, scale, 0)];
  },
});

/** scale x + shift with two numbers; any shape. */
export function affine(x: Tensor, { scale = 1, shift = 0 }: { scale?: number; shift?: number }): Tensor {
  return affineOp([x], { scale, shift });
}

/** factor x. */
export const scaleBy = (x: Tensor, factor: number): Tensor => affine(x, { scale: factor });

const unaryOp = defineOp({
  name: 'unary',
  forward([x]: readonly [Tensor], { kind }: { kind: Unary }) {
    checkUnary({ x });
    const out = empty(x.shape, x);
    native.unary_forward(x.handle, out.handle, kind);
    return { out, saved: [x, out] };
  },
  backward(dout, [x, out], { kind }) {
    const dx = empty(x.shape, x);
    native.unary_backward(x.handle, out.handle, dout.handle, dx.handle, kind);
    return [dx];
  },
});

export const exp = (x: Tensor): Tensor => unaryOp([x], { kind: 'exp' });
export const log = (x: Tensor): Tensor => unaryOp([x], { kind: 'log' });
export const sqrt = (x: Tensor): Tensor => unaryOp([x], { kind: 'sqrt' });
export const square = (x: Tensor): Tensor => unaryOp([x], { kind: 'square' });
export const abs = (x: Tensor): Tensor => unaryOp([x], { kind: 'abs' });
export const reciprocal = (x: Tensor): Tensor => unaryOp([x], { kind: 'reciprocal' });
