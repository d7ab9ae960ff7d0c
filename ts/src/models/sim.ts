/** Search-based interest model (Pi et al., 2020): a search picks k rows of a long history, target attention reads those alone. */
import { composite, noGrad } from '../autograd.js';
import { ArgumentError } from '../errors.js';
import { Embedding } from '../nn/embedding.js';
import { Mlp } from '../nn/linear.js';
import { type ForwardContext, type Initializer, Module } from '../nn/module.js';
import { GAP_BUCKETS } from '../nn/time_gaps.js';
import { cosineSimilarity } from '../ops/cosine_similarity.js';
import { add, affine, mul } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { gatherRows } from '../ops/gather_rows.js';
import { matmul } from '../ops/matmul.js';
import { sum } from '../ops/reduce.js';
import { topK } from '../ops/top_k.js';
import { reshape } from '../ops/transpose.js';
import { type Tensor, tensor } from '../tensor.js';
import { TargetAttention } from './din.js';
import { segmentsOf, sideBySide, timeGaps, visibility } from './history.js';
import {
  type AttendedRows,
  type HistoryInput,
  type HistorySpec,
  inputWidth,
  Ranker,
  type RankerInput,
  type RankerOptions,
  type RankerSpec,
} from './ranker.js';

export interface SimOptions {
  /**
   * What a row scores: 'hard' 1 where `hardFeature` is the target's, else 0 (the latest others fill up what is left of k); 'soft' the inner
   * product with the target in the space of the history; 'content' the cosine of the content vectors.
   */
  readonly search: 'hard' | 'soft' | 'content';
  /** hard: the history feature, or sequence of earlier ids, that is compared, as a category; null: the last one of the first id history [default]. */
  readonly hardFeature: string | null;
  /** k [sibling: 50]. */
  readonly topK: number;
  /** Adds a vector of the time between row and target, by log2 of its seconds, to the rows of timed histories [sibling; default true]. */
  readonly timeGaps: boolean;
}

export const defaultSim: SimOptions = { search: 'soft', hardFeature: null, topK: 50, timeGaps: true };

/** Rows of one history before it is searched, and what each scores (T). */
interface Searched extends Pick<HistoryInput, 'target' | 'rows' | 'offsets' | 'hostOffsets' | 'segments' | 'mask'> {
  readonly scores: Tensor;
}

/**
 * The k rows of each history with the highest scores, ties to the more recent, hidden rows last; all of a history of at most k. No
 * gradient passes through the choice. The rows are picked by a product with one-hot rows, (B, k, L) for a longest history L: no index
 * is read back.
 */
export function chooseRows(history: Searched, k: number): AttendedRows {
  const { target, rows, offsets, hostOffsets, scores, mask } = history;
  const B = hostOffsets.length - 1;
  const lengths = Array.from({ length: B }, (_, b) => hostOffsets[b + 1]! - hostOffsets[b]!);
  if (Math.max(0, ...lengths) <= k) return history;
  const inputs = [rows, scores, offsets, mask] as const;
  const chosen = composite('chooseRows', { inputs, attributes: { k } }, () => pickRows(history, lengths, k));
  return { target, mask: null, ...chosen };
}

/** What `chooseRows` does where the longest history has more than k rows. */
function pickRows(
  history: Searched,
  lengths: readonly number[],
  k: number,
):
  | { rows: Tensor; offsets: Tensor; segments: Tensor }
  | { rows: Tensor; offsets: Tensor; segments: Tensor; visible: Tensor } {
  const { rows, hostOffsets, scores } = history;
  const B = lengths.length;
  const L = Math.max(...lengths);
  const upload = (values: Int32Array): Tensor => tensor(values, [values.length], { device: rows.device });
  const float = (size: number): Float32Array | Float64Array =>
    rows.dtype === 'float64' ? new Float64Array(size) : new Float32Array(size);

  const latestFirst = new Int32Array(B * L).fill(-1);
  const behind = float(B * L);
  const identity = float(L * L);
  for (let i = 0; i < L; i++) identity[i * L + i] = 1;
  lengths.forEach((length, b) => {
    for (let i = 0; i < length; i++) latestFirst[b * L + i] = hostOffsets[b + 1]! - 1 - i;
    behind.fill(HIDDEN, b * L + length, (b + 1) * L);
  });
  const place = upload(latestFirst);
  const visible = visibility(history);
  const oneHot = noGrad(() => {
    const seen = visible === null ? scores : add(scores, affine(visible, { scale: -HIDDEN, shift: HIDDEN }));
    const found = reshape(embedding(reshape(seen, [seen.size, 1]), place), [B, L]);
    const { indices } = topK(add(found, tensor(behind, [B, L], { device: rows.device })), { k });
    return embedding(tensor(identity, [L, L], { device: rows.device }), indices);
  });

  const offsets = new Int32Array(B + 1);
  const taken: number[] = [];
  lengths.forEach((length, b) => {
    for (let i = 0; i < Math.min(k, length); i++) taken.push(b * k + i);
    offsets[b + 1] = taken.length;
  });
  const pick = (x: Tensor): Tensor => {
    const D = x.shape[1]!;
    const chosen = matmul(oneHot, reshape(gatherRows(x, place), [B, L, D]));
    return gatherRows(reshape(chosen, [B * k, D]), upload(Int32Array.from(taken)));
  };
  return {
    rows: pick(rows),
    offsets: upload(offsets),
    segments: upload(segmentsOf(offsets)),
    ...(visible === null ? {} : { visible: reshape(pick(reshape(visible, [visible.size, 1])), [taken.length]) }),
  };
}

