/** DLRM (Naumov et al., 2019): numbers through a bottom MLP, dot products of all pairs of fields, a top MLP. */
import { Linear, Mlp } from '../nn/linear.js';
import type { ForwardContext, Initializer } from '../nn/module.js';
import { concat, stack } from '../ops/concat.js';
import { gatherRows } from '../ops/gather_rows.js';
import { matmul } from '../ops/matmul.js';
import { reshape, transpose } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { historyField } from './history.js';
import { Ranker, type RankerInput, type RankerOptions, type RankerSpec } from './ranker.js';

export interface DlrmOptions {
  /** Widths of the bottom MLP; a last layer, to the width of the fields, follows [sibling: 512, 256, 64 in the published run on Criteo]. */
  readonly bottomMlp: readonly number[];
  /** Hidden widths of the top MLP [sibling: 512, 256]. */
  readonly topMlp: readonly number[];
  /**
   * 'dot': products of pairs beside the numbers. 'concat': all fields side by side, without products: the "DLRM-MLP" that RankMixer's and
   * LEMUR's tables start from.
   */
  readonly interaction: 'dot' | 'concat';
  /** Width of the fields [sibling: 16]; null: the widest id vector [default]. Inputs of another width are projected. */
  readonly width: number | null;
}

export const defaultDlrm: DlrmOptions = {
  bottomMlp: [512, 256, 64],
  topMlp: [512, 256],
  interaction: 'dot',
  width: null,
};

/** v_i · v_j for all i > j: v (B, F, D) to (B, F (F - 1) / 2), pairs in the order (1, 0), (2, 0), (2, 1), ... */
export function dotInteractions(v: Tensor, pairs: Tensor): Tensor {
  const [B, F] = [v.shape[0]!, v.shape[1]!];
  const products = reshape(matmul(v, v, { transposeB: true }), [B, F * F]);
  return transpose(gatherRows(transpose(products), pairs));
}

/** Places i F + j of the pairs i > j in a row of F x F products. */
export function pairPlaces(F: number): Int32Array {
  const places: number[] = [];
  for (let i = 1; i < F; i++) for (let j = 0; j < i; j++) places.push(i * F + j);
  return Int32Array.from(places);
}

/** Fields: id vectors, content vectors, one per history (pooled), and the output of the bottom MLP over `RankerSpec.floats`. */
export class Dlrm extends Ranker {
  /** Over the numbers; null where there are none. */
  readonly bottom: Mlp | null;
  /** Of fields whose width is another one, by name. */
  readonly project: Map<string, Linear>;
  readonly top: Mlp;
  readonly #floats: readonly string[];
  readonly #interaction: DlrmOptions['interaction'];

  constructor(
    init: Initializer,
    spec: RankerSpec,
    { dlrm = defaultDlrm, dropout, batchNorm, activation }: RankerOptions,
  ) {
    super();
    const { vectors, histories, ids, floats = [] } = spec;
    const { bottomMlp, topMlp, interaction } = dlrm;
    this.#floats = floats;
    this.#interaction = interaction;
    const fields = new Map([...vectors].filter(([name]) => !floats.includes(name)));
    for (const { name, width } of histories) fields.set(historyField(name), width);
    const idWidths = [...fields].flatMap(([name, width]) => (ids.has(name) ? [width] : []));
    const width = dlrm.width ?? Math.max(...(idWidths.length > 0 ? idWidths : fields.values()), 1);
    const numbers = floats.reduce((total, name) => total + vectors.get(name)!, 0);
    const perceptron = { dropout, batchNorm, activation };
    this.bottom =
      numbers === 0 ? null : new Mlp(init.at('bottom'), numbers, { hidden: [...bottomMlp, width], ...perceptron });
    const others = interaction === 'dot' ? [...fields].filter(([, own]) => own !== width) : [];
    this.project = new Map(others.map(([name, own]) => [name, new Linear(init.at(`project.${name}`), own, width)]));
    const F = fields.size + (this.bottom === null ? 0 : 1);
    const sum = [...fields.values()].reduce((total, own) => total + own, 0);
    const below = this.bottom === null ? 0 : width;
    const inputs = below + (interaction === 'dot' ? (F * (F - 1)) / 2 : sum);
    this.top = new Mlp(init.at('top'), inputs, { hidden: topMlp, out: 1, ...perceptron });
  }

  forward({ vectors, histories }: RankerInput, context: ForwardContext): Tensor {
    const fields: Tensor[] = [];
    const addField = (name: string, x: Tensor): number => fields.push(this.project.get(name)?.forward(x) ?? x);
    for (const [name, x] of vectors) if (!this.#floats.includes(name)) addField(name, x);
    for (const history of histories) addField(historyField(history.name), history.pooled());
    const numbers = this.#floats.map((name) => vectors.get(name)!);
    const below = this.bottom === null ? [] : [this.bottom.forward(concat(numbers, { axis: 1 }), context)];
    const x = concat([...below, ...this.interact([...below, ...fields], fields)], { axis: 1 });
    return reshape(this.top.forward(x, context), [x.shape[0]!]);
  }

  private interact(all: readonly Tensor[], fields: readonly Tensor[]): readonly Tensor[] {
    if (this.#interaction === 'concat') return fields;
    if (all.length < 2) return [];
    return [dotInteractions(stack(all, { axis: 1 }), this.place(pairPlaces(all.length)))];
  }
}
