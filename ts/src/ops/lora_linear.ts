import { defineOp } from '../autograd.js';
import { AutogradError, ShapeError } from '../errors.js';
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const check = shapes('loraLinear', {
  x: '... K',
  weight: 'N K',
  a: 'R K',
  b: 'N R',
  bias: 'N?',
  adapterInput: '... K?',
});

type LoraInputs = readonly [Tensor, Tensor, Tensor, Tensor, Tensor | null, Tensor | null];

const op = defineOp({
  name: 'loraLinear',
  precision: 'bf16',
  forward([x, weight, a, b, bias, adapterInput]: LoraInputs, { scale }: { scale: number; separate: boolean }) {
    const { N, R } = check({ x, weight, a, b, bias, adapterInput });
    if (adapterInput !== null && adapterInput.shape.join() !== x.shape.join())
      throw new ShapeError(
        `loraLinear: expected adapterInput of shape (${x.shape.join(', ')}) but received (${adapterInput.shape.join(', ')})`,
        { op: 'loraLinear', argument: 'adapterInput' },
      );
    for (const [argument, frozen] of Object.entries({ weight, bias }))
      if (frozen?.requiresGrad)
        throw new AutogradError(`loraLinear: expected a frozen ${argument} but it requires a gradient; detach it`, {
          op: 'loraLinear',
          argument,
        });
    const z = adapterInput ?? x;
    const rows = x.shape.slice(0, -1);
    const hidden = empty([...rows, R], x);
    const out = empty([...rows, N], x);
    native.lora_linear_forward(
      x.handle,
      z.handle,
      weight.handle,
      bias?.handle ?? null,
      a.handle,
      b.handle,
      hidden.handle,
      out.handle,
      scale,
    );
    return { out, saved: [z, weight, a, b, hidden] as const };
  },
  flops([x, weight, a], out, [dx, , da, db, , dz], { separate }) {
    const [R, K] = a.shape as [number, number];
    const rows = x.size / K;
    const [wide, down, up] = [rows * weight.size, rows * R * K, out.size * R];
    const hidden = dx || dz || da ? up : 0;
    const backward =
      hidden + (da ? down : 0) + (db ? up : 0) + (dx ? wide + (separate ? 0 : down) : 0) + (dz ? down : 0);
    return { forward: 2 * (wide + down + up), backward: 2 * backward };
  },
  backward(dout, [z, weight, a, b, hidden], { scale, separate }, needs) {
    const like = (x: Tensor, wanted: boolean) => (wanted ? empty(x.shape, x) : null);
    const dhidden = empty(hidden.shape, hidden);
    const dx = like(z, needs[0]);
    const dz = like(z, needs[5]);
    const da = like(a, needs[2]);
    const db = like(b, needs[3]);
    native.lora_linear_backward(
      z.handle,
      weight.handle,
      a.handle,
      b.handle,
      hidden.handle,
      dout.handle,
      dhidden.handle,
      dx?.handle ?? null,
      dz?.handle ?? null,
      da?.handle ?? null,
      db?.handle ?? null,
      !separate,
      scale,
    );
    return [dx, null, da, db, null, dz];
  },
});

/**
 * Frozen dense layer with a low-rank update (LoRA): `x Wᵀ + bias + scale (z Aᵀ) Bᵀ`. x (..., K), weight (N, K), a (R, K), b (N, R),
 * bias (N); gives (..., N). `scale` is alpha / R. z is `adapterInput`, x after dropout for instance, by default x itself.
 * weight and bias have no gradient: requiring one throws `AutogradError`.
 */
export function loraLinear(
  x: Tensor,
  weight: Tensor,
  a: Tensor,
  b: Tensor,
  { scale, bias = null, adapterInput = null }: { scale: number; bias?: Tensor | null; adapterInput?: Tensor | null },
): Tensor {
  return op([x, weight, a, b, bias, adapterInput], { scale, separate: adapterInput !== null });
}
