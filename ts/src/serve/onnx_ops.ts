/**
 * Ops as nodes of an ONNX graph, one entry per op, by its name. Ops over jagged rows see them padded: rows of a list of `length` stand `length`
 * by `length`, and a place without an entry is hidden from sums, softmaxes and attention.
 */
import { OnnxExportError } from '../errors.js';
import type { OnnxGraph, OnnxValue } from '../io/onnx.js';
import type { Activation, Binary, Unary } from '../native_kernels.js';
import type { FeedForwardActivation } from '../nn/attention.js';

/** A list in the graph: (B, length) places. */
export interface PaddedList {
  readonly name: string;
  readonly length: number;
  /** (B, length) float32: 1 where there is an entry. */
  readonly present: () => OnnxValue;
}

/** What a traced tensor is in the graph. Rows of lists stand one after the other, `length` for each row of the batch. */
export type Operand =
  | { readonly kind: 'tensor'; readonly value: OnnxValue }
  | { readonly kind: 'offsets' | 'segments' | 'lengths'; readonly list: PaddedList }
  /** Offsets of segments of equal length. */
  | { readonly kind: 'regular'; readonly stride: number }
  /** 0, 1, 2, ... */
  | { readonly kind: 'identity' }
  /** (B, length) float32: 1 where the entry counts. */
  | { readonly kind: 'mask'; readonly value: OnnxValue };

/** One call of an op, as its translation sees it. */
export interface OpCall {
  readonly graph: OnnxGraph;
  readonly name: string;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly inputs: readonly (Operand | null)[];
  /** Shape of each input; -1 where it depends on the batch. */
  readonly shapes: readonly (readonly number[] | null)[];
  readonly outShape: readonly number[];
}

/** What reads inputs of a call. */
type Call = Omit<OpCall, 'outShape'>;

/** For something that has no translation; says which op. */
export function untranslated(op: string, reason: string): OnnxExportError {
  return new OnnxExportError(`export: --to onnx: op ${op}: ${reason}`, { op, reason });
}

/** Below every score; a hidden score of this size has weight 0 beside any other. */
export const HIDDEN = -1e30;

export function value({ inputs, name }: Call, i: number): OnnxValue {
  const operand = inputs[i];
  if (operand?.kind === 'tensor') return operand.value;
  throw untranslated(name, `input ${i}: expected numbers but received ${operand?.kind ?? 'nothing'}`);
}

export function optional(call: Call, i: number): OnnxValue | null {
  return call.inputs[i] == null ? null : value(call, i);
}

export function list({ inputs, name }: Call, i: number): PaddedList {
  const operand = inputs[i];
  if (operand?.kind === 'offsets') return operand.list;
  throw untranslated(name, `input ${i}: expected offsets of a list but received ${operand?.kind ?? 'nothing'}`);
}

export function reshape(g: OnnxGraph, x: OnnxValue, shape: readonly number[]): OnnxValue {
  return g.node('Reshape', [x, g.integers(shape)]);
}

export function transpose(g: OnnxGraph, x: OnnxValue, perm: readonly number[]): OnnxValue {
  return g.node('Transpose', [x], { perm });
}

export function sum(g: OnnxGraph, x: OnnxValue, axes: readonly number[], keep = false): OnnxValue {
  return g.node('ReduceSum', [x, g.integers(axes)], { keepdims: keep ? 1 : 0 });
}

export function activation(g: OnnxGraph, x: OnnxValue, kind: Activation): OnnxValue {
  const half = (): OnnxValue => g.node('Mul', [x, g.scalar(0.5)]);
  switch (kind) {
    case 'none':
      return x;
    case 'relu':
      return g.node('Relu', [x]);
    case 'sigmoid':
      return g.node('Sigmoid', [x]);
    case 'tanh':
      return g.node('Tanh', [x]);
    case 'silu':
      return g.node('Mul', [x, g.node('Sigmoid', [x])]);
    case 'gelu': {
      const erf = g.node('Erf', [g.node('Mul', [x, g.scalar(Math.SQRT1_2)])]);
      return g.node('Mul', [half(), g.node('Add', [erf, g.scalar(1)])]);
    }
  }
}

