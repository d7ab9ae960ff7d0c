import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { type FusionOptions, FusionQFormer, type ModalityTokens } from '../../src/nn/fusion_q_former.js';
import { ImageEncoder } from '../../src/nn/image_encoder.js';
import { Initializer } from '../../src/nn/module.js';
import { sum } from '../../src/ops/reduce.js';
import { normals, streamOf } from '../../src/random.js';
import { assign, type Tensor, tensor } from '../../src/tensor.js';
import { denseGrad } from '../harness.js';
import { expectGradients } from '../module_gradients.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(6, 'float64');
const evaluation = { training: false };

/** Tokens named like the modality: item b owns counts[b] rows. */
function tokensOf(name: string, counts: readonly number[], width: number): ModalityTokens {
  const starts = new Int32Array(counts.length);
  for (let b = 1; b < counts.length; b++) starts[b] = starts[b - 1]! + counts[b - 1]!;
  const total = counts.reduce((a, b) => a + b, 0);
  const rows = tensor(normals(total * width, 1, streamOf(name)), [total, width]);
  return { rows, starts, counts: Int32Array.from(counts) };
}

const small: FusionOptions = { modalities: { image: 3, text: 5 }, queries: 2, layers: 2, heads: 2, width: 4 };
const content = { image: tokensOf('image', [3, 0, 3, 1], 3), text: tokensOf('text', [2, 4, 0, 1], 5) };

