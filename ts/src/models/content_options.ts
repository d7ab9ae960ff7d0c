/** Options of the content part of a recommender. */
import type { EncoderLoraOptions } from './encoder_adapters.js';
import type { PretrainedOptions } from './pretrained_content.js';

/** How history items get their vectors. 'none': the last encoded vector. The others are EM3's (models.md 3). */
export type LoraMode = 'none' | 'lora_cached' | 'lora_block' | 'shared';

export interface ContentOptions {
  /** `text`, `image`, and names of features of given vectors, which are one token each; a given one goes before a raw one of its name. */
  readonly modalities: readonly string[];
  readonly text: {
    readonly width: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly dropout: number;
  };
  readonly image: {
    readonly width: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly patch: number;
  };
  readonly queryLayers: number;
  readonly fusion: {
    readonly mode: 'exact' | 'ctr';
    readonly attention: 'joint' | 'cross';
    readonly queries: number;
    readonly layers: number;
    readonly heads: number;
    readonly width: number;
    readonly ffn: number;
    readonly dropout: number;
  };
  readonly lora: {
    readonly mode: LoraMode;
    readonly rank: number;
    readonly alpha: number;
    readonly onRefresh: 'reset' | 'keep';
  };
  /** Blocks of each encoder that train, from the top; 'all' also trains embeddings. */
  readonly tuneLayers: number | 'all';
  /** Tokens that the patches of a picture are pooled to, a square number; null: one per patch. Not for fusion mode 'exact', which takes one. */
  readonly cacheTokens: number | null;
  /** Low-rank updates of linear layers of the item encoders, whose own weights are frozen then; null: none. */
  readonly encoderLora: EncoderLoraOptions | null;
  /** Published encoders in place of `text` and `image`; their weights are filled in afterwards (`fillEncoders`). */
  readonly pretrained?: PretrainedOptions;
}
