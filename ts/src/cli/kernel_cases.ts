/** What `galago bench` measures: the representative shapes of every kernel family, with the least bytes and work of one call. */
import type { DType } from '../tensor.js';

/** full: a GPU's size. small: the same widths with fewer rows, for a CPU. tiny: everything small, for the emulator and for checks. */
export type BenchSize = 'full' | 'small' | 'tiny';
export const benchSizes: readonly BenchSize[] = ['full', 'small', 'tiny'];

/** The least traffic and work of one call; `exps` are exponentials, which have units of their own. */
export interface Cost {
  readonly bytes: number;
  readonly flops: number;
  readonly exps?: number;
}

/** One case at one size. `backward` is measured on a graph that was recorded before the clock starts. */
export interface KernelCase {
  /** Name of the public function. */
  readonly op: string;
  readonly case: string;
  readonly dtype: DType;
  readonly sizes: Readonly<Record<string, number>>;
  readonly passes: Readonly<Record<string, Cost>>;
}

/** A number for all sizes, or one each: full, small, tiny. */
type Sized = number | readonly [number, number, number];
type Sizes<Names extends string> = Readonly<Record<Names, Sized>>;

interface Family<Names extends string> {
  readonly op: string;
  /** float32 only: tables, optimizers and losses. */
  readonly float32Only?: boolean;
  readonly cases: Readonly<Record<string, Sizes<Names>>>;
  /** `b` bytes per element of the data's dtype. */
  readonly cost: (sizes: Readonly<Record<Names, number>>, b: number) => Readonly<Record<string, Cost>>;
}

/** What remains to be told of a family once it is laid out: its cases at a size and dtype. */
interface LaidOut {
  readonly op: string;
  readonly float32Only: boolean;
  at(size: BenchSize, dtype: DType): KernelCase[];
}

function family<Names extends string>({ op, float32Only = false, cases, cost }: Family<Names>): LaidOut {
  const at = (size: BenchSize, dtype: DType): KernelCase[] =>
    Object.entries(cases).map(([name, sized]) => {
      const pick = (value: Sized) => (typeof value === 'number' ? value : value[benchSizes.indexOf(size)]!);
      const sizes = Object.fromEntries(
        Object.entries<Sized>(sized).map(([key, value]) => [key, pick(value)]),
      ) as Record<Names, number>;
      return { op, case: name, dtype, sizes, passes: cost(sizes, dtype === 'bfloat16' ? 2 : 4) };
    });
  return { op, float32Only, at };
}

/** Rows that a table of activations has. */
const rows = [131072, 2048, 64] as const;
const width = [768, 768, 48] as const;
const heads12 = [12, 12, 2] as const;

/** queries 0: every key is a query too (self attention). */
const attention = family({
  op: 'crossAttention',
  cases: {
    qformer_32x257: {
      items: [4096, 8, 2],
      queries: [32, 32, 5],
      heads: heads12,
      width: [64, 64, 16],
      keys: [257, 257, 19],
    },
    qformer_16x100: {
      items: [8192, 32, 2],
      queries: [16, 16, 5],
      heads: [8, 8, 2],
      width: [64, 64, 16],
      keys: [100, 100, 19],
    },
    qformer_64x600: {
      items: [2048, 4, 1],
      queries: [64, 64, 9],
      heads: [8, 8, 2],
      width: [128, 128, 32],
      keys: [600, 600, 33],
    },
    decoder_1x1000: { items: [2048, 64, 2], queries: 1, heads: [4, 4, 2], width: [32, 32, 16], keys: [1000, 1000, 40] },
    self_docs_115: { items: [2048, 32, 2], queries: 0, heads: [4, 4, 2], width: [32, 32, 16], keys: [115, 115, 17] },
    self_images_257: { items: [1024, 4, 1], queries: 0, heads: heads12, width: [64, 64, 16], keys: [257, 257, 33] },
    joint_inner_261: { items: [4096, 4, 1], queries: 0, heads: heads12, width: [64, 64, 16], keys: [261, 261, 33] },
    joint_last_4x261: {
      items: [4096, 16, 2],
      queries: [4, 4, 2],
      heads: heads12,
      width: [64, 64, 16],
      keys: [261, 261, 33],
    },
  },
  cost: ({ items, queries, heads, width, keys }, b) => {
    const asking = queries || keys;
    const pairs = items * heads * asking * keys;
    const bytes = b * items * heads * width * (2 * asking + 2 * keys);
    return {
      forward: { bytes, flops: 4 * pairs * width, exps: pairs },
      backward: { bytes: 2 * bytes, flops: 10 * pairs * width, exps: pairs },
    };
  },
});

