/** A trained model in the forms that other programs read: weights, item vectors, graphs (data.md, section 12). */
import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import { ConfigError } from '../errors.js';
import { nodeEnv } from '../io/env.js';
import { type RowIds, writeFbin, writeRowIds } from '../io/fbin.js';
import { writeNpy } from '../io/npy.js';
import type { RecommenderModel } from '../models/model.js';
import { tidy } from '../tidy.js';
import { encodeItems } from '../train/evaluate.js';
import { readTensors } from '../train/state.js';
import { writeTensors } from './export_files.js';

/** What `--to` names. */
export const exportFormats = ['serving', 'onnx', 'safetensors', 'npy', 'fbin', 'peft', 'hf'] as const;
export type ExportFormat = (typeof exportFormats)[number];

/** Names of the files that each form consists of. */
export const formatFiles = {
  weights: 'weights.safetensors',
  npy: 'vectors.npy',
  fbin: 'vectors.fbin',
} as const;

export interface FormatContext {
  readonly model: RecommenderModel;
  readonly data: Dataset;
  /** Step of the weights. */
  readonly step: number;
  /** Item rows that get a vector, ascending. */
  readonly items: Int32Array;
  readonly folder: string;
}

/** All parameters and buffers by name; without the tables of vectors that training kept, which are data. */
export async function writeWeights({ model, step, folder }: FormatContext): Promise<void> {
  const state = [...model.state()].filter(([name]) => model.served?.use(name) !== 'neither');
  await writeTensors(nodeEnv, folder, formatFiles.weights, await readTensors(new Map(state)), {
    format: 'galago-weights',
    step: String(step),
  });
}

/** Item vectors as an evaluation reads them, (items, width) float32. ConfigError for a model without item content. */
export async function itemVectors({
  model,
  data,
  items,
  step,
}: Omit<FormatContext, 'folder'>): Promise<{ values: Float32Array<ArrayBuffer>; width: number }> {
  if (!model.encodesItems) {
    const has = model.rankingVectors === undefined ? 'has ids only' : 'scores by a graph of users and items';
    throw new ConfigError(`export: expected a model with item content for item vectors but this one ${has}`, {
      key: 'vectors',
    });
  }
  try {
    await encodeItems(model, data, 'overlay', items, step);
    const vectors = tidy(() => model.contentVectors(items, step)!);
    const values = Float32Array.from((await vectors.values()) as Float32Array);
    const width = vectors.shape[1]!;
    vectors.dispose();
    return { values, width };
  } finally {
    model.dropOverlay();
  }
}

const int64 = { least: -(2n ** 63n), most: 2n ** 63n - 1n };

/** The ids of item rows: 64-bit integers where every one of them is written as such an integer is, else strings. */
export function itemIds({ items: { ids } }: Dataset, rows: Int32Array): RowIds {
  const texts = Array.from(rows, (row) => ids[row]!);
  const whole = (text: string): boolean => {
    if (!/^(0|-?[1-9]\d{0,18})$/.test(text)) return false;
    const value = BigInt(text);
    return value >= int64.least && value <= int64.most;
  };
  return texts.every(whole) ? BigInt64Array.from(texts, BigInt) : texts;
}

/** Item vectors as `.npy`, `.fbin` or both, and their ids as `ids.npy` or `ids.txt`. */
export async function writeVectors(context: FormatContext, formats: ReadonlySet<ExportFormat>): Promise<void> {
  const { values, width } = await itemVectors(context);
  const { folder, items, data } = context;
  const count = items.length;
  if (formats.has('npy'))
    await writeNpy(join(folder, formatFiles.npy), { dtype: 'float32', shape: [count, width], data: values });
  if (formats.has('fbin')) await writeFbin(join(folder, formatFiles.fbin), { count, dim: width, data: values });
  await writeRowIds(folder, itemIds(data, items));
}
