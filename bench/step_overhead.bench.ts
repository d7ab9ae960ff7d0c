/** What a step costs when its arithmetic is nothing: an MLP of width 8, forward, backward and AdamW, a wait every two steps. */
import { backward, parameter } from '../ts/src/autograd.js';
import { addon } from '../ts/src/native.js';
import { bceWithLogits } from '../ts/src/ops/bce_with_logits.js';
import { linear } from '../ts/src/ops/linear.js';
import { reshape } from '../ts/src/ops/transpose.js';
import { Optimizer } from '../ts/src/optim/optimizer.js';
import { normals } from '../ts/src/random.js';
import { device, tensor } from '../ts/src/tensor.js';
import { keep, tidy } from '../ts/src/tidy.js';

const width = 8;
const batch = 16;
const random = (shape: number[], stream: number) =>
  tensor(
    Float32Array.from(
      normals(
        shape.reduce((a, b) => a * b, 1),
        1,
        stream,
      ),
    ),
    shape,
  );
const x = keep(random([batch, width], 1));
const labels = keep(tensor(Float32Array.from({ length: batch }, (_, i) => i % 2)));
const params = new Map([
  ['w1', parameter(random([width, width], 2))],
  ['b1', parameter(random([width], 3))],
  ['w2', parameter(random([1, width], 4))],
  ['b2', parameter(random([1], 5))],
]);
const optimizer = new Optimizer([{ name: 'dense', params, algorithm: 'adamw', learningRate: 1e-3 }], { clipNorm: 1 });

function step(): void {
  tidy(() => {
    const hidden = linear(x, params.get('w1')!, params.get('b1')!, { activation: 'relu' });
    const logits = reshape(linear(hidden, params.get('w2')!, params.get('b2')!), [batch]);
    backward(bceWithLogits(logits, labels));
    optimizer.step();
    optimizer.zeroGrad();
  });
}

const rounds = 500;
const times: number[] = [];
for (let round = -20; round < rounds; round++) {
  const start = performance.now();
  step();
  step();
  await device('cpu').synchronize();
  if (round >= 0) times.push((performance.now() - start) * 500);
}
times.sort((a, b) => a - b);
const at = (share: number) => Number(times[Math.floor(share * (rounds - 1))]!.toPrecision(4));
const { isa, threads } = addon.info();
console.log(
  JSON.stringify({
    op: 'step',
    pass: 'forward_backward_adamw',
    case: `mlp_width${width}_batch${batch}`,
    impl: 'galago',
    dtype: 'float32',
    device: `cpu, ${isa}, ${threads} threads`,
    us_p10: at(0.1),
    us_median: at(0.5),
    us_goal: 300,
  }),
);
