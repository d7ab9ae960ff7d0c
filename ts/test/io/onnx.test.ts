import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ArgumentError, ModelFileError } from '../../src/errors.js';
import { OnnxGraph } from '../../src/io/onnx.js';
import { openOnnxRuntime } from '../../src/io/onnx_runtime.js';

const runtime = await openOnnxRuntime();
const why = runtime === null ? ' (skipped: the package onnxruntime-node is not installed)' : '';

/** y = x Wᵀ + b over a batch of any size. */
function dense(weight: Float32Array, bias: Float32Array): OnnxGraph {
  const [N, K] = [bias.length, weight.length / bias.length];
  const g = new OnnxGraph('dense');
  const x = g.input('x', 'float32', ['batch', K]);
  const w = g.constant({ dtype: 'float32', shape: [N, K], data: weight }, 'weight');
  const b = g.constant({ dtype: 'float32', shape: [N], data: bias }, 'bias');
  g.output('y', g.node('Gemm', [x, w, b], { transB: 1 }), 'float32', ['batch', N]);
  return g;
}

describe('an ONNX graph', () => {
  it.skipIf(runtime === null)(`runs in ONNX Runtime with any number of rows${why}`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 0, max: 4 }),
        fc.array(fc.integer({ min: -8, max: 8 }), { minLength: 60, maxLength: 60 }),
        async (N, K, rows, values) => {
          const weight = Float32Array.from(values.slice(0, N * K));
          const bias = Float32Array.from(values.slice(25, 25 + N));
          const x = Float32Array.from(values.slice(30, 30 + rows * K));
          const session = await runtime!.load(dense(weight, bias).encode({ version: '0' }), 'dense.onnx');
          const { y } = await session.run({ x: { dtype: 'float32', shape: [rows, K], data: x } });
          await session.close();
          const expected = Array.from({ length: rows * N }, (_, i) => {
            const [b, n] = [Math.floor(i / N), i % N];
            return (
              bias[n]! +
              Array.from({ length: K }, (_k, k) => x[b * K + k]! * weight[n * K + k]!).reduce((p, q) => p + q, 0)
            );
          });
          expect(y!.shape).toEqual([rows, N]);
          expect(Array.from(y!.data, Number)).toEqual(expected);
        },
      ),
      { numRuns: 20 },
    );
  });

  it.skipIf(runtime === null)(`keeps every kind of constant and attribute${why}`, async () => {
    const g = new OnnxGraph('kinds');
    const x = g.input('x', 'uint8', [4]);
    const wide = g.node('Cast', [x], { to: 1 });
    const picked = g.node('Gather', [wide, g.integers([3, 0])], { axis: 0 });
    const [sorted] = g.nodes('TopK', [picked, g.integers([2])], 2, { axis: -1, largest: 1 });
    const leaky = g.node('LeakyRelu', [g.node('Sub', [sorted!, g.scalar(5)])], { alpha: { float: 0.5 } });
    g.output('y', g.node('Unsqueeze', [leaky, g.integers([0])]), 'float32', [1, 2]);
    g.output('flag', g.constant({ dtype: 'bool', shape: [2], data: Uint8Array.of(1, 0) }), 'bool', [2]);
    g.output('double', g.constant({ dtype: 'float64', shape: [1], data: Float64Array.of(0.1) }), 'float64', [1]);
    g.output('int', g.constant({ dtype: 'int32', shape: [1], data: Int32Array.of(-7) }), 'int32', [1]);
    const bytes = g.encode({ version: '1.2.3', metadata: { step: '7' } });
    const session = await runtime!.load(bytes, 'kinds.onnx');
    const found = await session.run({ x: { dtype: 'uint8', shape: [4], data: Uint8Array.of(1, 9, 9, 7) } });
    await session.close();
    const plain = Object.fromEntries(Object.entries(found).map(([name, { data }]) => [name, Array.from(data)]));
    expect(plain).toEqual({ y: [2, -2], flag: [1, 0], double: [0.1], int: [-7] });
    expect(Buffer.from(bytes).includes('1.2.3')).toBe(true);
  });

  it.skipIf(runtime === null)(
    `cut anywhere inside the graph is refused by the runtime with a typed error${why}`,
    async () => {
      const bytes = dense(Float32Array.of(1, 2), Float32Array.of(3)).encode({ version: '0' });
      for (let length = 0; length < bytes.length; length++)
        await expect(runtime!.load(bytes.subarray(0, length), 'cut.onnx'), `${length} bytes`).rejects.toThrow(
          ModelFileError,
        );
    },
  );

  it.skipIf(runtime === null)(`refuses feeds of another shape with a typed error${why}`, async () => {
    const session = await runtime!.load(
      dense(Float32Array.of(1, 2), Float32Array.of(3)).encode({ version: '0' }),
      'd.onnx',
    );
    await expect(session.run({ x: { dtype: 'float32', shape: [1, 3], data: new Float32Array(3) } })).rejects.toThrow(
      /d\.onnx: ONNX Runtime refused it/,
    );
    await session.close();
  });

  it('stores equal small constants once', () => {
    const g = new OnnxGraph('shared');
    expect(g.scalar(2)).toBe(g.scalar(2));
    expect(g.integers([2])).not.toBe(g.integers([3]));
  });

  it('refuses names that are taken and constants that do not fit their shape', () => {
    const g = new OnnxGraph('names');
    const x = g.input('x', 'float32', [1]);
    expect(() => g.input('x', 'float32', [1])).toThrow(ArgumentError);
    expect(() => g.output('x', x, 'float32', [1])).toThrow(/x is taken/);
    expect(() => g.constant({ dtype: 'float32', shape: [3], data: new Float32Array(2) })).toThrow(
      /expected 3 values for shape \(3\) but received 2/,
    );
  });
});
