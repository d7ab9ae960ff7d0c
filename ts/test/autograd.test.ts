import { describe, expect, it } from 'vitest';
import { backward, defineOp, detach, isRecording, noGrad, zeroGrad } from '../src/autograd.js';
import { ArgumentError, AutogradError, DisposedError, ShapeError } from '../src/errors.js';
import { relu, sigmoid } from '../src/ops/activation.js';
import { add, mul, scaleBy } from '../src/ops/elementwise.js';
import { sum } from '../src/ops/reduce.js';
import { reshape } from '../src/ops/transpose.js';
import { RowSparseGrad } from '../src/row_sparse_grad.js';
import { device, full, Tensor, tensor } from '../src/tensor.js';
import { tidy } from '../src/tidy.js';

function leaf(...values: number[]): Tensor {
  const x = tensor(Float64Array.from(values));
  x.requiresGrad = true;
  return x;
}

const grad = async (x: Tensor) => Array.from((await (x.grad as Tensor).data()) as Float64Array);

describe('backward', () => {
  it('adds to the gradients of leaves until zeroGrad', async () => {
    const x = leaf(1, 2);
    backward(sum(mul(x, x)));
    expect(await grad(x)).toEqual([2, 4]);
    backward(sum(scaleBy(x, 10)));
    expect(await grad(x)).toEqual([12, 14]);
    zeroGrad([x]);
    expect(x.grad).toBeNull();
    backward(sum(x));
    expect(await grad(x)).toEqual([1, 1]);
  });

  it('adds over every use of an input, and through a diamond', async () => {
    const x = leaf(3);
    const y = scaleBy(x, 2);
    backward(sum(add(mul(y, y), add(x, y)))); // 4x² + 3x
    expect(await grad(x)).toEqual([27]);
  });

  it('through reshape keeps gradients of shared memory apart', async () => {
    const x = leaf(1, 2, 3, 4);
    const y = reshape(x, [2, 2]);
    backward(add(sum(y), sum(reshape(mul(y, y), [4]))));
    expect(await grad(x)).toEqual([3, 5, 7, 9]);
    backward(sum(x)); // accumulating must not write into what an alias shares
    expect(await grad(x)).toEqual([4, 6, 8, 10]);
  });

  it('gives two leaves of one sum gradients of their own', async () => {
    const [a, b] = [leaf(1), leaf(2)];
    backward(sum(add(a, b)));
    backward(sum(a));
    expect([await grad(a), await grad(b)]).toEqual([[2], [1]]);
    a.grad!.dispose();
    expect(await grad(b)).toEqual([1]);
  });

  it('keeps gradients beyond the scope of the step, and nothing else', async () => {
    const x = leaf(1, 2);
    await device().synchronize();
    const before = device().memory().tensors;
    tidy(() => {
      backward(sum(sigmoid(x)));
    });
    expect(device().memory().tensors).toBe(before + 1);
    expect((await grad(x)).length).toBe(2);
  });

  it('takes dloss for other shapes, and asks for it', async () => {
    const x = leaf(1, 2);
    expect(() => backward(scaleBy(x, 2))).toThrow(/expected a loss of size 1 but received \(2\)/);
    expect(() => backward(scaleBy(x, 2), full([3], 1))).toThrow(ShapeError);
    backward(scaleBy(x, 2), tensor(Float64Array.of(1, 10)));
    expect(await grad(x)).toEqual([2, 20]);
  });

  it('uses a graph once', () => {
    const x = leaf(1);
    const y = relu(x);
    const loss = sum(y);
    backward(loss);
    expect(() => backward(loss)).toThrow(/this graph was already used/);
    expect(() => backward(sum(y))).toThrow(/a part of this graph was already used/);
  });

  it('refuses a loss that depends on nothing', () => {
    expect(() => backward(full([], 1))).toThrow(/depends on nothing that requires a gradient/);
  });

  it('notices that a saved tensor is gone', () => {
    const x = leaf(1);
    const y = relu(x);
    const loss = sum(mul(y, y));
    y.dispose();
    expect(() => backward(loss)).toThrow(DisposedError);
  });
});

describe('recording', () => {
  it('refuses a promise inside noGrad: what follows the first wait would be recorded', () => {
    expect(() => noGrad(async () => Promise.resolve())).toThrow(ArgumentError);
    expect(isRecording()).toBe(true);
  });

  it('stops inside noGrad, also when it throws', () => {
    const x = leaf(1);
    const y = noGrad(() => relu(x));
    expect([y.requiresGrad, y.node]).toEqual([false, null]);
    expect(() =>
      noGrad(() => {
        throw new Error('planned');
      }),
    ).toThrow('planned');
    expect(isRecording()).toBe(true);
    expect(relu(x).requiresGrad).toBe(true);
  });

  it('stops at detach, which shares the values', async () => {
    const x = leaf(2);
    const y = mul(x, detach(x));
    backward(sum(y));
    expect(await grad(x)).toEqual([2]);
    expect(await detach(x).data()).toEqual(Float64Array.of(2));
  });

  it('records nothing where no input requires a gradient', () => {
    expect(relu(full([2], 1)).node).toBeNull();
  });
});

describe('an op', () => {
  it('without a backward throws as soon as a gradient would be needed', () => {
    const op = defineOp({
      name: 'opaque',
      forward: ([x]: readonly [Tensor]) => ({ out: full(x.shape, 1, x), saved: [] }),
      backward: null,
    });
    expect(op([full([2], 1)], {}).requiresGrad).toBe(false);
    expect(() => op([leaf(1)], {})).toThrow(/opaque: has no gradient, but an input requires one; detach it first/);
  });

  it('with a row-sparse gradient does not mix with dense ones', () => {
    const lookup = defineOp({
      name: 'lookup',
      forward: ([table]: readonly [Tensor]) => ({ out: full([1], 1, table), saved: [table] }),
      backward: (dout, [table]) => [
        new RowSparseGrad(table.shape, [
          { indices: tensor([0], [1], { dtype: 'int32' }), values: dout, source: null, weights: null },
        ]),
      ],
    });
    const table = leaf(1, 2);
    expect(() => backward(sum(add(lookup([table], {}), table)))).toThrow(AutogradError);
    const other = leaf(1, 2);
    backward(sum(add(lookup([other], {}), lookup([other], {}))));
    expect((other.grad as RowSparseGrad).pieces.length).toBe(2);
    const computed = relu(leaf(1, 2));
    expect(() => backward(sum(lookup([computed], {})))).toThrow(/row-sparse gradient reached a tensor that is no leaf/);
  });
});
