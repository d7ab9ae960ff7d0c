/** The item encoders of an export, to be run beside a predictor (in a worker, another process or a quiet hour) for new items. */

import { placeMiddle, storedSide } from '../data/images/image_augment.js';
import { decodeImage } from '../data/images/image_decoder.js';
import { ImageError } from '../data/images/image_error.js';
import { pictureBytes } from '../data/images/image_store.js';
import type { ImageBatch, TokenBatch } from '../data/loader/batch.js';
import { ArgumentError } from '../errors.js';
import type { DeviceName } from '../tensor.js';
import { tidy } from '../tidy.js';
import { imageAugment } from '../train/dataset_request.js';
import { inPrecision } from '../train/evaluate.js';
import { exportFiles, mismatch } from './export_files.js';
import { type Fields, type FieldValue, fieldOf, type IdValue, idText } from './feature_values.js';
import { givenBatches, sliceBatches, type VectorBatches } from './given_vectors.js';
import { openServedModel, type ServedModel } from './served_model.js';

/** An item as the data had it: texts and features by column name, its picture as the bytes of an image file, given vectors by feature name. */
export interface NewItem {
  readonly id: IdValue;
  readonly fields?: Fields;
  readonly picture?: Uint8Array | null;
  /** What is absent is missing. */
  readonly vectors?: Readonly<Record<string, Float32Array | null>> | null;
}

/** Rows for `Predictor.add`: vectors (n, width) and what else a request must know of the items. Plain data, to be posted to a thread. */
export interface EncodedItems {
  /** Of the export that encoded them. */
  readonly id: string;
  readonly ids: readonly string[];
  /** Fields without texts. */
  readonly fields: readonly Fields[];
  readonly width: number;
  readonly vectors: Float32Array;
  /** (n) 1 where the item has a text, and where it has a picture. */
  readonly text: Uint8Array;
  readonly image: Uint8Array;
  /** Given vectors by feature name: which items brought one, and its values where the ranker reads them (none where they are only content). */
  readonly given: VectorBatches;
  /** Ids whose picture could not be decoded: it counts as missing. */
  readonly unreadable: readonly string[];
}

export class ItemEncoder implements Disposable {
  private constructor(private readonly opened: ServedModel) {}

  /** Opens an export whose encoder file is there. Throws what `Predictor.open` throws. */
  static async open(folder: string, { device = 'auto' }: { device?: DeviceName | 'auto' } = {}): Promise<ItemEncoder> {
    const opened = await openServedModel(folder, { device, uses: ['score', 'encode'] });
    if (opened.model.served === null && opened.given.inputs.length === 0) {
      opened.model.dispose();
      throw mismatch(
        folder,
        ['expected a model with item content or given vectors but this one has ids only'],
        exportFiles.encoder,
      );
    }
    return new ItemEncoder(opened);
  }

  /** Step of the weights. */
  get step(): number {
    return this.opened.signature.step;
  }

  /**
   * Encodes items, `block` at a time, waiting for the device between blocks. A model of ids and given vectors encodes nothing: vectors of width 0.
   * ArgumentError for fields and given vectors that the model does not know, and for vectors of another length or with values that are not finite.
   */
  async encode(items: readonly NewItem[], { block = 64 }: { block?: number } = {}): Promise<EncodedItems> {
    const { model, id, serving, precision, place, given } = this.opened;
    const { served } = model;
    if (!Number.isSafeInteger(block) || block < 1)
      throw new ArgumentError(`ItemEncoder: expected block to be a positive integer but received ${block}`, {
        op: 'ItemEncoder',
        argument: 'block',
      });
    const names = this.textNames;
    const vectorsOf = givenBatches('ItemEncoder', given.features, items);
    for (const { fields = {} } of items) this.opened.resolver.checkNames('ItemEncoder', fields, ['item'], names);
    const text = new Uint8Array(items.length);
    const image = new Uint8Array(items.length);
    const parts: Float32Array[] = [];
    const unreadable: NewItem[] = [];
    for (let at = 0; served !== null && at < items.length; at += block) {
      const part = items.slice(at, at + block);
      const content = {
        text: this.texts(part),
        image: await this.pictures(part, unreadable),
        vectors: sliceBatches(vectorsOf, at, at + part.length),
      };
      content.text?.offsets.subarray(1).forEach((end, i) => {
        text[at + i] = end > content.text!.offsets[i]! ? 1 : 0;
      });
      if (content.image !== null) image.set(content.image.present, at);
      const rows = tidy(() => inPrecision(precision, () => served.encode(content)));
      parts.push((await rows.values()) as Float32Array);
      rows.dispose();
      await place.synchronize();
    }
    const width = parts.length === 0 ? 0 : parts[0]!.length / Math.min(block, items.length);
    const vectors = new Float32Array(items.length * width);
    parts.forEach((part, i) => vectors.set(part, i * block * width));
    const column = serving.schema.itemId ?? 'item';
    const plain = ({ fields = {} }: NewItem): Fields =>
      Object.fromEntries(Object.entries(fields).filter(([name]) => !names.includes(name)));
    return {
      id,
      ids: items.map((item) => idText(item.id, column)),
      fields: items.map(plain),
      width,
      vectors,
      text,
      image,
      given: Object.fromEntries(
        Object.entries(vectorsOf).map(([name, batch]) => [
          name,
          given.inputs.includes(name) ? batch : { ...batch, values: new Float32Array(0) },
        ]),
      ),
      unreadable: unreadable.map((item) => idText(item.id, column)),
    };
  }

