/** The tape: ops record how their output came to be, `backward` walks back. Gradients are never modified in place. */
import { ArgumentError, AutogradError, DisposedError, ShapeError } from './errors.js';
import { native } from './native.js';
import { RowSparseGrad } from './row_sparse_grad.js';
import { alias, empty, full, Tensor } from './tensor.js';
import { keep } from './tidy.js';

type Inputs = readonly (Tensor | null)[];

/** What an op computes in where inputs are cast for it (`withInputCasts`). */
export interface OpPrecision {
  /**
   * 'bf16': in bfloat16, wherever its inputs come from. 'float32': in float32. Not given: in the dtype of its floating inputs, the wider
   * one where they differ.
   */
  readonly precision?: 'bf16' | 'float32';
  /** Places of inputs that stay float32 with 'bf16'. */
  readonly wide?: readonly number[];
}

/** Floating point operations of one call, a multiplication and an addition counting 2; a promise where they depend on data. */
export interface Flops {
  readonly forward: number | Promise<number>;
  /** For the gradients that are wanted. What a kernel computes again to save memory does not count. */
  readonly backward: number | Promise<number>;
}

/** Of a product of `multiplyAdds` that yields `gradients` gradients, each by a product as large as itself. */
export function productFlops(multiplyAdds: number, gradients: readonly (boolean | undefined)[]): Flops {
  const wanted = gradients.filter((gradient) => gradient === true).length;
  return { forward: 2 * multiplyAdds, backward: 2 * multiplyAdds * wanted };
}

/** Told of every op that runs; answers with what to call when its backward does. */
export type OpObserver = (call: {
  readonly name: string;
  readonly inputs: Inputs;
  readonly out: Tensor;
  /** What the op was told beside its inputs. */
  readonly attributes: unknown;
  /** Which inputs want a gradient; all false where nothing is recorded. */
  readonly needs: readonly boolean[];
  /** null: the op is no matrix product and does not say. */
  readonly flops: Flops | null;
}) => () => void;

export interface OpDefinition<In extends Inputs, Attributes, Saved extends Inputs> extends OpPrecision {
  readonly name: string;
  /** Of ops made of products of vectors or matrices. */
  readonly flops?: (inputs: In, out: Tensor, needs: readonly boolean[], attributes: Attributes) => Flops;
  forward(inputs: In, attributes: Attributes): { out: Tensor; saved: Saved };
  /**
   * One gradient per input, in order; `null` where the input is not differentiable. `needs[i]` tells whether anyone wants the
   * i-th. `backward: null` says that the op has no gradient: asking for one throws.
   */
  readonly backward:
    | null
    | ((
        dout: Tensor,
        saved: Saved,
        attributes: Attributes,
        needs: { [K in keyof In]: boolean },
      ) => { [K in keyof In]: Tensor | RowSparseGrad | null });
}

let recording = true;
let sequence = 0;

/** Runs `run` without recording: no graph, no saved tensors. `run` must be synchronous, or what follows its first wait would be recorded. */
export function noGrad<T>(run: () => T): T {
  const before = recording;
  recording = false;
  try {
    const result = run();
    if (result instanceof Promise)
      throw new ArgumentError(
        'noGrad: expected a synchronous function but received a promise; await outside of noGrad',
        {
          op: 'noGrad',
        },
      );
    return result;
  } finally {
    recording = before;
  }
}

/** True inside code whose ops are recorded. */
export function isRecording(): boolean {
  return recording;
}

/** Changes the dtypes of an op's inputs before it sees them. */
type InputCasts = (inputs: Inputs, precision: OpPrecision) => Inputs;

let inputCasts: InputCasts | null = null;

/** Every op called by `run`, which is synchronous, gets what `casts` makes of its inputs; null: its inputs as they are. */
export function withInputCasts<T>(casts: InputCasts | null, run: () => T): T {
  const before = inputCasts;
  inputCasts = casts;
  try {
    return run();
  } finally {
    inputCasts = before;
  }
}

let observer: OpObserver | null = null;

/** Every op called by `run`, which is synchronous, and its backward are told to `seen`. */
export function withOpObserver<T>(seen: OpObserver, run: () => T): T {
  const before = observer;
  observer = seen;
  try {
    return run();
  } finally {
    observer = before;
  }
}

/** Told of a computation of several ops as one. */
export type CompositeObserver = (call: {
  readonly name: string;
  readonly inputs: Inputs;
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly attributes: unknown;
}) => void;

let compositeObserver: CompositeObserver | null = null;

/** Every `composite` called by `run`, which is synchronous, is told to `seen`; the ops in it are told to nobody. */
export function withCompositeObserver<T>(seen: CompositeObserver, run: () => T): T {
  const before = compositeObserver;
  compositeObserver = seen;
  try {
    return run();
  } finally {
    compositeObserver = before;
  }
}

/**
 * Runs `run`, and gives it a name for those who translate what is computed: for ops whose inputs are made on the host (chosen or moved rows),
 * which say nothing by themselves.
 */
export function composite<Outputs extends Readonly<Record<string, Tensor>>>(
  name: string,
  { inputs, attributes = {} }: { readonly inputs: Inputs; readonly attributes?: object },
  run: () => Outputs,
): Outputs {
  const seen = compositeObserver;
  if (seen === null) return run();
  const ops = observer;
  observer = null;
  compositeObserver = null;
  try {
    const outputs = run();
    seen({ name, inputs, outputs, attributes });
    return outputs;
  } finally {
    observer = ops;
    compositeObserver = seen;
  }
}

