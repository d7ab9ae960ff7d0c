/**
 * ONNX files: a protocol buffer `ModelProto` that holds one graph of nodes, its constants, inputs and outputs. The schema below is the part of
 * the public `onnx.proto` that a writer of inference graphs needs; numbers of fields and of element types are those of that file.
 */
import protobuf from 'protobufjs/light.js';
import { ArgumentError } from '../errors.js';

/** Element types that graphs of ours use. Values of bool are bytes 0 and 1. */
export type OnnxDtype = 'float32' | 'float64' | 'int32' | 'int64' | 'uint8' | 'bool';

/** Typed array of each element type, in host memory. */
export interface OnnxArrays {
  float32: Float32Array;
  float64: Float64Array;
  int32: Int32Array;
  int64: BigInt64Array;
  uint8: Uint8Array;
  bool: Uint8Array;
}

/** A constant: row-major values of a shape. */
export type OnnxConstant = {
  readonly [D in OnnxDtype]: { readonly dtype: D; readonly shape: readonly number[]; readonly data: OnnxArrays[D] };
}[OnnxDtype];

/** A dimension: its size, or the name of one that is known when the graph runs. */
export type OnnxDimension = number | string;

export interface OnnxPort {
  readonly name: string;
  readonly dtype: OnnxDtype;
  readonly shape: readonly OnnxDimension[];
}

/** Attribute of a node: a whole number, or several; `{ float }` for a real number; a string. */
export type OnnxAttribute = number | readonly number[] | string | { readonly float: number };

/** Names a value of a graph. */
export type OnnxValue = string & { readonly onnx: unique symbol };

const elementTypes: Readonly<Record<OnnxDtype, number>> = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float64: 11,
};

/** The version of the operators, and of the file format that goes with it. LayerNormalization came with 17. */
export const ONNX_OPSET = 17;
const IR_VERSION = 8;

/** Protocol buffers end at 2 GiB. */
const MAX_BYTES = 2 ** 31 - 1;

type FieldRow = readonly [name: string, id: number, type: string, rule?: 'repeated'];

const messages: Readonly<Record<string, readonly FieldRow[]>> = {
  ModelProto: [
    ['irVersion', 1, 'int64'],
    ['producerName', 2, 'string'],
    ['producerVersion', 3, 'string'],
    ['graph', 7, 'GraphProto'],
    ['opsetImport', 8, 'OperatorSetIdProto', 'repeated'],
    ['metadataProps', 14, 'StringStringEntryProto', 'repeated'],
  ],
  OperatorSetIdProto: [
    ['domain', 1, 'string'],
    ['version', 2, 'int64'],
  ],
  StringStringEntryProto: [
    ['key', 1, 'string'],
    ['value', 2, 'string'],
  ],
  GraphProto: [
    ['node', 1, 'NodeProto', 'repeated'],
    ['name', 2, 'string'],
    ['initializer', 5, 'TensorProto', 'repeated'],
    ['input', 11, 'ValueInfoProto', 'repeated'],
    ['output', 12, 'ValueInfoProto', 'repeated'],
  ],
  NodeProto: [
    ['input', 1, 'string', 'repeated'],
    ['output', 2, 'string', 'repeated'],
    ['name', 3, 'string'],
    ['opType', 4, 'string'],
    ['attribute', 5, 'AttributeProto', 'repeated'],
  ],
  AttributeProto: [
    ['name', 1, 'string'],
    ['f', 2, 'float'],
    ['i', 3, 'int64'],
    ['s', 4, 'bytes'],
    ['ints', 8, 'int64', 'repeated'],
    ['type', 20, 'int32'],
  ],
  TensorProto: [
    ['dims', 1, 'int64', 'repeated'],
    ['dataType', 2, 'int32'],
    ['name', 8, 'string'],
    ['rawData', 9, 'bytes'],
  ],
  ValueInfoProto: [
    ['name', 1, 'string'],
    ['type', 2, 'TypeProto'],
  ],
  TypeProto: [['tensorType', 1, 'TensorTypeProto']],
  TensorTypeProto: [
    ['elemType', 1, 'int32'],
    ['shape', 2, 'TensorShapeProto'],
  ],
  TensorShapeProto: [['dim', 1, 'DimensionProto', 'repeated']],
  DimensionProto: [
    ['dimValue', 1, 'int64'],
    ['dimParam', 2, 'string'],
  ],
};

function schema(): protobuf.Type {
  const root = new protobuf.Root();
  for (const [name, fields] of Object.entries(messages)) {
    const type = new protobuf.Type(name);
    for (const [field, id, kind, rule] of fields) type.add(new protobuf.Field(field, id, kind, rule));
    root.add(type);
  }
  return root.lookupType('ModelProto');
}

let modelProto: protobuf.Type | null = null;

function attribute(name: string, value: OnnxAttribute): object {
  if (typeof value === 'number') return { name, i: value, type: 2 };
  if (typeof value === 'string') return { name, s: Buffer.from(value), type: 3 };
  if ('float' in value) return { name, f: value.float, type: 1 };
  return { name, ints: [...value], type: 7 };
}

