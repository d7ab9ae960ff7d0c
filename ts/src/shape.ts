/** Checks of tensor arguments by named dimensions: one line per op states its shapes, the error follows. */
import { DisposedError, DtypeError, ShapeError } from './errors.js';
import type { DType, Tensor } from './tensor.js';

type Words<S extends string> = S extends `${infer A} ${infer R}` ? A | Words<R> : S;
type Body<S extends string> = S extends `${infer A}:${string}` ? A : S extends `${infer A}?` ? A : S;
type Dim<W> = W extends `${infer B}+1` ? B : W;
type Name<W> = W extends '...' | `${number}` | '' ? never : Dim<W>;

interface Rule {
  readonly argument: string;
  readonly dimensions: readonly string[];
  readonly dtype: DType | 'float' | 'wide';
  readonly optional: boolean;
}

function parse(argument: string, text: string): Rule {
  const optional = text.endsWith('?');
  const [body = '', dtype = 'float'] = (optional ? text.slice(0, -1) : text).split(':');
  return { argument, dimensions: body === '' ? [] : body.split(' '), dtype: dtype as Rule['dtype'], optional };
}

/**
 * `shapes('crossAttention', { q: 'B N H D', k: 'T H D', offsets: 'B+1:int32', mask: 'T:int32?' })` gives a function that checks
 * rank, dimensions that share a name, dtypes and release, and returns the sizes by name. A name stands for any size that is equal
 * wherever it appears; `B+1` is one more; a number is itself; a leading `...` is any number of dimensions; '' is a scalar. `?` marks an
 * optional tensor. Without `:dtype` a tensor is float32, float64 (on cpu only) or bfloat16 (not on cpu), the same for all such arguments of
 * the call; `:wide` is the same but float32 where those are bfloat16.
 */
export function shapes<const S extends Record<string, string>>(op: string, spec: S) {
  const rules = Object.entries(spec).map(([argument, text]) => parse(argument, text));
  return (tensors: { [K in keyof S]: Tensor | null | undefined }): Record<Name<Words<Body<S[keyof S]>>>, number> => {
    const sizes: Record<string, number> = {};
    const seen: Seen = { float: null, wide: null };
    for (const { argument, dimensions, dtype, optional } of rules) {
      const x = tensors[argument];
      if (x === null || x === undefined) {
        if (optional) continue;
        throw new ShapeError(`${op}: expected a tensor for ${argument} but received ${String(x)}`, { op, argument });
      }
      if (x.disposed) throw new DisposedError(`${op}: ${argument} was released before this call`, { op, argument });
      if (dtype === 'float' || dtype === 'wide') checkFloat(op, argument, dtype, x, seen);
      else if (x.dtype !== dtype)
        throw new DtypeError(`${op}: expected ${argument} to be ${dtype} but received ${x.dtype}`, { op, argument });
      checkDimensions(op, argument, dimensions, x.shape, sizes);
    }
    return sizes as Record<Name<Words<Body<S[keyof S]>>>, number>;
  };
}

interface FloatArgument {
  readonly argument: string;
  readonly dtype: DType;
}
/** The first argument of each kind: the others follow it. */
interface Seen {
  float: FloatArgument | null;
  wide: FloatArgument | null;
}

function checkFloat(op: string, argument: string, kind: 'float' | 'wide', x: Tensor, seen: Seen): void {
  const second = x.device === 'cpu' ? 'float64' : kind === 'float' ? 'bfloat16' : null;
  if (x.dtype !== 'float32' && x.dtype !== second) {
    const allowed = second === null ? 'float32' : `float32 or ${second}`;
    const place = x.dtype === 'float64' || x.dtype === 'bfloat16' ? ` on ${x.device}` : '';
    throw new DtypeError(`${op}: expected ${argument} to be ${allowed}${place} but received ${x.dtype}`, {
      op,
      argument,
    });
  }
  const first = seen[kind] ?? seen[kind === 'float' ? 'wide' : 'float'];
  const expected = first === null ? x.dtype : seen[kind] === null ? counterpart(kind, first.dtype, x) : first.dtype;
  if (x.dtype !== expected)
    throw new DtypeError(
      `${op}: expected ${argument} to be ${expected}${expected === first!.dtype ? ' like' : ' beside'} ${first!.argument} but received ${x.dtype}`,
      { op, argument },
    );
  seen[kind] ??= { argument, dtype: x.dtype };
}

/** The dtype that an argument must have beside one of the other kind: float32 goes with bfloat16, in either order. */
function counterpart(kind: 'float' | 'wide', other: DType, x: Tensor): DType {
  if (kind === 'wide') return other === 'bfloat16' ? 'float32' : other;
  return other === 'float32' && x.dtype === 'bfloat16' ? 'bfloat16' : other;
}

function checkDimensions(
  op: string,
  argument: string,
  dimensions: readonly string[],
  shape: readonly number[],
  sizes: Record<string, number>,
): void {
  const open = dimensions[0] === '...';
  const names = open ? dimensions.slice(1) : dimensions;
  const skip = open ? shape.length - names.length : 0;
  const wanted = names.map((word) => {
    if (/^\d+$/.test(word)) return Number(word);
    const base = word.replace('+1', '');
    return base in sizes ? sizes[base]! + (word === base ? 0 : 1) : null;
  });
  const wrong =
    skip < 0 ||
    (!open && names.length !== shape.length) ||
    wanted.some((size, i) => size !== null && size !== shape[i + skip]);
  const plus = names.findIndex((word, i) => word.endsWith('+1') && wanted[i] === null && shape[i + skip] === 0);
  if (wrong || plus >= 0) {
    const expected = names.map((word, i) => (wanted[i] === null || /^\d+$/.test(word) ? word : `${word}=${wanted[i]}`));
    throw new ShapeError(
      `${op}: expected ${argument} of shape (${(open ? ['...', ...expected] : expected).join(', ')}) but received (${shape.join(', ')})`,
      { op, argument },
    );
  }
  names.forEach((word, i) => {
    if (!/^\d+$/.test(word)) sizes[word.replace('+1', '')] = shape[i + skip]! - (word.endsWith('+1') ? 1 : 0);
  });
}
