/** A trained model in the forms that other programs read: weights, item vectors, graphs (data.md, section 12). */
import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import { ConfigError } from '../errors.js';
import { nodeEnv } from '../io/env.js';
import { type RowIds, writeFbin, writeRowIds } from '../io/fbin.js';
import { writeNpy } from '../io/npy.js';
import type { RecommenderModel } from '../models/model.js';
import { gatherRows } from '../ops/gather_rows.js';
import { alias, type Tensor, tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import { encodeItems } from '../train/evaluate.js';
import { readTensors } from '../train/state.js';
import { writeTensors } from './export_files.js';

/** What `--to` names. */
export const exportFormats = ['serving', 'onnx', 'safetensors', 'npy', 'fbin', 'peft', 'hf'] as const;
export type ExportFormat = (typeof exportFormats)[number];

/** Why a model whose scores are products of vectors has no such form. */
export function noRanker(form: ExportFormat, name: string): string {
  return `export: --to ${form}: model.name ${name}: expected a ranker but its scores are products of vectors of a graph of all users and items; --to npy gives those vectors`;
}

/** Names of the files that each form consists of; those of vectors without their endings. */
export const formatFiles = {
  weights: 'weights.safetensors',
  items: { vectors: 'vectors', ids: 'ids' },
  users: { vectors: 'users', ids: 'users.ids' },
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

/** Vectors (ids, width) float32, row-major, and the id of each row. */
export interface IdVectors {
  readonly ids: readonly string[];
  readonly width: number;
  readonly values: Float32Array<ArrayBuffer>;
}

/** What a model is searched with. `users`: null where scores are no products of a user's and an item's vector. */
export interface SearchVectors {
  readonly items: IdVectors;
  readonly users: IdVectors | null;
}

/** Vectors as an evaluation reads them: those whose products are the scores, else of item content. ConfigError for a model without either. */
export async function searchVectors(context: Omit<FormatContext, 'folder'>): Promise<SearchVectors> {
  const { model, data, items, step } = context;
  if (model.rankingVectors === undefined && !model.encodesItems)
    throw new ConfigError('export: expected a model with item content for item vectors but this one has ids only', {
      key: 'vectors',
    });
  await model.ready?.();
  try {
    await encodeItems(model, data, 'overlay', items, step);
    const ids = Array.from(items, (row) => data.items.ids[row]!);
    if (model.rankingVectors === undefined)
      return { items: await idVectors(ids, () => model.contentVectors(items, step)!), users: null };
    const scored = model.rankingVectors();
    return {
      items: await idVectors(ids, () =>
        gatherRows(scored.items, tensor(items, [items.length], { device: model.device })),
      ),
      users: await idVectors(data.userIds, () => alias(scored.users)),
    };
  } finally {
    model.dropOverlay();
  }
}

async function idVectors(ids: readonly string[], make: () => Tensor): Promise<IdVectors> {
  const vectors = tidy(make);
  const values = Float32Array.from((await vectors.values()) as Float32Array);
  const width = vectors.shape[1]!;
  vectors.dispose();
  return { ids, width, values };
}

const int64 = { least: -(2n ** 63n), most: 2n ** 63n - 1n };

/** Ids as 64-bit integers where every one of them is written as such an integer is, else as they are. */
export function rowIds(ids: readonly string[]): RowIds {
  const whole = (text: string): boolean => {
    if (!/^(0|-?[1-9]\d{0,18})$/.test(text)) return false;
    const value = BigInt(text);
    return value >= int64.least && value <= int64.most;
  };
  return ids.every(whole) ? BigInt64Array.from(ids, BigInt) : ids;
}

/** Vectors as `.npy`, `.fbin` or both, and their ids as `.npy` or `.txt`: of items, and of users where scores are products. */
export async function writeVectors(context: FormatContext, formats: ReadonlySet<ExportFormat>): Promise<void> {
  const { folder } = context;
  const write = async ({ ids, width, values }: IdVectors, files: { vectors: string; ids: string }): Promise<void> => {
    const path = join(folder, files.vectors);
    const count = ids.length;
    if (formats.has('npy')) await writeNpy(`${path}.npy`, { dtype: 'float32', shape: [count, width], data: values });
    if (formats.has('fbin')) await writeFbin(`${path}.fbin`, { count, dim: width, data: values });
    await writeRowIds(folder, rowIds(ids), { stem: files.ids });
  };
  const { items, users } = await searchVectors(context);
  await write(items, formatFiles.items);
  if (users !== null) await write(users, formatFiles.users);
}