/** `activation`, or gelu in the forms of published encoders (ops/activation.ts). */
export function feedForwardActivation(g: OnnxGraph, x: OnnxValue, kind: FeedForwardActivation): OnnxValue {
  const gated = (scale: OnnxValue): OnnxValue => g.node('Mul', [x, g.node('Sigmoid', [g.node('Mul', [x, scale])])]);
  if (kind === 'quick_gelu') return gated(g.scalar(1.702));
  if (kind !== 'gelu_tanh') return activation(g, x, kind);
  const slope = 2 * Math.sqrt(2 / Math.PI);
  const cubic = g.node('Mul', [g.node('Mul', [x, x]), g.scalar(slope * 0.044715)]);
  return gated(g.node('Add', [cubic, g.scalar(slope)]));
}

/** x Wᵀ + b for x of any rank above 1; weight (N, K). */
export function linear(g: OnnxGraph, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | null, rank: number): OnnxValue {
  if (rank === 2) return g.node('Gemm', bias === null ? [x, weight] : [x, weight, bias], { transB: 1 });
  const product = g.node('MatMul', [x, transpose(g, weight, [1, 0])]);
  return bias === null ? product : g.node('Add', [product, bias]);
}

export function layerNorm(g: OnnxGraph, x: OnnxValue, weight: OnnxValue, bias: OnnxValue, eps: number): OnnxValue {
  return g.node('LayerNormalization', [x, weight, bias], { axis: -1, epsilon: { float: eps } });
}

/**
 * softmax(scale q kᵀ) v over the keys that `visible` (B, 1, 1 or Nq, keys) shows; 0 where it shows none. q (B, H, Nq, D),
 * keys (B, H, D, keys), v (B, H, keys, D).
 */
export function attention(
  g: OnnxGraph,
  { q, keys, v, visible, scale }: { q: OnnxValue; keys: OnnxValue; v: OnnxValue; visible: OnnxValue; scale: number },
): OnnxValue {
  const scores = g.node('Mul', [g.node('MatMul', [q, keys]), g.scalar(scale)]);
  const penalty = g.node('Mul', [g.node('Sub', [visible, g.scalar(1)]), g.scalar(-HIDDEN)]);
  const weights = g.node('Softmax', [g.node('Add', [scores, penalty])], { axis: -1 });
  return g.node('MatMul', [g.node('Mul', [weights, visible]), v]);
}

const binaryNodes: Readonly<Record<Binary, string>> = { add: 'Add', sub: 'Sub', mul: 'Mul', div: 'Div' };
const unaryNodes: Readonly<Partial<Record<Unary, string>>> = {
  exp: 'Exp',
  log: 'Log',
  sqrt: 'Sqrt',
  abs: 'Abs',
  reciprocal: 'Reciprocal',
};

/** Places of a list that count: there, and not hidden by `mask`; (B, length) float32. */
export function visible(call: Call, { present, name }: PaddedList, mask: Operand | null | undefined): OnnxValue {
  if (mask == null) return present();
  if (mask.kind !== 'mask')
    throw untranslated(call.name, `expected found flags of list ${name} but received ${mask.kind}`);
  return call.graph.node('Mul', [present(), mask.value]);
}

/** |x| of rows of the last dimension, at least eps; the dimension stays. */
function norms(g: OnnxGraph, x: OnnxValue, eps: number): OnnxValue {
  return g.node('Max', [g.node('ReduceL2', [x], { axes: [-1], keepdims: 1 }), g.scalar(eps)]);
}

/** Sum over the entries of each row of x (B · length, D) times `weights` (B, length): (B, D). */
function weightedSum(g: OnnxGraph, x: OnnxValue, weights: OnnxValue, { length }: PaddedList, width: number): OnnxValue {
  const rows = reshape(g, x, [-1, length, width]);
  return sum(g, g.node('Mul', [rows, g.node('Unsqueeze', [weights, g.integers([2])])]), [1]);
}

