/**
 * From traces of a forward pass to an ONNX graph. Two traces of the same pass over batches of different sizes tell what depends on the batch:
 * a dimension that differs is dynamic, a leaf that is the same in both is a constant, and any other leaf must be something of the view of its
 * batch (an input), or follow from one (offsets, segments, lengths, ...). Lists are jagged in the traces and padded in the graph, where a place
 * without an entry is hidden from every sum.
 *
 * The graph grows from the result back, so what leads only to something that is an input (a query encoder) never enters it.
 */
import type { OnnxConstant, OnnxGraph, OnnxValue } from '../io/onnx.js';
import { compositeNodes } from './onnx_composites.js';
import type { ModuleTranslation } from './onnx_modules.js';
import { type OpCall, type Operand, opNodes, type PaddedList, untranslated } from './onnx_ops.js';
import type { Trace, TracedOp, TracedTensor } from './op_trace.js';
import type { RankerView, ViewColumn } from './ranker_view.js';
import { foundColumn } from './ranker_view.js';

/** A trace and the view of the batch that it is of. */
export interface Probe {
  readonly trace: Trace;
  readonly view: RankerView;
}

type Pair = readonly [Probe, Probe];
type Values = ArrayLike<number | bigint>;

/** Vectors of an item may be computed in other blocks than those of a probe. */
const TOLERANCE = 1e-5;

function near(a: number | bigint, b: number | bigint): boolean {
  if (a === b) return true;
  const [x, y] = [Number(a), Number(b)];
  return Math.abs(x - y) <= TOLERANCE * (1 + Math.abs(x)) && !(Number.isInteger(x) && Number.isInteger(y));
}

/** Whether two tensors hold the same; rows where `hidden` is negative do not count. */
function alike(a: Values, b: Values, hidden: Values | null = null): boolean {
  if (a.length !== b.length) return false;
  const width = hidden === null ? 1 : a.length / hidden.length;
  for (let i = 0; i < a.length; i++)
    if (!near(a[i]!, b[i]!) && !(hidden !== null && Number(hidden[Math.floor(i / width)]) < 0)) return false;
  return true;
}

function column({ values, width }: ViewColumn): { values: Values; shape: number[] } {
  return { values, shape: width === null ? [values.length] : [values.length / width, width] };
}

/** Something that a leaf may turn out to be. */
interface Candidate {
  readonly values: readonly [Values, Values];
  readonly shapes: readonly [readonly number[], readonly number[]];
  /** Per row, negative where nobody reads it: a vector that was not found is whatever the model makes of none. */
  readonly hidden?: readonly [Values, Values] | null;
  operand(): Operand;
}

export class TraceTranslation {
  readonly #pair: Pair;
  readonly #graph: OnnxGraph;
  readonly #modules: ModuleTranslation;
  readonly #known = new Map<number, Operand>();
  readonly #composites = new Map<TracedOp, Readonly<Record<string, Operand>>>();
  readonly #inputs = new Map<string, OnnxValue>();
  readonly #candidates: readonly Candidate[];

  constructor(modules: ModuleTranslation, pair: Pair) {
    this.#graph = modules.graph;
    this.#pair = pair;
    this.#modules = modules;
    const [a, b] = pair.map(({ trace }) => trace.ops.map(({ name }) => name)) as [string[], string[]];
    const differs = a.findIndex((name, i) => b[i] !== name);
    if (differs >= 0 || a.length !== b.length)
      throw untranslated(a[differs] ?? 'none', 'which ops run depends on the batch');
    this.#candidates = [...this.denseCandidates(), ...this.listCandidates()];
  }

