import { describe, expect, it } from 'vitest';
import { chooseItems, type ItemSampling } from '../../src/models/choose_items.js';

const items = Int32Array.from({ length: 2000 }, (_, i) => 3 * i + 1);
const held = (): number => 5;
const sampling: ItemSampling = { p: 30, q: 10, seed: 7, maxAge: null };
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
    const unseen = (item: number): number => (item % 2 === 0 ? -1 : 5);
    const even = (positions: Int32Array): number => [...positions].filter((at) => items[at]! % 2 === 0).length;
    const all = chooseItems(items, 9, { ...sampling, p: 0, q: 10 }, unseen);
    expect([all.live.length, even(all.live), all.fresh.length]).toEqual([1000, 1000, 0]);
    const still = chooseItems(items, 9, { ...sampling, p: 0, q: 0 }, unseen);
    expect([still.live.length, even(still.fresh)]).toEqual([0, 1000]);
    const old = chooseItems(items, 9, { ...sampling, p: 0, maxAge: 3 }, held);
    expect(old.cached).toHaveLength(0);
    expect(chooseItems(items, 8, { ...sampling, p: 0, maxAge: 3 }, held).cached).toHaveLength(2000);
  });

  it('with p = q = 100 takes all with gradient, with p = 100 and q = 0 all without', () => {
    expect([...chooseItems(items, 1, { ...sampling, p: 100, q: 100 }, held).live]).toEqual([...items.keys()]);
    expect([...chooseItems(items, 1, { ...sampling, p: 100, q: 0 }, held).fresh]).toEqual([...items.keys()]);
  });
});