/** Number of entries of each row, at least 1; (B, 1). */
function counts(g: OnnxGraph, { present }: PaddedList): OnnxValue {
  return g.node('Max', [sum(g, present(), [1], true), g.scalar(1)]);
}

function crossAttention(call: OpCall): OnnxValue {
  const { graph: g, inputs, shapes, attributes, name, outShape } = call;
  if (attributes['causal'] === true) throw untranslated(name, 'causal attention is not translated');
  const [H, D] = shapes[0]!.slice(-2) as [number, number];
  if (shapes[1]![1] !== H) throw untranslated(name, 'heads that share keys are not translated');
  const keys = list(call, 3);
  const perItem = (x: OnnxValue, length: number): OnnxValue => reshape(g, x, [-1, length, H, D]);
  const asking = inputs[4] ?? null;
  let q = value(call, 0);
  if (asking?.kind === 'regular') q = perItem(q, asking.stride);
  else if (asking?.kind === 'offsets') q = perItem(q, asking.list.length);
  else if (asking !== null) throw untranslated(name, `expected offsets of queries but received ${asking.kind}`);
  const seen = g.node('Unsqueeze', [visible(call, keys, inputs[5]), g.integers([1, 2])]);
  const out = attention(g, {
    q: transpose(g, q, [0, 2, 1, 3]),
    keys: transpose(g, perItem(value(call, 1), keys.length), [0, 2, 3, 1]),
    v: transpose(g, perItem(value(call, 2), keys.length), [0, 2, 1, 3]),
    visible: seen,
    scale: Number(attributes['scale']),
  });
  return reshape(g, transpose(g, out, [0, 2, 1, 3]), outShape);
}

function cosineSimilarity(call: OpCall): OnnxValue {
  const { graph: g, attributes, shapes, inputs } = call;
  const history = list(call, 2);
  const eps = Number(attributes['eps']);
  const d = g.node('Unsqueeze', [value(call, 0), g.integers([1])]);
  const h = reshape(g, value(call, 1), [-1, history.length, shapes[1]![1]!]);
  const dot = sum(g, g.node('Mul', [d, h]), [2]);
  const lengths = g.node('Mul', [norms(g, d, eps), norms(g, h, eps)]);
  const cosines = g.node('Div', [dot, g.node('Squeeze', [lengths, g.integers([2])])]);
  return reshape(g, g.node('Mul', [cosines, visible(call, history, inputs[3])]), [-1]);
}

function gatherRows(call: OpCall): OnnxValue {
  const { graph: g, inputs, outShape, name } = call;
  const x = value(call, 0);
  const index = inputs[1]!;
  if (index.kind === 'identity') return x;
  if (index.kind === 'tensor') return g.node('Gather', [x, index.value], { axis: 0 });
  if (index.kind !== 'segments') throw untranslated(name, `expected row numbers but received ${index.kind}`);
  // Each row of the batch, once for every place of its list.
  const places = new Array<number>(outShape.length + 1).fill(1).with(1, index.list.length);
  const repeated = g.node('Expand', [g.node('Unsqueeze', [x, g.integers([1])]), g.integers(places)]);
  return reshape(g, repeated, outShape);
}

function segmentSoftmax(call: OpCall): OnnxValue {
  const { graph: g, shapes, name } = call;
  if (shapes[0]!.length !== 1) throw untranslated(name, 'several columns are not translated');
  const { length, present } = list(call, 1);
  const scores = reshape(g, value(call, 0), [-1, length]);
  const hidden = g.node('Where', [g.node('Cast', [present()], { to: 9 }), scores, g.scalar(HIDDEN)]);
  return reshape(g, g.node('Mul', [g.node('Softmax', [hidden], { axis: -1 }), present()]), [-1]);
}

function segmentSum(call: OpCall): OnnxValue {
  const { graph: g, shapes, attributes } = call;
  const segments = list(call, 1);
  const given = optional(call, 2);
  const weights =
    given === null ? segments.present() : g.node('Mul', [segments.present(), reshape(g, given, [-1, segments.length])]);
  const total = weightedSum(g, value(call, 0), weights, segments, shapes[0]![1]!);
  return attributes['mean'] === true ? g.node('Div', [total, counts(g, segments)]) : total;
}

