/**
 * What a batch gets of a stored picture: its middle, or in training a random part of it, stretched to the size and mirrored by chance.
 * The part is a function of (seed, epoch, position of the batch, item row), so it does not depend on who makes the batch or when.
 */

import { philoxBlocks, uniform } from '../../random.js';

export interface AugmentOptions {
  /** Smallest share of the stored picture's area that is shown, in (0, 1]; shares are uniform in [minArea, 1]. */
  readonly minArea: number;
  /** Probability of a mirror image, left for right. */
  readonly flip: number;
}

/** Which draws: those of one batch. */
export interface AugmentDraw {
  readonly seed: number;
  readonly epoch: number;
  /** Samples of the epoch before the batch. */
  readonly position: number;
}

/** Part of a stored picture, in its pixels. */
export interface Crop {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  readonly mirrored: boolean;
}

/** Stored side over side with augmentation: room for crops that are not enlarged. */
const MARGIN = 1.15;
/** Width over height of a part lies in [1 / RATIO, RATIO], uniform in its logarithm (Szegedy et al., "Going deeper with convolutions", 2015). */
const RATIO = 4 / 3;
const STREAM = 4;
const WEIGHT_BITS = 8;

/** Side at which pictures are stored that batches get with side `size`. */
export function storedSide(size: number, augment: AugmentOptions | null): number {
  return augment === null ? size : Math.ceil(MARGIN * size);
}

/** The part of the picture of item row `row`, stored with side `side`. */
export function drawCrop({ minArea, flip }: AugmentOptions, draw: AugmentDraw, row: number, side: number): Crop {
  const words = philoxBlocks(
    [row, 0, draw.position >>> 0, (draw.epoch << 8) | STREAM],
    [draw.seed >>> 0, Math.floor(draw.seed / 4294967296) >>> 0],
    new Uint32Array(8),
  );
  const [area, ratio, left, top, mirror] = Array.from(words, uniform) as [number, number, number, number, number];
  const share = minArea + (1 - minArea) * area;
  const shape = RATIO ** (2 * ratio - 1);
  const width = Math.min(side, Math.sqrt(share * shape) * side);
  const height = Math.min(side, Math.sqrt(share / shape) * side);
  return { left: left * (side - width), top: top * (side - height), width, height, mirrored: mirror < flip };
}

/** Copies the middle of `stored` (side, side, 3) to `out` (size, size, 3). */
export function placeMiddle(stored: Uint8Array, side: number, out: Uint8Array, size: number): void {
  if (side === size) {
    out.set(stored);
    return;
  }
  const start = (side - size) >> 1;
  for (let y = 0; y < size; y++) {
    const from = ((start + y) * side + start) * 3;
    out.set(stored.subarray(from, from + size * 3), y * size * 3);
  }
}

/** Where an output pixel reads along one axis: byte offsets of both neighbours and the weight of the second, in 1 / 256. */
function axis(start: number, length: number, side: number, size: number, step: number, mirrored: boolean) {
  const [first, second, weight] = [new Int32Array(size), new Int32Array(size), new Int32Array(size)];
  for (let i = 0; i < size; i++) {
    const at = Math.min(Math.max(start + ((i + 0.5) * length) / size - 0.5, 0), side - 1);
    const low = Math.floor(at);
    const to = mirrored ? size - 1 - i : i;
    first[to] = low * step;
    second[to] = Math.min(low + 1, side - 1) * step;
    weight[to] = Math.round((at - low) * (1 << WEIGHT_BITS));
  }
  return { first, second, weight };
}

/** Stretches a part of `stored` (side, side, 3) to `out` (size, size, 3), bilinear in integers. */
export function placeCrop(stored: Uint8Array, side: number, crop: Crop, out: Uint8Array, size: number): void {
  const x = axis(crop.left, crop.width, side, size, 3, crop.mirrored);
  const y = axis(crop.top, crop.height, side, size, 3 * side, false);
  const one = 1 << WEIGHT_BITS;
  const half = 1 << (2 * WEIGHT_BITS - 1);
  for (let row = 0, to = 0; row < size; row++) {
    const above = y.first[row]!;
    const below = y.second[row]!;
    const v = y.weight[row]!;
    for (let column = 0; column < size; column++) {
      const left = x.first[column]!;
      const right = x.second[column]!;
      const lowerRight = x.weight[column]! * v;
      const lowerLeft = (v << WEIGHT_BITS) - lowerRight;
      const upperRight = (x.weight[column]! << WEIGHT_BITS) - lowerRight;
      const upperLeft = one * one - upperRight - lowerLeft - lowerRight;
      for (let c = 0; c < 3; c++) {
        const sum =
          stored[above + left + c]! * upperLeft +
          stored[above + right + c]! * upperRight +
          stored[below + left + c]! * lowerLeft +
          stored[below + right + c]! * lowerRight;
        out[to++] = (sum + half) >> (2 * WEIGHT_BITS);
      }
    }
  }
}
