import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { IndexError } from '../../src/errors.js';
import { crossAttention } from '../../src/ops/cross_attention.js';
import { normals } from '../../src/random.js';
import { device, type Tensor, tensor } from '../../src/tensor.js';
import { denseGrad, expectClose, type Input, type OpCase, opSuite } from '../harness.js';
import { testDevices } from '../test_devices.js';

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
  more: {
    Hkv?: number;
    queries?: readonly number[];
    mask?: readonly number[];
    tail?: number;
    fixed?: boolean;
    keysAreValues?: boolean;
  } = {},
): Record<string, Input> {
  const offsets = offsetsOf(lengths);
  const k = [offsets.at(-1)! + (more.tail ?? 0), more.Hkv ?? q.at(-2)!, q.at(-1)!];
  const place = (shape: readonly number[]): Input => (more.fixed ? { shape, fixed: true } : shape);
  return {
    q: place(q),
    k: place(k),
    ...(!more.keysAreValues && { v: place(k) }),
    offsets: { ints: offsets },
    ...(more.queries && { qOffsets: { ints: offsetsOf(more.queries) } }),
    ...(more.mask && { mask: { ints: more.mask } }),
  };
}

const small = inputs([2, 2, 2, 4], [2, 3]);

/** Around the sizes of tiles and of slices of 16 keys. */
const lengths = [0, 1, 3, 15, 16, 17, 65];
const long = [113, 0, 257];
const keys = offsetsOf(lengths).at(-1)!;
/** Every third key hidden, and all keys of the item with 16. */
const mask = Array.from({ length: keys }, (_, t) => (t % 3 === 0 || (t >= 19 && t < 35) ? -1 : t));

/** Cases too large for finite differences: gradients too are compared with the step below on the ladder. */
const large: readonly OpCase<Options>[] = [
  { name: '1 query, head size 32', inputs: inputs([7, 1, 5, 32], lengths) },
  { name: '1 query, long items', inputs: inputs([3, 1, 1, 16], long) },
  { name: '32 queries, long items', inputs: inputs([3, 32, 1, 32], long) },
  { name: 'jagged self, long items', inputs: inputs([370, 1, 16], long, { queries: long }) },
  { name: '2 queries, head size 16, masked keys', inputs: inputs([7, 2, 3, 16], lengths, { mask }) },
  { name: '16 queries, head size 64, grouped', inputs: inputs([7, 16, 2, 64], lengths, { Hkv: 1 }) },
  { name: '16 queries, head size 128', inputs: inputs([7, 16, 1, 128], lengths, { tail: 3 }) },
  { name: '31 queries, head size 16, masked keys', inputs: inputs([7, 31, 1, 16], lengths, { mask }) },
  { name: '32 queries, head size 64', inputs: inputs([7, 32, 1, 64], lengths, { tail: 2 }) },
  { name: '32 queries, causal', inputs: inputs([7, 32, 1, 16], lengths), options: { causal: true } },
  { name: '33 queries, head size 33', inputs: inputs([7, 33, 1, 33], lengths) },
  { name: '64 queries, head size 128', inputs: inputs([3, 64, 1, 128], [17, 0, 66]) },
  { name: '3 queries, head size 256', inputs: inputs([3, 3, 2, 256], [17, 0, 40], { Hkv: 1 }) },
  { name: '5 queries, head size 100', inputs: inputs([2, 5, 2, 100], [33, 4]) },
  { name: 'shared queries, head size 16', inputs: inputs([1, 20, 2, 16], Array<number>(70).fill(3)) },
  { name: 'shared queries, two tiles', inputs: inputs([1, 70, 1, 64], [17, 0, 33, 3]) },
  {
    name: 'keys that are values, head size 32',
    inputs: inputs([7, 4, 3, 32], lengths, { Hkv: 1, keysAreValues: true }),
  },
  {
    name: 'keys that are values, many queries',
    inputs: inputs([2, 65, 2, 16], [70, 33], { keysAreValues: true }),
  },
  {
    name: 'jagged self, head size 64, unused rows',
    inputs: inputs([keys + 5, 1, 64], lengths, { queries: lengths, tail: 5 }),
  },
  {
    name: 'jagged self, causal, grouped, masked keys',
    inputs: inputs([keys, 2, 32], lengths, { queries: lengths, Hkv: 1, mask }),
    options: { causal: true },
  },
  { name: 'jagged self, head size 128', inputs: inputs([69, 1, 128], [66, 0, 3], { queries: [66, 0, 3] }) },
  { name: 'joint, last layer', inputs: inputs([8, 1, 64], [133, 5], { queries: [4, 4] }) },
];

opSuite<Options>('crossAttention', {
  run: ({ q, k, v, offsets, qOffsets, mask }, options) =>
    crossAttention(q!, k!, v ?? k!, {
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
    { name: 'no items, unused rows', inputs: inputs([3, 2, 4], [], { queries: [], tail: 2 }) },
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
    ...large.map((one) => ({ ...one, noFiniteDifferences: true })),
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

  const onDevices = testDevices.flatMap((on) =>
    (on === 'cpu' ? (['float64'] as const) : (['float32', 'bfloat16'] as const)).flatMap((dtype) =>
      [4, 16, 64].map((D) => ({ on, dtype, D })),
    ),
  );
  it.each(onDevices)(
    'does not let an infinity of the neighbouring item leak: $on, $dtype, head size $D',
    async ({ on, dtype, D }) => {
      const [first, all] = [2 * D, 5 * D];
      const values = normals(all, 1, 1);
      values.fill(Number.POSITIVE_INFINITY, first);
      for (const queries of [1, 40]) {
        const k = tensor(Array.from(values), [5, 1, D], { device: on, dtype });
        k.requiresGrad = true;
        const q = tensor(Array.from(normals(2 * queries * D, 2, 1)), [2, queries, 1, D], { device: on, dtype });
        const out = crossAttention(q, k, k, { offsets: tensor(Int32Array.of(0, 2, 5), [3], { device: on }) });
        expect(((await out.values()) as Float64Array).slice(0, queries * D).every(Number.isFinite)).toBe(true);
        const dout = Array.from({ length: out.size }, (_, i) => (i < queries * D ? 1 : 0));
        backward(out, tensor(dout, out.shape, { device: on, dtype }));
        expect((await denseGrad(k)).slice(0, first).every(Number.isFinite)).toBe(true);
      }
    },
  );

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

  const badOffsets = [
    [0, 4, 2],
    [0, 2, 6],
    [-1, 2, 5],
  ];
  it.each(testDevices.flatMap((on) => badOffsets.map((values) => ({ on, values }))))(
    'reports offsets $values and carries on, on $on',
    async ({ on, values }) => {
      const to = { device: on, dtype: on === 'cpu' ? 'float64' : 'float32' } as const;
      const q = tensor(Array.from(normals(2 * 4, 2, 1)), [2, 1, 1, 4], to);
      const k = tensor(Array.from(normals(5 * 4, 1, 5)), [5, 1, 4], to);
      const out = crossAttention(q, k, k, { offsets: tensor(Int32Array.from(values), [3], { device: on }) });
      const wait = device(on).synchronize();
      await expect(wait).rejects.toThrow(IndexError);
      await wait.catch((error: unknown) => expect(String(error)).toMatch(/crossAttention.*offsets/));
      expect(((await out.data()) as Float64Array).every(Number.isFinite)).toBe(true);
    },
  );
});
