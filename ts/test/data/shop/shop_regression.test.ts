/** What can be learned from the shop: logistic regression on the true terms reaches the ceilings, so clicks follow the formula. */
import { describe, expect, it } from 'vitest';
import { generateShop, PART_TEST, PART_TRAIN, type Shop } from '../../../src/data/shop/shop.js';
import { evaluateSlices } from '../../../src/metrics/slices.js';

type Terms = Record<string, (event: number) => number>;

/** Terms of the click logit by what reveals them, without their weights. What is missing is 0, the mean of the term. */
function termsOf({
  events,
  items,
  sessions,
  itemFactors,
  userFactors,
}: Shop): Record<'ids' | 'text' | 'picture', Terms> {
  const item = (event: number): number => events.item[event]!;
  const user = (event: number): number => events.user[event]!;
  const session = (event: number): number => events.session[event]!;
  const same = (a: number, b: number): number => (a === b ? 1 : -1 / 3);
  const hue = (event: number): number => itemFactors.hue[item(event)]!;
  const tagged = (event: number): number => (items.tags[item(event)] === '' ? 0 : 1);
  const seen = (event: number): number => 1 - items.pictureMissing[item(event)]!;
  return {
    ids: {
      bias: () => 1,
      user: (event) => userFactors.effect[user(event)]!,
    },
    text: {
      category: (event) => (itemFactors.category[item(event)] === sessions.category[session(event)] ? 1 : -1),
      quality: (event) => itemFactors.quality[item(event)]!,
      material: (event) => tagged(event) * same(itemFactors.material[item(event)]!, userFactors.material[user(event)]!),
      askedMaterial: (event) => {
        const word = sessions.material[session(event)]!;
        return word < 0 ? 0 : tagged(event) * same(itemFactors.material[item(event)]!, word);
      },
    },
    picture: {
      hue: (event) => seen(event) * Math.cos(hue(event) - userFactors.hue[user(event)]!),
      shape: (event) => seen(event) * same(itemFactors.shape[item(event)]!, userFactors.shape[user(event)]!),
      askedHue: (event) => {
        const word = sessions.colour[session(event)]!;
        return word < 0 ? 0 : seen(event) * Math.cos(hue(event) - (Math.PI * word) / 4);
      },
    },
  };
}

/** Solves a x = b for a symmetric positive definite matrix, by elimination. */
function solve(a: number[][], b: number[]): number[] {
  const n = b.length;
  const rows = a.map((row, i) => [...row, b[i]!]);
  for (let i = 0; i < n; i++)
    for (let j = i + 1; j < n; j++) {
      const factor = rows[j]![i]! / rows[i]![i]!;
      for (let k = i; k <= n; k++) rows[j]![k] = rows[j]![k]! - factor * rows[i]![k]!;
    }
  const x = new Array<number>(n).fill(0);
  for (let i = n - 1; i >= 0; i--)
    x[i] = (rows[i]![n]! - x.reduce((sum, value, k) => sum + (k > i ? value * rows[i]![k]! : 0), 0)) / rows[i]![i]!;
  return x;
}

/** Maximum-likelihood weights of a logistic regression, by Newton's method. */
function fit(features: readonly Float64Array[], labels: Uint8Array, events: readonly number[]): number[] {
  const n = features.length;
  let weights = new Array<number>(n).fill(0);
  for (let iteration = 0; iteration < 6; iteration++) {
    const gradient = new Array<number>(n).fill(0);
    const hessian = gradient.map(() => new Array<number>(n).fill(0));
    for (const event of events) {
      let z = 0;
      for (let i = 0; i < n; i++) z += weights[i]! * features[i]![event]!;
      const p = 1 / (1 + Math.exp(-z));
      for (let i = 0; i < n; i++) {
        const x = features[i]![event]!;
        gradient[i] = gradient[i]! + (labels[event]! - p) * x;
        for (let j = 0; j <= i; j++) hessian[i]![j] = hessian[i]![j]! + p * (1 - p) * x * features[j]![event]!;
      }
    }
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) hessian[j]![i] = hessian[i]![j]!;
    const step = solve(hessian, gradient);
    weights = weights.map((w, i) => w + step[i]!);
  }
  return weights;
}

describe('logistic regression on the true terms', () => {
  const shop = generateShop();
  const { events, itemFactors } = shop;
  const all = [...events.part.keys()];
  const train = all.filter((event) => events.part[event] === PART_TRAIN);
  const test = all.filter((event) => events.part[event] === PART_TEST);
  const { ids, text, picture } = termsOf(shop);
  const effect: Terms = { item: (event) => itemFactors.effect[events.item[event]!]! };
  const known = termsOf({
    ...shop,
    items: { ...shop.items, pictureMissing: new Uint8Array(shop.items.count), tags: shop.items.tags.map(() => 'x') },
  });

  it.each<[string, Terms, number, number, Record<string, number>]>([
    ['text', { ...ids, ...text }, 0.6297, 0.6982, {}],
    ['picture', { ...ids, ...picture }, 0.8138, 0.8058, {}],
    ['text and picture', { ...ids, ...text, ...picture }, 0.838, 0.8591, {}],
    [
      'everything',
      { ...known.ids, ...known.text, ...known.picture, ...effect },
      0.8766,
      0.8949,
      {
        bias: -2.2,
        user: 1,
        item: 1,
        category: 1,
        quality: 0.6,
        material: 0.8,
        askedMaterial: 0.8,
        hue: 2,
        shape: 0.8,
        askedHue: 2,
      },
    ],
  ])('reaches the ceiling of %s', (_, terms, warm, cold, truth) => {
    const names = Object.keys(terms);
    const columns = names.map((name) => Float64Array.from(all, terms[name]!));
    const weights = fit(columns, events.click, train);
    const take = (values: ArrayLike<number>) => Float64Array.from(test, (event) => values[event]!);
    const logits = take(all.map((event) => columns.reduce((z, column, i) => z + weights[i]! * column[event]!, 0)));
    const [labels, user, session, isCold] = [events.click, events.user, events.session, events.cold].map(take) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const slices = evaluateSlices({ logits, labels, user, session, cold: isCold });
    expect(Math.abs(slices['warm']!.AUC! - warm)).toBeLessThan(0.003);
    expect(Math.abs(slices['cold']!.AUC! - cold)).toBeLessThan(0.003);
    // and finds the formula's own weights
    for (const [name, value] of Object.entries(truth))
      expect([name, Math.abs(weights[names.indexOf(name)]! - value) < 0.06]).toEqual([name, true]);
  });
});
