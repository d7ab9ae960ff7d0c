/**
 * Documents and queries to vectors (LEMUR; models.md 2.1): one Transformer over the token fields of an item, behind them, where asked
 * for, the patch tokens of its picture; the first token's output is the vector. A published text encoder reads texts alone, as it did when
 * it was trained: its vectors and those of the picture encoder are fused late. Every document has a vector: what is missing is learned.
 */

import { ArgumentError } from '../errors.js';
import { concat } from '../ops/concat.js';
import { add } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';
import type { ModalityTokens } from './fusion_q_former.js';
import { ImageEncoder, type ImageEncoderOptions, type Pictures } from './image_encoder.js';
import { LateFusion } from './late_fusion.js';
import { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';
import { PretrainedImageEncoder } from './pretrained_image_encoder.js';
import { PretrainedTextEncoder } from './pretrained_text_encoder.js';
import { TextEncoder, type TextEncoderOptions, type TokenSequences } from './text_encoder.js';

export interface DocumentEncoderOptions {
  /** Of the Transformer over all tokens; or a published encoder of texts, with the width of the vectors. */
  readonly text: TextEncoderOptions | { readonly encoder: PretrainedTextEncoder; readonly out: number };
  /** Pictures are encoded to patch tokens first, or by a published encoder. Default none. */
  readonly image?: ImageEncoderOptions | PretrainedImageEncoder | null;
  /** False: texts are not read, as if all were missing. Default true. */
  readonly readsText?: boolean;
}

/** Text and picture of n documents, in one order; null where the data have none. */
export interface Documents {
  readonly text: TokenSequences | null;
  readonly image: Pictures | null;
}

export class DocumentEncoder extends Module {
  readonly text: TextEncoder | PretrainedTextEncoder;
  readonly image: ImageEncoder | PretrainedImageEncoder | null;
  /** Patch tokens to the width of the text encoder. */
  readonly patches: Linear | null;
  /** (1, width): type of picture tokens, and the token for a missing picture. */
  readonly pictureType: Tensor | null;
  readonly absentPicture: Tensor | null;
  /** Of the vectors of a published text encoder and of pictures. */
  readonly fusion: LateFusion | null;
  readonly #readsText: boolean;

  constructor(init: Initializer, { text, image = null, readsText = true }: DocumentEncoderOptions) {
    super();
    const published = 'encoder' in text;
    this.text = published ? text.encoder : new TextEncoder(init.at('text'), { ...text, absent: true });
    const { width } = this.text;
    const std = 1 / Math.sqrt(width);
    this.image =
      image === null
        ? null
        : image instanceof PretrainedImageEncoder
          ? image
          : new ImageEncoder(init.at('image'), image);
    const tokens = this.image === null || published ? null : this.image;
    this.patches = tokens === null ? null : new Linear(init.at('patches'), tokens.width, width);
    this.pictureType = tokens === null ? null : init.normal('pictureType', [1, width], std);
    this.absentPicture = tokens === null ? null : init.normal('absentPicture', [1, width], std);
    const widths = { text: width, ...(this.image === null ? {} : { image: this.image.width }) };
    this.fusion = published ? new LateFusion(init.at('fusion'), { widths, out: text.out }) : null;
    this.#readsText = readsText;
  }

  /** False where texts count as missing. */
  get readsText(): boolean {
    return this.#readsText;
  }

  /** Vectors (n, out), one per document. Throws `ArgumentError` where pictures or texts that it reads are not given. */
  vectors({ text, image }: Documents, context: ForwardContext): Tensor {
    const fail = (what: string): never => {
      throw new ArgumentError(`DocumentEncoder: expected documents with ${what} but received none`, { argument: what });
    };
    if (this.#readsText && text === null) fail('text');
    if (this.image !== null && image === null) fail('image');
    const count = text === null ? image!.present.length : text.offsets.length - 1;
    const read = this.#readsText && text !== null ? text : withoutTokens(count);
    if (this.text instanceof PretrainedTextEncoder) return this.fused(this.text, read, image, context);
    return this.text.vectors(read, context, this.pictureTokens(image, context));
  }

  private fused(
    encoder: PretrainedTextEncoder,
    text: TokenSequences,
    image: Pictures | null,
    context: ForwardContext,
  ): Tensor {
    const { offsets } = text;
    const present = Uint8Array.from({ length: offsets.length - 1 }, (_, b) => (offsets[b + 1]! > offsets[b]! ? 1 : 0));
    return this.fusion!.forward({
      text: { vectors: encoder.vectors(text, context), present },
      ...(this.image === null
        ? {}
        : { image: { vectors: this.image.vectors(image!, context), present: image!.present } }),
    });
  }

  /** Tokens of the pictures, one `absentPicture` where there is none. */
  private pictureTokens(image: Pictures | null, context: ForwardContext): ModalityTokens | null {
    const { image: encoder, patches, pictureType, absentPicture } = this;
    if (encoder === null || patches === null || pictureType === null || absentPicture === null || image === null)
      return null;
    const { present } = image;
    const tokens = add(patches.forward(encoder.tokens(image, context).rows), pictureType);
    return {
      rows: concat([tokens, absentPicture], { axis: 0 }),
      starts: Int32Array.from(present, (there, b) => (there ? b : present.length) * encoder.tokenCount),
      counts: Int32Array.from(present, (there) => (there ? encoder.tokenCount : 1)),
    };
  }
}

function withoutTokens(count: number): TokenSequences {
  const none = new Int32Array(0);
  return { tokens: none, types: none, positions: none, offsets: new Int32Array(count + 1) };
}
