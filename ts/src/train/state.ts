/** Tensors to host memory and back, for checkpoints. */
import { type HostTensor, type SafetensorsDtype, viewAs } from '../io/safetensors.js';
import type { DType, HostArray, Tensor } from '../tensor.js';

const stored: Record<DType, SafetensorsDtype> = {
  float32: 'F32',
  float64: 'F64',
  int32: 'I32',
  int64: 'I64',
  uint8: 'U8',
  bfloat16: 'BF16',
};

/** How a file of tensors names a dtype. */
export function storedDtype(dtype: DType): SafetensorsDtype {
  return stored[dtype];
}

/** Copies of all tensors as of this call: the reads are queued together, so later work does not show in them. */
export async function readTensors(state: ReadonlyMap<string, Tensor>): Promise<Map<string, HostTensor>> {
  const entries = await Promise.all(
    [...state].map(async ([name, x]): Promise<[string, HostTensor]> => {
      const values = await x.data();
      return [
        name,
        {
          dtype: stored[x.dtype],
          shape: x.shape,
          data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
        },
      ];
    }),
  );
  return new Map(entries);
}

/** Typed arrays of saved tensors. */
export function fromHost(
  tensors: ReadonlyMap<string, HostTensor>,
): Map<string, { data: HostArray; shape: readonly number[] }> {
  return new Map(
    [...tensors].map(([name, x]) => {
      const { dtype, shape } = x;
      const view = (): HostArray => {
        if (
          dtype === 'F32' ||
          dtype === 'F64' ||
          dtype === 'I32' ||
          dtype === 'I64' ||
          dtype === 'U8' ||
          dtype === 'BF16'
        )
          return viewAs(x, dtype);
        throw new TypeError(`state: no tensor holds dtype ${dtype} (${name})`);
      };
      return [name, { data: view(), shape }];
    }),
  );
}