describe('FusionQFormer', () => {
  it('has the parameters of the release in exact mode', () => {
    using fusion = new FusionQFormer(new Initializer(1), { mode: 'exact', modalities: { image: 4096, text: 384 } });
    const sizes = (prefix: string): number =>
      [...fusion.parameters()].reduce((total, [path, x]) => total + (path.startsWith(prefix) ? x.size : 0), 0);
    expect(sizes('layers.0.attention.')).toBe(16_640);
    expect(sizes('layers.0.norm.')).toBe(128);
    expect(sizes('project.image')).toBe(262_208);
    expect(sizes('project.text')).toBe(24_640);
    expect(sizes('last.')).toBe(4_160);
    expect(sizes('query')).toBe(64);
    expect(sizes('')).toBe(16_640 + 128 + 262_208 + 24_640 + 4_160 + 64);
  });

  it.each(['exact', 'ctr'] as const)('gives every item without content the same vector: %s', async (mode) => {
    using fusion = new FusionQFormer(init, { ...small, mode, queries: 1, layers: 1 });
    const none = { image: tokensOf('image', [0, 0, 0], 3), text: tokensOf('text', [0, 0, 0], 5) };
    const [first, ...others] = rowsOf(await valuesOf(fusion.forward(none, evaluation)), 4);
    for (const m of others) expect(m).toEqual(first);
    expect(first!.some((x) => x !== 0)).toBe(true);
  });

  it.each(['joint', 'cross'] as const)(
    'does not see the order of the tokens of one modality: %s',
    async (attention) => {
      using fusion = new FusionQFormer(init, { ...small, attention });
      const straight = await valuesOf(fusion.forward(content, evaluation));
      const rows = rowsOf(await valuesOf(content.image.rows), 3);
      const permuted = Float64Array.from([2, 0, 1, 5, 4, 3, 6].flatMap((i) => [...rows[i]!]));
      const image = { ...content.image, rows: tensor(permuted, [7, 3]) };
      expect(worstDifference(await valuesOf(fusion.forward({ ...content, image }, evaluation)), straight)).toBeLessThan(
        1e-6,
      );
      const swapped = Float64Array.from([3, 1, 2, 0, 4, 5, 6].flatMap((i) => [...rows[i]!])); // between items: it does
      const other = { ...content, image: { ...content.image, rows: tensor(swapped, [7, 3]) } };
      expect(worstDifference(await valuesOf(fusion.forward(other, evaluation)), straight)).toBeGreaterThan(1e-6);
    },
  );

  it.each(['joint', 'cross'] as const)('encodes an item among others as it does alone: %s', async (attention) => {
    using fusion = new FusionQFormer(init, { ...small, attention, ffn: 8 });
    const together = rowsOf(await valuesOf(fusion.forward(content, evaluation)), 4);
    for (let b = 0; b < 4; b++) {
      const own = (part: ModalityTokens) => ({
        ...part,
        starts: part.starts.slice(b, b + 1),
        counts: part.counts.slice(b, b + 1),
      });
      const alone = fusion.forward({ image: own(content.image), text: own(content.text) }, evaluation);
      expect(worstDifference(await valuesOf(alone), together[b]!)).toBeLessThan(1e-12);
    }
  });

  it.each([1, 2])('equals attention by hand: exact mode, one layer, %i queries', async (queries) => {
    const modalities = { image: 3, text: 5 };
    using fusion = new FusionQFormer(init, { mode: 'exact', modalities, queries, heads: 2, width: 4, dropout: 0 });
    const given = { image: tokensOf('image', [1, 1], 3), text: tokensOf('text', [1, 1], 5) };
    const actual = rowsOf(await valuesOf(fusion.forward(given, evaluation)), 4);

    const matrix = async (x: Tensor): Promise<Float64Array[]> => rowsOf(await valuesOf(x), x.shape[1]!);
    const layer = async ({ weight, bias }: { weight: Tensor; bias: Tensor | null }) => {
      const w = await matrix(weight);
      const b = await valuesOf(bias!);
      return (x: ArrayLike<number>): number[] =>
        w.map((row, o) => row.reduce((total, value, i) => total + value * x[i]!, b[o]!));
    };
    const { attention, norm } = fusion.layers[0]!;
    const [image, text, query, key, value, out, last] = await Promise.all(
      [
        fusion.project.get('image')!,
        fusion.project.get('text')!,
        attention.query,
        attention.key,
        attention.value,
        attention.out,
        fusion.last,
      ].map(layer),
    );
    const [gain, shift] = [await valuesOf(norm.weight), await valuesOf(norm.bias)];
    const scale = 1 / Math.sqrt(2 + 1e-5);
    for (const b of [0, 1]) {
      const x = (await matrix(fusion.query)).map((row) => [...row]);
      x.push(image!((await matrix(given.image.rows))[b]!), text!((await matrix(given.text.rows))[b]!));
      const flattened = x.slice(0, queries).flatMap((from) => {
        const attended = [0, 1].flatMap((head) => {
          const part = (vector: readonly number[]): number[] => vector.slice(2 * head, 2 * head + 2);
          const q = part(query!(from));
          const scores = x.map((to) => Math.exp(scale * part(key!(to)).reduce((total, k, i) => total + k * q[i]!, 0)));
          const all = scores.reduce((a, s) => a + s);
          return [0, 1].map((d) => x.reduce((total, to, j) => total + (scores[j]! / all) * part(value!(to))[d]!, 0));
        });
        const mixed = out!(attended).map((v, i) => v + from[i]!);
        const mean = mixed.reduce((a, v) => a + v / 4, 0);
        const variance = mixed.reduce((a, v) => a + (v - mean) ** 2 / 4, 0);
        return mixed.map((v, i) => ((v - mean) / Math.sqrt(variance + 1e-5)) * gain[i]! + shift[i]!);
      });
      expect(worstDifference(actual[b]!, last!(flattened))).toBeLessThan(1e-12);
    }
  });

  it.each(['joint', 'cross'] as const)('has the gradients of finite differences: %s', async (attention) => {
    using fusion = new FusionQFormer(init, { ...small, attention, ffn: 6, dropout: 0 });
    await expectGradients(fusion.parameters(), () => fusion.forward(content, { training: true }), { perParameter: 2 });
  });

  it('in cross mode reads tokens alone: a lone one is read whole, whatever its key', async () => {
    const lone = { image: tokensOf('image', [1, 1, 1], 3) };
    const change = async (attention: 'joint' | 'cross'): Promise<number> => {
      using fusion = new FusionQFormer(init, { ...small, modalities: { image: 3 }, attention });
      const before = await valuesOf(fusion.forward(lone, evaluation));
      for (const { attention: part } of fusion.layers) assign(part.key.weight, normals(16, 1, streamOf('key')));
      return worstDifference(await valuesOf(fusion.forward(lone, evaluation)), before);
    };
    expect(await change('cross')).toBe(0);
    expect(await change('joint')).toBeGreaterThan(1e-6);
  });

  it('does not read what lies behind a missing flag', async () => {
    using images = new ImageEncoder(init.at('image'), { size: 8, patch: 4, width: 8, layers: 1 });
    using fusion = new FusionQFormer(init, { ...small, modalities: { image: 8, text: 5 } });
    const run = async (garbage: number) => {
      const pixels = new Uint8Array(4 * 8 * 8 * 3).map((_, i) => (i * 37) % 251);
      pixels.fill(garbage, 8 * 8 * 3, 2 * 8 * 8 * 3); // picture 1 is missing
      const present = Uint8Array.of(1, 0, 1, 1);
      const { rows } = images.tokens({ pixels, present, size: 8 }, evaluation);
      const counts = Int32Array.from(present, (p) => p * images.tokenCount);
      const image = { rows, starts: Int32Array.of(0, 4, 8, 12), counts };
      return fusion.forward({ image, text: content.text }, evaluation);
    };
    expect((await bytesOf(await run(255))).equals(await bytesOf(await run(3)))).toBe(true);
    backward(sum(await run(9)));
    expect((await denseGrad(fusion.absent.get('image')!)).some((x) => x !== 0)).toBe(true);
  });

  it('starts with low-rank updates that change nothing, and trains them alone on the adapted layers', async () => {
    const single = new Initializer(6);
    const tokens = (part: ModalityTokens, host: Float64Array) => ({
      ...part,
      rows: tensor(Float32Array.from(host), part.rows.shape),
    });
    const image = tokens(content.image, await valuesOf(content.image.rows));
    const text = tokens(content.text, await valuesOf(content.text.rows));
    using live = new FusionQFormer(single, small);
    using adapted = new FusionQFormer(single, { ...small, lora: { rank: 2, alpha: 4 } });
    const out = adapted.forward({ image, text }, evaluation);
    expect((await bytesOf(out)).equals(await bytesOf(live.forward({ image, text }, evaluation)))).toBe(true);
    backward(sum(out));
    const { attention, loraQuery, loraValue } = adapted.layers[0]!;
    for (const frozen of [attention.query, attention.value, ...adapted.project.values()]) {
      expect(frozen.weight.grad).toBeNull();
      expect(frozen.bias!.grad).toBeNull();
    }
    for (const lora of [loraQuery!, loraValue!, ...adapted.loraProject.values()]) {
      expect((await denseGrad(lora.a)).every((x) => x === 0)).toBe(true);
      expect((await denseGrad(lora.b)).some((x) => x !== 0)).toBe(true);
    }
  });

  it('refuses an ffn in exact mode and a modality that is not given', () => {
    expect(() => new FusionQFormer(init, { ...small, mode: 'exact', ffn: 8 })).toThrow(/expected no ffn/);
    using fusion = new FusionQFormer(init, small);
    expect(() => fusion.forward({ image: content.image }, evaluation)).toThrow(/tokens of modality text/);
  });
});