function port({ name, dtype, shape }: OnnxPort): object {
  const dim = shape.map((size) => (typeof size === 'number' ? { dimValue: size } : { dimParam: size }));
  return { name, type: { tensorType: { elemType: elementTypes[dtype], shape: { dim } } } };
}

/** The bytes of small constants, to find equal ones again. */
const SHARED_BYTES = 256;

/** Builds one graph: constants, inputs and outputs by name, nodes in the order in which they compute. */
export class OnnxGraph {
  readonly inputs: OnnxPort[] = [];
  readonly outputs: OnnxPort[] = [];
  readonly #nodes: object[] = [];
  readonly #constants: object[] = [];
  readonly #shared = new Map<string, OnnxValue>();
  readonly #names = new Set<string>();
  #bytes = 0;

  constructor(readonly name: string) {}

  /** Number of nodes so far. */
  get size(): number {
    return this.#nodes.length;
  }

  private fresh(wanted: string): OnnxValue {
    let name = wanted;
    for (let i = 1; this.#names.has(name); i++) name = `${wanted}_${i}`;
    this.#names.add(name);
    return name as OnnxValue;
  }

  /** Declares an input. ArgumentError for a name that is taken. */
  input(name: string, dtype: OnnxDtype, shape: readonly OnnxDimension[]): OnnxValue {
    if (this.#names.has(name))
      throw new ArgumentError(`onnx: expected a new name for an input but ${name} is taken`, { argument: 'name' });
    this.inputs.push({ name, dtype, shape });
    return this.fresh(name);
  }

  /** A constant; equal small ones are stored once. ArgumentError where values and shape disagree. */
  constant({ dtype, shape, data }: OnnxConstant, name = 'constant'): OnnxValue {
    const count = shape.reduce((product, size) => product * size, 1);
    if (data.length !== count)
      throw new ArgumentError(
        `onnx: expected ${count} values for shape (${shape.join(', ')}) but received ${data.length}`,
        {
          argument: 'data',
        },
      );
    const raw = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    const key = raw.length > SHARED_BYTES ? null : `${dtype} ${shape.join()} ${raw.toString('base64')}`;
    const known = key === null ? undefined : this.#shared.get(key);
    if (known !== undefined) return known;
    const value = this.fresh(name);
    this.#constants.push({ dims: [...shape], dataType: elementTypes[dtype], name: value, rawData: raw });
    this.#bytes += raw.length;
    if (key !== null) this.#shared.set(key, value);
    return value;
  }

  /** A list of int64 constants, (n), as shapes and axes are given. */
  integers(values: readonly number[]): OnnxValue {
    return this.constant({ dtype: 'int64', shape: [values.length], data: BigInt64Array.from(values, BigInt) });
  }

  /** One float32 number, (). */
  scalar(value: number): OnnxValue {
    return this.constant({ dtype: 'float32', shape: [], data: Float32Array.of(value) });
  }

  /** Appends a node with one output. */
  node(
    opType: string,
    inputs: readonly (OnnxValue | null)[],
    attributes: Readonly<Record<string, OnnxAttribute>> = {},
  ): OnnxValue {
    return this.nodes(opType, inputs, 1, attributes)[0]!;
  }

  /** Appends a node with `count` outputs. An input that is null is left out. */
  nodes(
    opType: string,
    inputs: readonly (OnnxValue | null)[],
    count: number,
    attributes: Readonly<Record<string, OnnxAttribute>> = {},
  ): OnnxValue[] {
    const output = Array.from({ length: count }, () => this.fresh(`${opType.toLowerCase()}_${this.#nodes.length}`));
    this.#nodes.push({
      input: inputs.map((value) => value ?? ''),
      output,
      name: `${opType}_${this.#nodes.length}`,
      opType,
      attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
    });
    return output;
  }

  /** Declares `value` as an output of that name. */
  output(name: string, value: OnnxValue, dtype: OnnxDtype, shape: readonly OnnxDimension[]): void {
    const output = this.fresh(name);
    if (output !== name)
      throw new ArgumentError(`onnx: expected a new name for an output but ${name} is taken`, { argument: 'name' });
    this.#nodes.push({ input: [value], output: [output], name: `output_${name}`, opType: 'Identity', attribute: [] });
    this.outputs.push({ name, dtype, shape });
  }

  /** The bytes of an `.onnx` file. ArgumentError where constants exceed what the format can hold (2 GiB). */
  encode({ version, metadata = {} }: { version: string; metadata?: Readonly<Record<string, string>> }): Uint8Array {
    if (this.#bytes > MAX_BYTES)
      throw new ArgumentError(
        `onnx: expected at most ${MAX_BYTES} bytes of constants in ${this.name} but received ${this.#bytes}`,
        { argument: 'graph', bytes: this.#bytes },
      );
    modelProto ??= schema();
    return modelProto
      .encode({
        irVersion: IR_VERSION,
        producerName: 'galago',
        producerVersion: version,
        graph: {
          node: this.#nodes,
          name: this.name,
          initializer: this.#constants,
          input: this.inputs.map(port),
          output: this.outputs.map(port),
        },
        opsetImport: [{ domain: '', version: ONNX_OPSET }],
        metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
      })
      .finish();
  }
}
