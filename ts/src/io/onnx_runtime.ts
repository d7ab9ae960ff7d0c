/** ONNX Runtime, an optional package, to run graphs that were written. */
import { ModelFileError } from '../errors.js';
import type { OnnxArrays, OnnxDtype } from './onnx.js';

/** What enters or leaves a graph, row-major. */
export type RuntimeTensor = {
  readonly [D in OnnxDtype]: { readonly dtype: D; readonly shape: readonly number[]; readonly data: OnnxArrays[D] };
}[OnnxDtype];

/** A graph that is loaded. */
export interface RuntimeSession {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Outputs by name. Rejects with `ModelFileError` where the runtime refuses the feeds or fails. */
  run(
    feeds: Readonly<Record<string, RuntimeTensor>>,
  ): Promise<Readonly<Record<string, { shape: readonly number[]; data: ArrayLike<number | bigint> }>>>;
  close(): Promise<void>;
}

export interface OnnxRuntime {
  readonly version: string;
  /** Loads the bytes of an `.onnx` file. `ModelFileError` (fields: file) where it is none. */
  load(bytes: Uint8Array, file: string): Promise<RuntimeSession>;
}

/** The runtime, or null where the package `onnxruntime-node` is not installed. */
export async function openOnnxRuntime(): Promise<OnnxRuntime | null> {
  const ort = await import('onnxruntime-node').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'MODULE_NOT_FOUND') return null;
    throw error;
  });
  if (ort === null) return null;
  const { InferenceSession, Tensor, env } = ort;
  const refused = (file: string, error: unknown): ModelFileError =>
    new ModelFileError(
      `onnx: ${file}: ONNX Runtime refused it: ${error instanceof Error ? error.message : String(error)}`,
      { file },
      { cause: error },
    );
  return {
    version: env.versions.node ?? env.versions.common,
    async load(bytes, file) {
      const options = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 } as const;
      const session = await InferenceSession.create(bytes, options).catch((error: unknown) => {
        throw refused(file, error);
      });
      return {
        inputs: session.inputNames,
        outputs: session.outputNames,
        async run(feeds) {
          const given = Object.entries(feeds).map(([name, { dtype, shape, data }]) => [
            name,
            new Tensor(dtype, data, shape),
          ]);
          const found = await session.run(Object.fromEntries(given)).catch((error: unknown) => {
            throw refused(file, error);
          });
          return Object.fromEntries(
            session.outputNames.map((name) => {
              const { dims, data } = found[name]!;
              return [name, { shape: dims, data: data as ArrayLike<number | bigint> }];
            }),
          );
        },
        close: () => session.release(),
      };
    },
  };
}
