/** Modules of the encoders as nodes of an ONNX graph. Sequences are padded, (B, L, W); `present` (B, L) float32 is 1 where a token stands. */
import { OnnxExportError } from '../errors.js';
import type { OnnxGraph, OnnxValue } from '../io/onnx.js';
import { type HostTensor, viewAs } from '../io/safetensors.js';
import type { Activation } from '../native_kernels.js';
import type { FeedForwardActivation, MultiHeadAttention, Projection, TransformerBlock } from '../nn/attention.js';
import type { DocumentEncoder } from '../nn/document_encoder.js';
import type { FusionLayer, FusionQFormer } from '../nn/fusion_q_former.js';
import { ImageEncoder } from '../nn/image_encoder.js';
import type { LayerNorm } from '../nn/layer_norm.js';
import { Linear, type Mlp } from '../nn/linear.js';
import { LoraLinear } from '../nn/lora_linear.js';
import type { Module } from '../nn/module.js';
import { pooledMembers } from '../nn/pool_patches.js';
import type { PretrainedImageEncoder } from '../nn/pretrained_image_encoder.js';
import type { PretrainedTextEncoder } from '../nn/pretrained_text_encoder.js';
import { TextEncoder } from '../nn/text_encoder.js';
import type { Tensor } from '../tensor.js';
import { activation, attention, feedForwardActivation, layerNorm, linear, reshape, transpose } from './onnx_ops.js';
import {
  publishedDocument,
  publishedPatches,
  publishedPictures,
  publishedTexts,
  publishedTokens,
} from './onnx_published.js';

/** Padded tokens (B, L, W) and where there are some, (B, L) float32. */
export interface Tokens {
  readonly x: OnnxValue;
  readonly present: OnnxValue;
}

/** Inputs of a text: token, type and position rows (B, L) int64, and where there are tokens: the first places. */
export interface TextInputs {
  readonly tokens: OnnxValue;
  /** Null for a published encoder, to which all tokens are of one segment. */
  readonly types: OnnxValue | null;
  readonly positions: OnnxValue;
  readonly present: OnnxValue;
}

/** Picture input of documents: pixels (B, size, size, 3) uint8, and (B, 1) float32 1 where there is one. */
export interface PictureInputs {
  readonly pixels: OnnxValue;
  readonly present: OnnxValue;
}

/** Picks rows (B, n, W) out of (B, L, W). */
export type RowPick = (x: OnnxValue) => OnnxValue;

const FLOAT = 1;
const BOOL = 9;

/** Translates modules of one model into one graph. */
export class ModuleTranslation {
  readonly #names: ReadonlyMap<Tensor, string>;
  readonly #values = new Map<string, OnnxValue>();

  constructor(
    readonly graph: OnnxGraph,
    model: Module,
    private readonly weights: ReadonlyMap<string, HostTensor>,
  ) {
    this.#names = new Map([...model.state()].map(([name, x]) => [x, name]));
  }

