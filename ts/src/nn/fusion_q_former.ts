/**
 * FusionQFormer (EM3; models.md 2.3): a few learned queries stand in front of an item's content tokens, attend together with them,
 * and their outputs become the item's content vector.
 */
import { ArgumentError } from '../errors.js';
import { concat } from '../ops/concat.js';
import { dropout } from '../ops/dropout.js';
import { gatherRows } from '../ops/gather_rows.js';
import { reshape } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { type JaggedRows, MultiHeadAttention, type Projection, type Queries } from './attention.js';
import { LayerNorm } from './layer_norm.js';
import { Linear } from './linear.js';
import { LoraLinear, type LoraOptions } from './lora_linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';

/** Content tokens of one modality: item b owns `counts[b]` rows, one after the other; 0 means that the modality is missing. */
export interface ModalityTokens {
  readonly rows: Tensor;
  /** First row of each item's tokens (n). Only read where `counts` is positive. */
  readonly starts: Int32Array;
  readonly counts: Int32Array;
}

export interface FusionOptions {
  /** Width of each modality's tokens by name, in the order in which they follow the queries. */
  readonly modalities: Readonly<Record<string, number>>;
  /** 'exact' is the authors' public release: one token per modality, no FFN, no absent tokens. Default 'ctr'. */
  readonly mode?: 'exact' | 'ctr';
  readonly queries?: number;
  readonly layers?: number;
  readonly heads?: number;
  readonly width?: number;
  /** Width of the FFN sublayer; 0 for none. */
  readonly ffn?: number;
  readonly dropout?: number;
  /** 'joint': queries and tokens attend together; 'cross': queries read tokens. */
  readonly attention?: 'joint' | 'cross';
  /** Turns every linear that the history path adapts (modality projections, query and value) into a frozen one with a low-rank update. */
  readonly lora?: LoraOptions;
}

export class FusionLayer extends Module {
  readonly attention: MultiHeadAttention;
  readonly norm: LayerNorm;
  readonly up: Linear | null;
  readonly down: Linear | null;
  readonly ffnNorm: LayerNorm | null;
  /** Low-rank updates of query and value, where this layer is a frozen snapshot. */
  readonly loraQuery: LoraLinear | null;
  readonly loraValue: LoraLinear | null;

  constructor(
    init: Initializer,
    readonly options: {
      width: number;
      heads: number;
      ffn: number;
      dropout: number;
      scale: number;
      lora: LoraOptions | undefined;
    },
  ) {
    super();
    const { width, ffn, lora } = options;
    this.attention = new MultiHeadAttention(init.at('attention'), options);
    this.norm = new LayerNorm(init.at('norm'), width);
    this.up = ffn > 0 ? new Linear(init.at('up'), width, ffn) : null;
    this.down = ffn > 0 ? new Linear(init.at('down'), ffn, width) : null;
    this.ffnNorm = ffn > 0 ? new LayerNorm(init.at('ffnNorm'), width) : null;
    this.loraQuery = lora === undefined ? null : new LoraLinear(init.at('loraQuery'), this.attention.query, lora);
    this.loraValue = lora === undefined ? null : new LoraLinear(init.at('loraValue'), this.attention.value, lora);
  }

  /** LN(x + attention), then LN(x + FFN(x)): post-norm. With `only`, for those rows alone. */
  forward(from: JaggedRows, to: JaggedRows, context: ForwardContext): Tensor {
    const p = context.training ? this.options.dropout : 0;
    const drop = (y: Tensor) => (p > 0 ? dropout(y, { p }) : y);
    const { query, key, value, out } = this.attention;
    const projections: { query: Projection; key: Projection; value: Projection; out: Projection } = {
      query: this.loraQuery ?? query,
      key,
      value: this.loraValue ?? value,
      out,
    };
    const x = this.norm.forward(drop(this.attention.forward(from, to, projections)), from.rows);
    if (this.up === null || this.down === null || this.ffnNorm === null) return x;
    return this.ffnNorm.forward(drop(this.down.forward(this.up.forward(x, 'gelu'))), x);
  }
}

export class FusionQFormer extends Module {
  /** (queries, width). */
  readonly query: Tensor;
  /** One learned token (1, width) per modality, standing in where it is missing. */
  readonly absent: Map<string, Tensor>;
  readonly project: Map<string, Linear>;
  readonly loraProject: Map<string, LoraLinear>;
  readonly layers: FusionLayer[];
  readonly last: Linear;
  readonly width: number;
  readonly queries: number;
  /** Queries read tokens, and do not attend to each other. */
  readonly cross: boolean;
  readonly #names: readonly string[];