const lora = family({
  op: 'loraLinear',
  cases: {
    '131072x768x768_r16': { rows, inputs: width, outputs: width, rank: [16, 16, 4] },
    '32768x4096x1024_r32': {
      rows: [32768, 256, 32],
      inputs: [1024, 1024, 64],
      outputs: [4096, 4096, 96],
      rank: [32, 32, 8],
    },
    '65536x3072x768_r64': { rows: [65536, 512, 32], inputs: width, outputs: [3072, 3072, 96], rank: [64, 64, 8] },
    '16384x4096x4096_r16': {
      rows: [16384, 64, 16],
      inputs: [4096, 4096, 64],
      outputs: [4096, 4096, 64],
      rank: [16, 16, 4],
    },
  },
  cost: ({ rows, inputs, outputs, rank }, b) => {
    const product = 2 * rows * inputs * outputs;
    const low = 2 * rows * rank * (inputs + outputs);
    const bytes = b * (rows * (inputs + outputs) + inputs * outputs + rank * (inputs + outputs));
    return {
      forward: { bytes, flops: product + low },
      // dx, and of the adapters the products with dy and x
      backward: { bytes: bytes + b * rows * inputs, flops: product + 2 * low },
    };
  },
});

const contrastive = family({
  op: 'infoNce',
  cases: {
    '2048x128': { rows: [2048, 2048, 96], width: [128, 128, 32] },
    '8192x128': { rows: [8192, 2048, 96], width: [128, 128, 32] },
    '32768x256': { rows: [32768, 2048, 96], width: [256, 256, 48] },
    '65536x128': { rows: [65536, 2048, 96], width: [128, 128, 32] },
    '65536x256': { rows: [65536, 2048, 96], width: [256, 256, 48] },
  },
  cost: ({ rows, width }, b) => {
    const [pairs, bytes] = [rows * rows, 2 * b * rows * width];
    return {
      forward: { bytes, flops: 2 * pairs * width, exps: pairs },
      backward: { bytes: 2 * bytes, flops: 6 * pairs * width, exps: pairs },
    };
  },
});

/** Of a bank at load 0.83. A lookup reads 72 bytes of fingerprints, key and stamp beside its row. */
const bank = family({
  op: 'memoryBank',
  cases: {
    gather_1024x1000_w256: {
      bank: [2 ** 20, 2 ** 15, 256],
      lookups: [1024000, 4096, 64],
      width: [256, 256, 32],
      written: 0,
    },
    gather_2048x1000_w128: {
      bank: [2 ** 20, 2 ** 15, 256],
      lookups: [2048000, 4096, 64],
      width: [128, 128, 32],
      written: 0,
    },
    upsert_262144_w256: {
      bank: [2 ** 20, 2 ** 15, 256],
      lookups: 0,
      width: [256, 256, 32],
      written: [262144, 4096, 64],
    },
    upsert_2048_w128: { bank: [2 ** 20, 2 ** 15, 256], lookups: 0, width: [128, 128, 32], written: [2048, 2048, 64] },
  },
  cost: ({ lookups, width, written }, b): Record<string, Cost> =>
    written > 0
      ? { upsert: { bytes: written * (2 * b * width + 72), flops: 0 } }
      : { gather: { bytes: lookups * (2 * b * width + 72), flops: 0 } },
});

/** gelu 1: fused, its input kept for backward. */
const dense = family({
  op: 'linear',
  cases: {
    '8192x8192x8192': { rows: [8192, 128, 32], inputs: [8192, 1024, 64], outputs: [8192, 1024, 64], gelu: 0 },
    '4096x4096x4096': { rows: [4096, 256, 32], inputs: [4096, 1024, 64], outputs: [4096, 1024, 64], gelu: 0 },
    '131072x768x768': { rows, inputs: width, outputs: width, gelu: 0 },
    '131072x3072x768_gelu': { rows: [131072, 512, 32], inputs: width, outputs: [3072, 3072, 96], gelu: 1 },
    '235520x384x128': { rows: [235520, 4096, 64], inputs: [128, 128, 32], outputs: [384, 384, 48], gelu: 0 },
    '235520x512x128': { rows: [235520, 4096, 64], inputs: [128, 128, 32], outputs: [512, 512, 64], gelu: 0 },
    '65536x512x512': { rows: [65536, 1024, 64], inputs: [512, 512, 32], outputs: [512, 512, 32], gelu: 0 },
    '4096x1024x1024': { rows: [4096, 512, 64], inputs: [1024, 1024, 32], outputs: [1024, 1024, 32], gelu: 0 },
  },
  cost: ({ rows, inputs, outputs, gelu }, b) => {
    const flops = 2 * rows * inputs * outputs;
    const bytes = b * (rows * (inputs + outputs) + inputs * outputs);
    return {
      forward: { bytes: bytes + b * gelu * rows * outputs, flops },
      backward: { bytes: 2 * bytes + b * gelu * rows * outputs, flops: 2 * flops },
    };
  },
});