/** Below every score that a row may have. */
const HIDDEN = -1e30;

/** Scores (T) of the events of one history for the events of another, matched from the latest; 0 where it is longer. */
function alignScores(scores: Tensor, source: HistoryInput, history: HistoryInput): Tensor {
  const [from, to] = [source.hostOffsets, history.hostOffsets];
  if (from.every((offset, b) => offset === to[b])) return scores;
  const inputs = [scores, source.offsets, history.offsets];
  return composite('alignScores', { inputs }, () => ({ scores: moveScores(scores, from, to) })).scores;
}

function moveScores(scores: Tensor, from: Int32Array, to: Int32Array): Tensor {
  const index = new Int32Array(to.at(-1)!).fill(-1);
  for (let b = 0; b + 1 < to.length; b++)
    for (let at = to[b + 1]! - 1, other = from[b + 1]! - 1; at >= to[b]! && other >= from[b]!; at--, other--)
      index[at] = other;
  const rows = embedding(reshape(scores, [scores.size, 1]), tensor(index, [index.length], { device: scores.device }));
  return reshape(rows, [index.length]);
}

/** The two steps over one history. */
class SearchedAttention extends Module {
  readonly gaps: Embedding | null;
  readonly attention: TargetAttention;

  constructor(
    init: Initializer,
    { width, timed = false }: HistorySpec,
    { attentionMlp, attentionSoftmax, sim }: RankerOptions,
  ) {
    super();
    const { timeGaps: withGaps } = sim ?? defaultSim;
    this.gaps = withGaps && timed ? new Embedding(init.at('gaps'), GAP_BUCKETS, width) : null;
    const unit = { hidden: attentionMlp, softmax: attentionSoftmax };
    this.attention = new TargetAttention(init.at('attention'), width, unit);
  }

  forward(history: HistoryInput, scores: Tensor, k: number, context: ForwardContext): Tensor {
    const rows = this.gaps === null ? history.rows : add(history.rows, this.gaps.forward(timeGaps(history)));
    return this.attention.forward(chooseRows({ ...history, rows, scores }, k), context);
  }
}

/** Search and target attention over each history, then everything side by side through an MLP. With k of all rows and no gaps it is DIN. */
export class Sim extends Ranker {
  readonly attention: SearchedAttention[];
  readonly mlp: Mlp;
  readonly #options: SimOptions;
  /** The history whose scores choose; null: each its own. */
  readonly #source: string | null;
  readonly #category: string;

  constructor(init: Initializer, spec: RankerSpec, options: RankerOptions) {
    super();
    const { sim = defaultSim, mlp, dropout, batchNorm, activation } = options;
    const refuse = (expected: string): never => {
      const names = spec.histories.map(({ name, ids }) => (ids === undefined ? name : `${name} of ${ids.join(', ')}`));
      throw new ArgumentError(
        `Sim: search ${sim.search}: expected ${expected} but received ${names.length === 0 ? 'no history' : names.join('; ')} (model.sim.search)`,
        { argument: 'search' },
      );
    };
    const { hardFeature } = sim;
    const idHistories = spec.histories.filter(({ ids }) => ids !== undefined);
    const byIds = idHistories.find(({ ids }) => (hardFeature === null ? ids!.length > 1 : ids!.includes(hardFeature)));
    const byContent = spec.histories.find(({ ids }) => ids === undefined);
    if (sim.search === 'hard' && byIds === undefined)
      refuse(hardFeature === null ? 'an id history with a category' : `an id history of ${hardFeature}`);
    if (sim.search === 'content' && byContent === undefined) refuse('a content history');
    // One search chooses for all histories by their places, so these must list the same clicks.
    const columns = idHistories.filter(({ timed = false }) => !timed);
    if (sim.search !== 'soft' && columns.length > 0 && columns.length < spec.histories.length)
      refuse('histories of events alone, or sequence columns alone');
    this.#category = hardFeature ?? byIds?.ids!.at(-1) ?? '';
    this.#source = { hard: byIds?.name, soft: null, content: byContent?.name }[sim.search] ?? null;
    this.#options = sim;
    this.attention = spec.histories.map(
      (history) => new SearchedAttention(init.at(`attention.${history.name}`), history, options),
    );
    this.mlp = new Mlp(init.at('mlp'), inputWidth(spec), { hidden: mlp, out: 1, dropout, batchNorm, activation });
  }

  forward({ vectors, histories }: RankerInput, context: ForwardContext): Tensor {
    const { topK: k } = this.#options;
    const source = histories.find(({ name }) => name === this.#source);
    const shared = source === undefined ? null : noGrad(() => this.scores(source));
    const interests = this.attention.map((attention, i) => {
      const history = histories[i]!;
      const scores = noGrad(() =>
        shared === null || source === undefined ? this.scores(history) : alignScores(shared, source, history),
      );
      return attention.forward(history, scores, k, context);
    });
    const x = sideBySide(vectors, interests);
    return reshape(this.mlp.forward(x, context), [x.shape[0]!]);
  }

  /** (T). */
  private scores({ name, target, rows, offsets, segments, mask, same }: HistoryInput): Tensor {
    switch (this.#options.search) {
      case 'hard':
        if (same !== undefined) return same(this.#category);
        throw new ArgumentError(`Sim: expected history ${name} to say which ids are the target's but it does not`, {
          argument: 'histories',
        });
      case 'soft':
        return sum(mul(gatherRows(target, segments), rows), { axes: [1] });
      case 'content':
        return cosineSimilarity(target, rows, { offsets, ...(mask === null ? {} : { mask }) });
    }
  }
}
