/** Factorization machine (Rendle, 2010). */
import { ArgumentError } from '../errors.js';
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import type { Initializer } from '../nn/module.js';
import { slice, stack } from '../ops/concat.js';
import { add, scaleBy, square, sub } from '../ops/elementwise.js';
import { embeddingBag } from '../ops/embedding_bag.js';
import { sum } from '../ops/reduce.js';
import { segmentSum } from '../ops/segment_sum.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { type IdInput, Ranker, type RankerInput, type RankerSpec } from './ranker.js';

/** Σ_{i<j} v_i · v_j = ½ Σ_k [(Σ_i v_ik)² - Σ_i v_ik²] over the fields: v (B, F, k) to (B). */
export function pairwiseProducts(v: Tensor): Tensor {
  return scaleBy(sub(sum(square(sum(v, { axes: [1] })), { axes: [1] }), sum(square(v), { axes: [1, 2] })), 0.5);
}

/**
 * w0 + Σ w_i + Σ_{i<j} v_i · v_j over fields. An id feature is a field with its id vector as v_i and a linear weight per id; several ids
 * (sequences, id histories) count with their mean. Any other vector x is a field with v_i = P x and w_i = w · x.
 */
export class Fm extends Ranker {
  readonly bias: Tensor;
  /** Linear weights (vocabulary, 1) of every id feature, none shared. */
  readonly weights: Map<string, Embedding>;
  /** P and w of vectors and content histories, by name. */
  readonly project: Map<string, Linear>;
  readonly linear: Map<string, Linear>;
  /** Names of the id features side by side in the rows of each id history. */
  readonly #idHistories: ReadonlyMap<string, readonly string[]>;

  constructor(init: Initializer, { vectors, histories, ids }: RankerSpec) {
    super();
    this.bias = init.constant('bias', [1], 0);
    this.weights = new Map(
      [...ids].map(([name, rows]) => [name, new Embedding(init.at(`weights.${name}`), rows, 1, { std: 0 })]),
    );
    this.#idHistories = new Map(histories.flatMap(({ name, ids: fields }) => (fields ? [[name, fields]] : [])));
    const idWidths = [
      ...[...vectors].flatMap(([name, width]) => (ids.has(name) ? [width] : [])),
      ...histories.flatMap(({ width, ids: fields }) => (fields ? [width / fields.length] : [])),
    ];
    const factors = idWidths[0];
    if (factors === undefined || idWidths.some((width) => width !== factors))
      throw new ArgumentError(
        `Fm: expected id vectors of one width but received ${idWidths.length === 0 ? 'none' : `widths ${[...new Set(idWidths)].join(', ')}`}`,
        { argument: 'spec' },
      );
    const others = [
      ...[...vectors].filter(([name]) => !ids.has(name)),
      ...histories.flatMap(({ name, width, ids: fields }): [string, number][] => (fields ? [] : [[name, width]])),
    ];
    const options = { bias: false };
    this.project = new Map(
      others.map(([name, width]) => [name, new Linear(init.at(`project.${name}`), width, factors, options)]),
    );
    this.linear = new Map(
      others.map(([name, width]) => [name, new Linear(init.at(`linear.${name}`), width, 1, options)]),
    );
  }

  forward({ vectors, histories, ids }: RankerInput): Tensor {
    const fields: Tensor[] = [];
    const terms: Tensor[] = [...ids].map(([name, input]) => this.idTerm(name, input));
    const addVector = (name: string, x: Tensor): void => {
      fields.push(this.project.get(name)?.forward(x) ?? x);
      const linear = this.linear.get(name);
      if (linear !== undefined) terms.push(linear.forward(x));
    };
    for (const [name, x] of vectors) addVector(name, x);
    for (const history of histories) {
      const names = this.#idHistories.get(history.name);
      if (names === undefined) {
        addVector(history.name, history.pooled());
        continue;
      }
      const mean = segmentSum(history.rows, { offsets: history.offsets, mode: 'mean' });
      const width = mean.shape[1]! / names.length;
      names.forEach((_, i) => fields.push(slice(mean, { axis: 1, start: i * width, end: (i + 1) * width })));
    }
    const B = fields[0]!.shape[0]!;
    const linear = terms.reduce((total, term) => add(total, term), this.bias);
    return add(reshape(linear, [B]), pairwiseProducts(stack(fields, { axis: 1 })));
  }

  /** (B, 1). */
  private idTerm(name: string, { rows, offsets }: IdInput): Tensor {
    const weights = this.weights.get(name)!;
    return offsets === null ? weights.forward(rows) : embeddingBag(weights.table, rows, { offsets, mode: 'mean' });
  }
}
