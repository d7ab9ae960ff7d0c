/**
 * Dense layers at the shapes of the demo and of larger models, float32, beside PyTorch and NumPy on the same CPU and threads.
 * Covers: linear, matmul, lora_linear, patch_embedding, activation
 */
import { backward, zeroGrad } from '../ts/src/autograd.js';
import { activation } from '../ts/src/ops/activation.js';
import { linear } from '../ts/src/ops/linear.js';
import { loraLinear } from '../ts/src/ops/lora_linear.js';
import { matmul } from '../ts/src/ops/matmul.js';
import { patchEmbedding } from '../ts/src/ops/patch_embedding.js';
import { normals, streamOf } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

const random = (...shape: number[]): Tensor => {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(Float32Array.from(normals(size, 1, streamOf(shape.join()))), shape);
};
const forward = (f: () => Tensor) => () => {
  tidy(() => {
    f();
  });
};

/** Rows, output columns, input columns. The last five are layers of the demo's encoders. */
const shapes = [
  [4096, 768, 768],
  [512, 512, 512],
  [256, 64, 512],
  [32, 2048, 512],
  [128, 512, 784],
  [3000, 32, 32],
  [3000, 64, 32],
  [3000, 128, 32],
  [3000, 32, 64],
  [3000, 32, 128],
] as const;

const float = 4;
const cases: BenchCase[] = shapes.flatMap(([M, N, K]) => {
  const name = `${M}x${N}x${K}`;
  const flops = 2 * M * N * K;
  const bytes = float * (M * K + N * K + M * N);
  const [x, weight, bias, dout] = [random(M, K), random(N, K), random(N), random(M, N)];
  const leaves = [random(M, K), random(N, K), random(N)] as const;
  for (const leaf of leaves) leaf.requiresGrad = true;
  const common = { op: 'linear', dtype: 'float32', bytes, flops, peer: { M, N, K } };
  return [
    // a fresh weight each call would measure the optimizer: the packed copy is reused here, as in evaluation
    { ...common, pass: 'forward', case: name, run: forward(() => linear(x, weight, bias)) },
    {
      ...common,
      pass: 'forward gelu',
      case: name,
      run: forward(() => linear(x, weight, bias, { activation: 'gelu' })),
    },
    {
      ...common,
      pass: 'forward backward',
      case: name,
      flops: 3 * flops,
      bytes: 3 * bytes,
      run: () => {
        tidy(() => backward(linear(...leaves), dout));
        zeroGrad(leaves);
      },
    },
  ];
});

{
  const [a, b] = [random(64, 50, 64), random(64, 50, 64)];
  cases.push({
    op: 'matmul',
    pass: 'forward',
    case: 'batched NT 64x50x50x64',
    dtype: 'float32',
    flops: 2 * 64 * 50 * 50 * 64,
    bytes: float * 64 * (2 * 50 * 64 + 50 * 50),
    run: forward(() => matmul(a, b, { transposeB: true })),
    peer: { G: 64, M: 50, N: 50, K: 64 },
  });
}
{
  const [M, N, K, R] = [6400, 128, 512, 8];
  const [x, weight, a, b] = [random(M, K), random(N, K), random(R, K), random(N, R)];
  cases.push({
    op: 'loraLinear',
    pass: 'forward',
    case: `${M}x${N}x${K} r ${R}`,
    dtype: 'float32',
    flops: 2 * M * (N * K + R * K + N * R),
    bytes: float * (M * K + N * K + M * N),
    run: forward(() => loraLinear(x, weight, a, b, { scale: 2 })),
    peer: { M, N, K, R },
  });
}
{
  const [B, side, p, D] = [256, 32, 8, 32];
  const pixels = Uint8Array.from({ length: B * side * side * 3 }, (_, i) => (i * 37) % 256);
  const images = tensor(pixels, [B, side, side, 3]);
  const [weight, bias] = [random(D, 3 * p * p), random(D)];
  const rows = B * (side / p) ** 2;
  cases.push({
    op: 'patchEmbedding',
    pass: 'forward',
    case: `${B} pictures of ${side}, patch ${p}, width ${D}`,
    dtype: 'float32',
    flops: 2 * rows * D * 3 * p * p,
    bytes: pixels.length + float * rows * D,
    run: forward(() => patchEmbedding(images, weight, bias, { patchSize: p })),
    peer: { B, side, p, D },
  });
}
for (const kind of ['relu', 'gelu', 'tanh'] as const) {
  const x = random(3000, 128);
  cases.push({
    op: 'activation',
    pass: `forward ${kind}`,
    case: '3000x128',
    dtype: 'float32',
    flops: 0,
    bytes: float * 2 * x.size,
    run: forward(() => activation(x, { kind })),
    peer: { kind, shape: x.shape },
  });
}

await bench(cases, { peer: 'linear' });