  /** Texts of items that the data have, also those that the model does not read. */
  private get textNames(): string[] {
    const columns = this.opened.config.feature_cols.filter(
      (column) => column.type === 'text' && column.source === 'item',
    );
    const read = this.opened.text.item?.fields ?? [];
    return [...new Set([...read, ...columns].map(({ name }) => name))];
  }

  private texts(items: readonly NewItem[]): TokenBatch | null {
    const pipeline = this.opened.text.item;
    if (pipeline === null) return null;
    const names = pipeline.fields.map(({ name }) => name);
    return joinTexts(
      items.map(({ fields = {} }) =>
        pipeline.encode(Object.fromEntries(names.map((name) => [name, words(name, fieldOf(fields, name))]))),
      ),
    );
  }

  /** Pictures that cannot be decoded are missing, as in training; their items are added to `unreadable`. */
  private async pictures(items: readonly NewItem[], unreadable: NewItem[]): Promise<ImageBatch | null> {
    const { serving, config } = this.opened;
    if (serving.itemImage === null) return null;
    const size = serving.itemImage;
    const side = storedSide(size, config.data.shop === null ? imageAugment(config) : null);
    const pixels = new Uint8Array(items.length * pictureBytes(size));
    const present = new Uint8Array(items.length);
    for (const [i, item] of items.entries()) {
      const { picture = null } = item;
      if (picture === null) continue;
      // as an evaluation sees it: where training shows parts of a larger picture, its middle
      const decoded = await decodeImage(picture, { size: side, fit: config.image.fit }).catch((error: unknown) => {
        if (!(error instanceof ImageError)) throw error;
        unreadable.push(item);
        return null;
      });
      if (decoded === null) continue;
      const { pixels: stored } = decoded;
      placeMiddle(stored, side, pixels.subarray(i * pictureBytes(size), (i + 1) * pictureBytes(size)), size);
      present[i] = 1;
    }
    return { pixels, present, size };
  }

  /** Releases the model. */
  [Symbol.dispose](): void {
    this.opened.model.dispose();
  }
}

/** A text of a request. */
export function words(name: string, value: FieldValue): string | null {
  if (value === null || typeof value === 'string') return value;
  throw new ArgumentError(`field ${name}: expected a text but received ${typeof value}`, { argument: name });
}

/** Token sequences one after the other. */
export function joinTexts(texts: readonly TokenBatch[]): TokenBatch {
  const offsets = new Int32Array(texts.length + 1);
  texts.forEach(({ tokens }, i) => {
    offsets[i + 1] = offsets[i]! + tokens.length;
  });
  const joined = (of: 'tokens' | 'types' | 'positions'): Int32Array => {
    const values = new Int32Array(offsets[texts.length]!);
    texts.forEach((text, i) => values.set(text[of], offsets[i]));
    return values;
  };
  return { tokens: joined('tokens'), types: joined('types'), positions: joined('positions'), offsets };
}
