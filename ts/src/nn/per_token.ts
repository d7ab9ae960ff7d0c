/** Layers whose weights differ from token to token, and RankMixer's block made of them. Rows are token-major: (T, B, W). */
import { ShapeError } from '../errors.js';
import { gelu } from '../ops/activation.js';
import { add } from '../ops/elementwise.js';
import { matmul } from '../ops/matmul.js';
import { reshape, transpose } from '../ops/transpose.js';
import type { Tensor } from '../tensor.js';
import { LayerNorm } from './layer_norm.js';
import { type Initializer, Module } from './module.js';

/** y_t = x_t W_t + b_t for each token t by one batched product. weight (T, in, out), bias (T, 1, out). */
export class PerTokenLinear extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;

  constructor(init: Initializer, tokens: number, inFeatures: number, outFeatures: number) {
    super();
    const bound = 1 / Math.sqrt(Math.max(inFeatures, 1));
    this.weight = init.uniform('weight', [tokens, inFeatures, outFeatures], bound);
    this.bias = init.uniform('bias', [tokens, 1, outFeatures], bound);
  }

  /** x (T, B, in) to (T, B, out). */
  forward(x: Tensor): Tensor {
    return add(matmul(x, this.weight), this.bias);
  }
}

/**
 * RankMixer's exchange between tokens: each is cut into T slices, and new token t is slice t of all tokens side by side. A transpose
 * without parameters; applied twice it is the identity. x (T, B, W) with W a multiple of T.
 */
export function tokenMixing(x: Tensor): Tensor {
  const [T = 0, B = 0, W = 0] = x.shape;
  if (x.shape.length !== 3 || T === 0 || W % T !== 0)
    throw new ShapeError(
      `tokenMixing: expected x of shape (T, B, W) with W a multiple of T but received (${x.shape.join(', ')})`,
      { op: 'tokenMixing', argument: 'x' },
    );
  return reshape(transpose(reshape(x, [T, B, T, W / T]), [2, 1, 0, 3]), [T, B, W]);
}

/** S = LN(mix(X) + X), X' = LN(pffn(S) + S), where pffn is for each token an MLP of its own, W to expansion W to W with gelu. */
export class RankMixerBlock extends Module {
  readonly mixNorm: LayerNorm;
  readonly up: PerTokenLinear;
  readonly down: PerTokenLinear;
  readonly norm: LayerNorm;

  constructor(
    init: Initializer,
    { tokens, width, expansion }: { readonly tokens: number; readonly width: number; readonly expansion: number },
  ) {
    super();
    this.mixNorm = new LayerNorm(init.at('mixNorm'), width);
    this.up = new PerTokenLinear(init.at('up'), tokens, width, expansion * width);
    this.down = new PerTokenLinear(init.at('down'), tokens, expansion * width, width);
    this.norm = new LayerNorm(init.at('norm'), width);
  }

  /** x (T, B, W) to (T, B, W). */
  forward(x: Tensor): Tensor {
    const mixed = this.mixNorm.forward(tokenMixing(x), x);
    return this.norm.forward(this.down.forward(gelu(this.up.forward(mixed))), mixed);
  }
}