/** Ops that pass once over rows: how many times the table is read and written. */
function passing(
  op: string,
  reads: { forward: number; backward: number },
  cases: Record<string, Sizes<'rows' | 'width'>>,
): LaidOut {
  const cost = ({ rows, width }: { rows: number; width: number }, b: number) => ({
    forward: { bytes: reads.forward * b * rows * width, flops: 0 },
    backward: { bytes: reads.backward * b * rows * width, flops: 0 },
  });
  return family({ op, cases, cost });
}

const wide = {
  '131072x768': { rows, width },
  '235520x128': { rows: [235520, 4096, 64], width: [128, 128, 32] },
} as const;
const feedForward = { '131072x3072': { rows: [131072, 512, 64], width: [3072, 3072, 96] } } as const;
const moving = [
  passing('layerNorm', { forward: 2, backward: 3 }, wide),
  passing('rmsNorm', { forward: 2, backward: 3 }, wide),
  passing(
    'normalize',
    { forward: 2, backward: 3 },
    { '65536x256': { rows: [65536, 4096, 64], width: [256, 256, 32] } },
  ),
  passing('gelu', { forward: 2, backward: 3 }, feedForward),
  passing('silu', { forward: 2, backward: 3 }, feedForward),
  passing('dropout', { forward: 2, backward: 2 }, { '131072x768': { rows, width } }),
];

const loss = family({
  op: 'bceWithLogits',
  float32Only: true,
  cases: { '16777216': { rows: [2 ** 24, 2 ** 16, 257] } },
  cost: ({ rows }) => ({ forward: { bytes: 8 * rows, flops: 0 }, backward: { bytes: 12 * rows, flops: 0 } }),
});

/** `distinct` rows of the table are looked up; state is 4 bytes per row (Adagrad by row). */
const bags = family({
  op: 'embeddingBag',
  float32Only: true,
  cases: {
    '1048576_of_350k_w128': {
      table: [2 ** 21, 2 ** 16, 512],
      distinct: [350000, 1400, 100],
      bags: [52428, 205, 16],
      each: [20, 20, 5],
      width: [128, 128, 16],
    },
    '16384x40_w64': {
      table: [2 ** 21, 2 ** 16, 512],
      distinct: [400000, 2000, 100],
      bags: [655360, 2048, 80],
      each: 1,
      width: [64, 64, 16],
    },
    '8192x50_w64': {
      table: [2 ** 21, 2 ** 16, 512],
      distinct: [200000, 2000, 100],
      bags: [8192, 40, 8],
      each: [50, 50, 10],
      width: [64, 64, 16],
    },
  },
  cost: ({ distinct, bags, each, width }) => ({
    forward: { bytes: bags * each * (4 * width + 4) + 4 * bags * width, flops: 2 * bags * each * width },
    // the bags' gradients once per lookup, each touched row read and written, its state too
    step: { bytes: bags * each * (4 * width + 4) + distinct * (8 * width + 8), flops: 2 * bags * each * width },
  }),
});

const update = family({
  op: 'adamw',
  float32Only: true,
  cases: {
    '100M': { parameters: [100_000_000, 1_000_000, 2000] },
    '139M': { parameters: [139_000_000, 1_000_000, 3000] },
  },
  // weights, two moments: read and written; gradients read, once more for their norm
  cost: ({ parameters }) => ({ step: { bytes: 32 * parameters, flops: 0 } }),
});

const families = [attention, lora, contrastive, bank, dense, ...moving, loss, bags, update];

/** Ops that have cases, in order. */
export const benchedOps: readonly string[] = families.map(({ op }) => op);

/** The cases of these ops; `dtype` where an op computes in float32 only is float32. */
export function kernelCases(ops: readonly string[], size: BenchSize, dtype: DType): KernelCase[] {
  const wanted = families.filter(({ op }) => ops.length === 0 || ops.includes(op));
  return wanted.flatMap((one) => one.at(size, one.float32Only ? 'float32' : dtype));
}
