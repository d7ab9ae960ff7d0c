import { describe, expect, it } from 'vitest';
import { backward, defineOp, noGrad, type OpPrecision, parameter, withInputCasts } from '../../src/autograd.js';
import { ArgumentError, DtypeError } from '../../src/errors.js';
import { autocast } from '../../src/ops/autocast.js';
import { cast } from '../../src/ops/cast.js';
import { linear } from '../../src/ops/linear.js';
import { clone, type Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';

/** An op that notes what it gets and copies its first input: no kernel that computes, so that it runs on the CPU in any dtype. */
function noting(precision: OpPrecision) {
  const seen: Tensor[][] = [];
  const op = defineOp({
    name: 'noting',
    ...precision,
    forward(inputs: readonly Tensor[]) {
      seen.push([...inputs]);
      return { out: clone(inputs[0]!), saved: [] };
    },
    backward: (dout, _saved, _attributes, needs) => needs.map((needed, i) => (needed && i === 0 ? dout : null)),
  });
  return { seen, run: (...inputs: Tensor[]): Tensor => op(inputs, undefined) };
}

const wide = (): Tensor => tensor([1, 1.00390625]);
const narrow = (): Tensor => tensor([1, 2], [2], { dtype: 'bfloat16' });
const dtypes = (inputs: readonly Tensor[] | undefined): string[] => inputs!.map((x) => x.dtype);

describe('autocast', () => {
  it.each<[string, OpPrecision, string[]]>([
    ['bf16', { precision: 'bf16' }, ['bfloat16', 'bfloat16', 'int32']],
    ['bf16 with an input that stays', { precision: 'bf16', wide: [0] }, ['float32', 'bfloat16', 'int32']],
    ['float32', { precision: 'float32' }, ['float32', 'float32', 'int32']],
    ['neither: the wider one', {}, ['float32', 'float32', 'int32']],
  ])('gives an op of precision %s its inputs', (_, precision, expected) => {
    const { seen, run } = noting(precision);
    autocast(() => run(wide(), narrow(), tensor(Int32Array.of(1))));
    expect(dtypes(seen[0])).toEqual(expected);
  });

  it('leaves equal inputs of an op without precision, and float64, alone', () => {
    const { seen, run } = noting({});
    const double = tensor(Float64Array.of(1));
    autocast(() => [run(narrow(), narrow()), run(wide(), wide()), run(double)]);
    expect(seen.map((inputs) => dtypes(inputs)[0])).toEqual(['bfloat16', 'float32', 'float64']);
    const bf16 = noting({ precision: 'bf16' });
    autocast(() => bf16.run(double));
    expect(dtypes(bf16.seen[0])).toEqual(['float64']);
  });

  it('changes nothing outside of it, nor after an error', () => {
    const { seen, run } = noting({ precision: 'bf16' });
    expect(() =>
      autocast(() => {
        throw new Error('inside');
      }),
    ).toThrow('inside');
    run(wide());
    autocast(() => withInputCasts(null, () => run(wide())));
    expect(seen.map((inputs) => dtypes(inputs)[0])).toEqual(['float32', 'float32']);
  });

  it('gives float32 gradients to float32 leaves', async () => {
    const { run } = noting({ precision: 'bf16' });
    const x = parameter(wide());
    const y = autocast(() => run(x));
    expect(y.dtype).toBe('bfloat16');
    backward(y, tensor([0.5, 3], [2], { dtype: 'bfloat16' }));
    const grad = x.grad as Tensor;
    expect(grad.dtype).toBe('float32');
    expect(Array.from(await grad.values(), Number)).toEqual([0.5, 3]);
  });

  it('casts a leaf once, results each time', () => {
    const { seen, run } = noting({ precision: 'bf16' });
    const x = parameter(wide());
    autocast(() => {
      run(x);
      const y = run(x);
      run(cast(y, 'float32'));
    });
    const [first, second, third] = seen.map((inputs) => inputs[0]);
    expect(second).toBe(first);
    expect(third).not.toBe(first);
    autocast(() => run(x));
    expect(seen[3]![0]).not.toBe(first); // the parameter may have changed since
  });

  it('casts again where the first cast has no gradient or is gone', () => {
    const { seen, run } = noting({ precision: 'bf16' });
    const x = parameter(wide());
    autocast(() => {
      noGrad(() => run(x));
      const y = run(x);
      expect(y.requiresGrad).toBe(true);
      noGrad(() => run(x));
    });
    expect(seen[0]![0]!.requiresGrad).toBe(false);
    expect(seen[2]![0]).toBe(seen[1]![0]);
    autocast(() => {
      tidy(() => void run(x));
      run(x);
    });
    expect(seen[3]![0]!.disposed).toBe(true);
    expect(seen[4]![0]!.disposed).toBe(false);
  });

  it('refuses promises, and needs a device with bfloat16', () => {
    expect(() => autocast(async () => Promise.resolve(1))).toThrow(ArgumentError);
    expect(() => autocast(() => linear(tensor([1, 2], [1, 2]), tensor([1, 2], [1, 2])))).toThrow(DtypeError);
    expect(() => autocast(() => linear(tensor([1, 2], [1, 2]), tensor([1, 2], [1, 2])))).toThrow(
      /linear: expected x to be float32 or float64 on cpu but received bfloat16/,
    );
  });
});
