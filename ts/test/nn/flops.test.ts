import { describe, expect, it } from 'vitest';
import { backward, noGrad, parameter } from '../../src/autograd.js';
import { countFlops, type ModuleFlops } from '../../src/nn/flops.js';
import { Linear } from '../../src/nn/linear.js';
import { Initializer, Module } from '../../src/nn/module.js';
import { TextEncoder } from '../../src/nn/text_encoder.js';
import { cosineSimilarity } from '../../src/ops/cosine_similarity.js';
import { crossAttention } from '../../src/ops/cross_attention.js';
import { infoNce } from '../../src/ops/info_nce.js';
import { loraLinear } from '../../src/ops/lora_linear.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { type Shape, type Tensor, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';

/** Ones; a leaf that wants a gradient where `wanted`. */
function ones(shape: Shape, wanted = true): Tensor {
  const x = tensor(new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(1), shape);
  return wanted ? parameter(x) : x;
}

class None extends Module {}

const sumOf = (rows: readonly ModuleFlops[]): { forward: number; backward: number } => ({
  forward: rows.reduce((total, row) => total + row.forward, 0),
  backward: rows.reduce((total, row) => total + row.backward, 0),
});

/** Cost of one op, and of its backward to the inputs that want it. */
async function costOf(op: () => Tensor): Promise<{ forward: number; backward: number }> {
  const rows = await countFlops(new None(), () => tidy(() => backward(sum(op()))));
  return sumOf(rows);
}

describe('FLOPs of an op', () => {
  it('counts two per multiplication and addition, and backward what is wanted', async () => {
    const a = ones([3, 5]);
    const still = ones([3, 5], false);
    const b = ones([5, 7]);
    expect(await costOf(() => matmul(a, b))).toEqual({ forward: 2 * 3 * 5 * 7, backward: 4 * 3 * 5 * 7 });
    expect(await costOf(() => matmul(still, b))).toEqual({ forward: 2 * 3 * 5 * 7, backward: 2 * 3 * 5 * 7 });
  });

  it('counts attention by the lengths of its rows', async () => {
    const [q, k, v] = [ones([5, 2, 4]), ones([6, 2, 4]), ones([6, 2, 4])];
    const offsets = tensor(Int32Array.of(0, 2, 6), [3]);
    const qOffsets = tensor(Int32Array.of(0, 4, 5), [3]);
    const pairs = 4 * 2 + 1 * 4;
    expect(await costOf(() => crossAttention(q, k, v, { offsets, qOffsets }))).toEqual({
      forward: 4 * pairs * 8,
      backward: 8 * pairs * 8,
    });
    const causal = 3 + 4; // two queries see 1 and 2 keys; one sees 4
    const few = ones([3, 2, 4], false);
    const fewOffsets = tensor(Int32Array.of(0, 2, 3), [3]);
    expect(await costOf(() => crossAttention(few, k, v, { offsets, qOffsets: fewOffsets, causal: true }))).toEqual({
      forward: 4 * causal * 8,
      backward: 6 * causal * 8,
    });
  });

  it('counts contrasts, cosines and low-rank updates', async () => {
    const q = ones([4, 3]);
    const k = ones([6, 3], false);
    expect(await costOf(() => infoNce(q, k, { scale: 1 }))).toEqual({
      forward: 2 * 4 * 6 * 3,
      backward: 2 * 4 * 6 * 3,
    });
    const d = ones([1, 3]);
    const one = tensor(Int32Array.of(0, 6), [2]);
    expect(await costOf(() => cosineSimilarity(d, k, { offsets: one }))).toEqual({ forward: 36, backward: 36 });
    const [x, weight, a, b] = [ones([4, 3], false), ones([5, 3], false), ones([2, 3]), ones([5, 2])];
    const [wide, down, up] = [4 * 5 * 3, 4 * 2 * 3, 4 * 5 * 2];
    expect(await costOf(() => loraLinear(x, weight, a, b, { scale: 1 }))).toEqual({
      forward: 2 * (wide + down + up),
      backward: 2 * (up + down + up), // d hidden, dA, dB
    });
  });
});

describe('countFlops', () => {
  class Pair extends Module {
    readonly first = new Linear(new Initializer(1, 'float32', 'cpu', 'first'), 4, 6);
    readonly second = new Linear(new Initializer(1, 'float32', 'cpu', 'second'), 6, 2);
  }

  it('attributes ops to the modules whose parameters they read, others to where their inputs come from', async () => {
    using pair = new Pair();
    const x = ones([3, 4], false);
    const rows = await countFlops(pair, () =>
      tidy(() => {
        const hidden = pair.first.forward(x);
        backward(sum(pair.second.forward(matmul(ones([3, 3], false), hidden))));
      }),
    );
    const square = 2 * 3 * 3 * 6; // the product without parameters
    const [first, second] = [2 * 3 * 4 * 6, 2 * 3 * 6 * 2];
    expect(
      rows.map(({ module, parameters, forward, backward }) => ({ module, parameters, forward, backward })),
    ).toEqual([
      { module: 'first', parameters: 30, forward: first + square, backward: first + square },
      { module: 'second', parameters: 14, forward: second, backward: 2 * second },
    ]);
    expect(rows[1]!.elementwise).toBe(2 + 7); // the sum and its reshaping to a scalar, and their gradients
  });

  it('counts no backward where none runs', async () => {
    using pair = new Pair();
    const rows = await countFlops(pair, () => tidy(() => noGrad(() => pair.first.forward(ones([3, 4], false)))));
    expect(sumOf(rows)).toEqual({ forward: 144, backward: 0 });
  });

  it('stops watching after the run, also when it fails', async () => {
    const failing = countFlops(new None(), () => {
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    expect(await costOf(() => ones([1]))).toEqual({ forward: 0, backward: 0 });
  });
});

describe('a text encoder', () => {
  /** FLOPs of all token rows of `items` texts of `length` tokens, forward and backward. */
  async function encoderCost({
    width,
    layers,
    length,
    items,
  }: Record<'width' | 'layers' | 'length' | 'items', number>) {
    using encoder = new TextEncoder(new Initializer(1), {
      vocabularySize: 10,
      positions: length,
      types: 1,
      width,
      layers,
    });
    const tokens = new Int32Array(items * length).fill(3);
    const batch = {
      tokens,
      positions: tokens.map((_, i) => i % length),
      types: tokens.map(() => 0),
      offsets: Int32Array.from({ length: items + 1 }, (_, i) => i * length),
    };
    const rows = await countFlops(encoder, () =>
      tidy(() => backward(sum(encoder.tokens(batch, { training: true }).rows))),
    );
    return sumOf(rows);
  }
  const formula = (width: number, layers: number, length: number, items: number): number =>
    items * layers * length * (24 * width ** 2 + 4 * length * width);

  it('costs 24 W^2 + 4 T W per token and layer, and twice that backward', async () => {
    for (const [width, layers, length, items] of [
      [16, 2, 11, 5],
      [32, 3, 7, 1],
    ] as const) {
      const forward = formula(width, layers, length, items);
      expect(await encoderCost({ width, layers, length, items })).toEqual({ forward, backward: 2 * forward });
    }
  });

  it('costs 2.19 TFLOP for 2,048 items of 183 tokens, width 128, 4 layers: 2,048 times one item', async () => {
    const one = await encoderCost({ width: 128, layers: 4, length: 183, items: 1 });
    const all = 2048 * (one.forward + one.backward);
    expect(all).toBe(3 * formula(128, 4, 183, 2048));
    expect(all / 1e12).toBeCloseTo(2.19, 2);
  });
});
