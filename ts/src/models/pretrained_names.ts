/** Names of our encoders' modules and tensors in Hugging Face's spelling, family by family, and the shapes that these have there. */

export type TextFamily = 'bert' | 'roberta' | 'clip_text' | 'siglip_text';
export type ImageFamily = 'vit' | 'clip_image' | 'siglip_image';
export type EncoderFamily = TextFamily | ImageFamily;

interface FamilyNames {
  /** What may stand before every name but those of `outside`: `bert.` in BertForMaskedLM, `text_model.` in CLIP. */
  readonly prefix: string;
  /** Names that never carry the prefix. */
  readonly outside: readonly string[];
  /** Where the blocks are, and the modules of one. */
  readonly blocks: string;
  readonly block: Readonly<Record<string, string>>;
  /** Modules and single tensors outside of the blocks. */
  readonly others: Readonly<Record<string, string>>;
  /** The module that a folder may lack (saved without its pooler or projection): ours. */
  readonly optional: string | null;
  /** Tensors that we do not need: heads of other tasks, buffers. */
  readonly ignored: RegExp;
}

const bertBlock = {
  'attention.query': 'attention.self.query',
  'attention.key': 'attention.self.key',
  'attention.value': 'attention.self.value',
  'attention.out': 'attention.output.dense',
  attentionNorm: 'attention.output.LayerNorm',
  up: 'intermediate.dense',
  down: 'output.dense',
  ffnNorm: 'output.LayerNorm',
};

const bertOthers = {
  'token.table': 'embeddings.word_embeddings.weight',
  'position.table': 'embeddings.position_embeddings.weight',
  'type.table': 'embeddings.token_type_embeddings.weight',
  embeddingNorm: 'embeddings.LayerNorm',
  head: 'pooler.dense',
};

const clipBlock = {
  'attention.query': 'self_attn.q_proj',
  'attention.key': 'self_attn.k_proj',
  'attention.value': 'self_attn.v_proj',
  'attention.out': 'self_attn.out_proj',
  attentionNorm: 'layer_norm1',
  up: 'mlp.fc1',
  down: 'mlp.fc2',
  ffnNorm: 'layer_norm2',
};

const clipTextOthers = {
  'token.table': 'embeddings.token_embedding.weight',
  'position.table': 'embeddings.position_embedding.weight',
  norm: 'final_layer_norm',
};

const positionIds = /(^|\.)embeddings\.position_ids$/;

const FAMILIES: Readonly<Record<EncoderFamily, FamilyNames>> = {
  bert: {
    prefix: 'bert.',
    outside: [],
    blocks: 'encoder.layer',
    block: bertBlock,
    others: bertOthers,
    optional: 'head',
    ignored: new RegExp(`${positionIds.source}|^(cls|classifier|qa_outputs)\\.`),
  },
  roberta: {
    prefix: 'roberta.',
    outside: [],
    blocks: 'encoder.layer',
    block: bertBlock,
    others: bertOthers,
    optional: 'head',
    ignored: new RegExp(`${positionIds.source}|^(lm_head|classifier|qa_outputs)\\.`),
  },
  vit: {
    prefix: 'vit.',
    outside: [],
    blocks: 'encoder.layer',
    block: {
      'attention.query': 'attention.attention.query',
      'attention.key': 'attention.attention.key',
      'attention.value': 'attention.attention.value',
      'attention.out': 'attention.output.dense',
      attentionNorm: 'layernorm_before',
      up: 'intermediate.dense',
      down: 'output.dense',
      ffnNorm: 'layernorm_after',
    },
    others: {
      weight: 'embeddings.patch_embeddings.projection.weight',
      bias: 'embeddings.patch_embeddings.projection.bias',
      classToken: 'embeddings.cls_token',
      position: 'embeddings.position_embeddings',
      norm: 'layernorm',
      head: 'pooler.dense',
    },
    optional: 'head',
    ignored: /^classifier\.|(^|\.)embeddings\.mask_token$/,
  },
  clip_text: {
    prefix: 'text_model.',
    outside: ['text_projection'],
    blocks: 'encoder.layers',
    block: clipBlock,
    others: { ...clipTextOthers, head: 'text_projection' },
    optional: 'head',
    ignored: new RegExp(`${positionIds.source}|^logit_scale$|^vision_model\\.|^visual_projection\\.`),
  },
  clip_image: {
    prefix: 'vision_model.',
    outside: ['visual_projection'],
    blocks: 'encoder.layers',
    block: clipBlock,
    others: {
      weight: 'embeddings.patch_embedding.weight',
      classToken: 'embeddings.class_embedding',
      position: 'embeddings.position_embedding.weight',
      inputNorm: 'pre_layrnorm',
      norm: 'post_layernorm',
      head: 'visual_projection',
    },
    optional: 'head',
    ignored: new RegExp(`${positionIds.source}|^logit_scale$|^text_model\\.|^text_projection\\.`),
  },
  siglip_text: {
    prefix: 'text_model.',
    outside: [],
    blocks: 'encoder.layers',
    block: clipBlock,
    others: { ...clipTextOthers, head: 'head' },
    optional: null,
    ignored: new RegExp(`${positionIds.source}|^logit_(scale|bias)$|^vision_model\\.`),
  },
  siglip_image: {
    prefix: 'vision_model.',
    outside: [],
    blocks: 'encoder.layers',
    block: clipBlock,
    others: {
      weight: 'embeddings.patch_embedding.weight',
      bias: 'embeddings.patch_embedding.bias',
      position: 'embeddings.position_embedding.weight',
      norm: 'post_layernorm',
      'pooling.probe': 'head.probe',
      'pooling.attention.out': 'head.attention.out_proj',
      'pooling.norm': 'head.layernorm',
      'pooling.up': 'head.mlp.fc1',
      'pooling.down': 'head.mlp.fc2',
    },
    optional: null,
    ignored: new RegExp(`${positionIds.source}|^logit_(scale|bias)$|^text_model\\.`),
  },
};

