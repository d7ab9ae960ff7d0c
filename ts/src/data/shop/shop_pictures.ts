/**
 * Pictures of the generated shop: one coloured shape on a grey gradient, a badge in a corner, noise. 32 x 32 RGB, row-major
 * (y, x, channel). Colour and shape of the object matter for clicks, the rest is distraction. Definition: models.md, section 12.
 */
import { uniform } from '../../random.js';

export const PICTURE_SIZE = 32;

/** Everything that determines a picture but its noise. Angles in radians, lengths in pixels. */
export interface PictureNumbers {
  /** 0 disc, 1 square, 2 triangle, 3 ring. */
  readonly shape: number;
  readonly hue: number;
  readonly saturation: number;
  readonly value: number;
  readonly background: number;
  readonly slope: number;
  readonly centreX: number;
  readonly centreY: number;
  readonly radius: number;
  /** 0 none, 1 by x, 2 by y. */
  readonly stripes: number;
  readonly phase: number;
  /** Bit 0: right, bit 1: bottom. */
  readonly badgeCorner: number;
  readonly badgeHue: number;
}

/** Numbers 26 .. 36 of an item's words. */
export function pictureNumbers(words: Uint32Array, hue: number, shape: number): PictureNumbers {
  const u = (n: number) => uniform(words[n]!);
  const pick = (choices: number, n: number) => Math.floor(choices * u(n));
  return {
    shape,
    hue,
    saturation: 0.55 + 0.45 * u(26),
    value: 0.6 + 0.4 * u(27),
    background: 170 + pick(70, 28),
    slope: pick(41, 29) - 20,
    centreX: 12 + pick(9, 30),
    centreY: 12 + pick(9, 31),
    radius: 7 + pick(5, 32),
    stripes: pick(3, 33),
    phase: pick(4, 34),
    badgeCorner: pick(4, 35),
    badgeHue: 2 * Math.PI * u(36),
  };
}

/** HSV to RGB with hue in radians; channels in [0, 1]. */
function rgb(hue: number, saturation: number, value: number): [number, number, number] {
  const channel = (k: number) => {
    const t = (k + (6 * hue) / (2 * Math.PI)) % 6;
    return value - value * saturation * Math.max(0, Math.min(t, 4 - t, 1));
  };
  return [channel(5), channel(3), channel(1)];
}

function inside(shape: number, dx: number, dy: number, radius: number): boolean {
  const square = dx * dx + dy * dy;
  switch (shape) {
    case 0:
      return square <= radius * radius;
    case 1:
      return Math.max(Math.abs(dx), Math.abs(dy)) <= radius - 1;
    case 2:
      return dy <= radius - 1 && 2 * Math.abs(dx) <= dy + radius;
    default:
      return square <= radius * radius && radius * radius < 4 * square;
  }
}

/** Draws one picture into `out` (32, 32, 3) uint8; `noise` holds one raw word per byte. */
export function drawPicture(numbers: PictureNumbers, noise: Uint32Array, out: Uint8Array): void {
  const { shape, background, slope, centreX, centreY, radius, stripes, phase, badgeCorner } = numbers;
  const colour = rgb(numbers.hue, numbers.saturation, numbers.value);
  const badge = rgb(numbers.badgeHue, 1, 1);
  const badgeX = badgeCorner & 1 ? PICTURE_SIZE - 4 : 0;
  const badgeY = badgeCorner & 2 ? PICTURE_SIZE - 4 : 0;
  for (let y = 0; y < PICTURE_SIZE; y++) {
    for (let x = 0; x < PICTURE_SIZE; x++) {
      const onBadge = x >= badgeX && x < badgeX + 4 && y >= badgeY && y < badgeY + 4;
      const onObject = inside(shape, x - centreX, y - centreY, radius);
      const grey = background + Math.floor((slope * (x + y)) / 62);
      const coordinate = stripes === 1 ? x : y;
      const shade = stripes !== 0 && (coordinate + phase) % 4 === 0 ? 0.8 : 1;
      for (let channel = 0; channel < 3; channel++) {
        const at = (y * PICTURE_SIZE + x) * 3 + channel;
        let pixel = grey;
        if (onBadge) pixel = Math.floor(255 * badge[channel]!);
        else if (onObject) pixel = Math.floor(255 * colour[channel]! * shade);
        pixel += Math.floor(17 * uniform(noise[at]!)) - 8;
        out[at] = Math.max(0, Math.min(255, pixel));
      }
    }
  }
}
