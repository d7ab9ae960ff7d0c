import { describe, expect, it } from 'vitest';
import { Fm } from '../../src/models/fm.js';
import { makeHistory } from '../../src/models/history.js';
import { Initializer } from '../../src/nn/module.js';
import { normals, streamOf } from '../../src/random.js';
import { assign, type Tensor, tensor } from '../../src/tensor.js';
import { rowsOf, valuesOf, worstDifference } from '../values.js';

const init = new Initializer(9, 'float64');
const matrix = (name: string, rows: number, width: number): Tensor =>
  tensor(normals(rows * width, 1, streamOf(name)), [rows, width]);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((total, x, i) => total + x * b[i]!, 0);
/** Mean of columns begin .. end of some rows. */
const average = (rows: readonly ArrayLike<number>[], begin: number, end: number): number[] =>
  Array.from({ length: end - begin }, (_, d) => rows.reduce((total, row) => total + row[begin + d]! / rows.length, 0));

const spec = {
  vectors: new Map([
    ['item', 2],
    ['tags', 2],
    ['content', 3],
  ]),
  histories: [
    { name: 'ids', width: 4, ids: ['items', 'categories'] },
    { name: 'past', width: 3 },
  ],
  ids: new Map([
    ['item', 5],
    ['tags', 4],
    ['items', 5],
    ['categories', 3],
  ]),
};

/** Ids of two batch rows. */
const host: Readonly<Record<string, readonly (readonly number[])[]>> = {
  item: [[4], [1]],
  tags: [[0, 3], [2]],
  items: [
    [1, 1],
    [0, 2, 4],
  ],
  categories: [
    [2, 0],
    [1, 1, 0],
  ],
};

describe('Fm', () => {
  it('equals the double loop over fields', async () => {
    using fm = new Fm(init, spec);
    for (const [name, { table }] of fm.weights) assign(table, normals(table.size, 2, streamOf(name)));
    assign(fm.bias, Float64Array.of(0.3));
    const vectors = new Map([...spec.vectors].map(([name, width]) => [name, matrix(name, 2, width)]));
    const offsets = Int32Array.of(0, 2, 5);
    const history = (name: string, width: number) =>
      makeHistory({ name, target: matrix('target', 2, width), rows: matrix(name, 5, width), offsets });
    const histories = [history('ids', 4), history('past', 3)] as const;
    const flat = (name: string): Tensor => tensor(Int32Array.from(host[name]!.flat()));
    const ids = new Map([
      ['item', { rows: flat('item'), offsets: null }],
      ['tags', { rows: flat('tags'), offsets: tensor(Int32Array.of(0, 2, 3)) }],
      ['items', { rows: flat('items'), offsets: tensor(offsets) }],
      ['categories', { rows: flat('categories'), offsets: tensor(offsets) }],
    ]);
    const logits = await valuesOf(fm.forward({ vectors, histories, ids }));

    const past = rowsOf(await valuesOf(histories[0].rows), 4);
    for (const b of [0, 1]) {
      const rowOf = async (x: Tensor): Promise<Float64Array> => rowsOf(await valuesOf(x), x.shape[1]!)[b]!;
      let expected = 0.3;
      const project = async (name: string, x: Float64Array): Promise<number[]> => {
        expected += dot(await valuesOf(fm.linear.get(name)!.weight), x);
        return rowsOf(await valuesOf(fm.project.get(name)!.weight), 3).map((row) => dot(row, x));
      };
      const own = past.slice(offsets[b]!, offsets[b + 1]!);
      const fields: ArrayLike<number>[] = [
        await rowOf(vectors.get('item')!),
        await rowOf(vectors.get('tags')!),
        await project('content', await rowOf(vectors.get('content')!)),
        average(own, 0, 2),
        average(own, 2, 4),
        await project('past', await rowOf(histories[1].pooled())),
      ];
      for (const [name, lists] of Object.entries(host)) {
        const weights = await valuesOf(fm.weights.get(name)!.table);
        const own = lists[b]!.map((id) => [weights[id]!]);
        expected += average(own, 0, 1)[0]!;
      }
      for (let i = 0; i < fields.length; i++)
        for (let j = i + 1; j < fields.length; j++) expected += dot(fields[i]!, fields[j]!);
      expect(worstDifference([logits[b]!], [expected])).toBeLessThan(1e-12);
    }
  });

  it('refuses id vectors of several widths, or none', () => {
    const widths = new Map([...spec.vectors, ['tags', 3] as const]);
    expect(() => new Fm(init, { ...spec, vectors: widths })).toThrow(
      /id vectors of one width but received widths 2, 3/,
    );
    expect(() => new Fm(init, { vectors: new Map([['x', 3]]), histories: [], ids: new Map() })).toThrow(
      /received none/,
    );
  });
});
