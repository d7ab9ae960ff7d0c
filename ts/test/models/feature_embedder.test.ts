import { describe, expect, it } from 'vitest';
import { FeatureEmbedder } from '../../src/models/feature_embedder.js';
import { Initializer } from '../../src/nn/module.js';
import { tidy } from '../../src/tidy.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';
import { batchOf, columnSchema, rowsWith, schemaOf, smallSchema } from './small_batch.js';

const init = new Initializer(1, 'float64');

describe('FeatureEmbedder', () => {
  it('shares tables and states the sizes of what it gives', () => {
    using embedder = new FeatureEmbedder(init, smallSchema, { embeddingDim: 3 });
    expect([...embedder.tables.keys()]).toEqual(['user', 'item', 'category', 'tags']);
    const spec = embedder.spec();
    expect([...spec.vectors]).toEqual([
      ['user', 3],
      ['item', 3],
      ['category', 3],
      ['tags', 3],
      ['numeric', 2],
    ]);
    expect(spec.histories).toEqual([{ name: 'ids', width: 6, ids: ['item_history', 'category_history'], timed: true }]);
    expect(spec.ids.get('category_history')).toBe(4);
    tidy(() => {
      const input = embedder.forward(batchOf(rowsWith([0, 3, 1, 2])));
      expect([...input.vectors].map(([name, x]) => [name, x.shape[1]])).toEqual([...spec.vectors]);
      expect([...input.ids.keys()].sort()).toEqual([...spec.ids.keys()].sort());
      expect(input.histories.map(({ name, rows }) => [name, rows.shape])).toEqual([['ids', [6, 6]]]);
      expect(input.embeddings.get('user')).toBe(input.vectors.get('user'));
    });
  });

  it('looks up ids, averages sequences, keeps numbers and lays histories beside their targets', async () => {
    using embedder = new FeatureEmbedder(init, smallSchema, { embeddingDim: 2 });
    const rows = rowsWith([0, 3, 1, 2]);
    const { vectors, histories } = embedder.forward(batchOf(rows));
    const table = async (name: string): Promise<Float64Array[]> =>
      rowsOf(await valuesOf(embedder.tables.get(name)!.table), 2);
    const [users, items, categories, tags] = await Promise.all(['user', 'item', 'category', 'tags'].map(table));
    expect(rowsOf(await valuesOf(vectors.get('user')!), 2)).toEqual(rows.map((row) => users![row.user]));
    const mean = (list: readonly number[]): number[] =>
      [0, 1].map((d) => list.reduce((total, tag) => total + tags![tag]![d]! / list.length, 0));
    const means = rows.flatMap((row) => mean(row.tags));
    expect(worstDifference(await valuesOf(vectors.get('tags')!), means)).toBeLessThan(1e-14);
    const numbers = rows.flatMap((row) => [Math.fround(row.price), Math.fround(row.age)]);
    expect([...(await valuesOf(vectors.get('numeric')!))]).toEqual(numbers);

    const { target, rows: past, offsets, segments, mask } = histories[0]!;
    const pair = (item: number, category: number): number[] => [...items![item]!, ...categories![category]!];
    expect([...(await valuesOf(target))]).toEqual(rows.flatMap((row) => pair(row.item, row.category)));
    expect([...(await valuesOf(past))]).toEqual(
      rows.flatMap((row) => row.items.flatMap((item, i) => pair(item, row.categories[i]!))),
    );
    expect([...(await valuesOf(offsets))]).toEqual([0, 0, 3, 4, 6]);
    expect([...(await valuesOf(segments))]).toEqual([1, 1, 1, 2, 3, 3]);
    expect(mask).toBeNull();
  });

  it('makes a history of its own, without times, of each sequence of earlier ids', async () => {
    using embedder = new FeatureEmbedder(init, columnSchema, { embeddingDim: 2 });
    expect([...embedder.tables.keys()]).toEqual(['user', 'item', 'category', 'tags']);
    const spec = embedder.spec();
    expect([...spec.vectors.keys()]).toEqual(['user', 'item', 'category', 'tags', 'numeric']);
    expect(spec.histories).toEqual([
      { name: 'clicks', width: 2, ids: ['clicks'], timed: false },
      { name: 'clicked_categories', width: 2, ids: ['clicked_categories'], timed: false },
    ]);
    const rows = rowsWith([0, 3, 1]);
    const input = embedder.forward(batchOf(rows));
    expect([...input.ids.keys()].sort()).toEqual([...spec.ids.keys()].sort());
    const [clicks, categories] = input.histories;
    expect([[...clicks!.hostOffsets], [...categories!.hostOffsets]]).toEqual([
      [0, 0, 3, 4],
      [0, 0, 2, 2],
    ]);
    expect(clicks!.gaps).toBeUndefined();
    expect(await valuesOf(clicks!.target)).toEqual(await valuesOf(input.vectors.get('item')!));
    const items = rowsOf(await valuesOf(embedder.tables.get('item')!.table), 2);
    const earlier = rows.flatMap((row) => row.items.flatMap((item) => [...items[item]!]));
    expect([...(await valuesOf(clicks!.rows))]).toEqual(earlier);
    const same = rows.flatMap((row) => row.items.map((item) => (item === row.item ? 1 : 0)));
    expect([...(await valuesOf(clicks!.same!('clicks')))]).toEqual(same);
  });

  it('calls no unknown id the same as another', async () => {
    using embedder = new FeatureEmbedder(init, columnSchema, { embeddingDim: 2 });
    const [row] = rowsWith([3]);
    const { histories } = embedder.forward(batchOf([{ ...row!, item: 0, items: [0, 1, 0] }]));
    expect([...(await valuesOf(histories[0]!.same!('clicks')))]).toEqual([0, 0, 0]);
  });

  it('gives such histories beside those of events', () => {
    const schema = schemaOf([...smallSchema.features, ...columnSchema.features.slice(-2)]);
    using embedder = new FeatureEmbedder(init, schema, { embeddingDim: 2 });
    const names = embedder.spec().histories.map(({ name }) => name);
    expect(names).toEqual(['ids', 'clicks', 'clicked_categories']);
    tidy(() => {
      const { histories } = embedder.forward(batchOf(rowsWith([2, 3])));
      expect(histories.map(({ name, gaps }) => [name, gaps?.length])).toEqual([
        ['ids', 5],
        ['clicks', undefined],
        ['clicked_categories', undefined],
      ]);
    });
  });

  it('pools a history by dot products with the target, once', async () => {
    using embedder = new FeatureEmbedder(init, smallSchema, { embeddingDim: 2 });
    const history = embedder.forward(batchOf(rowsWith([0, 3]))).histories[0]!;
    const pooled = history.pooled();
    expect(history.pooled()).toBe(pooled);
    const target = rowsOf(await valuesOf(history.target), 4)[1]!;
    const past = rowsOf(await valuesOf(history.rows), 4);
    const weights = past.map((h) => Math.exp(h.reduce((total, x, d) => total + x * target[d]!, 0) / 2));
    const all = weights.reduce((a, b) => a + b);
    const expected = [0, 1, 2, 3].map((d) => past.reduce((total, h, j) => total + (weights[j]! / all) * h[d]!, 0));
    expect(worstDifference(await valuesOf(pooled), [0, 0, 0, 0, ...expected])).toBeLessThan(1e-12);
  });

  it('uses the named features alone, and the target of a history that is none of them', () => {
    using embedder = new FeatureEmbedder(init, smallSchema, { embeddingDim: 2, features: ['user', 'item_history'] });
    tidy(() => {
      const { vectors, ids, embeddings, histories } = embedder.forward(batchOf(rowsWith([1, 2])));
      expect([...vectors.keys()]).toEqual(['user']);
      expect([...ids.keys()]).toEqual(['user', 'item_history']);
      expect([...embeddings.keys()]).toEqual(['user', 'item']);
      expect(histories[0]!.target.shape).toEqual([2, 2]);
      expect([...embedder.spec().ids.keys()]).toEqual([...ids.keys()]);
    });
  });

  it('refuses features that it cannot embed', () => {
    const make = (features: readonly string[]) => new FeatureEmbedder(init, smallSchema, { embeddingDim: 2, features });
    expect(() => make(['title'])).toThrow(/feature title: expected an id, number, .* but received type meta/);
    expect(() => make(['shoe'])).toThrow(/expected one of the features .* but received shoe/);
    const changed = (name: string, change: object) =>
      schemaOf(smallSchema.features.map((feature) => (feature.name === name ? { ...feature, ...change } : feature)));
    const embed = (schema: typeof smallSchema) => new FeatureEmbedder(init, schema, { embeddingDim: 2 });
    expect(() => embed(changed('category_history', { maxLen: 5 }))).toThrow(/the length 9 of the other histories/);
    expect(() => embed(changed('item_history', { of: 'price' }))).toThrow(/a history of an id feature but .* numeric/);
    expect(() => embed(changed('item_history', { shareEmbedding: null, embeddingDim: 4 }))).toThrow(/width 2 of item/);
    expect(() => embed(changed('item_history', { vocabularySize: 8 }))).toThrow(
      /the 7 rows of item but received 8 rows/,
    );
    const column = (change: object) =>
      schemaOf(
        columnSchema.features.map((feature) => (feature.name === 'clicks' ? { ...feature, ...change } : feature)),
      );
    expect(() => embed(column({ of: 'price' }))).toThrow(/clicks: expected a history of an id feature but .* numeric/);
    expect(() => embed(column({ embeddingDim: 4 }))).toThrow(/clicks: expected .* width 2 of item but received 4/);
    expect(() => embed(column({ shareEmbedding: null, embeddingDim: 4 }))).toThrow(/width 2 of item but received 4/);
    expect(() => embed(column({ name: 'content' }))).toThrow(/expected another name than ids, content/);
    using embedder = embed(smallSchema);
    const batch = batchOf(rowsWith([1]));
    expect(() => tidy(() => embedder.forward({ ...batch, numeric: {} }))).toThrow(
      /expected a batch with feature price but received none/,
    );
  });
});
