/**
 * One training step of an MLP 784-512-512-10 with GELU, batch 128, binary cross-entropy on ten logits, AdamW on all weights, beside
 * PyTorch from the same weights. Goal: 1.0x. `check` is the loss before the first update on both sides.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { backward, parameter } from '../ts/src/autograd.js';
import { bceWithLogits } from '../ts/src/ops/bce_with_logits.js';
import { linear } from '../ts/src/ops/linear.js';
import { reshape } from '../ts/src/ops/transpose.js';
import { Optimizer } from '../ts/src/optim/optimizer.js';
import { normals } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { keep, tidy } from '../ts/src/tidy.js';
import { bench } from './measure.js';

const batch = 128;
const widths = [784, 512, 512, 10];

const host = (size: number, stream: number, scale = 1) =>
  Float32Array.from(normals(size, 1, stream), (value) => value * scale);
const inputs = host(batch * widths[0]!, 1);
const targets = Float32Array.from({ length: batch * 10 }, (_, i) => (((i / 10) | 0) % 10 === i % 10 ? 1 : 0));
const layers = widths.slice(1).map((out, i) => ({
  weight: host(out * widths[i]!, 2 + i, widths[i]! ** -0.5),
  bias: new Float32Array(out),
  shape: [out, widths[i]!] as const,
}));

const x = keep(tensor(inputs, [batch, widths[0]!]));
const labels = keep(tensor(targets));
const params = new Map<string, Tensor>();
layers.forEach(({ weight, bias, shape }, i) => {
  params.set(`weight${i}`, parameter(tensor(weight, shape)));
  params.set(`bias${i}`, parameter(tensor(bias)));
});
const optimizer = new Optimizer([{ name: 'dense', params, algorithm: 'adamw', learningRate: 1e-3, weightDecay: 0.01 }]);

function forward(): Tensor {
  let y = x;
  for (let i = 0; i < layers.length; i++) {
    const activation = i + 1 < layers.length ? 'gelu' : 'none';
    y = linear(y, params.get(`weight${i}`)!, params.get(`bias${i}`)!, { activation });
  }
  return bceWithLogits(reshape(y, [batch * 10]), labels);
}

const folder = mkdtempSync(join(tmpdir(), 'galago-bench-'));
try {
  const arrays = [inputs, targets, ...layers.flatMap(({ weight, bias }) => [weight, bias])];
  writeFileSync(join(folder, 'mlp.bin'), Buffer.concat(arrays.map((a) => new Uint8Array(a.buffer))));
  const flops = 6 * batch * layers.reduce((sum, { weight }) => sum + weight.length, 0);
  await bench(
    [
      {
        op: 'mlp',
        pass: 'forward backward adamw',
        case: `${widths.join('-')} batch ${batch}`,
        dtype: 'float32',
        bytes: 0,
        flops,
        calls: 10,
        check: await tidy(forward).item(),
        peer: { folder, widths, batch },
        run: () =>
          tidy(() => {
            backward(forward());
            optimizer.step();
            optimizer.zeroGrad();
          }),
      },
    ],
    { peer: 'mlp' },
  );
} finally {
  rmSync(folder, { recursive: true });
}
