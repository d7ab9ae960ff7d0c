import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { Linear } from '../../src/nn/linear.js';
import { LoraLinear } from '../../src/nn/lora_linear.js';
import { Initializer } from '../../src/nn/module.js';
import { sum } from '../../src/ops/reduce.js';
import { normals } from '../../src/random.js';
import { assign, tensor } from '../../src/tensor.js';
import { denseGrad } from '../harness.js';
import { expectGradients } from '../module_gradients.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

const x = normals(5 * 6, 1, 1);

describe('LoraLinear', () => {
  it('at step 0 is the frozen layer bit for bit; then A stays, B moves, and the base gets no gradient', async () => {
    const init = new Initializer(8);
    using base = new Linear(init.at('base'), 6, 4);
    using lora = new LoraLinear(init.at('lora'), base, { rank: 2, alpha: 16 });
    const given = tensor(Float32Array.from(x), [5, 6]);
    const out = lora.forward(given);
    expect((await bytesOf(out)).equals(await bytesOf(base.forward(given)))).toBe(true);
    backward(sum(out));
    expect((await denseGrad(lora.a)).every((g) => g === 0)).toBe(true);
    expect((await denseGrad(lora.b)).every((g) => g !== 0)).toBe(true);
    expect([base.weight.grad, base.bias!.grad]).toEqual([null, null]);
    expect([...lora.parameters().keys()]).toEqual(['a', 'b']);
  });

  it('equals the merged weight W0 + (alpha / r) B A', async () => {
    const init = new Initializer(8, 'float64');
    using base = new Linear(init.at('base'), 6, 4);
    using lora = new LoraLinear(init.at('lora'), base, { rank: 2, alpha: 16 });
    assign(lora.b, normals(8, 1, 2));
    const given = tensor(x, [5, 6]);
    const actual = await valuesOf(lora.forward(given));
    const a = rowsOf(await valuesOf(lora.a), 6);
    const b = rowsOf(await valuesOf(lora.b), 2);
    const merged = rowsOf(await valuesOf(base.weight), 6).flatMap((row, o) => [
      ...row.map((w, i) => w + (16 / 2) * (b[o]![0]! * a[0]![i]! + b[o]![1]! * a[1]![i]!)),
    ]);
    assign(base.weight, Float64Array.from(merged));
    expect(worstDifference(actual, await valuesOf(base.forward(given)))).toBeLessThan(1e-12);
    await expectGradients(lora.parameters(), () => lora.forward(given));
  });
});
