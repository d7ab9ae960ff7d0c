import { describe, expect, it } from 'vitest';
import { Initializer } from '../../src/nn/module.js';
import { TextEncoder, type TextEncoderOptions, type TokenSequences } from '../../src/nn/text_encoder.js';
import { streamOf, uniforms } from '../../src/random.js';
import { tidy } from '../../src/tidy.js';
import { expectGradients } from '../module_gradients.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';

const evaluation = { training: false };
const sizes: TextEncoderOptions = { vocabularySize: 20, positions: 12, types: 3, width: 8, layers: 2, heads: 2 };

/** Texts of these lengths; what text `name` holds depends on its name and length alone. */
function textsOf(lengths: readonly (readonly [string, number])[]): TokenSequences {
  const offsets = new Int32Array(lengths.length + 1);
  lengths.forEach(([, length], b) => {
    offsets[b + 1] = offsets[b]! + length;
  });
  const draw = (kind: string, below: number): Int32Array =>
    Int32Array.from(
      lengths.flatMap(([name, length]) => [
        ...uniforms(length, 1, streamOf(`${kind} ${name}`)).map((u) => Math.floor(u * below)),
      ]),
    );
  const positions = Int32Array.from(lengths.flatMap(([, length]) => [...new Array(length).keys()]));
  return { tokens: draw('token', 20), types: draw('type', 3), positions, offsets };
}

const texts = [
  ['a', 5],
  ['b', 0],
  ['c', 1],
  ['d', 12],
  ['e', 3],
] as const;

describe('TextEncoder', () => {
  const encoder = new TextEncoder(new Initializer(2, 'float64'), sizes);

  it('encodes a text among others as it does alone; a missing text is a zero row', async () => {
    const together = rowsOf(await valuesOf(encoder.vectors(textsOf(texts), evaluation)), 8);
    expect([...together[1]!]).toEqual(new Array(8).fill(0));
    for (const [b, text] of texts.entries()) {
      if (text[1] === 0) continue;
      const alone = await valuesOf(encoder.vectors(textsOf([text]), evaluation));
      expect(worstDifference(together[b]!, alone), text[0]).toBeLessThan(1e-12);
      expect(together[b]!.some((x) => Math.abs(x) > 0.1)).toBe(true);
    }
    const none = encoder.vectors(
      textsOf([
        ['x', 0],
        ['y', 0],
      ]),
      evaluation,
    );
    expect([...(await valuesOf(none))]).toEqual(new Array(16).fill(0));
  });

  it('gives permuted outputs for permuted texts, bit for bit', async () => {
    using single = new TextEncoder(new Initializer(2), sizes);
    const order = [3, 1, 4, 0, 2];
    const straight = rowsOf(await valuesOf(single.vectors(textsOf(texts), evaluation)), 8);
    const permuted = textsOf(order.map((b) => texts[b]!));
    expect(rowsOf(await valuesOf(single.vectors(permuted, evaluation)), 8)).toEqual(order.map((b) => straight[b]));
  });

  it('gives the cls rows of all token rows', async () => {
    const { rows, offsets } = encoder.tokens(textsOf(texts), evaluation);
    const tokens = rowsOf(await valuesOf(rows), 8);
    const first = await valuesOf(offsets);
    const vectors = rowsOf(await valuesOf(encoder.vectors(textsOf(texts), evaluation)), 8);
    for (const b of [0, 2, 3, 4]) expect(worstDifference(vectors[b]!, tokens[first[b]!]!)).toBeLessThan(1e-12);
  });

  it('projects where the vector is wider than a token, keeping missing texts zero', async () => {
    using wide = new TextEncoder(new Initializer(2, 'float64'), { ...sizes, out: 10 });
    const vectors = rowsOf(await valuesOf(wide.vectors(textsOf(texts), evaluation)), 10);
    const inner = rowsOf(await valuesOf(encoder.vectors(textsOf(texts), evaluation)), 8);
    const weight = rowsOf(await valuesOf(wide.project!.weight), 8);
    expect([...vectors[1]!]).toEqual(new Array(10).fill(0));
    const byHand = weight.map((row) => row.reduce((total, w, i) => total + w * inner[3]![i]!, 0));
    expect(worstDifference(vectors[3]!, byHand)).toBeLessThan(1e-12);
  });

  it('has the gradients of finite differences', async () => {
    const run = () => encoder.vectors(textsOf(texts), { training: true });
    await expectGradients(encoder.parameters(), run, { perParameter: 2 });
  });

  it('drops out in training alone', async () => {
    using dropping = new TextEncoder(new Initializer(2), { ...sizes, dropout: 0.5 });
    using keeping = new TextEncoder(new Initializer(2), sizes);
    const bytes = (encoder: TextEncoder, training: boolean) =>
      bytesOf(tidy(() => encoder.vectors(textsOf(texts), { training })));
    expect((await bytes(dropping, false)).equals(await bytes(keeping, false))).toBe(true);
    expect((await bytes(dropping, true)).equals(await bytes(keeping, true))).toBe(false);
  });
});
