/** Finite differences through a whole module. */
import { expect } from 'vitest';
import { backward, zeroGrad } from '../src/autograd.js';
import { mul } from '../src/ops/elementwise.js';
import { sum } from '../src/ops/reduce.js';
import { normals, streamOf } from '../src/random.js';
import { assign, type Tensor, tensor } from '../src/tensor.js';
import { tidy } from '../src/tidy.js';
import { denseGrad, tolerances } from './harness.js';
import { valuesOf } from './values.js';

/**
 * Expects the gradient of a random linear form of `run()` to equal central differences at up to `perParameter` places of every float64
 * parameter, spread evenly, and the gradient to reach every parameter but those named in `unreached`.
 */
export async function expectGradients(
  parameters: ReadonlyMap<string, Tensor>,
  run: () => Tensor,
  { perParameter = 5, unreached = [] }: { perParameter?: number; unreached?: readonly string[] } = {},
): Promise<void> {
  const loss = (): Tensor => {
    const y = run();
    return sum(mul(y, tensor(normals(y.size, 1, streamOf('cotangent')), y.shape)));
  };
  const value = async (): Promise<number> => {
    const y = tidy(loss);
    return y.item().finally(() => y.dispose());
  };
  zeroGrad(parameters.values());
  tidy(() => backward(loss()));
  const { step, absolute, relative } = tolerances.finiteDifference;
  for (const [name, x] of parameters) {
    expect(x.grad === null, `${name} has no gradient`).toBe(unreached.includes(name));
    if (x.grad === null) continue;
    const grad = await denseGrad(x);
    const before = await valuesOf(x);
    const stride = Math.max(1, Math.floor(x.size / perParameter));
    for (let i = 0; i < x.size; i += stride) {
      const at = async (shift: number): Promise<number> => {
        assign(
          x,
          before.map((v, j) => (j === i ? v + shift : v)),
        );
        return value();
      };
      const numeric = ((await at(step)) - (await at(-step))) / (2 * step);
      expect(
        Math.abs(grad[i]! - numeric) <= absolute + relative * Math.abs(numeric),
        `d${name}[${i}]: ${grad[i]} by the tape, ${numeric} by differences`,
      ).toBe(true);
    }
    assign(x, before);
  }
  zeroGrad(parameters.values());
}
