/** Tensors: shape, dtype, device and a handle. All work on them is queued; only reading waits. */
import { fromBfloat16, toBfloat16 } from './bfloat16.js';
import { chooseDevice } from './choose_device.js';
import { watched } from './device_watch.js';
import { ArgumentError, DisposedError, DtypeError, ShapeError } from './errors.js';
import {
  addon,
  type DeviceName,
  type Handle,
  type KernelTime,
  type MemoryStatistics,
  native,
  openDevice,
} from './native.js';
import type { RowSparseGrad } from './row_sparse_grad.js';
import { scopes } from './tidy.js';

export type DType = 'float32' | 'float64' | 'int32' | 'int64' | 'uint8' | 'bfloat16';
export type { DeviceName } from './native.js';
export type Shape = readonly number[];

const dtypeCodes = { float32: 0, float64: 1, int32: 2, int64: 3, uint8: 4, bfloat16: 5 } as const;
const hostArrays = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bfloat16: Uint16Array,
} as const;

/** The typed array that holds a dtype on the host; bfloat16 comes as its raw 16 bits. */
export type HostArray = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array | Uint16Array;

export interface TensorOptions {
  readonly dtype?: DType;
  readonly device?: DeviceName;
}

/** A node of the autograd tape: how a tensor came to be. */
export interface GraphNode {
  readonly sequence: number;
  readonly inputs: readonly (Tensor | null)[];
  readonly backward: (dout: Tensor) => readonly (Tensor | RowSparseGrad | null)[];
}

export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const dimension of shape) size *= dimension;
  return size;
}

export class Tensor implements Disposable {
  requiresGrad = false;
  /** Gradient of a leaf after `backward`; accumulates until `zeroGrad`. */
  grad: Tensor | RowSparseGrad | null = null;
  /** Set by the tape; null for leaves. 'used' after its backward has run. */
  node: GraphNode | 'used' | null = null;
  /** Not owned by any `tidy` scope. */
  kept = false;
  readonly shape: Shape;
  #handle: Handle;
  #device: DeviceName;

  /** Takes over `handle`. Use `tensor`, `zeros`, `empty` instead. */
  constructor(
    handle: Handle,
    shape: Shape,
    readonly dtype: DType,
    device: DeviceName,
  ) {
    this.#handle = handle;
    this.#device = device;
    // a copy: the caller's array may change later, the memory does not
    this.shape = Object.isFrozen(shape) ? shape : Object.freeze([...shape]);
    scopes.at(-1)?.push(this);
  }

  get handle(): Handle {
    return this.#handle;
  }

  get device(): DeviceName {
    return this.#device;
  }

  get size(): number {
    return sizeOf(this.shape);
  }

  get disposed(): boolean {
    return this.#handle === 0;
  }

