/** Modules own parameters and compose ops. Every parameter has a path; its initial values follow from (seed, path) alone. */

import { parameter } from '../autograd.js';
import { CheckpointMismatchError } from '../errors.js';
import { normals, streamOf, uniforms } from '../random.js';
import { assign, type DeviceName, full, type HostArray, type Shape, sizeOf, Tensor, tensor } from '../tensor.js';
import { keep } from '../tidy.js';

/** Whether dropout and batch statistics are those of training. */
export interface ForwardContext {
  readonly training: boolean;
}

/** Makes parameters on a device: values depend on the seed and on the path of the parameter, not on what else exists. */
export class Initializer {
  constructor(
    readonly seed: number,
    readonly dtype: 'float32' | 'float64' = 'float32',
    readonly device: DeviceName = 'cpu',
    readonly path: string = '',
  ) {}

  at(name: string): Initializer {
    return new Initializer(this.seed, this.dtype, this.device, this.path === '' ? name : `${this.path}.${name}`);
  }

  private make(values: Float64Array, shape: Shape): Tensor {
    const host = this.dtype === 'float64' ? values : Float32Array.from(values);
    return keep(tensor(host, shape, { device: this.device }));
  }

  /** N(0, std). */
  normal(name: string, shape: Shape, std: number): Tensor {
    const stream = streamOf(this.at(name).path);
    const values = normals(sizeOf(shape), this.seed, stream).map((x) => x * std);
    return parameter(this.make(values, shape));
  }

  /** Uniform in (-bound, bound). */
  uniform(name: string, shape: Shape, bound: number): Tensor {
    const stream = streamOf(this.at(name).path);
    const values = uniforms(sizeOf(shape), this.seed, stream).map((u) => (2 * u - 1) * bound);
    return parameter(this.make(values, shape));
  }

  constant(_name: string, shape: Shape, value: number): Tensor {
    return parameter(this.make(new Float64Array(sizeOf(shape)).fill(value), shape));
  }

  /** State that is saved but not trained. */
  buffer(_name: string, shape: Shape, value: number): Tensor {
    return keep(full(shape, value, { dtype: this.dtype, device: this.device }));
  }

  /** Integer state that is saved but not trained. */
  integers(_name: string, shape: Shape, value: number): Tensor {
    return keep(tensor(new Int32Array(sizeOf(shape)).fill(value), shape, { device: this.device }));
  }
}

/** Makes every parameter 0: for modules whose values are loaded. */
export class BlankInitializer extends Initializer {
  override at(name: string): Initializer {
    return new BlankInitializer(this.seed, this.dtype, this.device, this.path === '' ? name : `${this.path}.${name}`);
  }

  private zeros(shape: Shape): Tensor {
    return parameter(keep(full(shape, 0, { dtype: this.dtype, device: this.device })));
  }

  override normal(_name: string, shape: Shape): Tensor {
    return this.zeros(shape);
  }

  override uniform(_name: string, shape: Shape): Tensor {
    return this.zeros(shape);
  }

  override constant(_name: string, shape: Shape): Tensor {
    return this.zeros(shape);
  }
}

function visit(value: unknown, path: string, found: Map<string, Tensor>): void {
  if (value instanceof Tensor) found.set(path, value);
  else if (value instanceof Module) for (const [name, x] of value.state()) found.set(`${path}.${name}`, x);
  else if (Array.isArray(value)) value.forEach((element, i) => visit(element, `${path}.${i}`, found));
  else if (value instanceof Map) for (const [key, element] of value) visit(element, `${path}.${String(key)}`, found);
}

/** `module` and all modules inside it, by the paths that `state` uses; its own path is ''. */
export function* modulesOf(module: Module, path = ''): Generator<readonly [string, Module]> {
  yield [path, module];
  for (const [name, value] of Object.entries(module)) yield* modulesIn(value, path === '' ? name : `${path}.${name}`);
}

function* modulesIn(value: unknown, path: string): Generator<readonly [string, Module]> {
  if (value instanceof Module) yield* modulesOf(value, path);
  else if (Array.isArray(value)) for (const [i, element] of value.entries()) yield* modulesIn(element, `${path}.${i}`);
  else if (value instanceof Map)
    for (const [key, element] of value) yield* modulesIn(element, `${path}.${String(key)}`);
}

/** Base class: finds parameters and buffers among its properties, in the order of their declaration. */
export abstract class Module implements Disposable {
  #first: Tensor | undefined;

  /** Where its parameters and buffers are; cpu for a module without any. */
  get device(): DeviceName {
    this.#first ??= this.state().values().next().value;
    return this.#first?.device ?? 'cpu';
  }

  /** A tensor of these values where the module is. */
  protected place(values: HostArray, shape: Shape = [values.length]): Tensor {
    return tensor(values, shape, { device: this.device });
  }

  /** Moves parameters and buffers, which stay the same tensors. Until it resolves nothing else may use the module. */
  async moveTo(device: DeviceName): Promise<void> {
    await Promise.all([...new Set(this.state().values())].map((x) => x.moveTo(device)));
  }

  /** Parameters and buffers by path: what a checkpoint holds. */
  state(): Map<string, Tensor> {
    const found = new Map<string, Tensor>();
    for (const [name, value] of Object.entries(this)) visit(value, name, found);
    return found;
  }

  /** Trained tensors by path. */
  parameters(): Map<string, Tensor> {
    return new Map([...this.state()].filter(([, x]) => x.requiresGrad));
  }

  /** Writes `values` over the state. Missing, extra and mismatched entries come as one `CheckpointMismatchError`. */
  load(values: ReadonlyMap<string, { readonly data: HostArray; readonly shape: Shape }>): void {
    const state = this.state();
    const diff: string[] = [];
    for (const [name, x] of state) {
      const given = values.get(name);
      if (given === undefined) diff.push(`missing ${name} (${x.shape.join(', ')})`);
      else if (given.shape.join() !== x.shape.join())
        diff.push(`${name}: expected (${x.shape.join(', ')}) but received (${given.shape.join(', ')})`);
    }
    for (const name of values.keys()) if (!state.has(name)) diff.push(`unexpected ${name}`);
    if (diff.length > 0)
      throw new CheckpointMismatchError(
        `load: the saved state belongs to another model: ${diff.slice(0, 5).join('; ')}${diff.length > 5 ? ` and ${diff.length - 5} more` : ''}`,
        { diff },
      );
    for (const [name, x] of state) assign(x, values.get(name)!.data);
  }

  dispose(): void {
    for (const x of this.state().values()) x.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
