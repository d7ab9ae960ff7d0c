/**
 * Documents and queries to vectors (LEMUR; models.md 2.1): one Transformer over the token fields of an item, behind them, where asked
 * for, the patch tokens of its picture; the first token's output is the vector. Every document has one: what is missing is a learned token.
 */

import { ArgumentError } from '../errors.js';
import { concat } from '../ops/concat.js';
import { add } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';
import type { ModalityTokens } from './fusion_q_former.js';
import { ImageEncoder, type ImageEncoderOptions, type Pictures } from './image_encoder.js';
import { Linear } from './linear.js';
import { type ForwardContext, type Initializer, Module } from './module.js';
import { TextEncoder, type TextEncoderOptions, type TokenSequences } from './text_encoder.js';

export interface DocumentEncoderOptions {
  /** Of the Transformer over all tokens. */
  readonly text: TextEncoderOptions;
  /** Pictures are encoded to patch tokens first. Default none. */
  readonly image?: ImageEncoderOptions | null;
  /** False: texts are not read, as if all were missing. Default true. */
  readonly readsText?: boolean;
}

/** Text and picture of n documents, in one order; null where the data have none. */
export interface Documents {
  readonly text: TokenSequences | null;
  readonly image: Pictures | null;
}

export class DocumentEncoder extends Module {
  readonly text: TextEncoder;
  readonly image: ImageEncoder | null;
  /** Patch tokens to the width of the text encoder. */
  readonly patches: Linear | null;
  /** (1, width): type of picture tokens, and the token for a missing picture. */
  readonly pictureType: Tensor | null;
  readonly absentPicture: Tensor | null;
  readonly #readsText: boolean;

  constructor(init: Initializer, { text, image = null, readsText = true }: DocumentEncoderOptions) {
    super();
    this.text = new TextEncoder(init.at('text'), { ...text, absent: true });
    const { width } = this.text;
    const std = 1 / Math.sqrt(width);
    this.image = image === null ? null : new ImageEncoder(init.at('image'), image);
    this.patches = this.image === null ? null : new Linear(init.at('patches'), this.image.width, width);
    this.pictureType = image === null ? null : init.normal('pictureType', [1, width], std);
    this.absentPicture = image === null ? null : init.normal('absentPicture', [1, width], std);
    this.#readsText = readsText;
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
    return this.text.vectors(read, context, this.pictureTokens(image, context));
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
      starts: Int32Array.from(present, (there, b) => (there ? b : present.length) * encoder.patches),
      counts: Int32Array.from(present, (there) => (there ? encoder.patches : 1)),
    };
  }
}

function withoutTokens(count: number): TokenSequences {
  const none = new Int32Array(0);
  return { tokens: none, types: none, positions: none, offsets: new Int32Array(count + 1) };
}
