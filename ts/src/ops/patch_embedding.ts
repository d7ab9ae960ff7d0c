import { defineOp, productFlops } from '../autograd.js';
import { ArgumentError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor, tensor } from '../tensor.js';

const check = shapes('patchEmbedding', { images: 'B H W 3:uint8', weight: 'D P', bias: 'D?' });

type Channels = readonly [number, number, number];
interface PatchOptions {
  readonly patchSize: number;
  readonly mean: Channels;
  readonly std: Channels;
}

/** (2, 3): what makes (pixel / 255 - mean) / std out of a pixel, as scale and shift; float32 beside bfloat16 weights. */
function normalization({ mean, std }: PatchOptions, like: Tensor): Tensor {
  const values = [...std.map((s) => 1 / (255 * s)), ...std.map((s, channel) => -mean[channel]! / s)];
  return tensor(values, [2, 3], { dtype: like.dtype === 'float64' ? 'float64' : 'float32', device: like.device });
}

const op = defineOp({
  name: 'patchEmbedding',
  precision: 'bf16',
  forward([images, weight, bias]: readonly [Tensor, Tensor, Tensor | null], options: PatchOptions) {
    const { B, H, W, D, P } = check({ images, weight, bias });
    const { patchSize, mean, std } = options;
    const refuse = (argument: string, expected: string, got: unknown) => {
      throw new ArgumentError(`patchEmbedding: expected ${argument} to be ${expected} but received ${String(got)}`, {
        op: 'patchEmbedding',
        argument,
      });
    };
    if (!Number.isInteger(patchSize) || patchSize < 1) refuse('patchSize', 'a positive integer', patchSize);
    if (!mean.every(Number.isFinite)) refuse('mean', 'finite', mean);
    if (!std.every((s) => Number.isFinite(s) && s > 0)) refuse('std', 'positive', std);
    if (H % patchSize !== 0 || W % patchSize !== 0)
      throw new ShapeError(
        `patchEmbedding: expected images of sides divisible by patchSize ${patchSize} but received (${images.shape.join(', ')})`,
        { op: 'patchEmbedding', argument: 'images' },
      );
    if (P !== 3 * patchSize * patchSize)
      throw new ShapeError(
        `patchEmbedding: expected weight of shape (D, ${3 * patchSize * patchSize}) but received (${weight.shape.join(', ')})`,
        { op: 'patchEmbedding', argument: 'weight' },
      );
    const scales = normalization(options, weight);
    const out = empty([B, (H / patchSize) * (W / patchSize), D], weight);
    native.patch_embedding_forward(
      images.handle,
      weight.handle,
      bias?.handle ?? null,
      scales.handle,
      out.handle,
      patchSize,
    );
    return { out, saved: [images, weight, scales] as const };
  },
  flops: ([, weight], out, [, dweight]) => productFlops(out.size * weight.shape[1]!, [dweight]),
  backward(dout, [images, weight, scales], { patchSize }, needs) {
    const dweight = needs[1] ? empty(weight.shape, weight) : null;
    const dbias = needs[2] ? empty(weight.shape.slice(0, 1), weight) : null;
    native.patch_embedding_backward(
      images.handle,
      scales.handle,
      dout.handle,
      dweight?.handle ?? null,
      dbias?.handle ?? null,
      patchSize,
    );
    return [null, dweight, dbias];
  },
});

/**
 * Patches of pictures through a dense layer, a convolution of stride `patchSize`. images (B, H, W, 3) uint8, weight (D, 3 p²) with
 * columns ordered (channel, row, column) as in a flattened PyTorch kernel, bias (D); gives (B, H/p · W/p, D), patches row by row.
 * Pixels become `(pixel / 255 - mean) / std` per channel; the default is pixel / 127.5 - 1. Pixels have no gradient.
 */
export function patchEmbedding(
  images: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  { patchSize, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }: { patchSize: number; mean?: Channels; std?: Channels },
): Tensor {
  return op([images, weight, bias], { patchSize, mean, std });
}
