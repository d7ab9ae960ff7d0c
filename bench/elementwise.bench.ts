/**
 * Ops that stream through memory once, at the size of a batch of encoder rows; gbytes_per_s is the figure to look at.
 * Covers: elementwise, reduce, concat, transpose, bce_with_logits, dropout, softmax, segment_softmax, normalize, cosine_similarity,
 * Covers: cast, prelu, dice, batch_norm, rms_norm, info_nce, content_table
 */
import { backward, zeroGrad } from '../ts/src/autograd.js';
import { batchNorm } from '../ts/src/ops/batch_norm.js';
import { bceWithLogits } from '../ts/src/ops/bce_with_logits.js';
import { cast } from '../ts/src/ops/cast.js';
import { concat, slice } from '../ts/src/ops/concat.js';
import { readContentTable } from '../ts/src/ops/content_table.js';
import { cosineSimilarity } from '../ts/src/ops/cosine_similarity.js';
import { dice } from '../ts/src/ops/dice.js';
import { dropout } from '../ts/src/ops/dropout.js';
import { add, exp, mul, scaleBy } from '../ts/src/ops/elementwise.js';
import { infoNce } from '../ts/src/ops/info_nce.js';
import { normalize } from '../ts/src/ops/normalize.js';
import { prelu } from '../ts/src/ops/prelu.js';
import { mean } from '../ts/src/ops/reduce.js';
import { rmsNorm } from '../ts/src/ops/rms_norm.js';
import { segmentSoftmax } from '../ts/src/ops/segment_softmax.js';
import { softmax } from '../ts/src/ops/softmax.js';
import { transpose } from '../ts/src/ops/transpose.js';
import { normals, streamOf } from '../ts/src/random.js';
import { full, type Tensor, tensor, zeros } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

const random = (...shape: number[]): Tensor => {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(Float32Array.from(normals(size, 1, streamOf(shape.join()))), shape);
};

const float = 4;
const [rows, columns] = [8192, 128];
const [x, y, bias] = [random(rows, columns), random(rows, columns), random(columns)];
const size = x.size;
const logits = random(8192);
const [anchors, candidates] = [random(1024, columns), random(1024, columns)];
const labels = tensor(new Float32Array(8192).fill(1));
const leaf = random(8192);
leaf.requiresGrad = true;

const offsets = tensor(Int32Array.from({ length: rows / 32 + 1 }, (_, i) => 32 * i));
const items = random(rows / 32, columns);
const keys = tensor(Int32Array.from({ length: rows }, (_, i) => (i * 37) % rows));
const steps = tensor(new Int32Array(rows));
const running = { runningMean: zeros([columns]), runningVar: full([columns], 1), training: true };

const forward = (op: string, bytes: number, f: () => Tensor): BenchCase => ({
  op,
  pass: 'forward',
  case: `${rows}x${columns}`,
  dtype: 'float32',
  bytes,
  flops: size,
  run: () => {
    tidy(() => {
      f();
    });
  },
});

await bench([
  forward('add', 3 * float * size, () => add(x, y)),
  forward('add a row', 2 * float * size, () => add(x, bias)),
  forward('mul', 3 * float * size, () => mul(x, y)),
  forward('scaleBy', 2 * float * size, () => scaleBy(x, 2)),
  forward('exp', 2 * float * size, () => exp(x)),
  forward('cast', 1.5 * float * size, () => cast(x, 'bfloat16')),
  forward('mean', float * size, () => mean(x)),
  forward('concat', 4 * float * size, () => concat([x, y])),
  forward('slice', float * size, () => slice(x, { axis: 1, start: 0, end: columns / 2 })),
  forward('transpose', 2 * float * size, () => transpose(x)),
  forward('dropout', 2 * float * size, () => dropout(x, { p: 0.1 })),
  forward('softmax', 2 * float * size, () => softmax(x)),
  forward('segmentSoftmax', 2 * float * size, () => segmentSoftmax(x, { offsets })),
  forward('normalize', 2 * float * size, () => normalize(x)),
  forward('cosineSimilarity', float * size, () => cosineSimilarity(items, x, { offsets })),
  forward('prelu', 2 * float * size, () => prelu(x, bias)),
  forward('dice', 2 * float * size, () => dice(x, bias, running)),
  forward('readContentTable', 2 * float * size, () => readContentTable(x, steps, keys, { now: 1 }).out),
  forward('rmsNorm', 2 * float * size, () => rmsNorm(x, bias)),
  forward('batchNorm', 2 * float * size, () => batchNorm(x, running)),
  { ...forward('bceWithLogits', 2 * float * 8192, () => bceWithLogits(logits, labels)), case: '8192', flops: 8192 },
  {
    ...forward('infoNce', 2 * float * 1024 * columns, () => infoNce(anchors, candidates, { scale: 20 })),
    case: `1024x1024x${columns}`,
    flops: 2 * 1024 * 1024 * columns,
  },
  {
    op: 'bceWithLogits',
    pass: 'forward backward',
    case: '8192',
    dtype: 'float32',
    bytes: 4 * float * 8192,
    flops: 8192,
    run: () => {
      tidy(() => backward(bceWithLogits(leaf, labels)));
      zeroGrad([leaf]);
    },
  },
]);
