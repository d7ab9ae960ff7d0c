import { describe, expect, it } from 'vitest';
import { DocumentEncoder, type Documents } from '../../src/nn/document_encoder.js';
import type { Pictures } from '../../src/nn/image_encoder.js';
import { Initializer } from '../../src/nn/module.js';
import { TextEncoder, type TextEncoderOptions, type TokenSequences } from '../../src/nn/text_encoder.js';
import { streamOf, uniforms } from '../../src/random.js';
import { expectGradients } from '../module_gradients.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

const evaluation = { training: false };
const text: TextEncoderOptions = {
  vocabularySize: 20,
  positions: 12,
  types: 3,
  width: 8,
  layers: 2,
  heads: 2,
  ffn: 12,
};
const image = { size: 4, patch: 2, width: 6, layers: 1, heads: 2, ffn: 8 };

interface Item {
  readonly name: string;
  readonly tokens: number;
  readonly picture: boolean;
}

function documents(items: readonly Item[]): Documents & { readonly text: TokenSequences; readonly image: Pictures } {
  const offsets = new Int32Array(items.length + 1);
  items.forEach(({ tokens }, b) => {
    offsets[b + 1] = offsets[b]! + tokens;
  });
  const draw = (kind: string, below: number): Int32Array =>
    Int32Array.from(
      items.flatMap(({ name, tokens }) => [
        ...uniforms(tokens, 1, streamOf(`${kind} ${name}`)).map((u) => Math.floor(u * below)),
      ]),
    );
  const positions = Int32Array.from(items.flatMap(({ tokens }) => [...new Array(tokens).keys()]));
  const pixels = Uint8Array.from(
    items.flatMap(({ name }) => [...uniforms(48, 1, streamOf(`pixels ${name}`)).map((u) => Math.floor(256 * u))]),
  );
  const present = Uint8Array.from(items, ({ picture }) => (picture ? 1 : 0));
  return {
    text: { tokens: draw('token', 20), types: draw('type', 3), positions, offsets },
    image: { pixels, present, size: 4 },
  };
}

const items: readonly Item[] = [
  { name: 'a', tokens: 5, picture: true },
  { name: 'b', tokens: 0, picture: true },
  { name: 'c', tokens: 1, picture: false },
  { name: 'd', tokens: 12, picture: true },
  { name: 'e', tokens: 0, picture: false },
];

describe('DocumentEncoder', () => {
  const encoder = new DocumentEncoder(new Initializer(2, 'float64'), { text, image });

  it('encodes a document among others as it does alone, whatever it lacks', async () => {
    const together = rowsOf(await valuesOf(encoder.vectors(documents(items), evaluation)), 8);
    for (const [b, item] of items.entries()) {
      const alone = await valuesOf(encoder.vectors(documents([item]), evaluation));
      expect(worstDifference(together[b]!, alone), item.name).toBeLessThan(1e-12);
      expect(together[b]!.some((x) => Math.abs(x) > 0.1)).toBe(true);
    }
  });

  it('gives permuted outputs for permuted documents, bit for bit', async () => {
    using single = new DocumentEncoder(new Initializer(2), { text, image });
    const order = [3, 1, 4, 0, 2];
    const straight = await bytesOf(single.vectors(documents(items), evaluation));
    const permuted = await bytesOf(single.vectors(documents(order.map((at) => items[at]!)), evaluation));
    order.forEach((at, to) => {
      expect(permuted.subarray(32 * to, 32 * (to + 1)).equals(straight.subarray(32 * at, 32 * (at + 1)))).toBe(true);
    });
  });

  it('reads a missing picture as its absent token: the pixels behind it change nothing', async () => {
    const given = documents(items);
    const pixels = given.image.pixels.map((value, i) => (items[Math.floor(i / 48)]!.picture ? value : 255 - value));
    const straight = await bytesOf(encoder.vectors(given, evaluation));
    const garbage = await bytesOf(encoder.vectors({ ...given, image: { ...given.image, pixels } }, evaluation));
    expect(garbage.equals(straight)).toBe(true);
    const flipped = { ...given.image, pixels: given.image.pixels.map((value) => 255 - value) };
    expect((await bytesOf(encoder.vectors({ ...given, image: flipped }, evaluation))).equals(straight)).toBe(false);
  });

  it('is the text encoder where there are no pictures; one absent text has the vector of another', async () => {
    using plain = new DocumentEncoder(new Initializer(2, 'float64'), { text });
    using alone = new TextEncoder(new Initializer(2, 'float64').at('text'), { ...text, absent: true });
    const { text: texts } = documents(items);
    const vectors = await valuesOf(plain.vectors({ text: texts, image: null }, evaluation));
    expect(worstDifference(vectors, await valuesOf(alone.vectors(texts, evaluation)))).toBe(0);
    const rows = rowsOf(vectors, 8);
    expect([...rows[1]!]).toEqual([...rows[4]!]);
  });

  it('reads pictures alone where asked to', async () => {
    using pictures = new DocumentEncoder(new Initializer(2), { text, image, readsText: false });
    const given = documents(items);
    const straight = await bytesOf(pictures.vectors(given, evaluation));
    expect((await bytesOf(pictures.vectors({ ...given, text: null }, evaluation))).equals(straight)).toBe(true);
  });

  it('has the gradients of finite differences', async () => {
    const given = documents(items);
    await expectGradients(encoder.parameters(), () => encoder.vectors(given, evaluation), {
      perParameter: 3,
      unreached: [],
    });
  });

  it('refuses documents without what it reads', () => {
    expect(() => encoder.vectors({ ...documents(items), image: null }, evaluation)).toThrow(/documents with image/);
    expect(() => encoder.vectors({ ...documents(items), text: null }, evaluation)).toThrow(/documents with text/);
  });
});
