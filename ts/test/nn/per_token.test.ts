import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../src/errors.js';
import { Initializer } from '../../src/nn/module.js';
import { PerTokenLinear, RankMixerBlock, tokenMixing } from '../../src/nn/per_token.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(11, 'float64');

describe('tokenMixing', () => {
  it.each([
    [4, 3, 8],
    [1, 2, 5],
    [3, 1, 3],
  ])('applied twice is the identity: %i tokens, %i rows, width %i', async (T, B, W) => {
    const x = tensor(normals(T * B * W, 1, 1), [T, B, W]);
    expect(await bytesOf(tokenMixing(tokenMixing(x)))).toEqual(await bytesOf(x));
  });

  it('puts slice t of all tokens into token t', async () => {
    // token t of row b holds 100 t + 10 b + slice, twice per slice
    const host = [0, 1].flatMap((t) => [0, 1].flatMap((b) => [0, 0, 1, 1].map((slice) => 100 * t + 10 * b + slice)));
    const mixed = await valuesOf(tokenMixing(tensor(Float64Array.from(host), [2, 2, 4])));
    expect([...mixed]).toEqual([0, 0, 100, 100, 10, 10, 110, 110, 1, 1, 101, 101, 11, 11, 111, 111]);
  });

  it('refuses a width that the tokens do not divide', () => {
    expect(() => tokenMixing(tensor(new Float64Array(3 * 2 * 4), [3, 2, 4]))).toThrow(ShapeError);
    expect(() => tokenMixing(tensor(new Float64Array(3 * 2 * 4), [3, 2, 4]))).toThrow(
      /W a multiple of T but received \(3, 2, 4\)/,
    );
    expect(() => tokenMixing(tensor(new Float64Array(8), [2, 4]))).toThrow(/received \(2, 4\)/);
  });
});

describe('PerTokenLinear', () => {
  it('multiplies each token by a matrix of its own', async () => {
    using layer = new PerTokenLinear(init, 2, 3, 2);
    const x = normals(2 * 4 * 3, 1, 2);
    const weight = rowsOf(await valuesOf(layer.weight), 2);
    const bias = rowsOf(await valuesOf(layer.bias), 2);
    const expected = rowsOf(x, 3).flatMap((row, i) => {
      const t = Math.floor(i / 4);
      return [0, 1].map((o) => row.reduce((total, value, k) => total + value * weight[3 * t + k]![o]!, bias[t]![o]!));
    });
    expect(worstDifference(await valuesOf(layer.forward(tensor(x, [2, 4, 3]))), expected)).toBeLessThan(1e-13);
  });
});

describe('RankMixerBlock', () => {
  it('has 2 k T W² weights, biases and two norms', () => {
    const [tokens, width, expansion] = [4, 8, 2];
    using block = new RankMixerBlock(init, { tokens, width, expansion });
    const count = [...block.parameters().values()].reduce((total, x) => total + x.size, 0);
    expect(count).toBe(2 * expansion * tokens * width ** 2 + tokens * (expansion + 1) * width + 4 * width);
  });

  it('does not mix rows', async () => {
    using block = new RankMixerBlock(init, { tokens: 2, width: 4, expansion: 2 });
    const x = normals(2 * 3 * 4, 1, 3);
    const changed = x.slice();
    for (const t of [0, 1]) changed.fill(7, (3 * t + 1) * 4, (3 * t + 2) * 4); // row 1
    const [before, after] = await Promise.all(
      [x, changed].map(async (host) => rowsOf(await valuesOf(block.forward(tensor(host, [2, 3, 4]))), 4)),
    );
    for (const i of [0, 2, 3, 5]) expect(after![i]).toEqual(before![i]);
    expect(after![1]).not.toEqual(before![1]);
  });
});