/** The module of a path of ours (`blocks.0.attention.query`) in Hugging Face's spelling, without a model prefix; null for none of its. */
export function huggingFaceModule(family: EncoderFamily, module: string): string | null {
  const { blocks, block, others } = FAMILIES[family];
  const inBlock = /^blocks\.(\d+)\.(.+)$/.exec(module);
  if (inBlock === null) return others[module] ?? null;
  const name = block[inBlock[2]!];
  return name === undefined ? null : `${blocks}.${inBlock[1]}.${name}`;
}

/** Where a tensor of ours is in a folder: its name, without a model prefix, and which of `of` equal parts of it by rows. */
export interface TensorPlace {
  readonly name: string;
  readonly part: number;
  readonly of: number;
}

/** The place of a tensor of ours (`blocks.0.up.weight`); null where the family has no such tensor. */
export function tensorPlace(family: EncoderFamily, path: string): TensorPlace | null {
  const alone = FAMILIES[family].others[path];
  if (alone !== undefined) return { name: alone, part: 0, of: 1 };
  // SigLIP's probe has query, key and value in one tensor.
  const joined = /^pooling\.attention\.(query|key|value)\.(weight|bias)$/.exec(path);
  if (joined !== null && family === 'siglip_image') {
    const part = ['query', 'key', 'value'].indexOf(joined[1]!);
    return { name: `head.attention.in_proj_${joined[2]}`, part, of: 3 };
  }
  const dot = path.lastIndexOf('.');
  const module = huggingFaceModule(family, path.slice(0, dot));
  return module === null ? null : { name: `${module}${path.slice(dot)}`, part: 0, of: 1 };
}

/** The shape in a folder of a tensor of ours (or of `of` such, one below the other). */
export function shapeInFolder(
  family: EncoderFamily,
  path: string,
  { shape, of, patch }: { shape: readonly number[]; of: number; patch: number | null },
): readonly number[] {
  const [rows, ...rest] = shape;
  if (path === 'weight') return [rows!, 3, patch!, patch!];
  if (path === 'classToken') return family === 'vit' ? [1, 1, ...rest] : rest;
  if (path === 'pooling.probe') return [1, ...shape];
  if (path === 'position' && family === 'vit') return [1, ...shape];
  return [rows! * of, ...rest];
}

/** Spellings under which a folder may hold `name`: with the model's prefix or without, LayerNorm's weight and bias also as gamma and beta. */
export function spellings(family: EncoderFamily, name: string): string[] {
  const { prefix, outside } = FAMILIES[family];
  const old = name.replace(/(LayerNorm\.)weight$/, '$1gamma').replace(/(LayerNorm\.)bias$/, '$1beta');
  const names = old === name ? [name] : [name, old];
  return outside.some((module) => name.startsWith(`${module}.`)) ? names : [...names.map((n) => prefix + n), ...names];
}

/** Whether a folder's tensor belongs to the head of a text or picture encoder: BERT's pooler, a projection. */
export function isHead(family: EncoderFamily, name: string): boolean {
  const { prefix, others } = FAMILIES[family];
  const head = others['head'];
  return head !== undefined && (name.startsWith(`${head}.`) || name.startsWith(`${prefix}${head}.`));
}

/** Ours: the module that a folder may lack; null for none. */
export function optionalModule(family: EncoderFamily): string | null {
  return FAMILIES[family].optional;
}

/** Whether a folder's tensor that no spelling asks for is known and not needed. */
export function isIgnored(family: EncoderFamily, name: string): boolean {
  return FAMILIES[family].ignored.test(name);
}
