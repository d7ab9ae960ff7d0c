import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { IndexError } from '../../src/errors.js';
import { addon } from '../../src/native.js';
import { crossAttention } from '../../src/ops/cross_attention.js';
import { normals } from '../../src/random.js';
import { type Tensor, tensor } from '../../src/tensor.js';
import { denseGrad, expectClose, type Input, opSuite } from '../harness.js';

interface Options {
  readonly causal?: boolean;
  readonly scale?: number;
}

function offsetsOf(lengths: readonly number[]): number[] {
  const offsets = [0];
  for (const length of lengths) offsets.push(offsets.at(-1)! + length);
  return offsets;
}

/** Inputs of one call: q's shape, keys per item, and what else it takes. */
function inputs(
  q: readonly number[],
  lengths: readonly number[],
  more: { Hkv?: number; queries?: readonly number[]; mask?: readonly number[]; tail?: number; fixed?: boolean } = {},
): Record<string, Input> {
  const offsets = offsetsOf(lengths);
  const k = [offsets.at(-1)! + (more.tail ?? 0), more.Hkv ?? q.at(-2)!, q.at(-1)!];
  const place = (shape: readonly number[]): Input => (more.fixed ? { shape, fixed: true } : shape);
  return {
    q: place(q),
    k: place(k),
    v: place(k),
    offsets: { ints: offsets },
    ...(more.queries && { qOffsets: { ints: offsetsOf(more.queries) } }),
    ...(more.mask && { mask: { ints: more.mask } }),
  };
}

const small = inputs([2, 2, 2, 4], [2, 3]);