  /** The results of the pass as values of the graph, by their names. */
  results(): ReadonlyMap<string, OnnxValue> {
    return new Map([...this.#pair[0].trace.results].map(([name, number]) => [name, this.tensor(number, name)]));
  }

  private tensor(number: number, of: string): OnnxValue {
    const operand = this.resolve(number, of);
    if (operand.kind !== 'tensor') throw untranslated(of, `expected numbers but received ${operand.kind} of a list`);
    return operand.value;
  }

  // ---- inputs

  private input(name: string, dtype: 'float32' | 'int64' | 'bool', shape: readonly (number | string)[]): OnnxValue {
    const known = this.#inputs.get(name);
    if (known !== undefined) return known;
    const value = this.#graph.input(name, dtype, shape);
    this.#inputs.set(name, value);
    return value;
  }

  private denseInput(name: string): OnnxValue {
    const { values, width } = this.#pair[0].view.dense.get(name)!;
    const shape = width === null ? ['batch'] : ['batch', width];
    return this.input(name, values instanceof Int32Array ? 'int64' : 'float32', shape);
  }

  /** A column of a list as rows: (B · length) or (B · length, width). */
  private listRows(list: string, name: string): OnnxValue {
    const { length, columns } = this.#pair[0].view.lists.get(list)!;
    const { values, width } = columns.get(name)!;
    const shape = width === null ? ['batch', length] : ['batch', length, width];
    const padded = this.input(`${list}.${name}`, values instanceof Int32Array ? 'int64' : 'float32', shape);
    return this.#graph.node('Reshape', [padded, this.#graph.integers(width === null ? [-1] : [-1, width])]);
  }

  private padded(name: string): PaddedList {
    const { length } = this.#pair[0].view.lists.get(name)!;
    let present: OnnxValue | null = null;
    return {
      name,
      length,
      present: () => {
        present ??= this.flags(`${name}.present`, length);
        return present;
      },
    };
  }

  private flags(name: string, length: number): OnnxValue {
    return this.#graph.node('Cast', [this.input(name, 'bool', ['batch', length])], { to: 1 });
  }

  private *denseCandidates(): Generator<Candidate> {
    const [a, b] = this.#pair;
    for (const [name, found] of a.view.dense) {
      const [x, y] = [column(found), column(b.view.dense.get(name)!)];
      const operand = (): Operand => ({ kind: 'tensor', value: this.denseInput(name) });
      yield { values: [x.values, y.values], shapes: [x.shape, y.shape], operand };
    }
    const rows = (size: number): Int32Array => Int32Array.from({ length: size }, (_, i) => i);
    yield this.candidate(
      ({ view }) => rows(view.size),
      () => ({ kind: 'identity' }),
    );
  }

  private candidate(of: (probe: Probe) => Values, operand: () => Operand): Candidate {
    const values = this.#pair.map(of) as [Values, Values];
    return { values, shapes: [[values[0].length], [values[1].length]], operand };
  }

  private *listCandidates(): Generator<Candidate> {
    const [a, b] = this.#pair;
    for (const [name, list] of a.view.lists) {
      const other = b.view.lists.get(name)!;
      const padded = this.padded(name);
      const offsetsOf = ({ view }: Probe): Int32Array => view.lists.get(name)!.offsets;
      yield this.candidate(offsetsOf, () => ({ kind: 'offsets', list: padded }));
      yield this.candidate(
        (probe) => segments(offsetsOf(probe)),
        () => ({ kind: 'segments', list: padded }),
      );
      yield this.candidate(
        (probe) => lengths(offsetsOf(probe)),
        () => ({ kind: 'lengths', list: padded }),
      );
      yield this.candidate(
        (probe) => recency(offsetsOf(probe)),
        () => ({ kind: 'tensor', value: this.recency(padded) }),
      );
      for (const [columnName, found] of list.columns) {
        const [x, y] = [column(found), column(other.columns.get(columnName)!)];
        const operand = (): Operand =>
          columnName === foundColumn
            ? { kind: 'mask', value: this.flags(`${name}.${foundColumn}`, list.length) }
            : { kind: 'tensor', value: this.listRows(name, columnName) };
        const flags = [list, other].map(({ columns }) => columns.get(foundColumn)?.values);
        const hidden = columnName === 'vectors' && flags[0] && flags[1] ? ([flags[0], flags[1]] as const) : null;
        yield { values: [x.values, y.values], shapes: [x.shape, y.shape], hidden, operand };
      }
      for (const [feature] of list.same)
        yield this.candidate(
          ({ view }) => same(view, name, feature),
          () => ({ kind: 'tensor', value: this.same(name, feature) }),
        );
    }
  }

  /** (B · length) int64: 0 for the latest entry of a row, 1 for the one before it. */
  private recency({ length, present }: PaddedList): OnnxValue {
    const g = this.#graph;
    const place = Float32Array.from({ length }, (_, l) => l + 1);
    const count = g.node('ReduceSum', [present(), g.integers([1])], { keepdims: 1 });
    const back = g.node('Sub', [count, g.constant({ dtype: 'float32', shape: [1, length], data: place })]);
    const whole = g.node('Cast', [g.node('Max', [back, g.scalar(0)])], { to: 7 });
    return g.node('Reshape', [whole, g.integers([-1])]);
  }

  /** (B · length) float32: 1 where the entry is the target's id, and not the unknown one. */
  private same(list: string, feature: string): OnnxValue {
    const g = this.#graph;
    const { length, same: known } = this.#pair[0].view.lists.get(list)!;
    const dense = [...this.#pair[0].view.dense].find(([, { values }]) => values === known.get(feature)!.target)![0];
    const target = g.node('Unsqueeze', [this.denseInput(dense), g.integers([1])]);
    const rows = g.node('Reshape', [this.listRows(list, feature), g.integers([-1, length])]);
    const alike = g.node('And', [g.node('Equal', [rows, target]), g.node('Greater', [target, g.integers([0])])]);
    return g.node('Reshape', [g.node('Cast', [alike], { to: 1 }), g.integers([-1])]);
  }

  // ---- tensors of the traces

  private resolve(number: number, of: string): Operand {
    const known = this.#known.get(number);
    if (known !== undefined) return known;
    const operand = this.find(number, of);
    this.#known.set(number, operand);
    return operand;
  }

  private pairOf(number: number): [TracedTensor, TracedTensor] {
    return [this.#pair[0].trace.tensors[number]!, this.#pair[1].trace.tensors[number]!];
  }

  private find(number: number, of: string): Operand {
    const [a, b] = this.pairOf(number);
    if (a.parameter !== null) return { kind: 'tensor', value: this.#modules.parameter(a.parameter) };
    if (a.op?.composite === true) return this.compositeOutput(a.op, number);
    const equal = (x: TracedTensor, values: Values, shape: readonly number[], hidden: Values | null = null): boolean =>
      x.shape.join() === shape.join() && alike(x.values, values, hidden);
    for (const { values, shapes, hidden = null, operand } of this.#candidates)
      if (equal(a, values[0], shapes[0], hidden?.[0]) && equal(b, values[1], shapes[1], hidden?.[1])) return operand();
    if (a.op !== null) return { kind: 'tensor', value: this.call(number) };
    if (equal(a, b.values, b.shape)) return { kind: 'tensor', value: this.constant(a) };
    const filled = this.filled(a, b);
    if (filled !== null) return { kind: 'tensor', value: filled };
    // The values of a tensor without its history (`detach`).
    const made = this.#pair[0].trace.tensors.findIndex((earlier, at) => {
      const [x, y] = this.pairOf(at);
      return at < number && earlier.op !== null && equal(x, a.values, a.shape) && equal(y, b.values, b.shape);
    });
    if (made >= 0) return this.resolve(made, of);
    const stride = regularStride(a.values);
    if (stride !== null && stride === regularStride(b.values)) return { kind: 'regular', stride };
    throw untranslated(
      of,
      `it reads ${a.dtype} values of shape (${a.shape.join(', ')}) that are made on the host and are no input of a graph`,
    );
  }

  private constant({ dtype, shape, values }: TracedTensor): OnnxValue {
    const numbers = Array.from(values, Number);
    const constant: OnnxConstant =
      dtype === 'int32' || dtype === 'int64'
        ? { dtype: 'int64', shape, data: BigInt64Array.from(numbers, BigInt) }
        : { dtype: 'float32', shape, data: Float32Array.from(numbers) };
    return this.#graph.constant(constant);
  }

  /** One number all over a shape whose rows are those of the batch, or of a list. */
  private filled(a: TracedTensor, b: TracedTensor): OnnxValue | null {
    const first = Number(a.values[0] ?? b.values[0] ?? Number.NaN);
    const all = (values: Values): boolean => Array.from(values).every((value) => Number(value) === first);
    if (a.dtype !== 'float32' || !all(a.values) || !all(b.values)) return null;
    const g = this.#graph;
    const sizes = a.shape.map((size, d) => (size === b.shape[d] ? g.integers([size]) : this.rows(size, b.shape[d]!)));
    if (sizes.some((size) => size === null)) return null;
    return g.node('Expand', [g.scalar(first), sizes.length === 1 ? sizes[0]! : g.node('Concat', sizes, { axis: 0 })]);
  }

  /** A dynamic dimension, (1) int64: a multiple of the rows of the batch, or of the places of a list. */
  private rows(a: number, b: number): OnnxValue | null {
    const g = this.#graph;
    const [x, y] = this.#pair;
    const times = (m: number, n: number): number | null =>
      m > 0 && n > 0 && a % m === 0 && a / m === b / n ? a / m : null;
    const of = (value: OnnxValue, factor: number): OnnxValue => {
      const size = g.node('Shape', [value], { start: 0, end: 1 });
      return factor === 1 ? size : g.node('Mul', [size, g.integers([factor])]);
    };
    const batch = times(x.view.size, y.view.size);
    const anchor = [...x.view.dense.keys()][0];
    if (batch !== null && anchor !== undefined) return of(this.denseInput(anchor), batch);
    for (const [name, list] of x.view.lists) {
      const factor = times(list.offsets.at(-1)!, y.view.lists.get(name)!.offsets.at(-1)!);
      if (factor !== null)
        return of(this.input(`${name}.present`, 'bool', ['batch', list.length]), factor * list.length);
    }
    return null;
  }

  private shapeOf(number: number, of: string): number[] {
    const [p, q] = this.pairOf(number);
    const shape = p.shape.map((size, d) => (size === q.shape[d] ? size : -1));
    if (shape.filter((size) => size === -1).length > 1)
      throw untranslated(of, `a tensor of shape (${p.shape.join(', ')}) depends on the batch in several dimensions`);
    return shape;
  }

  /** A call with its inputs resolved. */
  private callOf({ name, inputs, attributes }: TracedOp): Omit<OpCall, 'outShape'> {
    return {
      graph: this.#graph,
      name,
      attributes,
      inputs: inputs.map((input) => (input === null ? null : this.resolve(input, name))),
      shapes: inputs.map((input) => (input === null ? null : this.shapeOf(input, name))),
    };
  }

  private compositeOutput(op: TracedOp, number: number): Operand {
    let outputs = this.#composites.get(op);
    if (outputs === undefined) {
      const translate = compositeNodes[op.name];
      if (translate === undefined) throw untranslated(op.name, 'it has no counterpart in the graph');
      outputs = translate(this.callOf(op), this.#modules);
      this.#composites.set(op, outputs);
    }
    const [name] = Object.entries(op.outputs).find(([, made]) => made === number)!;
    return outputs[name]!;
  }

  private call(number: number): OnnxValue {
    const [x, y] = this.pairOf(number);
    const { name, attributes } = x.op!;
    const translate = opNodes[name];
    if (translate === undefined) throw untranslated(name, 'it has no counterpart in the graph');
    const differing = Object.entries(attributes).find(
      ([key, value]) =>
        key !== 'shape' && key !== 'kept' && JSON.stringify(value) !== JSON.stringify(y.op!.attributes[key]),
    );
    if (differing !== undefined) throw untranslated(name, `its ${differing[0]} depends on the batch`);
    return translate({ ...this.callOf(x.op!), outShape: this.shapeOf(number, name) });
  }
}

function segments(offsets: Int32Array): Int32Array {
  const found = new Int32Array(offsets.at(-1)!);
  for (let b = 0; b + 1 < offsets.length; b++) found.fill(b, offsets[b]!, offsets[b + 1]!);
  return found;
}

function lengths(offsets: Int32Array): Int32Array {
  return Int32Array.from({ length: offsets.length - 1 }, (_, b) => offsets[b + 1]! - offsets[b]!);
}

function recency(offsets: Int32Array): Int32Array {
  return segments(offsets).map((b, at) => offsets[b + 1]! - 1 - at);
}

function same(view: RankerView, list: string, feature: string): Float32Array {
  const { offsets, same: known } = view.lists.get(list)!;
  const { values, target } = known.get(feature)!;
  return Float32Array.from(segments(offsets), (b, at) => (target[b] !== 0 && values[at] === target[b] ? 1 : 0));
}

/** n of 0, n, 2n, ...; null for any other list. */
function regularStride(values: Values): number | null {
  const stride = Number(values[1] ?? 0);
  if (stride <= 0) return null;
  for (let i = 0; i < values.length; i++) if (Number(values[i]) !== i * stride) return null;
  return stride;
}