  constructor(init: Initializer, options: FusionOptions) {
    super();
    const exact = options.mode === 'exact';
    const {
      modalities,
      queries = exact ? 1 : 4,
      layers = exact ? 1 : 2,
      heads = exact ? 4 : 8,
      width = exact ? 64 : 128,
      ffn = 0,
      lora,
    } = options;
    if (exact && (ffn > 0 || options.attention === 'cross'))
      throw new ArgumentError('FusionQFormer: expected no ffn and joint attention in exact mode', { argument: 'ffn' });
    const std = 1 / Math.sqrt(width);
    // The release initialises its queries Xavier-uniform on shape (1, Nq, width), and its last weight with the same bound.
    const bound = Math.sqrt(6 / (width * (queries + 1)));
    this.width = width;
    this.queries = queries;
    this.cross = options.attention === 'cross';
    this.#names = Object.keys(modalities);
    this.query = exact ? init.uniform('query', [queries, width], bound) : init.normal('query', [queries, width], std);
    this.absent = new Map(
      exact ? [] : this.#names.map((name) => [name, init.normal(`absent.${name}`, [1, width], std)]),
    );
    this.project = new Map(
      this.#names.map((name) => [
        name,
        new Linear(init.at(`project.${name}`), modalities[name]!, width, { init: 'fan_in' }),
      ]),
    );
    this.loraProject = new Map(
      lora === undefined
        ? []
        : this.#names.map((name) => [
            name,
            new LoraLinear(init.at(`loraProject.${name}`), this.project.get(name)!, lora),
          ]),
    );
    const headDim = width / heads;
    const layerOptions = {
      width,
      heads,
      ffn,
      dropout: options.dropout ?? (exact ? 0.5 : 0.1),
      scale: 1 / Math.sqrt(exact ? headDim + 1e-5 : headDim),
      lora,
    } as const;
    this.layers = Array.from({ length: layers }, (_, i) => new FusionLayer(init.at(`layers.${i}`), layerOptions));
    this.last = new Linear(init.at('last'), queries * width, width, { init: exact ? 'xavier' : 'fan_in' });
  }

  /** The outputs of the queries side by side, u (n, queries · width), before the last linear layer. */
  flattened(modalities: Readonly<Record<string, ModalityTokens>>, context: ForwardContext): Tensor {
    const { sources, index, offsets, queryRows } = this.layout(modalities);
    const n = offsets.length - 1;
    const all = gatherRows(concat(sources, { axis: 0 }), this.place(index));
    let joint: JaggedRows = { rows: all, offsets: this.place(offsets) };
    const asking: Queries = {
      index: this.place(queryRows),
      offsets: this.place(Int32Array.from({ length: n + 1 }, (_, i) => i * this.queries)),
    };
    let queries: Tensor | null = this.cross ? gatherRows(this.query, asking.index) : null;
    this.layers.forEach((layer, i) => {
      const last = i === this.layers.length - 1;
      if (last || this.cross) {
        // Only the query rows go on. They read the whole item (joint), or its tokens alone, as they came (cross).
        queries = layer.forward(
          { rows: queries ?? gatherRows(joint.rows, asking.index), offsets: asking.offsets },
          joint,
          context,
        );
      } else {
        joint = { rows: layer.forward(joint, joint, context), offsets: joint.offsets };
      }
    });
    return reshape(queries ?? gatherRows(joint.rows, asking.index), [n, this.queries * this.width]);
  }

  /** Content vectors m (n, width). */
  forward(modalities: Readonly<Record<string, ModalityTokens>>, context: ForwardContext): Tensor {
    return this.last.forward(this.flattened(modalities, context));
  }

  /**
   * Rows to concatenate, which of them each item reads in which order, and where its queries are: among the rows that it reads
   * (joint), or in `query` (cross).
   */
  private layout(modalities: Readonly<Record<string, ModalityTokens>>): {
    sources: Tensor[];
    index: Int32Array;
    offsets: Int32Array;
    queryRows: Int32Array;
  } {
    const parts = this.#names.map((name) => {
      const part = modalities[name];
      if (part === undefined)
        throw new ArgumentError(`FusionQFormer: expected tokens of modality ${name} but received none`, {
          argument: name,
        });
      return part;
    });
    const n = parts[0]?.counts.length ?? 0;
    const sources: Tensor[] = [this.query];
    const absentRow = new Map<string, number>();
    let base = this.queries;
    for (const [name, token] of this.absent) {
      absentRow.set(name, base++);
      sources.push(token);
    }
    const bases = parts.map((part, m) => {
      const at = base;
      base += part.rows.shape[0]!;
      const name = this.#names[m]!;
      sources.push((this.loraProject.get(name) ?? this.project.get(name)!).forward(part.rows));
      return at;
    });
    const queriesRead = this.cross ? 0 : this.queries;
    const offsets = new Int32Array(n + 1);
    for (let b = 0; b < n; b++) {
      let length = queriesRead;
      parts.forEach((part, m) => {
        length += part.counts[b]! > 0 ? part.counts[b]! : absentRow.has(this.#names[m]!) ? 1 : 0;
      });
      offsets[b + 1] = offsets[b]! + length;
    }
    const index = new Int32Array(offsets[n]!);
    const queryRows = new Int32Array(n * this.queries);
    let at = 0;
    for (let b = 0; b < n; b++) {
      for (let i = 0; i < this.queries; i++) queryRows[b * this.queries + i] = this.cross ? i : at + i;
      for (let i = 0; i < queriesRead; i++) index[at++] = i;
      parts.forEach((part, m) => {
        const count = part.counts[b]!;
        for (let t = 0; t < count; t++) index[at++] = bases[m]! + part.starts[b]! + t;
        const absent = absentRow.get(this.#names[m]!);
        if (count === 0 && absent !== undefined) index[at++] = absent;
      });
    }
    return { sources, index, offsets, queryRows };
  }
}
