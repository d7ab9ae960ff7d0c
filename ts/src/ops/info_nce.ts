import { defineOp, productFlops } from '../autograd.js';
import { ArgumentError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const plain = {
  q: 'N D',
  k: 'M D',
  positives: 'N:int32?',
  negatives: 'N S:int32?',
  rowGroups: 'N:int32?',
  colGroups: 'M:int32?',
  weights: 'N:wide?',
  logQ: 'M:wide?',
} as const;
const checkPlain = shapes('infoNce', plain);
const checkKinds = shapes('infoNce', { ...plain, rowGroups: 'G N:int32?', colGroups: 'G M:int32?' });

type Optional = Tensor | null;
/** q, k, positives, negatives, rowGroups, colGroups, weights, logQ. */
type Inputs = readonly [Tensor, Tensor, Optional, Optional, Optional, Optional, Optional, Optional];
interface Attributes {
  readonly scale: number;
  readonly symmetric: boolean;
  readonly normalized: boolean;
}

const handleOf = (x: Optional) => x?.handle ?? null;

const op = defineOp({
  name: 'infoNce',
  precision: 'bf16',
  wide: [6, 7],
  forward(inputs: Inputs, { scale, symmetric, normalized }: Attributes) {
    const [q, k, positives, negatives, rowGroups, colGroups, weights, logQ] = inputs;
    const check = rowGroups?.shape.length === 2 ? checkKinds : checkPlain;
    const { N, M } = check({ q, k, positives, negatives, rowGroups, colGroups, weights, logQ });
    checkPositives(N, M, positives !== null, symmetric);
    const out = statistics([], q);
    const scores = statistics([N], q);
    const rowSums = statistics([N], q);
    const columnSums = symmetric ? statistics([N], q) : null;
    native.info_nce_forward(
      q.handle,
      k.handle,
      handleOf(positives),
      handleOf(negatives),
      handleOf(rowGroups),
      handleOf(colGroups),
      handleOf(weights),
      handleOf(logQ),
      out.handle,
      scores.handle,
      rowSums.handle,
      handleOf(columnSums),
      scale,
      normalized,
    );
    return { out, saved: [...inputs, scores, rowSums, columnSums] };
  },
  flops: ([q, k, , negatives], _out, [dq, dk]) =>
    productFlops(q.size * (negatives === null ? k.shape[0]! : negatives.shape[1]! + 1), [dq, dk]),
  backward(dout, saved, { scale }, needs) {
    const [q, k, positives, negatives, rowGroups, colGroups, weights, logQ, scores, rowSums, columnSums] = saved;
    const dq = needs[0] ? empty(q.shape, q) : null;
    const dk = needs[1] ? empty(k.shape, k) : null;
    native.info_nce_backward(
      q.handle,
      k.handle,
      handleOf(positives),
      handleOf(negatives),
      handleOf(rowGroups),
      handleOf(colGroups),
      handleOf(weights),
      handleOf(logQ),
      scores.handle,
      rowSums.handle,
      handleOf(columnSums),
      dout.handle,
      handleOf(dq),
      handleOf(dk),
      scale,
    );
    return [dq, dk, null, null, null, null, null, null]; // the rest is data
  },
});

function checkPositives(N: number, M: number, given: boolean, symmetric: boolean): void {
  const fail = (expected: string): never => {
    throw new ShapeError(`infoNce: expected ${expected} but received N=${N} and M=${M}`, {
      op: 'infoNce',
      argument: 'k',
    });
  };
  if (symmetric && N !== M) fail('as many rows of q as of k, for symmetric,');
  if (!given && M < N) fail('a row of k for every row of q, or positives,');
  if (given && M < 1 && N > 0) fail('a row of k for positives to name');
}

/** Options of `infoNce`. */
export interface InfoNceOptions {
  /** Factor of the dot products: 1 / temperature. */
  readonly scale: number;
  /** (N): share of each row in the mean; 0 removes the row as an anchor. Default all 1. No gradient. */
  readonly weights?: Tensor | null;
  /**
   * (N) and (M) int32, both or none: a pair with equal groups is hidden, unless it is the positive; a negative group hides nothing.
   * Or (G, N) and (G, M): one line per kind of group, hidden where any kind agrees.
   */
  readonly rowGroups?: Tensor | null;
  readonly colGroups?: Tensor | null;
  /** (N) int32: the row of k that is the positive of each row of q. Default row i. */
  readonly positives?: Tensor | null;
  /** N = M, positive i: also from k to q, mean of both directions. Default false. */
  readonly symmetric?: boolean;
  /** (M): log of the probability with which a column was drawn, subtracted from its scores. No gradient. */
  readonly logQ?: Tensor | null;
  /** The rows of q and k are unit vectors. It lets a device bound the scores by `scale`; the result is the same. Default true. */
  readonly normalized?: boolean;
  /** (N, S) int32: the negatives of each row, counted as often as listed, also its own positive. Default all other rows of k. */
  readonly negatives?: Tensor | null;
}

/**
 * Contrastive loss: mean over rows of -log(e^s_ipos / (e^s_ipos + sum over negatives of e^s_ij)), s_ij = scale q_i . k_j - logQ_j
 * (van den Oord et al., 2018, with masks and sampling correction). q (N, D), k (M, D); result (). The sum runs over all columns but the
 * positive and those hidden by groups, or over `negatives`. A row without negatives has loss and gradient exactly 0, and so has
 * everything where the weights sum to 0. Memory is O(N + M), never (N, M). Indices outside k are clamped and reported as
 * `IndexError` by the next wait on the device.
 */
export function infoNce(
  q: Tensor,
  k: Tensor,
  {
    scale,
    weights = null,
    rowGroups = null,
    colGroups = null,
    positives = null,
    symmetric = false,
    logQ = null,
    normalized = true,
    negatives = null,
  }: InfoNceOptions,
): Tensor {
  const refuse = (message: string, argument: string): never => {
    throw new ArgumentError(`infoNce: ${message}`, { op: 'infoNce', argument });
  };
  if (!Number.isFinite(scale)) refuse(`expected scale to be a finite number but received ${scale}`, 'scale');
  if ((rowGroups === null) !== (colGroups === null))
    refuse('expected rowGroups and colGroups together but received one of them', 'rowGroups');
  if (negatives !== null && rowGroups !== null)
    refuse('expected negatives or groups but received both: a list of negatives is already chosen', 'negatives');
  if (symmetric && (negatives !== null || positives !== null))
    refuse('expected no positives and no negatives with symmetric: row i is the positive of row i', 'symmetric');
  return op([q, k, positives, negatives, rowGroups, colGroups, weights, logQ], { scale, symmetric, normalized });
}
