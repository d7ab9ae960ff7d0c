import { describe, expect, it } from 'vitest';
import { emptyImageStore, gatherImages } from '../../../src/data/images/image_store.js';
import { OutOfMemoryError } from '../../../src/errors.js';

describe('gatherImages', () => {
  const store = emptyImageStore(3, 2);
  store.pixels.forEach((_, i) => {
    store.pixels[i] = i;
  });
  store.present.set([1, 0, 1]);

  it('is backed by shared memory', () => {
    expect(store.pixels.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(store.pixels.length).toBe(3 * 12);
  });

  it('copies pictures in the order asked for and leaves missing ones zero', () => {
    const batch = gatherImages(store, Int32Array.from([2, 1, 0, 2]));
    const expected = [24, 0, 0, 24].flatMap((first, i) =>
      Array.from({ length: 12 }, (_, k) => (i === 1 ? 0 : first + k)),
    );
    expect([...batch.pixels]).toEqual(expected);
    expect([...batch.present]).toEqual([1, 0, 1, 1]);
    expect(batch.size).toBe(2);
  });

  it.each([-1, 3, 1.5])('rejects row %s', (row) => {
    expect(() => gatherImages(store, [row])).toThrow(/gatherImages: expected rows\[0\] in \[0, 3\) but received/);
  });
});

describe('emptyImageStore', () => {
  it('says what was asked for when the host has not so much memory', () => {
    expect(() => emptyImageStore(2 ** 40, 224)).toThrow(OutOfMemoryError);
    expect(() => emptyImageStore(2 ** 40, 224)).toThrow(/pictures of 224 x 224 need \d+ bytes/);
  });
});
