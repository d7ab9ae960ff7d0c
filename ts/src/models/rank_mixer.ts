/** RankMixer (Zhu et al., 2025): feature groups as tokens, mixed by a transpose, each with a feed-forward block of its own. */
import { ArgumentError } from '../errors.js';
import { Linear, Mlp } from '../nn/linear.js';
import { type ForwardContext, type Initializer, Module } from '../nn/module.js';
import { PerTokenLinear, RankMixerBlock } from '../nn/per_token.js';
import { concat, stack } from '../ops/concat.js';
import { mean } from '../ops/reduce.js';
import { reshape, transpose } from '../ops/transpose.js';
import { type Tensor, zeros } from '../tensor.js';
import { defaultLonger, Interests } from './longer.js';
import { Ranker, type RankerInput, type RankerOptions, type RankerSpec } from './ranker.js';

export interface RankMixerOptions {
  /**
   * T [sibling: 16, or 32 for a billion parameters; default 8]: equal pieces of all inputs side by side, in the order of the features.
   * With `groups` their number counts.
   */
  readonly tokens: number;
  /** W, a multiple of T [sibling: 768, or 1536; default 128]. */
  readonly width: number;
  /** L [sibling: 2]. */
  readonly layers: number;
  /** k: hidden width of the per-token blocks is k W [default 2]. */
  readonly expansion: number;
  /** How id histories enter: attention of the target over them, or `LongerEncoder` as in LEMUR's base [default pooled]. */
  readonly sequence: 'pooled' | 'longer';
  /** One list of input names (features, content vectors, histories) per token; every input once. Default: cut by width. */
  readonly groups?: readonly (readonly string[])[] | null;
}

export const defaultRankMixer: RankMixerOptions = {
  tokens: 8,
  width: 128,
  layers: 2,
  expansion: 2,
  sequence: 'pooled',
  groups: null,
};

/** Inputs by name to tokens (T, B, W): pieces of one width, or one linear layer per named group. */
class Tokens extends Module {
  readonly cut: PerTokenLinear | null;
  readonly groups: Linear[];
  readonly #names: readonly (readonly string[])[];
  readonly #piece: number;

  constructor(
    init: Initializer,
    widths: ReadonlyMap<string, number>,
    { tokens, width, groups }: { readonly tokens: number; readonly width: number } & Pick<RankMixerOptions, 'groups'>,
  ) {
    super();
    this.#names = groups ?? [];
    const total = (names: Iterable<string>): number => [...names].reduce((sum, name) => sum + widths.get(name)!, 0);
    this.#piece = Math.ceil(total(widths.keys()) / tokens);
    this.cut = groups ? null : new PerTokenLinear(init.at('cut'), tokens, this.#piece, width);
    if (groups) checkGroups(groups, [...widths.keys()]);
    this.groups = this.#names.map((names, t) => new Linear(init.at(`groups.${t}`), total(names), width));
  }

  forward(inputs: ReadonlyMap<string, Tensor>): Tensor {
    if (this.cut === null)
      return stack(
        this.groups.map((linear, t) =>
          linear.forward(
            concat(
              this.#names[t]!.map((name) => inputs.get(name)!),
              { axis: 1 },
            ),
          ),
        ),
      );
    const x = concat([...inputs.values()], { axis: 1 });
    const [B, width] = [x.shape[0]!, x.shape[1]!];
    const T = this.cut.weight.shape[0]!;
    const missing = T * this.#piece - width;
    const filled = missing === 0 ? x : concat([x, zeros([B, missing], x)], { axis: 1 });
    return this.cut.forward(transpose(reshape(filled, [B, T, this.#piece]), [1, 0, 2]));
  }
}

function checkGroups(groups: readonly (readonly string[])[], names: readonly string[]): void {
  const given = groups.flat();
  const wrong = [
    ...given.filter((name, i) => !names.includes(name) || given.indexOf(name) !== i),
    ...names.filter((name) => !given.includes(name)),
  ];
  if (wrong.length > 0 || groups.some((group) => group.length === 0))
    throw new ArgumentError(
      `RankMixer: expected groups that name each of ${names.join(', ')} once but received ${JSON.stringify(groups)}`,
      { argument: 'groups' },
    );
}

/** Tokens, L blocks, the mean over tokens, an MLP. The blocks have about 2 k L T W² parameters and twice as many FLOPs per row. */
export class RankMixer extends Ranker {
  readonly interests: Interests;
  readonly tokens: Tokens;
  readonly blocks: RankMixerBlock[];
  readonly mlp: Mlp;

  constructor(init: Initializer, spec: RankerSpec, options: RankerOptions) {
    super();
    const { rankMixer = defaultRankMixer, longer = defaultLonger, mlp, dropout, batchNorm, activation } = options;
    const { width, layers, expansion, sequence, groups = null } = rankMixer;
    const tokens = groups?.length ?? rankMixer.tokens;
    if (tokens < 1 || width % tokens !== 0)
      throw new ArgumentError(
        `RankMixer: expected a width that ${tokens} tokens divide but received ${width} (model.rankmixer.width)`,
        { argument: 'width' },
      );
    this.interests = new Interests(init.at('interests'), spec, sequence === 'longer' ? longer : null);
    const widths = new Map([...spec.vectors, ...this.interests.widths]);
    this.tokens = new Tokens(init.at('tokens'), widths, { tokens, width, groups });
    this.blocks = Array.from(
      { length: layers },
      (_, i) => new RankMixerBlock(init.at(`blocks.${i}`), { tokens, width, expansion }),
    );
    this.mlp = new Mlp(init.at('mlp'), width, { hidden: mlp, out: 1, dropout, batchNorm, activation });
  }

  forward(input: RankerInput, context: ForwardContext): Tensor {
    const interests = this.interests.forward(input, context);
    let x = this.tokens.forward(new Map([...input.vectors, ...interests]));
    for (const block of this.blocks) x = block.forward(x);
    const pooled = mean(x, { axes: [0] });
    return reshape(this.mlp.forward(pooled, context), [pooled.shape[0]!]);
  }
}
