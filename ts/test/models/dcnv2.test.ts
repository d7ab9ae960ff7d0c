import { describe, expect, it } from 'vitest';
import { CrossNetwork } from '../../src/models/dcnv2.js';
import { Initializer } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { assign, tensor } from '../../src/tensor.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(7, 'float64');
const host = normals(6, 1, 1);

describe('CrossNetwork', () => {
  it('with W = b = 0 is the identity', async () => {
    using cross = new CrossNetwork(init, 3, { layers: 3 });
    for (const x of cross.parameters().values()) assign(x, new Float64Array(x.size));
    expect(await valuesOf(cross.forward(tensor(host, [2, 3])))).toEqual(host);
  });

  it.each([undefined, 2])('is x0 ⊙ (W x + b) + x by hand, rank %s', async (rank) => {
    using cross = new CrossNetwork(init, 3, { layers: 2, rank });
    const product = (matrix: readonly Float64Array[], x: readonly number[]): number[] =>
      matrix.map((row) => row.reduce((total, w, i) => total + w * x[i]!, 0));
    const expected: number[] = [];
    for (const row of rowsOf(host, 3)) {
      let x = [...row];
      for (const [i, layer] of cross.layers.entries()) {
        const reduced = rank === undefined ? x : product(rowsOf(await valuesOf(cross.reduce[i]!.weight), 3), x);
        const bias = await valuesOf(layer.bias!);
        const wx = product(rowsOf(await valuesOf(layer.weight), rank ?? 3), reduced);
        x = x.map((value, d) => row[d]! * (wx[d]! + bias[d]!) + value);
      }
      expected.push(...x);
    }
    expect(worstDifference(await valuesOf(cross.forward(tensor(host, [2, 3]))), expected)).toBeLessThan(1e-13);
  });
});
