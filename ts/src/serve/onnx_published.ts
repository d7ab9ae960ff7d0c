/**
 * Published encoders (BERT, RoBERTa, ViT, CLIP, SigLIP) as nodes of an ONNX graph: what of them is not said by the layers of `ModuleTranslation`,
 * that is embeddings, the token that stands for a text or a picture, SigLIP's pooling, and LEMUR's late fusion.
 */
import type { OnnxValue } from '../io/onnx.js';
import type { AttentionPooling } from '../nn/attention_pooling.js';
import type { DocumentEncoder } from '../nn/document_encoder.js';
import type { PretrainedImageEncoder } from '../nn/pretrained_image_encoder.js';
import type { PooledToken, PretrainedTextEncoder } from '../nn/pretrained_text_encoder.js';
import type { ModuleTranslation, PictureInputs, RowPick, TextInputs, Tokens } from './onnx_modules.js';
import { sum } from './onnx_ops.js';

const INT64 = 7;

// ---- texts

function embedTexts(
  t: ModuleTranslation,
  { token, position, type, embeddingNorm, options }: PretrainedTextEncoder,
  { tokens, positions, present }: TextInputs,
): Tokens {
  const g = t.graph;
  const { firstPosition } = options;
  const places = firstPosition === 0 ? positions : g.node('Add', [positions, g.integers([firstPosition])]);
  const rows = (table: OnnxValue, index: OnnxValue): OnnxValue => g.node('Gather', [table, index], { axis: 0 });
  let x = g.node('Add', [rows(t.weight(token.table), tokens), rows(t.weight(position.table), places)]);
  if (type !== null) x = g.node('Add', [x, rows(t.weight(type.table), g.integers([0]))]);
  return { x: embeddingNorm === null ? x : t.norm(embeddingNorm, x), present };
}

/** Picks the token that stands for a text. */
function pooledRow(t: ModuleTranslation, pooled: PooledToken, { tokens, present }: TextInputs): RowPick {
  const g = t.graph;
  if (pooled === 'first') return (x) => t.firstRows(x, 1);
  const count = sum(g, present, [1], true);
  let place = g.node('Max', [g.node('Sub', [count, g.scalar(1)]), g.scalar(0)]);
  if (pooled !== 'last') {
    const named = g.node('Mul', [t.float(g.node('Equal', [tokens, g.integers([pooled.id])])), present]);
    // The first of equal maxima: the first token of this id.
    const first = t.float(g.node('ArgMax', [named], { axis: 1, keepdims: 1 }));
    place = g.node('Where', [t.bool(t.any(named)), first, place]);
  }
  const index = g.node('Unsqueeze', [g.node('Cast', [place], { to: INT64 }), g.integers([2])]);
  return (x) => g.node('GatherND', [x, index], { batch_dims: 1 });
}

/** The last hidden state of all tokens. */
export function publishedTokens(t: ModuleTranslation, encoder: PretrainedTextEncoder, inputs: TextInputs): Tokens {
  const embedded = embedTexts(t, encoder, inputs);
  const x = t.blocks(encoder.blocks, embedded, null);
  return { ...embedded, x: encoder.norm === null ? x : t.norm(encoder.norm, x) };
}

/** That of the pooled token, (B, W); a zero row for a text without tokens. */
export function publishedTexts(t: ModuleTranslation, encoder: PretrainedTextEncoder, inputs: TextInputs): OnnxValue {
  const g = t.graph;
  const { causal, pooled } = encoder.options;
  const embedded = embedTexts(t, encoder, inputs);
  const pick = pooledRow(t, pooled, inputs);
  const rows = causal ? pick(t.blocks(encoder.blocks, embedded, null)) : t.blocks(encoder.blocks, embedded, pick);
  const normed = encoder.norm === null ? rows : t.norm(encoder.norm, rows);
  return g.node('Mul', [g.node('Squeeze', [normed, g.integers([1])]), t.any(inputs.present)]);
}

// ---- pictures

function embedPictures(t: ModuleTranslation, encoder: PretrainedImageEncoder, pixels: OnnxValue): Tokens {
  const g = t.graph;
  const { classToken, position, inputNorm, tokenCount, width, options } = encoder;
  const patches = t.patchRows(encoder, options, pixels);
  const all =
    classToken === null
      ? patches
      : g.node('Concat', [t.repeated(t.weight(classToken), patches, 1, width), patches], { axis: 1 });
  const x = g.node('Add', [all, t.weight(position)]);
  return { x: inputNorm === null ? x : t.norm(inputNorm, x), present: t.ones(x, tokenCount) };
}

/** The last hidden state (B, tokens, W) of pictures. */
export function publishedPatches(t: ModuleTranslation, encoder: PretrainedImageEncoder, pixels: OnnxValue): OnnxValue {
  const x = t.blocks(encoder.blocks, embedPictures(t, encoder, pixels), null);
  return encoder.options.lastNorm === 'tokens' ? t.norm(encoder.norm, x) : x;
}

/** One normalised vector (B, W) per picture: of its class token, or what SigLIP's probe reads. */
export function publishedPictures(t: ModuleTranslation, encoder: PretrainedImageEncoder, pixels: OnnxValue): OnnxValue {
  const g = t.graph;
  const { pooling, blocks, norm, tokenCount } = encoder;
  const first: RowPick = (x) => t.firstRows(x, 1);
  const row =
    pooling === null
      ? t.norm(norm, t.blocks(blocks, embedPictures(t, encoder, pixels), first))
      : probed(t, pooling, publishedPatches(t, encoder, pixels), tokenCount);
  return g.node('Squeeze', [row, g.integers([1])]);
}

/** What the probe reads of tokens x (B, tokens, W): (B, 1, W). */
function probed(t: ModuleTranslation, pooling: AttentionPooling, x: OnnxValue, tokens: number): OnnxValue {
  const { probe, attention, norm, up, down, options } = pooling;
  const probes = t.repeated(t.weight(probe), x, 1, options.width);
  const pooled = t.attend(attention, probes, { x, present: t.ones(x, tokens) });
  return t.graph.node('Add', [pooled, t.feedForward(t.norm(norm, pooled), up, down, options.activation ?? 'gelu')]);
}

// ---- documents

/** LEMUR's documents whose texts a published encoder reads: a sum over modalities, a learned vector for a missing one; (B, out). */
export function publishedDocument(
  t: ModuleTranslation,
  { text: encoder, image, fusion }: DocumentEncoder,
  text: TextInputs,
  picture: PictureInputs | null,
): OnnxValue {
  const g = t.graph;
  const vectors = new Map([['text', { x: t.textVectors(encoder, text), present: t.any(text.present) }]]);
  if (image !== null && picture !== null)
    vectors.set('image', { x: t.pictureVectors(image, picture.pixels), present: picture.present });
  const parts = [...fusion!.project].map(([name, project]) => {
    const { x, present } = vectors.get(name)!;
    return g.node('Where', [t.bool(present), t.linear(project, x, 2), t.weight(fusion!.absent.get(name)!)]);
  });
  return parts.reduce((total, part) => g.node('Add', [total, part]));
}
