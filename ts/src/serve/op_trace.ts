/** What a forward pass computes, written down: its ops, in order, and the host values of every tensor that they read and make. */
import { withCompositeObserver, withOpObserver } from '../autograd.js';
import type { Module } from '../nn/module.js';
import { alias, type DType, type Shape, type Tensor } from '../tensor.js';
import { keep, tidy } from '../tidy.js';

export interface TracedTensor {
  readonly shape: Shape;
  readonly dtype: DType;
  /** Name of the parameter or buffer that it is; null for others. */
  readonly parameter: string | null;
  /** The op that made it; null for a leaf. */
  readonly op: TracedOp | null;
  /** Row-major. Empty for parameters, which are the model's. */
  readonly values: ArrayLike<number | bigint>;
}

export interface TracedOp {
  readonly name: string;
  /** Place among the ops of the trace. */
  readonly index: number;
  readonly attributes: Readonly<Record<string, unknown>>;
  /** Numbers of tensors; null where an optional input was not given. */
  readonly inputs: readonly (number | null)[];
  /** Of an op `out` alone; a composite has several, by name. */
  readonly outputs: Readonly<Record<string, number>>;
  readonly composite: boolean;
}

export interface Trace {
  readonly ops: readonly TracedOp[];
  readonly tensors: readonly TracedTensor[];
  /** Numbers of the tensors that the pass returned, by their names. */
  readonly results: ReadonlyMap<string, number>;
}

/** Runs `run`, which is synchronous and makes its results by ops of `model`, and writes down what it does. Waits for the device. */
export async function traceOps(model: Module, run: () => ReadonlyMap<string, Tensor>): Promise<Trace> {
  const parameters = new Map([...model.state()].map(([name, x]) => [x, name]));
  const numbers = new Map<Tensor, number>();
  const found: { x: Tensor; held: Tensor | null; op: TracedOp | null }[] = [];
  const ops: TracedOp[] = [];
  const number = (x: Tensor, op: TracedOp | null = null): number => {
    const known = numbers.get(x);
    if (known !== undefined) return known;
    numbers.set(x, found.length);
    // A handle of its own: the pass releases its tensors at its end.
    found.push({ x, held: parameters.has(x) ? null : keep(alias(x)), op });
    return found.length - 1;
  };
  const note = (
    { name, inputs, attributes }: { name: string; inputs: readonly (Tensor | null)[]; attributes: unknown },
    made: Readonly<Record<string, Tensor>>,
    composite: boolean,
  ): void => {
    const outputs: Record<string, number> = {};
    const op: TracedOp = {
      name,
      index: ops.length,
      attributes: (attributes ?? {}) as TracedOp['attributes'],
      inputs: inputs.map((x) => (x === null ? null : number(x))),
      outputs,
      composite,
    };
    for (const [key, x] of Object.entries(made)) outputs[key] = number(x, op);
    ops.push(op);
  };
  try {
    const results = tidy(() => {
      const observed = (): ReadonlyMap<string, Tensor> =>
        withOpObserver((call) => {
          note(call, { out: call.out }, false);
          return () => undefined;
        }, run);
      const made = withCompositeObserver((call) => note(call, call.outputs, true), observed);
      return new Map([...made].map(([name, x]) => [name, number(x)]));
    });
    const tensors = await Promise.all(
      found.map(async ({ x, held, op }): Promise<TracedTensor> => {
        const parameter = parameters.get(x) ?? null;
        const values = held === null ? [] : await held.data();
        return { shape: x.shape, dtype: x.dtype, parameter, op, values };
      }),
    );
    return { ops, tensors, results };
  } finally {
    for (const { held } of found) held?.dispose();
  }
}
