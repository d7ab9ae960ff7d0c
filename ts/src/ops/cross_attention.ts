import { defineOp } from '../autograd.js';
import { ArgumentError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, statistics, type Tensor } from '../tensor.js';

const keyShapes = { k: 'T Hkv D', v: 'T Hkv D', offsets: 'B+1:int32', mask: 'T:int32?' } as const;
const checkRows = shapes('crossAttention', { q: 'items Nq H D', ...keyShapes });
const checkJagged = shapes('crossAttention', { q: 'Tq H D', ...keyShapes, qOffsets: 'B+1:int32' });

type Inputs = readonly [Tensor, Tensor, Tensor, Tensor, Tensor | null, Tensor | null];
interface Attributes {
  readonly causal: boolean;
  readonly scale: number;
}

/** Shapes of out and lse. */
function outputs([q, k, v, offsets, qOffsets, mask]: Inputs): { out: readonly number[]; lse: readonly number[] } {
  const fail = (expected: string): never => {
    throw new ShapeError(`crossAttention: expected ${expected} but received (${q.shape.join(', ')})`, {
      op: 'crossAttention',
      argument: 'q',
    });
  };
  const heads = (H: number, Hkv: number): void => {
    if (Hkv === 0 || H % Hkv !== 0) fail(`q with a multiple of Hkv=${Hkv} heads, as k has,`);
  };
  if (qOffsets !== null) {
    const { Tq, H, Hkv, D } = checkJagged({ q, k, v, offsets, qOffsets, mask });
    heads(H, Hkv);
    return { out: [Tq, H, D], lse: [H, Tq] };
  }
  if (q.shape.length === 3) fail('qOffsets with q of shape (Tq, H, D), or q of shape (B, Nq, H, D),');
  const { items, Nq, H, D, Hkv, B } = checkRows({ q, k, v, offsets, mask });
  if (items !== B && items !== 1) fail(`q of shape (B=${B}, Nq, H, D) or (1, Nq, H, D)`);
  heads(H, Hkv);
  return { out: [B, Nq, H, D], lse: [H, B * Nq] };
}

/** Pairs of a query row and a key that it may see; masked keys count. */
async function pairsOf([q, , , offsets, qOffsets]: Inputs, causal: boolean): Promise<number> {
  const [keys, queries] = await Promise.all([offsets.values(), qOffsets?.values()]);
  let pairs = 0;
  for (let b = 0; b + 1 < keys.length; b++) {
    const m = Number(keys[b + 1]) - Number(keys[b]);
    const n = queries === undefined ? q.shape[1]! : Number(queries[b + 1]) - Number(queries[b]);
    const seeing = Math.min(n, m); // with `causal` the queries before the last m see nothing
    pairs += causal ? seeing * m - (seeing * (seeing - 1)) / 2 : n * m;
  }
  return pairs;
}

const op = defineOp({
  name: 'crossAttention',
  precision: 'bf16',
  forward(inputs: Inputs, { causal, scale }: Attributes) {
    const [q, k, v, offsets, qOffsets, mask] = inputs;
    const wanted = outputs(inputs);
    const out = empty(wanted.out, q);
    const lse = statistics(wanted.lse, q);
    native.cross_attention_forward(
      q.handle,
      k.handle,
      v.handle,
      offsets.handle,
      qOffsets?.handle ?? null,
      mask?.handle ?? null,
      out.handle,
      lse.handle,
      causal,
      scale,
    );
    return { out, saved: [q, k, v, offsets, qOffsets, mask, out, lse] };
  },
  flops(inputs, _out, [dq, dk, dv], { causal }) {
    const [H, D] = inputs[0].shape.slice(-2) as [number, number];
    const product = pairsOf(inputs, causal).then((pairs) => 2 * pairs * H * D);
    const count = (dv ? 1 : 0) + (dq ? 1 : 0) + (dk ? 1 : 0) + (dq || dk ? 1 : 0); // the last: of the probabilities
    return { forward: product.then((flops) => 2 * flops), backward: product.then((flops) => count * flops) };
  },
  backward(dout, [q, k, v, offsets, qOffsets, mask, out, lse], { causal, scale }, needs) {
    const dq = needs[0] ? empty(q.shape, q) : null;
    const dk = needs[1] ? empty(k.shape, k) : null;
    const dv = needs[2] ? empty(v.shape, v) : null;
    native.cross_attention_backward(
      q.handle,
      k.handle,
      v.handle,
      offsets.handle,
      qOffsets?.handle ?? null,
      mask?.handle ?? null,
      out.handle,
      lse.handle,
      dout.handle,
      dq?.handle ?? null,
      dk?.handle ?? null,
      dv?.handle ?? null,
      causal,
      scale,
    );
    return [dq, dk, dv, null, null, null];
  },
});

/** Options of `crossAttention`. */
export interface CrossAttentionOptions {
  /** (B+1) int32: item b owns keys `offsets[b] .. offsets[b+1]`. */
  readonly offsets: Tensor;
  /** (B+1) int32: item b owns query rows `qOffsets[b] .. qOffsets[b+1]` of a q of shape (Tq, H, D). */
  readonly qOffsets?: Tensor;
  /** (T) int32: a negative entry hides the key. */
  readonly mask?: Tensor;
  /** The last query of an item sees all its keys, the one before it all but the last, and so on. Default false. */
  readonly causal?: boolean;
  /** Default 1 / sqrt(D). */
  readonly scale?: number;
}

/**
 * Softmax attention of each item's queries over the same item's keys: out_i = sum_j softmax_j(scale q_i . k_j) v_j.
 *
 * q (B, Nq, H, D); or (1, Nq, H, D), shared by all items; or (Tq, H, D) with `qOffsets`. k, v (T, Hkv, D), Hkv divides H: query head h
 * reads key head floor(h Hkv / H). Returns a tensor like q, (B, Nq, H, D) where q is shared. A query without visible keys gives 0.
 * Jagged self-attention is `qOffsets` = `offsets`. Offsets that fall or leave 0 .. T are clamped and reported as `IndexError` by the
 * next wait on the device.
 */
export function crossAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { offsets, qOffsets, mask, causal = false, scale = (q.shape.at(-1) ?? 1) ** -0.5 }: CrossAttentionOptions,
): Tensor {
  if (!Number.isFinite(scale))
    throw new ArgumentError(`crossAttention: expected scale to be a finite number but received ${scale}`, {
      op: 'crossAttention',
      argument: 'scale',
    });
  return op([q, k, v, offsets, qOffsets ?? null, mask ?? null], { causal, scale });
}
