import { describe, expect, it } from 'vitest';
import { ImageEncoder } from '../../src/nn/image_encoder.js';
import { Initializer } from '../../src/nn/module.js';
import { streamOf, uniforms } from '../../src/random.js';
import { expectGradients } from '../module_gradients.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(4, 'float64');
const evaluation = { training: false };
const size = 8;

function pictures(names: readonly string[]) {
  const pixels = new Uint8Array(names.length * size * size * 3);
  const each = size * size * 3;
  names.forEach((name, b) =>
    pixels.set(
      uniforms(each, 1, streamOf(name)).map((u) => Math.floor(256 * u)),
      b * each,
    ),
  );
  return { pixels, present: new Uint8Array(names.length).fill(1), size };
}

describe('ImageEncoder', () => {
  it('embeds patches as a convolution does, with position and norm', async () => {
    const mean = [0.485, 0.456, 0.406] as const;
    const std = [0.229, 0.224, 0.225] as const;
    using encoder = new ImageEncoder(init, { size, patch: 4, width: 6, layers: 0, mean, std });
    const given = pictures(['a', 'b']);
    const { rows, offsets } = encoder.tokens(given, evaluation);
    expect([...(await valuesOf(offsets))]).toEqual([0, 4, 8]);
    const weight = await valuesOf(encoder.weight);
    const position = await valuesOf(encoder.position);
    const expected: number[] = [];
    for (let b = 0; b < 2; b++)
      for (let top = 0; top < size; top += 4)
        for (let left = 0; left < size; left += 4) {
          const patch = ((top / 4) * size) / 4 + left / 4;
          const sums = Array.from({ length: 6 }, (_, d) => {
            let total = position[patch * 6 + d]!;
            for (let channel = 0; channel < 3; channel++)
              for (let y = 0; y < 4; y++)
                for (let x = 0; x < 4; x++) {
                  const pixel = given.pixels[((b * size + top + y) * size + left + x) * 3 + channel]!;
                  total +=
                    weight[d * 48 + channel * 16 + y * 4 + x]! * ((pixel / 255 - mean[channel]!) / std[channel]!);
                }
            return total;
          });
          const average = sums.reduce((a, v) => a + v / 6, 0);
          const variance = sums.reduce((a, v) => a + (v - average) ** 2 / 6, 0);
          expected.push(...sums.map((v) => (v - average) / Math.sqrt(variance + 1e-5)));
        }
    expect(worstDifference(await valuesOf(rows), expected)).toBeLessThan(1e-10);
  });

  it('encodes a picture among others as it does alone', async () => {
    using encoder = new ImageEncoder(init, { size, patch: 4, width: 8, layers: 2 });
    const together = rowsOf(await valuesOf(encoder.tokens(pictures(['a', 'b', 'c']), evaluation).rows), 4 * 8);
    const alone = await valuesOf(encoder.tokens(pictures(['b']), evaluation).rows);
    expect(worstDifference(together[1]!, alone)).toBeLessThan(1e-12);
  });

  it('has the gradients of finite differences', async () => {
    using encoder = new ImageEncoder(init, { size, patch: 4, width: 8, layers: 1 });
    const run = () => encoder.tokens(pictures(['a', 'b']), { training: true }).rows;
    await expectGradients(encoder.parameters(), run, { perParameter: 2 });
  });

  it('refuses a size that patches do not divide, and pictures of another size', () => {
    expect(() => new ImageEncoder(init, { size: 9, patch: 4 })).toThrow(/a multiple of patch 4 but received 9/);
    using encoder = new ImageEncoder(init, { size: 16, patch: 4 });
    expect(() => encoder.tokens(pictures(['a']), evaluation)).toThrow(/pictures of size 16 but received 8/);
  });
});