  /** A parameter or buffer as a constant. */
  weight(x: Tensor): OnnxValue {
    return this.parameter(this.#names.get(x)!);
  }

  /** The same by its name. */
  parameter(name: string): OnnxValue {
    const known = this.#values.get(name);
    if (known !== undefined) return known;
    const stored = this.weights.get(name);
    if (stored?.dtype !== 'F32')
      throw new OnnxExportError(`export: --to onnx: ${name}: expected float32 but received ${stored?.dtype}`, {
        op: name,
      });
    const value = this.graph.constant({ dtype: 'float32', shape: stored.shape, data: viewAs(stored, 'F32') }, name);
    this.#values.set(name, value);
    return value;
  }

  // ---- inputs

  /** Inputs `<name>.tokens`, `.types` (of an encoder of ours), `.positions` and `.present` (batch, tokens). */
  textInputs(name: string, encoder: TextEncoder | PretrainedTextEncoder): TextInputs {
    const shape = ['batch', 'tokens'];
    const rows = (column: string): OnnxValue => this.graph.input(`${name}.${column}`, 'int64', shape);
    return {
      tokens: rows('tokens'),
      types: encoder instanceof TextEncoder ? rows('types') : null,
      positions: rows('positions'),
      present: this.float(this.graph.input(`${name}.present`, 'bool', shape)),
    };
  }

  float(x: OnnxValue): OnnxValue {
    return this.graph.node('Cast', [x], { to: FLOAT });
  }

  bool(x: OnnxValue): OnnxValue {
    return this.graph.node('Cast', [x], { to: BOOL });
  }

  /** `rows` (n, W) for each row of the batch, (B, n, W); `like` has B first. */
  repeated(rows: OnnxValue, like: OnnxValue, n: number, width: number): OnnxValue {
    const g = this.graph;
    const batch = g.node('Shape', [like], { start: 0, end: 1 });
    return g.node('Expand', [rows, g.node('Concat', [batch, g.integers([n, width])], { axis: 0 })]);
  }

  /** 1 for each of `n` places of each row of the batch, (B, n). */
  ones(like: OnnxValue, n: number): OnnxValue {
    const g = this.graph;
    const batch = g.node('Shape', [like], { start: 0, end: 1 });
    return g.node('Expand', [g.scalar(1), g.node('Concat', [batch, g.integers([n])], { axis: 0 })]);
  }

  /** (B, 1): 1 where a row has any token. */
  any(present: OnnxValue): OnnxValue {
    return this.graph.node('ReduceMax', [present], { axes: [1], keepdims: 1 });
  }

  /** Where a row has no token, `absent` (1, W) takes its first place. */
  withAbsent({ x, present }: Tokens, absent: OnnxValue): Tokens {
    const g = this.graph;
    const there = this.any(present);
    const some = this.bool(g.node('Unsqueeze', [there, g.integers([2])]));
    const cut = (value: OnnxValue, from: number, to: number): OnnxValue =>
      g.node('Slice', [value, g.integers([from]), g.integers([to]), g.integers([1])]);
    const end = 2 ** 31 - 1;
    const first = g.node('Where', [some, cut(x, 0, 1), absent]);
    const one = g.node('Max', [cut(present, 0, 1), g.node('Sub', [g.scalar(1), there])]);
    return {
      x: g.node('Concat', [first, cut(x, 1, end)], { axis: 1 }),
      present: g.node('Concat', [one, cut(present, 1, end)], { axis: 1 }),
    };
  }

  joined(parts: readonly Tokens[]): Tokens {
    if (parts.length === 1) return parts[0]!;
    const side = (of: 'x' | 'present'): OnnxValue =>
      this.graph.node(
        'Concat',
        parts.map((part) => part[of]),
        { axis: 1 },
      );
    return { x: side('x'), present: side('present') };
  }

  firstRows(x: OnnxValue, count: number): OnnxValue {
    const g = this.graph;
    return g.node('Slice', [x, g.integers([0]), g.integers([count]), g.integers([1])]);
  }

  // ---- layers

  /** A projection of x of some rank above 1. */
  linear(layer: Projection, x: OnnxValue, rank = 3): OnnxValue {
    const g = this.graph;
    const plain = ({ weight, bias }: Linear): OnnxValue =>
      linear(g, x, this.weight(weight), bias === null ? null : this.weight(bias), rank);
    if (layer instanceof Linear) return layer.lora === null ? plain(layer) : this.linear(layer.lora, x, rank);
    if (!(layer instanceof LoraLinear))
      throw new OnnxExportError(`export: --to onnx: op ${layer.constructor.name}: no projection that is translated`, {
        op: layer.constructor.name,
      });
    const low = linear(g, x, this.weight(layer.a), null, rank);
    const update = g.node('Mul', [linear(g, low, this.weight(layer.b), null, rank), g.scalar(layer.scale)]);
    return g.node('Add', [plain(layer.base), update]);
  }

  /** An MLP without norms over x (B, L, W). */
  mlp({ layers, last }: Mlp, x: OnnxValue, kind: Activation): OnnxValue {
    let y = x;
    for (const layer of layers) y = activation(this.graph, this.linear(layer, y), kind);
    return last === null ? y : this.linear(last, y);
  }

  norm(layer: LayerNorm, x: OnnxValue): OnnxValue {
    return layerNorm(this.graph, x, this.weight(layer.weight), this.weight(layer.bias), layer.eps);
  }

  /** W2 act(W1 x). */
  feedForward(x: OnnxValue, up: Projection, down: Projection, kind: FeedForwardActivation): OnnxValue {
    return this.linear(down, feedForwardActivation(this.graph, this.linear(up, x), kind));
  }

  /** Rows `from` (B, Nq, W) attend to the tokens of their own sequence; where attention is causal, all tokens to those before them. */
  attend(
    module: MultiHeadAttention,
    from: OnnxValue,
    { x, present }: Tokens,
    projections: { query: Projection; key: Projection; value: Projection; out: Projection } = module,
  ): OnnxValue {
    const g = this.graph;
    const { heads, query, scale, causal } = module;
    const width = query.outFeatures;
    const keys = g.node('Unsqueeze', [present, g.integers([1, 2])]);
    const pairs = (): OnnxValue => g.node('Mul', [g.node('Unsqueeze', [present, g.integers([1, 3])]), keys]);
    const split = (y: OnnxValue): OnnxValue => reshape(g, y, [0, 0, heads, width / heads]);
    const out = attention(g, {
      q: transpose(g, split(this.linear(projections.query, from)), [0, 2, 1, 3]),
      keys: transpose(g, split(this.linear(projections.key, x)), [0, 2, 3, 1]),
      v: transpose(g, split(this.linear(projections.value, x)), [0, 2, 1, 3]),
      visible: causal ? g.node('Trilu', [pairs()], { upper: 0 }) : keys,
      scale: scale ?? (width / heads) ** -0.5,
    });
    return this.linear(projections.out, reshape(g, transpose(g, out, [0, 2, 1, 3]), [0, 0, width]));
  }

  /** A block; with `asking`, for the rows that it picks alone. */
  private block(block: TransformerBlock, tokens: Tokens, asking: RowPick | null): OnnxValue {
    const g = this.graph;
    const { norm = 'pre', activation: kind = 'gelu' } = block.options;
    const rest = (x: OnnxValue): OnnxValue => this.feedForward(x, block.up, block.down, kind);
    const read = norm === 'pre' ? this.norm(block.attentionNorm, tokens.x) : tokens.x;
    const attended = this.attend(block.attention, asking?.(read) ?? read, { ...tokens, x: read });
    const mixed = g.node('Add', [asking?.(tokens.x) ?? tokens.x, attended]);
    if (norm === 'pre') return g.node('Add', [mixed, rest(this.norm(block.ffnNorm, mixed))]);
    const normed = this.norm(block.attentionNorm, mixed);
    return this.norm(block.ffnNorm, g.node('Add', [rest(normed), normed]));
  }

  /** All rows behind the blocks, or those that `asking` picks. */
  blocks(blocks: readonly TransformerBlock[], tokens: Tokens, asking: RowPick | null): OnnxValue {
    let { x } = tokens;
    blocks.forEach((block, i) => {
      x = this.block(block, { ...tokens, x }, i === blocks.length - 1 ? asking : null);
    });
    return blocks.length === 0 ? (asking?.(x) ?? x) : x;
  }

  // ---- encoders

  private embed(encoder: TextEncoder, { tokens, types, positions, present }: TextInputs): Tokens {
    const g = this.graph;
    const rows = (table: Tensor, index: OnnxValue): OnnxValue =>
      g.node('Gather', [this.weight(table), index], { axis: 0 });
    const placed = g.node('Add', [rows(encoder.token.table, tokens), rows(encoder.position.table, positions)]);
    return { x: g.node('Add', [placed, rows(encoder.type.table, types!)]), present };
  }

  /** All tokens of texts, normalised. */
  textTokens(encoder: TextEncoder | PretrainedTextEncoder, inputs: TextInputs): Tokens {
    if (!(encoder instanceof TextEncoder)) return publishedTokens(this, encoder, inputs);
    const tokens = this.embed(encoder, inputs);
    return { ...tokens, x: this.norm(encoder.norm, this.blocks(encoder.blocks, tokens, null)) };
  }

  /** (B, out): what a text encoder gives of texts alone; a zero row for one without tokens, where nothing learned stands for it. */
  textVectors(encoder: TextEncoder | PretrainedTextEncoder, inputs: TextInputs): OnnxValue {
    return encoder instanceof TextEncoder
      ? this.firstVectors(encoder, inputs, null, inputs.present)
      : publishedTexts(this, encoder, inputs);
  }

  /** (B, out): the first token of each text and of what is `added` behind it; a zero row where there is none at all. */
  private firstVectors(
    encoder: TextEncoder,
    inputs: TextInputs | null,
    added: Tokens | null,
    like: OnnxValue,
  ): OnnxValue {
    const g = this.graph;
    const { absent, width } = encoder;
    let text: Tokens | null = inputs === null ? null : this.embed(encoder, inputs);
    if (absent !== null) {
      const row = this.weight(absent);
      text =
        text === null
          ? { x: this.repeated(row, like, 1, width), present: this.ones(like, 1) }
          : this.withAbsent(text, row);
    }
    const all = this.joined([text, added].filter((part) => part !== null));
    const rows = this.norm(
      encoder.norm,
      this.blocks(encoder.blocks, all, (x) => this.firstRows(x, 1)),
    );
    const projected = encoder.project === null ? rows : this.linear(encoder.project, rows);
    const vectors = g.node('Squeeze', [projected, g.integers([1])]);
    return absent === null ? g.node('Mul', [vectors, this.any(all.present)]) : vectors;
  }

  /** Tokens (B, tokens, W) of pictures to the means that `poolPatches` leaves. */
  pooledTokens(x: OnnxValue, tokens: number, pooled: number): OnnxValue {
    const members = pooledMembers(tokens, pooled);
    const shares = new Float32Array(members.length * tokens);
    members.forEach((cell, row) => {
      for (const token of cell) shares[row * tokens + token] = 1 / cell.length;
    });
    const g = this.graph;
    return g.node('MatMul', [g.constant({ dtype: 'float32', shape: [members.length, tokens], data: shares }), x]);
  }

  /** Patches (B, patches, W) of pictures (B, size, size, 3) uint8, without positions. */
  patchRows(
    { weight, bias }: { readonly weight: Tensor; readonly bias: Tensor | null },
    { size, patch, mean, std }: ImageEncoder['pixels'],
    pixels: OnnxValue,
  ): OnnxValue {
    const g = this.graph;
    const channels = (of: (channel: number) => number): OnnxValue =>
      g.constant({ dtype: 'float32', shape: [3], data: Float32Array.from([0, 1, 2], of) });
    const scaled = g.node('Mul', [this.float(pixels), channels((c) => 1 / (255 * std[c]!))]);
    const shifted = g.node('Add', [scaled, channels((c) => -mean[c]! / std[c]!)]);
    const side = size / patch;
    const cut = reshape(g, shifted, [-1, side, patch, side, patch, 3]);
    const patches = reshape(g, transpose(g, cut, [0, 1, 3, 5, 2, 4]), [-1, side * side, 3 * patch * patch]);
    return linear(g, patches, this.weight(weight), bias === null ? null : this.weight(bias), 3);
  }

  /** Patch tokens of pictures (B, size, size, 3) uint8. */
  pictureTokens(encoder: ImageEncoder | PretrainedImageEncoder, pixels: OnnxValue): OnnxValue {
    if (!(encoder instanceof ImageEncoder)) return publishedPatches(this, encoder, pixels);
    const patches = this.patchRows(encoder, encoder.pixels, pixels);
    const x = this.graph.node('Add', [patches, this.weight(encoder.position)]);
    const all = { x, present: this.ones(x, encoder.tokenCount) };
    return this.norm(encoder.norm, this.blocks(encoder.blocks, all, null));
  }

  /** One vector (B, W) per picture. */
  pictureVectors(encoder: ImageEncoder | PretrainedImageEncoder, pixels: OnnxValue): OnnxValue {
    if (!(encoder instanceof ImageEncoder)) return publishedPictures(this, encoder, pixels);
    return this.graph.node('ReduceMean', [this.pictureTokens(encoder, pixels)], { axes: [1], keepdims: 0 });
  }

  /** Pixels along a side of the pictures that an encoder reads. */
  pictureSize(encoder: ImageEncoder | PretrainedImageEncoder): number {
    return encoder instanceof ImageEncoder ? encoder.pixels.size : encoder.options.size;
  }

  private fusionLayer(layer: FusionLayer, from: OnnxValue, to: Tokens): OnnxValue {
    const g = this.graph;
    const { query, key, value, out } = layer.attention;
    const projections = { query: layer.loraQuery ?? query, key, value: layer.loraValue ?? value, out };
    const attended = this.attend(layer.attention, from, to, projections);
    const x = this.norm(layer.norm, g.node('Add', [attended, from]));
    if (layer.up === null || layer.down === null || layer.ffnNorm === null) return x;
    const fed = this.linear(layer.down, activation(g, this.linear(layer.up, x), 'gelu'));
    return this.norm(layer.ffnNorm, g.node('Add', [fed, x]));
  }

  /** The outputs of the queries side by side, (B, queries · width), over the tokens of each modality. */
  fused(fusion: FusionQFormer, modalities: ReadonlyMap<string, Tokens>): OnnxValue {
    const { width, queries: count, cross } = fusion;
    const parts = [...fusion.project.keys()].map((name): Tokens => {
      const { x, present } = modalities.get(name)!;
      const projected = this.linear(fusion.loraProject.get(name) ?? fusion.project.get(name)!, x);
      const absent = fusion.absent.get(name);
      const tokens = { x: projected, present };
      return absent === undefined ? tokens : this.withAbsent(tokens, this.weight(absent));
    });
    const like = parts[0]!.present;
    let queries = this.repeated(this.weight(fusion.query), like, count, width);
    let joint = this.joined(cross ? parts : [{ x: queries, present: this.ones(like, count) }, ...parts]);
    fusion.layers.forEach((layer, i) => {
      if (cross) queries = this.fusionLayer(layer, queries, joint);
      else if (i < fusion.layers.length - 1) joint = { ...joint, x: this.fusionLayer(layer, joint.x, joint) };
      else queries = this.fusionLayer(layer, this.firstRows(joint.x, count), joint);
    });
    return reshape(this.graph, queries, [0, -1]);
  }

  /** Vectors (B, out) of LEMUR's documents, `picture` where it reads pictures. */
  document(encoder: DocumentEncoder, text: TextInputs | null, picture: PictureInputs | null): OnnxValue {
    const g = this.graph;
    if (!(encoder.text instanceof TextEncoder)) return publishedDocument(this, encoder, text!, picture);
    let added: Tokens | null = null;
    const { image, patches, pictureType, absentPicture } = encoder;
    if (image !== null && patches !== null && pictureType !== null && absentPicture !== null && picture !== null) {
      const tokens = this.linear(patches, this.pictureTokens(image, picture.pixels));
      const x = g.node('Add', [tokens, this.weight(pictureType)]);
      const present = g.node('Mul', [this.ones(x, image.tokenCount), picture.present]);
      added = this.withAbsent({ x, present }, this.weight(absentPicture));
    }
    const like = text?.present ?? added!.present;
    return this.firstVectors(encoder.text, text, added, like);
  }
}
