/** infoNce as SQDC uses it: unit rows, groups, scale 50. Work: one product forward, two more backward (ours computes the scores again: one more). */
import { backward, zeroGrad } from '../ts/src/autograd.js';
import { infoNce } from '../ts/src/ops/info_nce.js';
import { normals } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { keep, tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

function unit(n: number, d: number, stream: number): Tensor {
  const x = Float32Array.from(normals(n * d, 1, stream));
  for (let i = 0; i < n; i++) {
    const row = x.subarray(i * d, (i + 1) * d);
    const norm = Math.hypot(...row);
    row.forEach((value, k) => {
      row[k] = value / norm;
    });
  }
  const out = keep(tensor(x, [n, d]));
  out.requiresGrad = true;
  return out;
}

const cases = [
  { n: 768, d: 32 },
  { n: 768, d: 128 },
  { n: 2048, d: 128 },
].flatMap(({ n, d }): BenchCase[] => {
  const [q, k] = [unit(n, d, 1), unit(n, d, 2)];
  const groups = keep(tensor(Int32Array.from({ length: n }, (_, i) => i >> 2)));
  const loss = () => infoNce(q, k, { scale: 50, rowGroups: groups, colGroups: groups });
  const shared = { op: 'info_nce', case: `N ${n}, M ${n}, D ${d}`, dtype: 'float32' };
  const product = 2 * n * n * d;
  return [
    {
      ...shared,
      pass: 'forward',
      bytes: 8 * n * d,
      flops: product,
      run: () => void tidy(() => void loss()),
      peer: { n, d },
    },
    {
      ...shared,
      pass: 'forward_backward',
      bytes: 24 * n * d,
      flops: 3 * product,
      run: () => {
        tidy(() => backward(loss()));
        zeroGrad([q, k]);
      },
      peer: { n, d },
    },
  ];
});

await bench(cases, { peer: 'info_nce' });
