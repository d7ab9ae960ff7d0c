/** One optimizer for dense parameters and embedding tables: parameter groups, clipping, and steps that are skipped whole. */
import { ArgumentError, AutogradError, CheckpointMismatchError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { RowSparseGrad } from '../row_sparse_grad.js';
import { assign, type DeviceName, empty, type HostArray, handlesOf, type Shape, Tensor, zeros } from '../tensor.js';
import { keep, tidy } from '../tidy.js';
import { type ReducedRows, reduceRows } from './row_sparse.js';

/**
 * `adamw`: every parameter with a dense gradient. The others take a table (V, D) with a row-sparse gradient and change only the rows
 * that were looked up; other rows neither move nor decay. `rowwise_adam`: m per element, v per row. `rowwise_adagrad`: 4 bytes per
 * row. `lazy_adam`: m and v per element, as SparseAdam of PyTorch, without weight decay.
 */
export type Algorithm = 'adamw' | 'rowwise_adam' | 'rowwise_adagrad' | 'lazy_adam';

export interface ParameterGroup {
  readonly name: string;
  readonly params: ReadonlyMap<string, Tensor>;
  readonly algorithm: Algorithm;
  readonly learningRate: number;
  /** Steps over which the learning rate grows linearly up to `learningRate`. Default 0. */
  readonly warmupSteps?: number;
  /** Decoupled: a parameter shrinks by learningRate * weightDecay of itself per step. Default 0. */
  readonly weightDecay?: number;
  /** Default 0.9. */
  readonly beta1?: number;
  /** Default 0.999. */
  readonly beta2?: number;
  /** Default 1e-8. */
  readonly eps?: number;
}

export interface OptimizerOptions {
  /** Largest Euclidean norm of all gradients together; larger ones are scaled down. Default: no clipping. */
  readonly clipNorm?: number;
}

/** One parameter and what the algorithm remembers about it; `m` only where it has one. */
interface Slot {
  readonly name: string;
  readonly param: Tensor;
  readonly state: { readonly m?: Tensor; readonly v: Tensor; readonly step: Tensor };
}

interface Group extends Required<Omit<ParameterGroup, 'params'>> {
  readonly slots: readonly Slot[];
}

function checkRange(group: string, argument: string, value: number, inside: boolean, expected: string): void {
  if (!inside)
    throw new ArgumentError(
      `Optimizer: expected ${argument} of group '${group}' to be ${expected} but received ${value}`,
      {
        op: 'Optimizer',
        argument,
        group,
      },
    );
}

function createSlot(name: string, param: Tensor, algorithm: Algorithm): Slot {
  if (algorithm !== 'adamw' && param.shape.length !== 2)
    throw new ShapeError(
      `Optimizer: expected '${name}' of shape (V, D) for ${algorithm} but received (${param.shape.join(', ')})`,
      { op: 'Optimizer', argument: name },
    );
  const byRow = algorithm === 'rowwise_adam' || algorithm === 'rowwise_adagrad';
  const create = (shape: Shape) => keep(zeros(shape, param));
  return {
    name,
    param,
    state: {
      ...(algorithm === 'rowwise_adagrad' ? {} : { m: create(param.shape) }),
      v: create(byRow ? [param.shape[0]!] : param.shape),
      step: keep(zeros([1], { dtype: 'int32', device: param.device })),
    },
  };
}

function createGroup({ params, ...group }: ParameterGroup): Group {
  const {
    name,
    algorithm,
    learningRate,
    warmupSteps = 0,
    weightDecay = 0,
    beta1 = 0.9,
    beta2 = 0.999,
    eps = 1e-8,
  } = group;
  checkRange(name, 'learningRate', learningRate, learningRate >= 0 && Number.isFinite(learningRate), 'finite and >= 0');
  checkRange(name, 'weightDecay', weightDecay, weightDecay >= 0 && Number.isFinite(weightDecay), 'finite and >= 0');
  checkRange(name, 'beta1', beta1, beta1 >= 0 && beta1 < 1, 'in [0, 1)');
  checkRange(name, 'beta2', beta2, beta2 >= 0 && beta2 < 1, 'in [0, 1)');
  checkRange(name, 'eps', eps, eps > 0, 'above 0');
  if (algorithm === 'lazy_adam') checkRange(name, 'weightDecay', weightDecay, weightDecay === 0, '0 for lazy_adam');
  const slots = Array.from(params, ([key, param]) => createSlot(key, param, algorithm));
  return { name, algorithm, learningRate, warmupSteps, weightDecay, beta1, beta2, eps, slots };
}

/**
 * Updates parameters from their `.grad`. A step reads nothing back: norm, clip factor and step counters live on the device.
 *
 * When the norm of all gradients is not finite, the step is skipped whole: no weight, no state and no step counter changes by a
 * bit, and `skippedSteps` grows by one. A parameter without a gradient is left alone.
 */
export class Optimizer implements Disposable {
  /** Norm of all gradients of the last step before clipping: (1) float64. */
  readonly gradNorm: Tensor;
  /** What the last step multiplied gradients with: (1) float64; NaN when it was skipped. */
  readonly clipFactor: Tensor;
  readonly #skipped: Tensor;
  readonly #groups: readonly Group[];
  readonly #clipNorm: number;

  constructor(groups: readonly ParameterGroup[], { clipNorm = Number.POSITIVE_INFINITY }: OptimizerOptions = {}) {
    if (!(clipNorm > 0))
      throw new ArgumentError(`Optimizer: expected clipNorm to be above 0 but received ${clipNorm}`, {
        op: 'Optimizer',
        argument: 'clipNorm',
      });
    const names = new Set<string>();
    const tensors = new Set<Tensor>();
    for (const { name: group, params } of groups)
      for (const [name, param] of params) {
        if (names.has(name) || tensors.has(param))
          throw new ArgumentError(
            `Optimizer: expected each parameter once but '${name}' of group '${group}' came before`,
            {
              op: 'Optimizer',
              argument: name,
            },
          );
        names.add(name);
        tensors.add(param);
      }
    this.#groups = groups.map(createGroup);
    this.#clipNorm = clipNorm;
    const device: DeviceName = this.#slots()[0]?.param.device ?? 'cpu';
    this.gradNorm = keep(zeros([1], { dtype: 'float64', device }));
    this.clipFactor = keep(zeros([1], { dtype: 'float64', device }));
    this.#skipped = keep(zeros([1], { dtype: 'int32', device }));
  }

  /**
   * One update; learning rates are multiplied by `learningRateFactor` (a schedule's value). `step`, from 1 on, is how far training is: what
   * `warmupSteps` counts; default: at its end. Where a gradient or `loss`, if it is given, is not finite nothing changes.
   */
  step({
    learningRateFactor = 1,
    step = Infinity,
    loss,
  }: {
    learningRateFactor?: number;
    step?: number;
    loss?: Tensor;
  } = {}): void {
    tidy(() => {
      const dense: Tensor[] = [];
      const reduced = new Map<Slot, ReducedRows>();
      const active = this.#groups.map((group) => ({
        group,
        slots: group.slots.filter(({ param }) => param.grad !== null),
      }));
      for (const { group, slots } of active)
        for (const slot of slots) {
          const grad = slot.param.grad;
          if (group.algorithm === 'adamw') dense.push(expectDense(slot, grad));
          else reduced.set(slot, reduceRows(slot.param, expectRowSparse(slot, group.algorithm, grad)));
        }
      if (loss !== undefined) {
        const nothing = empty(loss.shape, loss); // 0 times the loss adds nothing to the norm, or NaN
        native.affine(loss.handle, nothing.handle, 0, 0);
        dense.push(nothing);
      }
      const touched = [...reduced.values()];
      native.gradient_norm(
        handlesOf(dense),
        handlesOf(touched.map(({ sums }) => sums)),
        handlesOf(touched.map(({ count }) => count)),
        this.gradNorm.handle,
      );
      native.clip_factor(this.gradNorm.handle, this.clipFactor.handle, this.#skipped.handle, this.#clipNorm);
      for (const { group, slots } of active) {
        const growth = step < group.warmupSteps ? step / group.warmupSteps : 1;
        const rate = group.learningRate * learningRateFactor * growth;
        if (group.algorithm === 'adamw') this.#stepDense(group, slots, rate);
        else for (const slot of slots) this.#stepRows(group, slot, reduced.get(slot)!, rate);
      }
    });
  }

  /** Releases all gradients. */
  zeroGrad(): void {
    for (const { param } of this.#slots()) {
      param.grad?.dispose();
      param.grad = null;
    }
  }

  /** How many steps were skipped because a gradient was not finite. Waits for the device. */
  skippedSteps(): Promise<number> {
    return this.#skipped.item();
  }

  /** All that a resumed run needs, by name: `<param>.m`, `<param>.v`, `<param>.step` where they exist, and `skipped_steps`. */
  state(): Map<string, Tensor> {
    const state = new Map<string, Tensor>();
    for (const { name, state: tensors } of this.#slots())
      for (const [key, x] of Object.entries(tensors)) state.set(`${name}.${key}`, x);
    return state.set('skipped_steps', this.#skipped);
  }

  /** Takes over what `state()` held, in queue order. Names and sizes must match exactly: `CheckpointMismatchError` otherwise. */
  load(values: ReadonlyMap<string, HostArray>): void {
    const state = this.state();
    const diff = [
      ...[...state.keys()].filter((name) => !values.has(name)).map((name) => `${name} is missing`),
      ...[...values.keys()].filter((name) => !state.has(name)).map((name) => `${name} is unknown`),
      ...[...state].flatMap(([name, x]) => {
        const length = values.get(name)?.length;
        return length === undefined || length === x.size ? [] : [`${name} has ${length} values, expected ${x.size}`];
      }),
    ];
    if (diff.length > 0)
      throw new CheckpointMismatchError(
        `Optimizer: expected the state of these parameters but ${diff.slice(0, 5).join('; ')}${diff.length > 5 ? `; and ${diff.length - 5} more` : ''}`,
        { diff },
      );
    for (const [name, x] of state) assign(x, values.get(name)!);
  }

  /** Releases the state, not the parameters. */
  dispose(): void {
    for (const x of [...this.state().values(), this.gradNorm, this.clipFactor]) x.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #slots(): Slot[] {
    return this.#groups.flatMap((group) => group.slots);
  }

  #stepDense({ weightDecay, beta1, beta2, eps }: Group, slots: readonly Slot[], rate: number): void {
    if (slots.length === 0) return;
    native.adamw(
      handlesOf(slots.map(({ param }) => param)),
      handlesOf(slots.map(({ param }) => param.grad as Tensor)),
      handlesOf(slots.map(({ state }) => state.m!)),
      handlesOf(slots.map(({ state }) => state.v)),
      handlesOf(slots.map(({ state }) => state.step)),
      this.clipFactor.handle,
      rate,
      weightDecay,
      beta1,
      beta2,
      eps,
    );
  }

  #stepRows(
    { algorithm, weightDecay, beta1, beta2, eps }: Group,
    { param, state: { m, v, step } }: Slot,
    { rows, sums, count }: ReducedRows,
    rate: number,
  ): void {
    const gradient = [rows.handle, sums.handle, count.handle, this.clipFactor.handle] as const;
    if (algorithm === 'rowwise_adagrad')
      native.rowwise_adagrad(param.handle, v.handle, step.handle, ...gradient, rate, weightDecay, eps);
    else if (algorithm === 'rowwise_adam')
      native.rowwise_adam(
        param.handle,
        m!.handle,
        v.handle,
        step.handle,
        ...gradient,
        rate,
        weightDecay,
        beta1,
        beta2,
        eps,
      );
    else native.lazy_adam(param.handle, m!.handle, v.handle, step.handle, ...gradient, rate, beta1, beta2, eps);
  }
}

function expectDense({ name }: Slot, grad: Tensor | RowSparseGrad | null): Tensor {
  if (grad instanceof Tensor) return grad;
  throw new AutogradError(
    `Optimizer: expected a dense gradient of '${name}' for adamw but received a row-sparse one; ` +
      'put tables into a group with rowwise_adam, rowwise_adagrad or lazy_adam',
    { op: 'Optimizer', argument: name },
  );
}

function expectRowSparse({ name }: Slot, algorithm: Algorithm, grad: Tensor | RowSparseGrad | null): RowSparseGrad {
  if (grad instanceof RowSparseGrad) return grad;
  throw new AutogradError(
    `Optimizer: expected a row-sparse gradient of '${name}' for ${algorithm} but received a dense one; ` +
      'look the table up with embedding or embeddingBag only, or put it into a group with adamw',
    { op: 'Optimizer', argument: name },
  );
}
