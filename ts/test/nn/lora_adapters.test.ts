import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { ArgumentError } from '../../src/errors.js';
import { ImageEncoder } from '../../src/nn/image_encoder.js';
import { Linear } from '../../src/nn/linear.js';
import { injectLora, isLoraTarget } from '../../src/nn/lora_adapters.js';
import { Initializer } from '../../src/nn/module.js';
import { TextEncoder, type TokenSequences } from '../../src/nn/text_encoder.js';
import { sum } from '../../src/ops/reduce.js';
import { normals, randomScope, streamOf } from '../../src/random.js';
import { assign, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { denseGrad } from '../harness.js';
import { bytesOf, valuesOf, worstDifference } from '../values.js';

const still = { training: false } as const;
const texts: TokenSequences = {
  tokens: Int32Array.of(1, 4, 2, 1, 3, 3, 5),
  types: Int32Array.of(0, 0, 1, 0, 0, 1, 1),
  positions: Int32Array.of(0, 1, 2, 0, 1, 2, 3),
  offsets: Int32Array.of(0, 3, 7),
};
const options = { rank: 2, alpha: 8, targets: ['query', 'value', 'up', 'blocks.1.down'] };
const make = (dtype: 'float32' | 'float64' = 'float32') =>
  new TextEncoder(new Initializer(3, dtype), {
    vocabularySize: 6,
    positions: 5,
    types: 2,
    width: 8,
    layers: 2,
    heads: 2,
    out: 4,
  });
const inject = (encoder: TextEncoder, dtype: 'float32' | 'float64' = 'float32') =>
  injectLora(encoder, new Initializer(3, dtype), options);

describe('injectLora', () => {
  it('adapts what the names, their ends or a pattern say, by path', () => {
    const found = (targets: readonly string[] | string) => {
      using encoder = make();
      return [...injectLora(encoder, new Initializer(3), { rank: 1, alpha: 1, targets }).layers.keys()];
    };
    expect(found(options.targets)).toEqual([
      'blocks.0.attention.query',
      'blocks.0.attention.value',
      'blocks.0.up',
      'blocks.1.attention.query',
      'blocks.1.attention.value',
      'blocks.1.up',
      'blocks.1.down',
    ]);
    expect(found(['uery', 'blocks'])).toEqual([]);
    expect(found('.*\\.(out|down)')).toEqual([
      'blocks.0.attention.out',
      'blocks.0.down',
      'blocks.1.attention.out',
      'blocks.1.down',
    ]);
    expect(found('out')).toEqual([]);
    expect(found('all-linear').length).toBe(13);
    expect(isLoraTarget('project', 'project')).toBe(true);
    expect(() => isLoraTarget('x', '(')).toThrow('a list of names, \'all-linear\' or a pattern but received "("');
  });

  it('names layers as it is told to', () => {
    using encoder = make();
    const { layers } = injectLora(encoder, new Initializer(3), { rank: 1, alpha: 1, targets: ['self.query'] }, (path) =>
      path.replace(/^blocks\.(\d+)\.attention/, 'encoder.layer.$1.attention.self'),
    );
    expect([...layers.keys()]).toEqual([
      'encoder.layer.0.attention.self.query',
      'encoder.layer.1.attention.self.query',
    ]);
    expect(encoder.blocks[1]!.attention.query.lora).toBe(layers.get('encoder.layer.1.attention.self.query'));
  });

  it('changes no bit at start: tokens, vectors, pictures', async () => {
    using encoder = make();
    const outputs = async () =>
      Promise.all(
        [encoder.tokens(texts, still).rows, encoder.vectors(texts, still)].map(async (x) =>
          (await bytesOf(x)).toString('hex'),
        ),
      );
    const before = await outputs();
    expect(inject(encoder).layers.size).toBe(7);
    expect(await outputs()).toEqual(before);

    using pictures = new ImageEncoder(new Initializer(4), { size: 16, patch: 8, width: 8, heads: 2 });
    const pixels = Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => (i * 37) % 256);
    const batch = { pixels, present: Uint8Array.of(1), size: 16 };
    const plain = await bytesOf(pictures.tokens(batch, still).rows);
    injectLora(pictures, new Initializer(4), { ...options, targets: 'all-linear' });
    expect((await bytesOf(pictures.tokens(batch, still).rows)).equals(plain)).toBe(true);
  });

  it('trains B first, then A too, and never the weights below', async () => {
    using encoder = make();
    const { layers } = inject(encoder);
    const run = () => tidy(() => backward(sum(encoder.vectors(texts, still))));
    run();
    for (const [path, { a, b }] of layers) {
      expect([path, (await denseGrad(a)).some((g) => g !== 0)]).toEqual([path, false]);
      expect([path, (await denseGrad(b)).some((g) => g !== 0)]).toEqual([path, true]);
      const base = path.split('.').reduce<unknown>((part, key) => (part as Record<string, unknown>)[key], encoder);
      const { weight, bias } = base as Linear;
      expect([weight.grad, weight.requiresGrad, bias!.grad, bias!.requiresGrad]).toEqual([null, false, null, false]);
      assign(b, Float32Array.from(normals(b.size, 1, streamOf(path))));
      for (const x of [a, b]) {
        x.grad?.dispose();
        x.grad = null;
      }
    }
    run();
    for (const [path, { a }] of layers) expect([path, (await denseGrad(a)).some((g) => g !== 0)]).toEqual([path, true]);
  });

  it('merges into W0 + (alpha / r) B A with the same outputs', async () => {
    using encoder = make('float64');
    const adapters = inject(encoder, 'float64');
    const plain = await valuesOf(encoder.vectors(texts, still));
    for (const [path, { b }] of adapters.layers)
      assign(
        b,
        normals(b.size, 1, streamOf(path)).map((x) => x / 8),
      );
    const adapted = await valuesOf(encoder.vectors(texts, still));
    expect(worstDifference(adapted, plain)).toBeGreaterThan(1e-3);
    adapters.merge();
    expect(encoder.blocks[0]!.up.lora).toBe(null);
    expect([...encoder.state().keys()].filter((name) => name.includes('lora'))).toEqual([]);
    expect(worstDifference(await valuesOf(encoder.vectors(texts, still)), adapted)).toBeLessThan(1e-12);
  });

  it('drops inputs of A in training alone', async () => {
    using linear = new Linear(new Initializer(1), 16, 4);
    const adapters = injectLora(linear, new Initializer(1), { rank: 2, alpha: 2, targets: 'all-linear', dropout: 0.5 });
    assign(linear.lora!.b, Float32Array.from(normals(8, 1, 1)));
    const x = tensor(Float32Array.from(normals(48, 2, 2)), [3, 16]);
    const out = async (training: boolean, step: number) => {
      adapters.training = training;
      return (await bytesOf(randomScope({ seed: 1, step }, () => linear.forward(x)))).toString('hex');
    };
    expect(await out(false, 1)).toBe(await out(false, 2));
    expect(await out(true, 1)).toBe(await out(true, 1));
    expect(new Set([await out(false, 1), await out(true, 1), await out(true, 2)]).size).toBe(3);
  });

  it('refuses a second update and a rank that is none', () => {
    using encoder = make();
    inject(encoder);
    expect(() => inject(encoder)).toThrow('expected blocks.0.attention.query without an update but it has one');
    for (const rank of [0, 1.5])
      expect(() => injectLora(encoder, new Initializer(3), { ...options, rank })).toThrow(ArgumentError);
  });
});
