import { patchEmbedding } from '../../src/ops/patch_embedding.js';
import { opSuite } from '../harness.js';

type Channels = readonly [number, number, number];
interface Options {
  patchSize: number;
  mean?: Channels;
  std?: Channels;
}

/** Pixels that differ everywhere: 37 is coprime to 256. */
const pixels = (...shape: number[]) => ({
  shape,
  bytes: Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => (i * 37 + 11) % 256),
});
const imageNet: Options = { patchSize: 2, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

// The values saved from PyTorch are those of a convolution with stride = kernel size.
opSuite<Options>('patchEmbedding', {
  run: ({ images, weight, bias }, options) => patchEmbedding(images!, weight!, bias ?? null, options),
  golden: 'patch_embedding',
  cases: [
    { name: 'not square', inputs: { images: pixels(2, 4, 6, 3), weight: [5, 12], bias: [5] }, options: imageNet },
    { name: 'no bias', inputs: { images: pixels(1, 2, 2, 3), weight: [3, 12] }, options: { patchSize: 2 } },
    { name: 'patches of one pixel', inputs: { images: pixels(1, 3, 3, 3), weight: [1, 3] }, options: { patchSize: 1 } },
    {
      name: 'patches of 3, no whole words',
      inputs: { images: pixels(1, 6, 9, 3), weight: [5, 27], bias: [5] },
      options: { ...imageNet, patchSize: 3 },
    },
    {
      name: 'patches of 4, runs of three words',
      inputs: { images: pixels(2, 8, 12, 3), weight: [8, 48], bias: [8] },
      options: { ...imageNet, patchSize: 4 },
    },
    {
      name: 'no pictures',
      inputs: { images: pixels(0, 4, 4, 3), weight: [2, 48], bias: [2] },
      options: { patchSize: 4 },
    },
    {
      name: 'shop pictures',
      inputs: { images: pixels(70, 32, 32, 3), weight: { shape: [32, 192], fixed: true }, bias: [32] },
      options: { patchSize: 8 },
    },
    {
      name: 'past one block of patches',
      inputs: { images: pixels(12, 256, 256, 3), weight: { shape: [3, 192], fixed: true }, bias: [3] },
      options: { patchSize: 8 },
    },
  ],
  rejects: [
    {
      inputs: { images: [1, 4, 4, 3], weight: [2, 12] },
      options: { patchSize: 2 },
      says: /patchEmbedding: expected images to be uint8 but received float32/,
    },
    {
      inputs: { images: pixels(1, 4, 4, 4), weight: [2, 12] },
      options: { patchSize: 2 },
      says: /patchEmbedding: expected images of shape \(B, H, W, 3\) but received \(1, 4, 4, 4\)/,
    },
    {
      inputs: { images: pixels(1, 4, 5, 3), weight: [2, 12] },
      options: { patchSize: 2 },
      says: /sides divisible by patchSize 2 but received \(1, 4, 5, 3\)/,
    },
    {
      inputs: { images: pixels(1, 4, 4, 3), weight: [2, 13] },
      options: { patchSize: 2 },
      says: /patchEmbedding: expected weight of shape \(D, 12\) but received \(2, 13\)/,
    },
    {
      inputs: { images: pixels(1, 4, 4, 3), weight: [2, 12], bias: [3] },
      options: { patchSize: 2 },
      says: /patchEmbedding: expected bias of shape \(D=2\) but received \(3\)/,
    },
    {
      inputs: { images: pixels(1, 4, 4, 3), weight: [2, 12] },
      options: { patchSize: 0 },
      says: /expected patchSize to be a positive integer but received 0/,
    },
    {
      inputs: { images: pixels(1, 4, 4, 3), weight: [2, 12] },
      options: { patchSize: 2, std: [1, 0, 1] },
      says: /expected std to be positive but received 1,0,1/,
    },
    {
      inputs: { images: pixels(1, 4, 4, 3), weight: [2, 12] },
      options: { patchSize: 2, mean: [Number.NaN, 0, 1] },
      says: /expected mean to be finite/,
    },
  ],
});