opSuite<Options>('crossAttention', {
  run: ({ q, k, v, offsets, qOffsets, mask }, options) =>
    crossAttention(q!, k!, v!, {
      offsets: offsets!,
      ...(qOffsets && { qOffsets }),
      ...(mask && { mask }),
      ...options,
    }),
  golden: 'cross_attention',
  cases: [
    { name: 'cross', inputs: inputs([3, 2, 2, 4], [3, 1, 5]) },
    { name: 'odd head size', inputs: inputs([1, 1, 1, 33], [1]) },
    { name: 'an item without keys', inputs: inputs([2, 4, 3, 8], [0, 7]) },
    { name: 'no items', inputs: inputs([0, 4, 3, 8], []) },
    { name: 'no queries', inputs: inputs([2, 0, 1, 4], [2, 3]) },
    { name: 'rows behind the last offset', inputs: inputs([2, 1, 1, 4], [2, 1], { tail: 3 }) },
    { name: 'one query, long history: lanes along keys', inputs: inputs([2, 1, 2, 4], [37, 18]) },
    { name: 'two heads per key head', inputs: inputs([2, 3, 4, 5], [2, 4], { Hkv: 2 }) },
    { name: 'shared queries', inputs: inputs([1, 3, 2, 4], [2, 0, 4]) },
    { name: 'shared queries, many items', inputs: inputs([1, 2, 1, 3], Array<number>(70).fill(1)) },
    { name: 'masked keys, one item all', inputs: inputs([2, 2, 1, 4], [3, 2], { mask: [0, -1, 9, -1, -5] }) },
    {
      name: 'all keys of a long item masked',
      inputs: inputs([1, 1, 1, 4], [20], { mask: Array<number>(20).fill(-1) }),
    },
    { name: 'jagged self', inputs: inputs([8, 2, 8], [3, 0, 5], { queries: [3, 0, 5] }) },
    { name: 'causal self', inputs: inputs([8, 2, 4], [3, 5], { queries: [3, 5] }), options: { causal: true } },
    {
      name: 'causal, fewer and more queries than keys',
      inputs: inputs([6, 1, 4], [4, 2], { queries: [2, 4] }),
      options: { causal: true },
    },
    { name: 'causal, one query', inputs: inputs([1, 2, 1, 4], [19]), options: { causal: true } },
    { name: 'jagged queries, scale', inputs: inputs([5, 1, 4], [2, 7], { queries: [1, 4] }), options: { scale: 2 } },
    { name: 'query rows behind the last offset', inputs: inputs([9, 1, 4], [2, 3], { queries: [2, 4] }) },
    {
      name: 'text of the demo',
      inputs: inputs([50, 4, 8], [17, 16, 0, 15, 2], { queries: [17, 16, 0, 15, 2], fixed: true }),
    },
    { name: 'past one tile of queries', inputs: inputs([1, 150, 1, 4], [330], { fixed: true }) },
    { name: 'head size 64', inputs: inputs([2, 33, 2, 64], [31, 65], { fixed: true }) },
  ],
  rejects: [
    {
      inputs: { ...small, k: [5, 2, 6] },
      says: /crossAttention: expected k of shape \(T, Hkv, D=4\) but received \(5, 2, 6\)/,
    },
    { inputs: { ...small, v: [4, 2, 4] }, says: /crossAttention: expected v of shape \(T=5, Hkv=2, D=4\)/ },
    { inputs: { ...small, q: [3, 2, 2, 4] }, says: /crossAttention: expected q of shape \(B=2, Nq, H, D\) or \(1, Nq/ },
    { inputs: { ...small, q: [2, 2, 3, 4] }, says: /crossAttention: expected q with a multiple of Hkv=2 heads/ },
    { inputs: { ...small, q: [4, 2, 4] }, says: /crossAttention: expected qOffsets with q of shape \(Tq, H, D\)/ },
    { inputs: { ...small, qOffsets: { ints: [0, 1, 2] } }, says: /crossAttention: expected q of shape \(Tq, H, D\)/ },
    {
      inputs: { ...small, q: [4, 2, 4], qOffsets: { ints: [0, 4] } },
      says: /crossAttention: expected qOffsets of shape \(B\+1=3\)/,
    },
    { inputs: { ...small, offsets: [3] }, says: /crossAttention: expected offsets to be int32 but received float32/ },
    { inputs: { ...small, mask: { ints: [1] } }, says: /crossAttention: expected mask of shape \(T=5\)/ },
    { inputs: small, float64: ['k'], says: /crossAttention: expected k to be float32 like q but received float64/ },
    { inputs: small, options: { scale: Number.NaN }, says: /crossAttention: expected scale to be a finite number/ },
  ],
});

describe('crossAttention', () => {
  const rows = (T: number): Tensor => tensor(normals(T * 4, 1, T), [T, 1, 4]);

  it('does not let an infinity of the neighbouring item leak', async () => {
    const values = normals(5 * 4, 1, 1);
    values.fill(Number.POSITIVE_INFINITY, 2 * 4);
    const k = tensor(values, [5, 1, 4]);
    k.requiresGrad = true;
    const q = tensor(normals(2 * 4, 2, 1), [2, 1, 1, 4]);
    const out = crossAttention(q, k, k, { offsets: tensor(Int32Array.of(0, 2, 5)) });
    expect(((await out.data()) as Float64Array).slice(0, 4).every(Number.isFinite)).toBe(true);
    backward(out, tensor(Float64Array.of(1, 1, 1, 1, 0, 0, 0, 0), out.shape));
    expect((await denseGrad(k)).slice(0, 8).every(Number.isFinite)).toBe(true);
  });

  it('gives the gradient of keys that are also values', async () => {
    const q = tensor(normals(4, 3, 1), [1, 1, 1, 4]);
    const offsets = tensor(Int32Array.of(0, 3));
    const both = rows(3);
    const k = rows(3);
    const v = rows(3);
    for (const x of [both, k, v]) x.requiresGrad = true;
    backward(crossAttention(q, both, both, { offsets }), tensor(new Float64Array(4).fill(1), [1, 1, 1, 4]));
    backward(crossAttention(q, k, v, { offsets }), tensor(new Float64Array(4).fill(1), [1, 1, 1, 4]));
    const parts = [await denseGrad(k), await denseGrad(v)] as const;
    expectClose(
      await denseGrad(both),
      parts[0].map((x, i) => x + parts[1][i]!),
      1e-12,
      'dk + dv',
    );
  });

  it.each([
    ['offsets', [0, 4, 2], /crossAttention.*offsets/],
    ['offsets', [0, 2, 6], /crossAttention.*offsets/],
    ['offsets', [-1, 2, 5], /crossAttention.*offsets/],
  ])('reports %s %j and carries on', async (_, values, says) => {
    const q = tensor(normals(2 * 4, 2, 1), [2, 1, 1, 4]);
    const k = rows(5);
    const out = crossAttention(q, k, k, { offsets: tensor(Int32Array.from(values)) });
    const wait = addon.synchronize('cpu');
    await expect(wait).rejects.toThrow(IndexError);
    await wait.catch((error: unknown) => expect(String(error)).toMatch(says));
    expect(((await out.data()) as Float64Array).every(Number.isFinite)).toBe(true);
  });
});
