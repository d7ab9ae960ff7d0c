/** LONGER as nodes of an ONNX graph: tokens stand padded, the latest last, so that neighbours merge as they do in a jagged history. */
import type { OnnxConstant, OnnxValue } from '../io/onnx.js';
import type { LongerBlock, LongerEncoder } from '../models/longer.js';
import type { ModuleTranslation, Tokens } from './onnx_modules.js';
import { activation, attention, type PaddedList, reshape, sum, transpose } from './onnx_ops.js';

/** What `LongerEncoder` reads. */
export interface LongerInputs {
  /** (B, D). */
  readonly target: OnnxValue;
  /** (B · length, width). */
  readonly rows: OnnxValue;
  readonly width: number;
  readonly features: OnnxValue | null;
  readonly history: PaddedList;
  /** (B · length) int64: the class of each entry's gap. */
  readonly gaps: OnnxValue | null;
}

function numbers(shape: readonly number[], of: (i: number) => number): OnnxConstant {
  const length = shape.reduce((product, size) => product * size, 1);
  return { dtype: 'float32', shape, data: Float32Array.from({ length }, (_, i) => of(i)) };
}

/** Entries (B, length, D) moved to the end of (B, places, D), and where they stand, (B, places) float32. */
function alignedLatest(t: ModuleTranslation, x: OnnxValue, { length, present }: PaddedList, places: number): Tokens {
  const g = t.graph;
  const count = sum(g, present(), [1], true);
  const from = g.node('Add', [g.constant(numbers([1, places], (j) => j - places)), count]);
  const inside = g.node('Min', [g.node('Max', [from, g.scalar(0)]), g.scalar(length - 1)]);
  const index = g.node('Unsqueeze', [g.node('Cast', [inside], { to: 7 }), g.integers([2])]);
  const there = t.float(g.node('GreaterOrEqual', [from, g.scalar(0)]));
  return { x: g.node('GatherND', [x, index], { batch_dims: 1 }), present: there };
}

/** Every `merge` neighbouring events as one token, (B, tokens, W). */
function merged(t: ModuleTranslation, module: LongerEncoder, { rows, width, gaps, history }: LongerInputs): Tokens {
  const g = t.graph;
  const { width: W, merge, positions } = module.options;
  const tokens = Math.ceil(history.length / merge);
  const places = tokens * merge;
  const parts = [rows];
  if (module.gaps !== null && gaps !== null)
    parts.push(g.node('Gather', [t.weight(module.gaps.table), gaps], { axis: 0 }));
  const events = parts.length === 1 ? rows : g.node('Concat', parts, { axis: 1 });
  const eventWidth = width + (module.gaps?.embeddingDim ?? 0);
  const aligned = alignedLatest(t, reshape(g, events, [-1, history.length, eventWidth]), history, places);
  const ages = Array.from({ length: places }, (_, j) => Math.min(places - 1 - j, positions - 1));
  const position = g.node('Gather', [t.weight(module.positions.table), g.integers(ages)], { axis: 0 });
  const encoded = t.mlp(module.event, g.node('Add', [aligned.x, position]), 'gelu');
  const kept = g.node('Mul', [encoded, g.node('Unsqueeze', [aligned.present, g.integers([2])])]);
  const there = g.node('ReduceMax', [reshape(g, aligned.present, [-1, tokens, merge])], { axes: [2], keepdims: 0 });
  return { x: reshape(g, kept, [-1, tokens, W]), present: there };
}

/** One block: `globals` (B, G, W) and the last `asking` of the tokens, changed. */
function block(
  t: ModuleTranslation,
  module: LongerBlock,
  globals: { readonly x: OnnxValue; readonly count: number },
  tokens: Tokens & { readonly count: number },
  asking: number,
): { globals: OnnxValue; tokens: Tokens & { count: number } } {
  const g = t.graph;
  const [G, M, A] = [globals.count, tokens.count, Math.min(asking, tokens.count)];
  const width = module.query.outFeatures;
  const headDim = width / module.heads;
  const cut = (x: OnnxValue, from: number, to: number): OnnxValue =>
    g.node('Slice', [x, g.integers([from]), g.integers([to]), g.integers([1])]);
  const askers = (x: OnnxValue): OnnxValue =>
    A === 0 ? cut(x, 0, G) : g.node('Concat', [cut(x, 0, G), cut(x, G + M - A, G + M)], { axis: 1 });
  const split = (x: OnnxValue, perm: readonly number[]): OnnxValue =>
    transpose(g, reshape(g, x, [0, 0, module.heads, headDim]), perm);
  const x = g.node('Concat', [globals.x, tokens.x], { axis: 1 });
  const normed = t.norm(module.norm, x);
  // Globals see all, a token those up to itself and no global.
  const allowed = numbers([1, 1, G + A, G + M], (i) => {
    const [ask, seen] = [Math.floor(i / (G + M)), i % (G + M)];
    return ask < G || (seen >= G && seen - G <= M - A + (ask - G)) ? 1 : 0;
  });
  const there = g.node('Concat', [t.ones(x, G), tokens.present], { axis: 1 });
  const attended = attention(g, {
    q: split(t.linear(module.query, askers(normed)), [0, 2, 1, 3]),
    keys: split(t.linear(module.key, normed), [0, 2, 3, 1]),
    v: split(t.linear(module.value, normed), [0, 2, 1, 3]),
    visible: g.node('Mul', [g.constant(allowed), g.node('Unsqueeze', [there, g.integers([1, 2])])]),
    scale: headDim ** -0.5,
  });
  const out = t.linear(module.out, reshape(g, transpose(g, attended, [0, 2, 1, 3]), [0, 0, width]));
  const mixed = g.node('Add', [askers(x), out]);
  const up = activation(g, t.linear(module.up, t.norm(module.ffnNorm, mixed)), 'gelu');
  const fed = g.node('Add', [mixed, t.linear(module.down, up)]);
  const left = A === 0 ? tokens : { x: cut(fed, G, G + A), present: cut(tokens.present, M - A, M), count: A };
  return { globals: cut(fed, 0, G), tokens: left };
}

/** What `LongerEncoder` gives, (B, its width). */
export function longerNodes(t: ModuleTranslation, module: LongerEncoder, inputs: LongerInputs): OnnxValue {
  const g = t.graph;
  const { width: W, latest, merge } = module.options;
  const { target, features, history } = inputs;
  const each = [
    t.linear(module.target, target, 2),
    g.node('Squeeze', [t.repeated(t.weight(module.cls), target, 1, W), g.integers([1])]),
  ];
  if (module.features !== null && features !== null) each.push(t.linear(module.features, features, 2));
  const stacked = each.map((x) => g.node('Unsqueeze', [x, g.integers([1])]));
  let globals = g.node('Concat', stacked, { axis: 1 });
  let tokens = { ...merged(t, module, inputs), count: Math.ceil(history.length / merge) };
  module.blocks.forEach((layer, i) => {
    const asking = i === module.blocks.length - 1 ? 0 : latest;
    ({ globals, tokens } = block(t, layer, { x: globals, count: each.length }, tokens, asking));
  });
  return reshape(g, t.norm(module.norm, globals), [-1, module.width]);
}
