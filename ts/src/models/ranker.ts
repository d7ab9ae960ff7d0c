/** What every ranker takes and gives: one feature schema and one content interface, so that each of them works with every content part. */
import { type ForwardContext, Module } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { DlrmOptions } from './dlrm.js';
import type { LongerOptions } from './longer.js';
import type { MmoeOptions } from './mmoe.js';
import type { RankMixerOptions } from './rank_mixer.js';
import type { SimOptions } from './sim.js';

/** One id feature of the batch, for rankers with linear id terms (FM): vocabulary rows, (B), or jagged with `offsets` (B+1). */
export interface IdInput {
  readonly rows: Tensor;
  readonly offsets: Tensor | null;
}

/** A history beside its target: row b of the batch owns `rows[offsets[b] .. offsets[b+1])`, oldest first. */
export interface HistoryInput {
  readonly name: string;
  /** (B, D): the target in the same space. */
  readonly target: Tensor;
  /** (T, D). */
  readonly rows: Tensor;
  /** (B+1) int32. */
  readonly offsets: Tensor;
  /** The same (B+1) on the host: sizes that follow from it need no read-back. */
  readonly hostOffsets: Int32Array;
  /** (T) int32: the batch row of each history row. */
  readonly segments: Tensor;
  /** (T) int32, negative hides a row (not found); null: all count. */
  readonly mask: Tensor | null;
  /** Id histories: (T) 1 where the id of that feature (one of `HistorySpec.ids`) is the target's, else 0; computed when asked for. */
  readonly same?: (feature: string) => Tensor;
  /** (T): time units (rows, where the data have no times) between each event and the target; missing where nobody said. */
  readonly gaps?: Float32Array;
  /** (B, D): attention of the target over the rows with plain dot products; computed when first asked for. */
  pooled(): Tensor;
}

/** What target attention reads of a history. */
export interface AttendedRows extends Pick<HistoryInput, 'target' | 'rows' | 'offsets' | 'segments' | 'mask'> {
  /** (T) 1 where a row counts and 0 where it is hidden, in place of `mask`. */
  readonly visible?: Tensor;
}

export interface RankerInput {
  /** Dense inputs by name, each (B, its width): id embeddings, numbers, content vectors, products, cosines. */
  readonly vectors: ReadonlyMap<string, Tensor>;
  readonly histories: readonly HistoryInput[];
  readonly ids: ReadonlyMap<string, IdInput>;
}

export interface HistorySpec {
  readonly name: string;
  /** Width of its rows. */
  readonly width: number;
  /** The id features whose vectors, equally wide, stand side by side in the rows (content has none). */
  readonly ids?: readonly string[];
  /** Its inputs come with `gaps`. Default false. */
  readonly timed?: boolean;
}

/** Sizes of a `RankerInput`, known when the model is built. */
export interface RankerSpec {
  readonly vectors: ReadonlyMap<string, number>;
  readonly histories: readonly HistorySpec[];
  /** Vocabulary sizes. */
  readonly ids: ReadonlyMap<string, number>;
  /** Names of the vectors that are numbers and not embeddings (dlrm: what its bottom MLP reads). Default none. */
  readonly floats?: readonly string[];
  /** Names of the labels, the main one first (mmoe: one tower each). Default one task. */
  readonly tasks?: readonly string[];
}

export interface RankerOptions {
  /** Hidden widths of the MLP. */
  readonly mlp: readonly number[];
  readonly dropout: number;
  /** dcnv2: number of cross layers. */
  readonly crossLayers: number;
  /** dcnv2: cross layers beside the MLP (default) or before it. */
  readonly crossStructure?: 'parallel' | 'stacked';
  /** dcnv2: rank of the weights of cross layers; default full. */
  readonly crossRank?: number;
  /** din: hidden widths of the attention unit. */
  readonly attentionMlp: readonly number[];
  /** din: attention weights through a softmax over the history instead of raw. */
  readonly attentionSoftmax?: boolean;
  /** Batch norm in the MLP. */
  readonly batchNorm?: boolean;
  readonly activation?: 'relu' | 'dice';
  readonly rankMixer?: RankMixerOptions;
  readonly dlrm?: DlrmOptions;
  readonly longer?: LongerOptions;
  readonly sim?: SimOptions;
  readonly mmoe?: MmoeOptions;
}

export abstract class Ranker extends Module {
  /** Logits (B). */
  abstract forward(input: RankerInput, context: ForwardContext): Tensor;

  /** Logits (B) of each task, the main one first; rankers of one task give one. */
  taskLogits(input: RankerInput, context: ForwardContext): readonly Tensor[] {
    return [this.forward(input, context)];
  }
}

/** Width of all vectors and histories side by side. */
export function inputWidth({ vectors, histories }: RankerSpec): number {
  return [...vectors.values(), ...histories.map(({ width }) => width)].reduce((total, width) => total + width, 0);
}
