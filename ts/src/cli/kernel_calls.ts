/** The calls behind the cases of `galago bench`: random inputs on a device, and the op on them. */
import { ArgumentError } from '../errors.js';
import { activation } from '../ops/activation.js';
import { bceWithLogits } from '../ops/bce_with_logits.js';
import { cast } from '../ops/cast.js';
import { crossAttention } from '../ops/cross_attention.js';
import { dropout } from '../ops/dropout.js';
import { embeddingBag } from '../ops/embedding_bag.js';
import { gatherRows } from '../ops/gather_rows.js';
import { infoNce } from '../ops/info_nce.js';
import { layerNorm } from '../ops/layer_norm.js';
import { linear } from '../ops/linear.js';
import { loraLinear } from '../ops/lora_linear.js';
import {
  bucketWidth,
  emptyMemoryBank,
  gatherMemoryBank,
  stageMemoryBank,
  upsertMemoryBank,
} from '../ops/memory_bank.js';
import { normalize } from '../ops/normalize.js';
import { rmsNorm } from '../ops/rms_norm.js';
import { Optimizer } from '../optim/optimizer.js';
import { normals, randomScope, uniforms } from '../random.js';
import { alias, type DeviceName, type DType, sizeOf, type Tensor, tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import type { KernelCase } from './kernel_cases.js';

/** One set of inputs and what is done with it. */
export type PreparedCall =
  /** An op with a gradient: its output, its inputs that take part in `backward`, and the output's gradient. */
  | {
      readonly forward: () => Tensor;
      readonly leaves: readonly Tensor[];
      readonly dout: Tensor;
      /** Takes the optimizer's step that belongs to the pass `step`. */
      readonly optimizer?: Optimizer;
    }
  /** Anything else: enqueues one call. */
  | { readonly call: () => void; readonly optimizer?: Optimizer };

const pool = 2 ** 20;
let drawn: Float32Array | null = null;

/** Makes inputs of one case on one device; all values are drawn with fixed seeds. */
class Inputs {
  #draws = 0;
  constructor(
    readonly device: DeviceName,
    readonly dtype: DType,
  ) {}

  /** Normal values. Beyond a million the rows repeat, at other places every time: drawing on the host costs more than any kernel. */
  normal(
    shape: readonly number[],
    { dtype = this.dtype, factor = 1 }: { dtype?: DType; factor?: number } = {},
  ): Tensor {
    drawn ??= Float32Array.from(normals(pool, 1, 1));
    const columns = Math.min(shape.at(-1) ?? 1, pool);
    const rows = sizeOf(shape) / columns;
    const block = Math.max(1, Math.min(rows, Math.floor(pool / columns)));
    const start = this.#draws++ % 7;
    const index = Int32Array.from({ length: rows }, (_, i) => (i < block ? i : (i * 7919 + start) % block));
    return tidy(() => {
      const values = drawn!.subarray(0, block * columns).map((x) => x * factor);
      const narrow = tensor(values, [block, columns], { device: this.device });
      const some = dtype === 'bfloat16' ? cast(narrow, 'bfloat16') : narrow;
      return alias(gatherRows(some, this.integers(index)), shape);
    });
  }

  leaf(shape: readonly number[], options: { dtype?: DType; factor?: number } = {}): Tensor {
    const x = this.normal(shape, options);
    x.requiresGrad = true;
    return x;
  }

  integers(values: Int32Array): Tensor {
    return tensor(values, [values.length], { device: this.device });
  }

  /** `count` integers below `bound`. */
  indices(count: number, bound: number): Tensor {
    const stream = 100 + this.#draws++;
    return this.integers(Int32Array.from(uniforms(count, 1, stream), (u) => Math.floor(u * bound)));
  }

  /** 0, each, 2 each, ...: items of equal length. */
  offsets(items: number, each: number): Tensor {
    return this.integers(Int32Array.from({ length: items + 1 }, (_, b) => b * each));
  }

  keys(count: number, start = 0): Tensor {
    const values = BigInt64Array.from({ length: count }, (_, i) => BigInt(start + i) * 1_000_003n);
    return tensor(values, [count], { device: this.device });
  }
}

type Make = (inputs: Inputs, one: KernelCase) => PreparedCall;
type RowOp = (
  x: Tensor,
  leaf: (shape: readonly number[]) => Tensor,
) => { out: () => Tensor; parameters: readonly Tensor[] };

/** Ops on (rows, width) that keep the shape. */
function rowOp(make: RowOp): Make {
  return (inputs, { sizes: { rows = 0, width = 0 } }) => {
    const x = inputs.leaf([rows, width]);
    const { out, parameters } = make(x, (shape) => inputs.leaf(shape));
    return { forward: out, leaves: [x, ...parameters], dout: inputs.normal([rows, width]) };
  };
}

const calls: Readonly<Record<string, Make>> = {
  crossAttention: (inputs, { sizes: { items = 0, queries = 0, heads = 0, width = 0, keys = 0 } }) => {
    const offsets = inputs.offsets(items, keys);
    const [k, v] = [inputs.leaf([items * keys, heads, width]), inputs.leaf([items * keys, heads, width])];
    const q = inputs.leaf(queries === 0 ? [items * keys, heads, width] : [items, queries, heads, width]);
    const forward = () => crossAttention(q, k, v, { offsets, ...(queries === 0 && { qOffsets: offsets }) });
    return { forward, leaves: [q, k, v], dout: inputs.normal(q.shape) };
  },
  loraLinear: (inputs, { sizes: { rows = 0, inputs: from = 0, outputs = 0, rank = 0 } }) => {
    const x = inputs.leaf([rows, from]);
    const weight = inputs.normal([outputs, from], { factor: from ** -0.5 });
    const [a, b] = [inputs.leaf([rank, from], { factor: from ** -0.5 }), inputs.leaf([outputs, rank], { factor: 0.1 })];
    const forward = () => loraLinear(x, weight, a, b, { scale: 2 });
    return { forward, leaves: [x, a, b], dout: inputs.normal([rows, outputs]) };
  },
  infoNce: (inputs, { sizes: { rows = 0, width = 0 } }) => {
    const unit = () => tidy(() => normalize(inputs.normal([rows, width])));
    const [q, k] = [unit(), unit()];
    q.requiresGrad = k.requiresGrad = true;
    const dout = tensor([1], [], { device: inputs.device });
    return { forward: () => infoNce(q, k, { scale: 20 }), leaves: [q, k], dout };
  },
  memoryBank: (inputs, { dtype, sizes: { bank = 0, lookups = 0, width = 0, written = 0 } }) => {
    const { device } = inputs;
    const buckets = Math.ceil((1.2 * bank) / bucketWidth);
    const state = emptyMemoryBank({ buckets, width, device, dtype: dtype === 'bfloat16' ? 'bfloat16' : 'float32' });
    const part = Math.min(bank, 2 ** 14);
    const some = inputs.normal([part, width]);
    for (let start = 0; start < bank; start += part)
      tidy(() => upsertMemoryBank(state, stageMemoryBank(inputs.keys(part, start), some), { now: 1 }));
    if (written > 0) {
      const [keys, rows] = [inputs.keys(written, bank >> 1), inputs.normal([written, width])];
      let now = 1;
      return { call: () => upsertMemoryBank(state, stageMemoryBank(keys, rows), { now: ++now }) };
    }
    const order = uniforms(lookups, 1, 3);
    const keys = BigInt64Array.from(order, (u) => BigInt(Math.floor(u * bank)) * 1_000_003n);
    const wanted = tensor(keys, [lookups], { device });
    return { call: () => void gatherMemoryBank(state, wanted, { now: 2 }) };
  },
  linear: (inputs, { sizes: { rows = 0, inputs: from = 0, outputs = 0, gelu = 0 } }) => {
    const x = inputs.leaf([rows, from]);
    const [weight, bias] = [inputs.leaf([outputs, from], { factor: from ** -0.5 }), inputs.leaf([outputs])];
    const forward = () => linear(x, weight, bias, { activation: gelu ? 'gelu' : 'none' });
    return { forward, leaves: [x, weight, bias], dout: inputs.normal([rows, outputs]) };
  },
  layerNorm: rowOp((x, leaf) => {
    const [weight, bias] = [leaf([x.shape[1]!]), leaf([x.shape[1]!])];
    return { out: () => layerNorm(x, weight, bias), parameters: [weight, bias] };
  }),
  rmsNorm: rowOp((x, leaf) => {
    const weight = leaf([x.shape[1]!]);
    return { out: () => rmsNorm(x, weight), parameters: [weight] };
  }),
  normalize: rowOp((x) => ({ out: () => normalize(x), parameters: [] })),
  gelu: rowOp((x) => ({ out: () => activation(x, { kind: 'gelu' }), parameters: [] })),
  silu: rowOp((x) => ({ out: () => activation(x, { kind: 'silu' }), parameters: [] })),
  dropout: rowOp((x) => ({
    out: () => randomScope({ seed: 1, step: 1 }, () => dropout(x, { p: 0.1 })),
    parameters: [],
  })),
  bceWithLogits: (inputs, { sizes: { rows = 0 } }) => {
    const x = inputs.leaf([rows]);
    const labels = tidy(() => activation(inputs.normal([rows], { factor: 100 }), { kind: 'sigmoid' }));
    const dout = tensor([1], [], { device: inputs.device });
    return { forward: () => bceWithLogits(x, labels), leaves: [x], dout };
  },
  embeddingBag: (inputs, { sizes: { table: rows = 0, distinct = 0, bags = 0, each = 0, width = 0 } }) => {
    const table = inputs.leaf([rows, width], { factor: 0.1 });
    const offsets = inputs.offsets(bags, each);
    const indices = inputs.indices(bags * each, distinct);
    const forward = () => embeddingBag(table, indices, { offsets });
    const params = new Map([['table', table]]);
    const optimizer = new Optimizer([{ name: 'table', params, algorithm: 'rowwise_adagrad', learningRate: 1e-3 }]);
    return { forward, leaves: [table], dout: inputs.normal([bags, width]), optimizer };
  },
  adamw: (inputs, { sizes: { parameters = 0 } }) => {
    const param = inputs.leaf([parameters >> 8, 256], { factor: 0.1 });
    param.grad = inputs.normal(param.shape);
    const params = new Map([['all', param]]);
    const optimizer = new Optimizer([{ name: 'all', params, algorithm: 'adamw', learningRate: 1e-3 }], { clipNorm: 1 });
    return {
      call: () => {
        optimizer.step();
      },
      optimizer,
    };
  },
};

/** The inputs of a case on `device`, drawn and queued there. They belong to the enclosing scope. */
export function prepareCall(one: KernelCase, device: DeviceName): PreparedCall {
  const make = calls[one.op];
  if (make === undefined)
    throw new ArgumentError(`bench: ${one.op} has cases but no call`, { op: 'bench', argument: 'op' });
  return make(new Inputs(device, one.dtype), one);
}
