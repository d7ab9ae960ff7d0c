import { defineOp, productFlops } from '../autograd.js';
import { ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

interface Transposes {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

const check = shapes('matmul', { a: '... Ra Ca', b: '... Rb Cb' });

/** op(a) op(b) for equal leading dimensions. */
function product(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor {
  const rows = a.shape.at(transposeA ? -1 : -2)!;
  const columns = b.shape.at(transposeB ? -2 : -1)!;
  const out = empty([...a.shape.slice(0, -2), rows, columns], a);
  native.matmul_forward(a.handle, b.handle, out.handle, transposeA, transposeB);
  return out;
}

const op = defineOp({
  name: 'matmul',
  precision: 'bf16',
  forward([a, b]: readonly [Tensor, Tensor], { transposeA, transposeB }: Transposes) {
    const { Ra, Ca, Rb, Cb } = check({ a, b });
    const leading = a.shape.slice(0, -2);
    const wrong = (argument: string, expected: string, got: Tensor) => {
      throw new ShapeError(
        `matmul: expected ${argument} of shape (${expected}) but received (${got.shape.join(', ')})`,
        { op: 'matmul', argument },
      );
    };
    const inner = transposeA ? Ra : Ca;
    const dimensions = transposeB ? `N, K=${inner}` : `K=${inner}, N`;
    if (leading.join() !== b.shape.slice(0, -2).join() || inner !== (transposeB ? Cb : Rb))
      wrong('b', [...leading, dimensions].join(', '), b);
    return { out: product(a, b, transposeA, transposeB), saved: [a, b] as const };
  },
  flops: ([a], out, needs, { transposeA }) => productFlops(out.size * a.shape.at(transposeA ? -2 : -1)!, needs),
  backward(dout, [a, b], { transposeA, transposeB }, needs) {
    const da = () => (transposeA ? product(b, dout, transposeB, true) : product(dout, b, false, !transposeB));
    const db = () => (transposeB ? product(dout, a, true, transposeA) : product(a, dout, !transposeA, false));
    return [needs[0] ? da() : null, needs[1] ? db() : null];
  },
});

/**
 * Matrix product of the last two dimensions, `op(a) op(b)`, where op transposes them when asked. a (..., M, K), b (..., K, N) after
 * op, with equal leading dimensions; gives (..., M, N). For a weight shared by all rows use `linear`.
 */
export function matmul(
  a: Tensor,
  b: Tensor,
  { transposeA = false, transposeB = false }: { transposeA?: boolean; transposeB?: boolean } = {},
): Tensor {
  return op([a, b], { transposeA, transposeB });
}
