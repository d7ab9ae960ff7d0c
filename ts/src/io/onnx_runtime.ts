/** ONNX Runtime, an optional package, to run graphs that were written. */
import { createRequire } from 'node:module';
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

/** What we call of the package. It is optional, so its own types are not there to compile against. */
interface OrtPackage {
  readonly InferenceSession: {
    create(bytes: Uint8Array, options: Readonly<Record<string, number>>): Promise<OrtSession>;
  };
  readonly Tensor: new (dtype: OnnxDtype, data: OnnxArrays[OnnxDtype], dims: readonly number[]) => object;
  readonly env: { readonly versions: { readonly node?: string; readonly common: string } };
}

interface OrtSession {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  run(
    feeds: Readonly<Record<string, object>>,
  ): Promise<Readonly<Record<string, { readonly dims: readonly number[]; readonly data: ArrayLike<number | bigint> }>>>;
  release(): Promise<void>;
}

function loadPackage(): OrtPackage | null {
  try {
    return createRequire(import.meta.url)('onnxruntime-node') as OrtPackage;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND') return null;
    throw error;
  }
}

/** The runtime, or null where the package `onnxruntime-node` is not installed. */
export function openOnnxRuntime(): Promise<OnnxRuntime | null> {
  return Promise.resolve(runtimeOf(loadPackage()));
}

function runtimeOf(ort: OrtPackage | null): OnnxRuntime | null {
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
              return [name, { shape: dims, data }];
            }),
          );
        },
        close: () => session.release(),
      };
    },
  };
}
