import { describe, expect, it } from 'vitest';
import { chooseItems, type ItemSampling } from '../../src/models/choose_items.js';

const items = Int32Array.from({ length: 2000 }, (_, i) => 3 * i + 1);
const held = { lastWrite: () => 5, trainRows: (item: number) => item };
const sampling: ItemSampling = { p: 30, q: 10, seed: 7, warmupSteps: 0, popularAt: null, maxAge: null };
/** The items, not their positions, of each group. */
const named = (list: Int32Array, chosen: ReturnType<typeof chooseItems>) =>
  Object.fromEntries(
    Object.entries(chosen).map(([group, positions]: [string, Int32Array]) => [
      group,
      [...positions].map((at) => list[at]!).sort((a, b) => a - b),
    ]),
  );

describe('chooseItems', () => {
  it('takes about p percent, q percent of all with gradient, and every item once', () => {
    const { live, fresh, cached } = chooseItems(items, 9, sampling, held);
    expect([...live, ...fresh, ...cached].sort((a, b) => a - b)).toEqual([...items.keys()]);
    expect(Math.abs(live.length / items.length - 0.1)).toBeLessThan(0.03);
    expect(Math.abs((live.length + fresh.length) / items.length - 0.3)).toBeLessThan(0.04);
  });

  it('depends on item, step and seed alone', () => {
    const chosen = named(items, chooseItems(items, 9, sampling, held));
    const backwards = items.slice().reverse();
    expect(named(backwards, chooseItems(backwards, 9, sampling, held))).toEqual(chosen);
    const some = items.filter((_, i) => i % 3 === 0);
    const those = new Set(some);
    expect(named(some, chooseItems(some, 9, sampling, held))['live']).toEqual(
      chosen['live']!.filter((item) => those.has(item)),
    );
    expect(named(items, chooseItems(items, 10, sampling, held))).not.toEqual(chosen);
    expect(named(items, chooseItems(items, 9, { ...sampling, seed: 8 }, held))).not.toEqual(chosen);
  });

  it('encodes what is unseen or too old, with gradient where there is any', () => {
    const unseen = { ...held, lastWrite: (item: number) => (item % 2 === 0 ? -1 : 5) };
    const even = (positions: Int32Array): number => [...positions].filter((at) => items[at]! % 2 === 0).length;
    const all = chooseItems(items, 9, { ...sampling, p: 0, q: 10 }, unseen);
    expect([all.live.length, even(all.live), all.fresh.length]).toEqual([1000, 1000, 0]);
    const still = chooseItems(items, 9, { ...sampling, p: 0, q: 0 }, unseen);
    expect([still.live.length, even(still.fresh)]).toEqual([0, 1000]);
    const old = chooseItems(items, 9, { ...sampling, p: 0, maxAge: 3 }, held);
    expect(old.cached).toHaveLength(0);
    expect(Math.abs(old.live.length / items.length - 0.1)).toBeLessThan(0.03); // q, not all that is too old
    expect(new Set(old.chance)).toEqual(new Set([Math.fround(0.1)]));
    expect(new Set(all.chance)).toEqual(new Set([1]));
    const rare = { trainRows: (item: number) => item % 3, lastWrite: held.lastWrite };
    const { live, chance } = chooseItems(items, 9, { ...sampling, popularAt: 1 }, rare);
    live.forEach((at, i) => expect(chance[i]).toBeCloseTo(items[at]! % 3 === 2 ? 0.05 : 0.1));
    expect(chooseItems(items, 8, { ...sampling, p: 0, maxAge: 3 }, held).cached).toHaveLength(2000);
  });

  it('takes all with gradient until the warm-up is over', () => {
    const warm: ItemSampling = { ...sampling, warmupSteps: 8 };
    expect([...chooseItems(items, 8, warm, held).live]).toEqual([...items.keys()]);
    expect(chooseItems(items, 9, warm, held)).toEqual(chooseItems(items, 9, sampling, held));
  });

  it('takes popular items in inverse proportion to their rows, the others as ever', () => {
    const rarer: ItemSampling = { ...sampling, popularAt: 1000 };
    const [plain, less] = [sampling, rarer].map((options) => named(items, chooseItems(items, 9, options, held)));
    const rare = (list: readonly number[]) => list.filter((item) => item <= 1000);
    for (const group of ['live', 'fresh', 'cached']) expect(rare(less![group]!)).toEqual(rare(plain![group]!));
    const taken = [...less!['live']!, ...less!['fresh']!].filter((item) => item > 1000);
    const expected = [...items].filter((item) => item > 1000).reduce((sum, item) => sum + 0.3 * (1000 / item), 0);
    expect(Math.abs(taken.length / expected - 1)).toBeLessThan(0.2);
  });

  it('with p = q = 100 takes all with gradient, with p = 100 and q = 0 all without', () => {
    expect([...chooseItems(items, 1, { ...sampling, p: 100, q: 100 }, held).live]).toEqual([...items.keys()]);
    expect([...chooseItems(items, 1, { ...sampling, p: 100, q: 0 }, held).fresh]).toEqual([...items.keys()]);
  });
});