function embeddingBag(call: OpCall): OnnxValue {
  const { graph: g, shapes, attributes } = call;
  const bag = list(call, 2);
  const given = optional(call, 3);
  const rows = g.node('Gather', [value(call, 0), value(call, 1)], { axis: 0 });
  const weights = given === null ? bag.present() : g.node('Mul', [bag.present(), reshape(g, given, [-1, bag.length])]);
  const total = weightedSum(g, rows, weights, bag, shapes[0]![1]!);
  return attributes['mean'] === true ? g.node('Div', [total, counts(g, bag)]) : total;
}

function padJagged(call: OpCall): OnnxValue {
  const { graph: g, shapes, attributes, name } = call;
  const { length, present } = list(call, 1);
  if (attributes['length'] !== length)
    throw untranslated(name, `expected rows of ${length} places but received ${String(attributes['length'])}`);
  const widths = shapes[0]!.slice(1);
  const there = widths.length === 0 ? present() : g.node('Unsqueeze', [present(), g.integers([2])]);
  return g.node('Mul', [reshape(g, value(call, 0), [-1, length, ...widths]), there]);
}

function sortDescending(call: OpCall): OnnxValue {
  const { graph: g, shapes, inputs, name } = call;
  const L = shapes[0]![1]!;
  const lengths = inputs[1] ?? null;
  const sorted = (x: OnnxValue): OnnxValue =>
    g.nodes('TopK', [x, g.integers([L])], 2, { axis: -1, largest: 1, sorted: 1 })[0]!;
  if (lengths === null) return sorted(value(call, 0));
  if (lengths.kind !== 'lengths' || lengths.list.length !== L)
    throw untranslated(name, `expected lengths of a list but received ${lengths.kind}`);
  // Entries stand first, so that the places of the sorted ones are theirs.
  const there = g.node('Cast', [lengths.list.present()], { to: 9 });
  const hidden = g.node('Where', [there, value(call, 0), g.scalar(HIDDEN)]);
  return g.node('Where', [there, sorted(hidden), g.scalar(0)]);
}

/** (x - mean) / sqrt(variance + eps) with given statistics. */
function standardised(call: OpCall, mean: number, variance: number): OnnxValue {
  const { graph: g, attributes, name } = call;
  if (attributes['training'] === true) throw untranslated(name, 'it is in training');
  const deviation = g.node('Sqrt', [g.node('Add', [value(call, variance), g.scalar(Number(attributes['eps']))])]);
  return g.node('Div', [g.node('Sub', [value(call, 0), value(call, mean)]), deviation]);
}