  /** Releases the memory once queued work is done with it. A second call does nothing. */
  dispose(): void {
    if (this.#handle === 0) return;
    addon.release(this.#handle);
    this.#handle = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * The values, after all work queued before this call; of bfloat16 the raw bits. Rejects with the device's error if that work failed.
   */
  async data(): Promise<HostArray> {
    if (this.disposed) throw new DisposedError('data: the tensor was released before this call', { op: 'data' });
    const buffer = await watched(this.device, addon.read(this.#handle));
    return new hostArrays[this.dtype](buffer);
  }

  /** Like `data`, but every dtype comes as numbers one can read: bfloat16 as a Float32Array, which holds it exactly. */
  async values(): Promise<Exclude<HostArray, Uint16Array>> {
    const data = await this.data();
    return data instanceof Uint16Array ? fromBfloat16(data) : data;
  }

  /** The one value of a tensor of size 1. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new ShapeError(`item: expected a tensor of size 1 but received (${this.shape.join(', ')})`, { op: 'item' });
    return Number((await this.values())[0]);
  }

  /**
   * Moves the values to another device; the tensor stays the same object. For parameters, between steps: until this resolves nothing else
   * may use the tensor. A gradient that it has is released.
   */
  async moveTo(device: DeviceName): Promise<void> {
    if (device === this.#device) return;
    if (this.node !== null)
      throw new ArgumentError(`moveTo: expected a leaf but received a result of ops, ${String(this)}`, {
        op: 'moveTo',
      });
    const data = await this.data();
    const moved = empty(this.shape, { dtype: this.dtype, device });
    addon.write(moved.#handle, data);
    this.grad?.dispose();
    this.grad = null;
    [this.#handle, moved.#handle] = [moved.#handle, this.#handle];
    this.#device = device;
    moved.dispose();
  }

  toString(): string {
    return `Tensor(${this.shape.join(', ')}) ${this.dtype} on ${this.device}${this.disposed ? ', released' : ''}`;
  }
}

function checkShape(op: string, shape: Shape): void {
  if (shape.length > 6)
    throw new ShapeError(`${op}: expected at most 6 dimensions but received (${shape.join(', ')})`, { op });
  for (const dimension of shape)
    if (!Number.isSafeInteger(dimension) || dimension < 0)
      throw new ShapeError(`${op}: expected non-negative integer dimensions but received (${shape.join(', ')})`, {
        op,
      });
  // a dimension of 0 counts as 1: kernels multiply some of the dimensions
  if (!Number.isSafeInteger(shape.reduce((product, dimension) => product * Math.max(dimension, 1), 1)))
    throw new ShapeError(`${op}: expected a product of dimensions below 2^53 but received (${shape.join(', ')})`, {
      op,
    });
}

/** A tensor whose values are not set yet, with the dtype and device of `like`, or of the options (float32 on cpu). */
export function empty(shape: Shape, like: Tensor | TensorOptions = {}): Tensor {
  checkShape('empty', shape);
  const { dtype = 'float32' } = like;
  const device = openDevice(like.device ?? 'cpu');
  return new Tensor(addon.create(shape, dtypeCodes[dtype], device), shape, dtype, device);
}

/**
 * Empty, for what an op keeps or returns in full precision beside data like `like`: statistics, log sums, losses. Float32 where those are
 * bfloat16, else their dtype.
 */
export function statistics(shape: Shape, like: Tensor): Tensor {
  return empty(shape, { dtype: like.dtype === 'bfloat16' ? 'float32' : like.dtype, device: like.device });
}

export function full(shape: Shape, value: number, like: Tensor | TensorOptions = {}): Tensor {
  const out = empty(shape, like);
  native.fill(out.handle, value);
  return out;
}

export function zeros(shape: Shape, like: Tensor | TensorOptions = {}): Tensor {
  return full(shape, 0, like);
}

function dtypeOf(data: HostArray): DType {
  if (data instanceof Float32Array) return 'float32';
  if (data instanceof Float64Array) return 'float64';
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof BigInt64Array) return 'int64';
  if (data instanceof Uint8Array) return 'uint8';
  throw new DtypeError('tensor: a Uint16Array needs dtype bfloat16', { op: 'tensor', argument: 'dtype' });
}

/**
 * A tensor with these values, copied now. A typed array keeps its dtype; an array of numbers becomes float32 unless `dtype` says
 * otherwise. bfloat16 comes from numbers, rounded to nearest, or with `dtype` from a Uint16Array of its bits. Integer dtypes refuse fractions, NaN and values out of range.
 */
export function tensor(
  data: HostArray | readonly number[] | number,
  shape?: Shape,
  options: TensorOptions = {},
): Tensor {
  let host: HostArray;
  if (typeof data === 'number' || Array.isArray(data)) {
    host = fromNumbers(typeof data === 'number' ? [data] : (data as readonly number[]), options.dtype ?? 'float32');
    shape ??= typeof data === 'number' ? [] : [host.length];
  } else {
    host = data as HostArray;
    const dtype = host instanceof Uint16Array && options.dtype === 'bfloat16' ? 'bfloat16' : dtypeOf(host);
    if (options.dtype !== undefined && options.dtype !== dtype)
      throw new DtypeError(`tensor: expected data of ${options.dtype} but received ${dtype}`, {
        op: 'tensor',
        argument: 'data',
      });
    options = { ...options, dtype };
    shape ??= [host.length];
  }
  checkShape('tensor', shape);
  if (host.length !== sizeOf(shape))
    throw new ShapeError(
      `tensor: expected ${sizeOf(shape)} values for shape (${shape.join(', ')}) but received ${host.length}`,
      {
        op: 'tensor',
        argument: 'data',
      },
    );
  const out = empty(shape, { dtype: 'float32', ...options });
  addon.write(out.handle, host);
  return out;
}

function fromNumbers(values: readonly number[], dtype: DType): HostArray {
  if (dtype === 'float32' || dtype === 'float64') return hostArrays[dtype].from(values);
  if (dtype === 'bfloat16') return toBfloat16(values);
  const limits =
    dtype === 'uint8'
      ? [0, 255]
      : dtype === 'int32'
        ? [-2147483648, 2147483647]
        : [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
  values.forEach((value, i) => {
    if (!Number.isInteger(value) || value < limits[0]! || value > limits[1]!)
      throw new ArgumentError(`tensor: expected ${dtype} values but received ${value} at position ${i}`, {
        op: 'tensor',
        argument: 'data',
        position: i,
      });
  });
  return dtype === 'int64' ? BigInt64Array.from(values.map(BigInt)) : hostArrays[dtype].from(values);
}

/** Overwrites the values of `target` in queue order, from a typed array of its dtype and size. */
export function assign(target: Tensor, data: HostArray): void {
  if (!(data instanceof hostArrays[target.dtype]))
    throw new DtypeError(`assign: expected data of ${target.dtype} but received ${data.constructor.name}`, {
      op: 'assign',
      argument: 'data',
    });
  if (data.length !== target.size)
    throw new ShapeError(
      `assign: expected ${target.size} values for shape (${target.shape.join(', ')}) but received ${data.length}`,
      {
        op: 'assign',
        argument: 'data',
      },
    );
  addon.write(target.handle, data);
}

/** Where a tensor's first values lie in a file, little-endian. */
export interface FilePart {
  readonly path: string;
  /** In bytes; a multiple of the size of a value. */
  readonly offset: number;
  readonly bytes: number;
}

/**
 * A tensor on the CPU whose memory begins with a part of a file, not read but mapped: processes that map the same file share its pages. What
 * lies behind the part is zero (up to the end of its last page: undefined). Writes stay in this process. The file must not be changed or
 * shortened while the tensor lives: that would change its values or end the process. Throws `StorageError`.
 */
export function mapped(part: FilePart, shape: Shape, dtype: DType = 'float32'): Tensor {
  checkShape('mapped', shape);
  const { path, offset, bytes } = part;
  const size = sizeOf(shape) * hostArrays[dtype].BYTES_PER_ELEMENT;
  if (bytes > size || offset % hostArrays[dtype].BYTES_PER_ELEMENT !== 0)
    throw new ArgumentError(
      `mapped: expected at most ${size} bytes from a multiple of ${hostArrays[dtype].BYTES_PER_ELEMENT} on but received ${bytes} from ${offset} on`,
      { op: 'mapped', argument: 'part' },
    );
  return new Tensor(addon.map(shape, dtypeCodes[dtype], path, offset, bytes), shape, dtype, 'cpu');
}

/** Another tensor over the same memory. For `reshape` and the tape; shares storage. */
export function alias(x: Tensor, shape: Shape = x.shape): Tensor {
  return new Tensor(addon.alias(x.handle, shape), shape, x.dtype, x.device);
}

/** A copy of the values in memory of its own, outside the tape. */
export function clone(x: Tensor): Tensor {
  const out = empty(x.shape, x);
  native.copy(x.handle, out.handle);
  return out;
}

/** Handles of a list of tensors, for kernels that take many. */
export function handlesOf(tensors: readonly Tensor[]): Float64Array {
  return Float64Array.from(tensors, (x) => x.handle);
}

/** A device: what runs behind its queue, and how much memory it holds. */
export interface DeviceControl {
  readonly name: DeviceName;
  /** Why `auto` took it; null where it was named. */
  readonly reason: string | null;
  /** Resolves when everything queued so far is done; rejects with the device's error. */
  synchronize(): Promise<void>;
  memory(): MemoryStatistics;
  /** Calls waiting in the queue. */
  queued(): number;
  /** The step that later errors name. */
  setStep(step: number): void;
  /** Counts time per kernel from now on, from zero; `false` stops. Off it costs nothing that can be measured. */
  setProfile(on: boolean): void;
  /** Calls and seconds of each kernel that ended since `setProfile(true)`; `read` and `write` are copies to and from the host. */
  profile(): Readonly<Record<string, KernelTime>>;
}

/**
 * Opens a device, the CPU if none is named. 'auto' is CUDA where it works, else the CPU; a named one is never replaced: `DeviceUnavailableError`
 * says what it lacks.
 */
export function device(name: DeviceName | 'auto' = 'cpu'): DeviceControl {
  const chosen = name === 'auto' ? chooseDevice() : { device: name, reason: null };
  const resolved = openDevice(chosen.device);
  addon.memory(resolved); // throws where the device does not exist
  return {
    name: resolved,
    reason: chosen.reason,
    synchronize: () => watched(resolved, addon.synchronize(resolved)),
    memory: () => addon.memory(resolved),
    queued: () => addon.queued(resolved),
    setStep: (step) => addon.setStep(resolved, step),
    setProfile: (on) => addon.setProfile(resolved, on),
    profile: () => addon.profile(resolved),
  };
}