export function defineOp<const In extends Inputs, Attributes, const Saved extends Inputs>(
  definition: OpDefinition<In, Attributes, Saved>,
) {
  const { name, backward } = definition;
  return (given: In, attributes: Attributes): Tensor => {
    const inputs = inputCasts === null ? given : (inputCasts(given, definition) as In);
    const { out, saved } = definition.forward(inputs, attributes);
    const wanted = inputs.map((x) => recording && (x?.requiresGrad ?? false));
    const flops = observer === null ? null : (definition.flops?.(inputs, out, wanted, attributes) ?? null);
    const onBackward = observer?.({ name, inputs, out, attributes, needs: wanted, flops });
    if (!wanted.includes(true)) return out;
    if (backward === null)
      throw new AutogradError(`${name}: has no gradient, but an input requires one; detach it first`, { op: name });
    const needs = wanted as { [K in keyof In]: boolean };
    const graph = {
      sequence: sequence++,
      inputs,
      backward: (dout: Tensor) => {
        for (const x of saved)
          if (x?.disposed)
            throw new DisposedError(`${name}: a tensor saved for backward was released before it`, { op: name });
        onBackward?.();
        return backward(dout, saved, attributes, needs);
      },
    };
    out.requiresGrad = true;
    out.node = graph;
    return out;
  };
}

/** The same values without history: no gradient flows through the result. Shares memory with `x`. */
export function detach(x: Tensor): Tensor {
  return alias(x);
}

type Gradient = Tensor | RowSparseGrad;

function add(name: string, a: Gradient, b: Gradient): Gradient {
  if (a instanceof RowSparseGrad && b instanceof RowSparseGrad) return a.concat(b);
  if (a instanceof RowSparseGrad || b instanceof RowSparseGrad)
    throw new AutogradError(
      `${name}: a row-sparse and a dense gradient meet at one tensor; look the table up with embedding only`,
      { op: name },
    );
  const out = empty(a.shape, a);
  native.add_same(a.handle, b.handle, out.handle);
  return out;
}

/** A gradient that outlives the scope of the step, with handles of its own: `dout` may be shared between several inputs. */
function own(gradient: Gradient): Gradient {
  if (gradient instanceof Tensor) return keep(alias(gradient));
  const mine = (x: Tensor | null) => (x === null ? null : keep(alias(x)));
  return new RowSparseGrad(
    gradient.shape,
    gradient.pieces.map((piece) => ({
      indices: mine(piece.indices)!,
      values: mine(piece.values)!,
      source: mine(piece.source),
      weights: mine(piece.weights),
    })),
  );
}

function accumulate(leaf: Tensor, gradient: Gradient): void {
  const before = leaf.grad;
  if (before === null) {
    leaf.grad = own(gradient);
    return;
  }
  leaf.grad = own(add('backward', before, gradient));
  before.dispose();
}

/**
 * Adds d loss / d leaf to `.grad` of every leaf that requires it. `loss` has size 1 (dloss = 1), or `dloss` of its shape is given.
 * The graph is used up: a second call on it throws `AutogradError`.
 */
export function backward(loss: Tensor, dloss?: Tensor): void {
  if (loss.node === 'used')
    throw new AutogradError('backward: this graph was already used; run the forward pass again', { op: 'backward' });
  if (loss.node === null) {
    if (!loss.requiresGrad)
      throw new AutogradError('backward: the loss depends on nothing that requires a gradient', { op: 'backward' });
    accumulate(loss, dloss ?? full(loss.shape, 1, loss));
    return;
  }
  if (dloss === undefined && loss.size !== 1)
    throw new ShapeError(
      `backward: expected a loss of size 1 but received (${loss.shape.join(', ')}); pass dloss for others`,
      { op: 'backward' },
    );
  if (dloss !== undefined && dloss.shape.join() !== loss.shape.join())
    throw new ShapeError(
      `backward: expected dloss of shape (${loss.shape.join(', ')}) but received (${dloss.shape.join(', ')})`,
      { op: 'backward', argument: 'dloss' },
    );

  const pending = new Map<Tensor, Gradient>([[loss, dloss ?? full(loss.shape, 1, loss)]]);
  for (const out of reachable(loss)) {
    const node = out.node;
    if (node === null) continue;
    if (node === 'used')
      throw new AutogradError('backward: a part of this graph was already used; run the forward pass again', {
        op: 'backward',
      });
    const dout = pending.get(out);
    pending.delete(out);
    out.node = 'used';
    if (dout === undefined) continue;
    if (dout instanceof RowSparseGrad)
      throw new AutogradError('backward: a row-sparse gradient reached a tensor that is no leaf', { op: 'backward' });
    const gradients = node.backward(dout);
    node.inputs.forEach((input, i) => {
      const gradient = gradients[i];
      if (!gradient || !input?.requiresGrad) return;
      if (input.node === null) accumulate(input, gradient);
      else {
        const before = pending.get(input);
        pending.set(input, before === undefined ? gradient : add('backward', before, gradient));
      }
    });
  }
}

/** Tensors with a node below `loss`, latest first: an op's output always comes after its inputs. */
function reachable(loss: Tensor): Tensor[] {
  const seen = new Set<Tensor>([loss]);
  for (const out of seen) {
    if (out.node === null || out.node === 'used') continue;
    for (const input of out.node.inputs) if (input !== null && input.node !== null) seen.add(input);
  }
  const order = (x: Tensor) => (x.node === null || x.node === 'used' ? -1 : x.node.sequence);
  return [...seen].sort((a, b) => order(b) - order(a));
}

/** Releases the gradients of `leaves`. */
export function zeroGrad(leaves: Iterable<Tensor>): void {
  for (const leaf of leaves) {
    leaf.grad?.dispose();
    leaf.grad = null;
  }
}

/** Marks a tensor as a leaf that wants a gradient, outside every scope. */
export function parameter(x: Tensor): Tensor {
  x.requiresGrad = true;
  return keep(x);
}