/** What each op becomes. */
export const opNodes: Readonly<Record<string, (call: OpCall) => OnnxValue>> = {
  linear(call) {
    const { graph: g, shapes, attributes } = call;
    const y = linear(g, value(call, 0), value(call, 1), optional(call, 2), shapes[0]!.length);
    return activation(g, y, attributes['activation'] as Activation);
  },
  loraLinear(call) {
    const { graph: g, shapes, attributes, inputs } = call;
    const rank = shapes[0]!.length;
    const base = linear(g, value(call, 0), value(call, 1), optional(call, 4), rank);
    const low = linear(g, value(call, inputs[5] == null ? 0 : 5), value(call, 2), null, rank);
    const update = linear(g, low, value(call, 3), null, rank);
    return g.node('Add', [base, g.node('Mul', [update, g.scalar(Number(attributes['scale']))])]);
  },
  matmul(call) {
    const { graph: g, shapes, attributes } = call;
    const side = (i: number, swap: boolean): OnnxValue => {
      const axes = [...shapes[i]!.keys()];
      const last = axes.length - 1;
      return swap ? transpose(g, value(call, i), axes.with(last, last - 1).with(last - 1, last)) : value(call, i);
    };
    return g.node('MatMul', [side(0, attributes['transposeA'] === true), side(1, attributes['transposeB'] === true)]);
  },
  activation: (call) => activation(call.graph, value(call, 0), call.attributes['kind'] as Activation),
  layerNorm(call) {
    const { graph: g, attributes } = call;
    const residual = optional(call, 3);
    const x = residual === null ? value(call, 0) : g.node('Add', [value(call, 0), residual]);
    return layerNorm(g, x, value(call, 1), value(call, 2), Number(attributes['eps']));
  },
  rmsNorm(call) {
    const { graph: g, attributes } = call;
    const x = value(call, 0);
    const mean = g.node('ReduceMean', [g.node('Mul', [x, x])], { axes: [-1], keepdims: 1 });
    const root = g.node('Sqrt', [g.node('Add', [mean, g.scalar(Number(attributes['eps']))])]);
    return g.node('Mul', [g.node('Div', [x, root]), value(call, 1)]);
  },
  batchNorm(call) {
    const { graph: g } = call;
    const [weight, bias] = [optional(call, 1), optional(call, 2)];
    const y = standardised(call, 3, 4);
    const scaled = weight === null ? y : g.node('Mul', [y, weight]);
    return bias === null ? scaled : g.node('Add', [scaled, bias]);
  },
  dice(call) {
    const { graph: g } = call;
    const [x, alpha] = [value(call, 0), value(call, 1)];
    const p = g.node('Sigmoid', [standardised(call, 2, 3)]);
    const rest = g.node('Mul', [alpha, g.node('Sub', [g.scalar(1), p])]);
    return g.node('Mul', [x, g.node('Add', [p, rest])]);
  },
  prelu: (call) => call.graph.node('PRelu', [value(call, 0), value(call, 1)]),
  softmax: (call) => call.graph.node('Softmax', [value(call, 0)], { axis: -1 }),
  normalize(call) {
    const x = value(call, 0);
    return call.graph.node('Div', [x, norms(call.graph, x, Number(call.attributes['eps']))]);
  },
  binary: (call) => call.graph.node(binaryNodes[call.attributes['kind'] as Binary], [value(call, 0), value(call, 1)]),
  unary(call) {
    const x = value(call, 0);
    const kind = call.attributes['kind'] as Unary;
    const node = unaryNodes[kind];
    return node === undefined ? call.graph.node('Mul', [x, x]) : call.graph.node(node, [x]);
  },
  affine(call) {
    const { graph: g, attributes } = call;
    const [scale, shift] = [Number(attributes['scale']), Number(attributes['shift'])];
    const scaled = scale === 1 ? value(call, 0) : g.node('Mul', [value(call, 0), g.scalar(scale)]);
    return shift === 0 ? scaled : g.node('Add', [scaled, g.scalar(shift)]);
  },
  sum(call) {
    const { graph: g, shapes, attributes, outShape } = call;
    const axes = [...shapes[0]!.keys()].filter((d) => shapes[0]![d] !== outShape[d]);
    const total = axes.length === 0 ? value(call, 0) : sum(g, value(call, 0), axes, true);
    return attributes['scale'] === 1 ? total : g.node('Mul', [total, g.scalar(Number(attributes['scale']))]);
  },
  concat(call) {
    const parts = call.inputs.map((_, i) => value(call, i));
    return call.graph.node('Concat', parts, { axis: Number(call.attributes['axis']) });
  },
  slice(call) {
    const { graph: g, attributes } = call;
    const at = (key: string): OnnxValue => g.integers([Number(attributes[key])]);
    return g.node('Slice', [value(call, 0), at('start'), at('end'), at('axis')]);
  },
  reshape: (call) => reshape(call.graph, value(call, 0), call.outShape),
  transpose: (call) => transpose(call.graph, value(call, 0), call.attributes['axes'] as readonly number[]),
  cast: (call) => value(call, 0),
  embedding: (call) => call.graph.node('Gather', [value(call, 0), value(call, 1)], { axis: 0 }),
  embeddingBag,
  gatherRows,
  crossAttention,
  cosineSimilarity,
  segmentSum,
  segmentSoftmax,
  padJagged,
  sortDescending,
};
