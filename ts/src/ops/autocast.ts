/** Mixed precision: bfloat16 where it is fast and good enough, float32 elsewhere, chosen op by op. */
import { isRecording, type OpPrecision, withInputCasts } from '../autograd.js';
import { ArgumentError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { type CastDtype, cast } from './cast.js';

/** The dtype that the op gets its floating inputs in. */
function dtypeFor({ precision }: OpPrecision, inputs: readonly (Tensor | null)[]): CastDtype | null {
  if (precision !== undefined) return precision === 'bf16' ? 'bfloat16' : 'float32';
  const mixed = (dtype: CastDtype) => inputs.some((x) => x?.dtype === dtype);
  return mixed('float32') && mixed('bfloat16') ? 'float32' : null;
}

/**
 * Runs `run`, which is synchronous, with mixed precision. Products, attention, norms, activations, dropout and gathers compute in
 * bfloat16: float32 inputs are cast. Losses, batch statistics and embedding tables compute in float32. What remains (sums, `concat`, ...)
 * keeps the dtype of its inputs, float32 where they differ. Casts are part of the graph, so parameters stay float32 and get float32
 * gradients; each is cast once per call of `autocast`. Needs a device that has bfloat16: not cpu.
 */
export function autocast<T>(run: () => T): T {
  // of leaves alone: they are used by many ops, and change only between steps
  const casts = new Map<Tensor, Tensor>();
  const castOnce = (x: Tensor, dtype: CastDtype): Tensor => {
    if (x.node !== null) return cast(x, dtype);
    const before = casts.get(x);
    // one made inside `noGrad` passes no gradient, one made inside an inner `tidy` may be gone
    const serves =
      before?.dtype === dtype && !before.disposed && (before.requiresGrad || !x.requiresGrad || !isRecording());
    if (serves) return before;
    const made = cast(x, dtype);
    casts.set(x, made);
    return made;
  };
  const castAll = (inputs: readonly (Tensor | null)[], op: OpPrecision): readonly (Tensor | null)[] => {
    const dtype = dtypeFor(op, inputs);
    if (dtype === null) return inputs;
    return inputs.map((x, i) => {
      if (x?.dtype !== 'float32' && x?.dtype !== 'bfloat16') return x;
      const wanted = op.wide?.includes(i) ? 'float32' : dtype;
      return x.dtype === wanted ? x : castOnce(x, wanted);
    });
  };
  const result = withInputCasts(castAll, run);
  if (result instanceof Promise)
    throw new ArgumentError('autocast: expected a synchronous function but received a promise; await outside of it', {
      op: 'autocast',
    });
  return result;
}
