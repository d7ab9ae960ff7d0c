import { describe, expect, it } from 'vitest';
import { parameter } from '../../src/autograd.js';
import { ArgumentError } from '../../src/errors.js';
import { pooledTokens, poolPatches } from '../../src/nn/pool_patches.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { expectGradients } from '../module_gradients.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

describe('poolPatches', () => {
  it.each([
    [16, 4, 2],
    [9, 4, 1],
    [17, 4, 3],
    [196, 16, 2],
    [4, 1, 2],
  ])('takes the means of cells: %i tokens to %i, %i pictures', async (tokens, pooled, pictures) => {
    const width = 3;
    const x = normals(pictures * tokens * width, 1, tokens);
    const rows = rowsOf(x, width);
    const side = Math.floor(Math.sqrt(tokens));
    const [others, cells] = [tokens - side * side, Math.sqrt(pooled)];
    const expected: number[] = [];
    for (let n = 0; n < pictures; n++) {
      for (let k = 0; k < others; k++) expected.push(...rows[n * tokens + k]!);
      for (let i = 0; i < cells; i++)
        for (let j = 0; j < cells; j++)
          for (let c = 0; c < width; c++) {
            let [sum, count] = [0, 0];
            for (let y = 0; y < side; y++)
              for (let z = 0; z < side; z++)
                // patch y covers [y, y + 1) of the side, cell i [i, i + 1) side / cells
                if (y < ((i + 1) * side) / cells && y + 1 > (i * side) / cells)
                  if (z < ((j + 1) * side) / cells && z + 1 > (j * side) / cells) {
                    sum += rows[n * tokens + others + y * side + z]![c]!;
                    count++;
                  }
            expected.push(sum / count);
          }
    }
    const out = poolPatches(tensor(x, [pictures * tokens, width]), { tokens, pooled });
    expect(out.shape).toEqual([pictures * pooledTokens(tokens, pooled), width]);
    expect(worstDifference(await valuesOf(out), expected)).toBeLessThan(1e-14);
  });

  it('keeps every bit where each patch is a cell', async () => {
    const x = tensor(Float32Array.from(normals(9 * 5, 1, 1)), [9, 5]);
    expect((await bytesOf(poolPatches(x, { tokens: 9, pooled: 9 }))).equals(await bytesOf(x))).toBe(true);
  });

  it('passes gradients, also to patches of two cells', async () => {
    const x = parameter(tensor(normals(18 * 2, 1, 2), [18, 2]));
    await expectGradients(new Map([['x', x]]), () => poolPatches(x, { tokens: 9, pooled: 4 }));
  });

  it('refuses what is no square of at most the patches', () => {
    const x = tensor(new Float32Array(18), [9, 2]);
    for (const pooled of [0, 2, 16]) expect(() => poolPatches(x, { tokens: 9, pooled })).toThrow(ArgumentError);
  });
});
