/** Lists of ids as tensors: their UTF-8 bytes one after the other, and where each begins. JSON would block the event loop. */
import { setImmediate as turn } from 'node:timers/promises';
import { ArgumentError } from '../errors.js';
import { type HostTensor, hostTensor, viewAs } from '../io/safetensors.js';

const SLICE_MS = 4;

/** `name.bytes` (bytes) and `name.offsets` (n+1) of n texts. */
export function packTexts(name: string, texts: readonly string[]): [string, HostTensor][] {
  const encoded = texts.map((text) => Buffer.from(text, 'utf8'));
  const offsets = new Int32Array(texts.length + 1);
  let total = 0;
  encoded.forEach((bytes, i) => {
    total += bytes.length;
    offsets[i + 1] = total;
  });
  if (total > 0x7fffffff)
    throw new ArgumentError(`export: expected at most 2 GiB of ids in ${name} but received ${total} bytes`, {
      argument: name,
    });
  return [
    [`${name}.bytes`, hostTensor('U8', [total], new Uint8Array(Buffer.concat(encoded)))],
    [`${name}.offsets`, hostTensor('I32', [offsets.length], offsets)],
  ];
}

/** The number of each text, in slices of a few milliseconds. */
export async function unpackTexts(
  name: string,
  tensors: ReadonlyMap<string, HostTensor>,
): Promise<Map<string, number>> {
  const bytes = viewAs(tensors.get(`${name}.bytes`)!, 'U8');
  const offsets = viewAs(tensors.get(`${name}.offsets`)!, 'I32');
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const numbers = new Map<string, number>();
  let until = performance.now() + SLICE_MS;
  for (let i = 0; i + 1 < offsets.length; i++) {
    numbers.set(buffer.toString('utf8', offsets[i], offsets[i + 1]), i);
    if (i % 256 === 0 && performance.now() > until) {
      await turn();
      until = performance.now() + SLICE_MS;
    }
  }
  return numbers;
}
