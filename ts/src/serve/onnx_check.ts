/** Graphs against our own results: what they are compared on, and how far they may be away. */
import { OnnxExportError } from '../errors.js';
import type { OnnxGraph } from '../io/onnx.js';
import type { OnnxRuntime, RuntimeTensor } from '../io/onnx_runtime.js';

/** Files of an export to ONNX. */
export const onnxFiles = {
  signature: 'signature.json',
  ranker: 'ranker.onnx',
  encoder: 'encoder.onnx',
  queryEncoder: 'query_encoder.onnx',
  items: 'items.safetensors',
  users: 'users.safetensors',
  vocabulary: 'vocabulary.json',
  samples: 'samples.safetensors',
} as const;

/** Rows on which graphs are compared with ours, and the largest difference of a score or a vector's number that passes. */
export const PARITY_ROWS = 256;
export const PARITY_TOLERANCE = 1e-4;

/** A graph, what to feed it, and what it must give. */
export interface GraphCheck {
  readonly file: string;
  readonly graph: OnnxGraph;
  readonly rows: number;
  readonly feeds: ReadonlyMap<string, RuntimeTensor>;
  readonly expected: ReadonlyMap<string, Float32Array>;
  /** The graph decides by comparing numbers, which rounding may turn. */
  readonly decides?: boolean;
}

/** Share of the rows of a graph that decides which may differ by more than the tolerance. */
const TURNED_SHARE = 0.01;

/** How far a graph is from us: the largest difference of the rows that pass, and the number of those that rounding turned. */
export interface GraphDifference {
  readonly largest: number;
  readonly turned: number;
}

/** Difference between what a graph gives and what it must give. Throws `OnnxExportError` above the tolerance. */
export async function graphDifference(
  runtime: OnnxRuntime,
  { file, feeds, expected, rows, decides = false }: GraphCheck,
  bytes: Uint8Array,
): Promise<GraphDifference> {
  const session = await runtime.load(bytes, file);
  try {
    const found = await session.run(Object.fromEntries(feeds));
    let largest = 0;
    let turned = 0;
    for (const [name, values] of expected) {
      const given = found[name]?.data ?? [];
      const fail = (what: string, fields: Record<string, unknown>): never => {
        throw new OnnxExportError(`export: --to onnx: ${file}: output ${name}: ${what}`, { graph: file, ...fields });
      };
      if (given.length !== values.length)
        fail(`expected ${values.length} numbers but the runtime gave ${given.length}`, {});
      values.forEach((value, i) => {
        const difference = Math.abs(value - Number(given[i]));
        if (decides && difference > PARITY_TOLERANCE && turned + 1 <= TURNED_SHARE * rows) {
          turned++;
          return;
        }
        if (!(difference <= PARITY_TOLERANCE))
          fail(`expected ${value} as we compute it at ${i} but the runtime gave ${String(given[i])}`, {
            difference,
            row: i,
          });
        largest = Math.max(largest, difference);
      });
    }
    return { largest, turned };
  } finally {
    await session.close();
  }
}
