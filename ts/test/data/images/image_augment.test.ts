import { describe, expect, it } from 'vitest';
import { drawCrop, placeCrop, placeMiddle, storedSide } from '../../../src/data/images/image_augment.js';
import { emptyImageStore, gatherImages } from '../../../src/data/images/image_store.js';

const options = { minArea: 0.5, flip: 0.5 };
const draw = { seed: 7, epoch: 2, position: 640 };

/** A picture (side, side, 3) whose channels are x, y and x + y. */
function ramp(side: number): Uint8Array {
  const pixels = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) pixels.set([4 * x, 4 * y, 2 * (x + y)], (y * side + x) * 3);
  return pixels;
}

describe('drawCrop', () => {
  it('keeps to its bounds, its areas and shapes spread over the range, half are mirrored', () => {
    const crops = Array.from({ length: 2000 }, (_, row) => drawCrop(options, draw, row, 100));
    for (const { left, top, width, height } of crops) {
      expect(left).toBeGreaterThanOrEqual(0);
      expect(top).toBeGreaterThanOrEqual(0);
      expect(left + width).toBeLessThanOrEqual(100 + 1e-9);
      expect(top + height).toBeLessThanOrEqual(100 + 1e-9);
      expect(width * height).toBeLessThanOrEqual(10_000 + 1e-6);
      expect(width / height).toBeGreaterThan(0.7);
      expect(width / height).toBeLessThan(1.4);
    }
    const mean = (of: (crop: (typeof crops)[number]) => number) =>
      crops.reduce((sum, crop) => sum + of(crop), 0) / 2000;
    expect(mean((crop) => (crop.mirrored ? 1 : 0))).toBeCloseTo(0.5, 1);
    expect(mean((crop) => crop.width * crop.height)).toBeGreaterThan(6_800);
    expect(mean((crop) => crop.width * crop.height)).toBeLessThan(7_700);
    const narrow = crops.filter(({ width }) => width < 99);
    const places = narrow.map(({ left, width }) => left / (100 - width));
    expect(places.reduce((sum, place) => sum + place, 0) / places.length).toBeCloseTo(0.5, 1);
  });

  it('is a function of seed, epoch, position and row', () => {
    const crop = drawCrop(options, draw, 5, 100);
    expect(drawCrop(options, { ...draw }, 5, 100)).toEqual(crop);
    for (const other of [
      { ...draw, seed: 8 },
      { ...draw, epoch: 3 },
      { ...draw, position: 641 },
    ]) {
      expect(drawCrop(options, other, 5, 100)).not.toEqual(crop);
    }
    expect(drawCrop(options, draw, 6, 100)).not.toEqual(crop);
  });
});

describe('placeCrop', () => {
  const side = 40;
  const stored = ramp(side);
  it('of a whole picture is the picture, or its mirror image', () => {
    const out = new Uint8Array(stored.length);
    const whole = { left: 0, top: 0, width: side, height: side };
    placeCrop(stored, side, { ...whole, mirrored: false }, out, side);
    expect(out).toEqual(stored);
    placeCrop(stored, side, { ...whole, mirrored: true }, out, side);
    for (let x = 0; x < side; x++) expect(out[x * 3]).toBe(4 * (side - 1 - x));
  });

  it('shows the part asked for, stretched: values of a ramp are those of the places', () => {
    const [size, left, top, width, height] = [16, 4.25, 10.5, 30, 20];
    const out = new Uint8Array(size * size * 3);
    placeCrop(stored, side, { left, top, width, height, mirrored: false }, out, size);
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const at = [left + ((x + 0.5) * width) / size - 0.5, top + ((y + 0.5) * height) / size - 0.5];
        expect(Math.abs(out[(y * size + x) * 3]! - 4 * at[0]!)).toBeLessThanOrEqual(1);
        expect(Math.abs(out[(y * size + x) * 3 + 1]! - 4 * at[1]!)).toBeLessThanOrEqual(1);
      }
    }
  });

  it('placeMiddle takes the middle', () => {
    const out = new Uint8Array(34 * 34 * 3);
    placeMiddle(stored, side, out, 34);
    expect([...out.subarray(0, 3)]).toEqual([12, 12, 12]);
    expect([...out.subarray(-3)]).toEqual([4 * 36, 4 * 36, 4 * 36]);
  });
});

describe('a store with augmentation', () => {
  const size = 20;
  const side = storedSide(size, options);
  const store = emptyImageStore(3, size, { side, augment: options });
  store.present.set([1, 0, 1]);
  for (const row of [0, 2]) store.pixels.set(ramp(side), row * side * side * 3);

  it('keeps pictures 1.15 times as large', () => {
    expect([storedSide(224, options), storedSide(224, null), side]).toEqual([258, 224, 23]);
  });

  it('gives the middle without a draw, parts with one, whatever the order of the rows', () => {
    const plain = gatherImages(store, [2, 1, 0]);
    expect(plain.size).toBe(size);
    expect([...plain.present]).toEqual([1, 0, 1]);
    const middle = new Uint8Array(size * size * 3);
    placeMiddle(ramp(side), side, middle, size);
    expect(plain.pixels.subarray(0, middle.length)).toEqual(middle);
    const parts = gatherImages(store, [2, 1, 0], draw);
    const turned = gatherImages(store, [0, 2], draw);
    expect(parts.pixels.subarray(0, middle.length)).not.toEqual(middle);
    expect(parts.pixels.subarray(0, middle.length)).not.toEqual(parts.pixels.subarray(2 * middle.length));
    expect(turned.pixels.subarray(0, middle.length)).toEqual(parts.pixels.subarray(2 * middle.length));
    expect(turned.pixels.subarray(middle.length)).toEqual(parts.pixels.subarray(0, middle.length));
    expect(parts.pixels.subarray(middle.length, 2 * middle.length)).toEqual(new Uint8Array(middle.length));
  });
});
