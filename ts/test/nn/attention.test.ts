import { describe, expect, it } from 'vitest';
import { TransformerBlock } from '../../src/nn/attention.js';
import { Initializer } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

describe('TransformerBlock', () => {
  it('gives jagged rows what padded ones with a mask get', async () => {
    const width = 8;
    const longest = 5;
    const lengths = [3, 5, 1, 4];
    using blocks = {
      list: [0, 1].map((i) => new TransformerBlock(new Initializer(i + 1, 'float64'), { width, heads: 2, ffn: 12 })),
      [Symbol.dispose]() {
        for (const block of this.list) block.dispose();
      },
    };
    const values = rowsOf(normals(4 * longest * width, 1, 2), width);
    const kept = lengths.flatMap((length, b) => values.slice(b * longest, b * longest + length));
    const bounds = lengths.reduce((all, length) => [...all, all.at(-1)! + length], [0]);
    let jagged = {
      rows: tensor(Float64Array.from(kept.flatMap((row) => [...row])), [kept.length, width]),
      offsets: tensor(Int32Array.from(bounds), [5]),
    };
    let padded = {
      rows: tensor(Float64Array.from(values.flatMap((row) => [...row])), [values.length, width]),
      offsets: tensor(
        Int32Array.from(bounds.keys(), (b) => b * longest),
        [5],
      ),
      mask: tensor(
        Int32Array.from(values.keys(), (t) => (t % longest < lengths[Math.floor(t / longest)]! ? 0 : -1)),
        [20],
      ),
    };
    for (const block of blocks.list) {
      jagged = block.forward(jagged, { training: false });
      padded = { ...padded, ...block.forward(padded, { training: false }) };
    }
    const wide = rowsOf(await valuesOf(padded.rows), width);
    const there = lengths
      .flatMap((length, b) => wide.slice(b * longest, b * longest + length))
      .flatMap((row) => [...row]);
    expect(worstDifference(await valuesOf(jagged.rows), there)).toBeLessThan(1e-12);
  });
});
