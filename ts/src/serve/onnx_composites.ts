/** Composites (`composite`) as nodes of an ONNX graph, one entry per name: what chooses or moves entries of lists, and LONGER. */
import type { OnnxGraph, OnnxValue } from '../io/onnx.js';
import { LongerEncoder } from '../models/longer.js';
import { longerNodes } from './onnx_longer.js';
import type { ModuleTranslation } from './onnx_modules.js';
import {
  HIDDEN,
  list,
  type OpCall,
  type Operand,
  optional,
  type PaddedList,
  reshape,
  sum,
  untranslated,
  value,
  visible,
} from './onnx_ops.js';

type CompositeCall = Omit<OpCall, 'outShape'>;

/** (B, places of `to`): the place in `from` as far from the latest entry, and where there is one, float32. */
function alignedPlaces(g: OnnxGraph, from: PaddedList, to: PaddedList): { places: OnnxValue; there: OnnxValue } {
  const own = g.constant({
    dtype: 'float32',
    shape: [1, to.length],
    data: Float32Array.from({ length: to.length }, (_, l) => l),
  });
  const count = ({ present }: PaddedList): OnnxValue => sum(g, present(), [1], true);
  const place = g.node('Add', [own, g.node('Sub', [count(from), count(to)])]);
  const inside = g.node('Min', [g.node('Max', [place, g.scalar(0)]), g.scalar(from.length - 1)]);
  const there = g.node('Cast', [g.node('GreaterOrEqual', [place, g.scalar(0)])], { to: 1 });
  return { places: g.node('Cast', [inside], { to: 7 }), there };
}

/** The entries of the second list get what entries of the first score that are as far from the latest. */
function alignScores(call: CompositeCall): Record<string, Operand> {
  const g = call.graph;
  const [from, to] = [list(call, 1), list(call, 2)];
  const scores = reshape(g, value(call, 0), [-1, from.length]);
  const { places, there } = alignedPlaces(g, from, to);
  const moved = g.node('Mul', [g.node('GatherElements', [scores, places], { axis: 1 }), there]);
  return { scores: { kind: 'tensor', value: reshape(g, moved, [-1]) } };
}

/** The list stays where it is: of the entries that were not chosen none is there any more. */
function chooseRows(call: CompositeCall): Record<string, Operand> {
  const { graph: g, attributes, inputs } = call;
  const whole = list(call, 2);
  const { length } = whole;
  const shown = visible(call, whole, inputs[3]);
  const scores = reshape(g, value(call, 1), [-1, length]);
  const seen = g.node('Where', [g.node('Cast', [shown], { to: 9 }), scores, g.scalar(HIDDEN)]);
  // Ties go to the lower place, here that of the later entry.
  const backwards = g.integers(Array.from({ length }, (_, l) => length - 1 - l));
  const turned = (x: OnnxValue): OnnxValue => g.node('Gather', [x, backwards], { axis: 1 });
  const [, places] = g.nodes('TopK', [turned(seen), g.integers([Number(attributes['k'])])], 2, { axis: -1 });
  const zeroOne = g.constant({ dtype: 'float32', shape: [2], data: Float32Array.of(0, 1) });
  const oneHot = g.node('OneHot', [places!, g.integers([length]), zeroOne], { axis: -1 });
  const present = g.node('Mul', [whole.present(), turned(g.node('ReduceMax', [oneHot], { axes: [1], keepdims: 0 }))]);
  const chosen: PaddedList = { name: `${whole.name} (chosen)`, length, present: () => present };
  return {
    rows: { kind: 'tensor', value: value(call, 0) },
    offsets: { kind: 'offsets', list: chosen },
    segments: { kind: 'segments', list: chosen },
    visible: { kind: 'tensor', value: reshape(g, shown, [-1]) },
  };
}

function longerEncoder(call: CompositeCall, modules: ModuleTranslation): Record<string, Operand> {
  const { module } = call.attributes;
  if (!(module instanceof LongerEncoder)) throw untranslated(call.name, 'expected a LongerEncoder');
  const [target, rows] = [value(call, 0), value(call, 1)];
  const out = longerNodes(modules, module, {
    target,
    rows,
    width: call.shapes[1]![1]!,
    features: optional(call, 2),
    history: list(call, 3),
    gaps: optional(call, 4),
  });
  return { out: { kind: 'tensor', value: out } };
}

/** What each composite becomes: its outputs by name. */
export const compositeNodes: Readonly<
  Record<string, (call: CompositeCall, modules: ModuleTranslation) => Readonly<Record<string, Operand>>>
> = { alignScores, chooseRows, longerEncoder };
