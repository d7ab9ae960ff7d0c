/** Layer norm at the shapes of the demo and of larger models, float32, beside PyTorch. */
import { backward, zeroGrad } from '../ts/src/autograd.js';
import { layerNorm } from '../ts/src/ops/layer_norm.js';
import { normals, streamOf } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

function random(...shape: number[]): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const x = tensor(Float32Array.from(normals(size, 1, streamOf(shape.join()))), shape);
  x.requiresGrad = true;
  return x;
}

const float = 4;
const shapes = [
  [9000, 32],
  [17000, 32],
  [4000, 128],
  [2048, 768],
] as const;

const cases: BenchCase[] = shapes.flatMap(([rows, D]) =>
  [false, true].flatMap((withResidual) => {
    const [x, weight, bias, residual] = [random(rows, D), random(D), random(D), random(rows, D)];
    const dout = random(rows, D);
    dout.requiresGrad = false;
    const call = () => layerNorm(x, weight, bias, withResidual ? { residual } : {});
    const bytes = float * rows * D * (withResidual ? 3 : 2);
    const common = {
      op: 'layerNorm',
      case: `${rows}x${D}${withResidual ? ' residual' : ''}`,
      dtype: 'float32',
      flops: 0,
      peer: { rows, D, residual: withResidual },
    };
    return [
      {
        ...common,
        pass: 'forward',
        bytes,
        run: () => {
          tidy(() => {
            call();
          });
        },
      },
      {
        ...common,
        pass: 'forward backward',
        bytes: bytes + float * rows * D * 3,
        run: () => {
          tidy(() => backward(call(), dout));
          zeroGrad([x, weight, bias, residual]);
        },
      },
    ];
  }),
);

await bench(cases, { peer: 'layer_norm' });
