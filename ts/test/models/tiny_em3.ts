/** EM3 on a shop so small that one step takes milliseconds. */
import { backward } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import { datasetFromShop, type LoadOptions } from '../../src/data/load_dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { generateShop } from '../../src/data/shop/shop.js';
import { Em3, type Em3Options } from '../../src/models/em3.js';
import type { RecommenderModel, StepGraph } from '../../src/models/model.js';
import { Optimizer } from '../../src/optim/optimizer.js';
import { randomScope } from '../../src/random.js';
import { tidy } from '../../src/tidy.js';
import { encodeItems } from '../../src/train/evaluate.js';
import { bytesOf } from '../values.js';

export const tinyShop = generateShop({ seed: 3, items: 60, users: 20, sessions: 200 });

/** The shop with titles, tags, pictures and queries. Dispose it. */
export function tinyData(options: LoadOptions = {}): Promise<Dataset> {
  return datasetFromShop(tinyShop, options);
}

type Deep<T> = {
  readonly [K in keyof T]?: T[K] extends readonly unknown[] ? T[K] : T[K] extends object ? Deep<T[K]> : T[K];
};

const defaults: Em3Options = {
  ranker: 'dnn',
  training: 'end_to_end',
  queryEncoder: 'alike',
  twoStageEpochs: 1,
  content: {
    modalities: ['text', 'image'],
    text: { width: 8, layers: 1, heads: 2, ffn: 12, dropout: 0 },
    image: { width: 6, layers: 1, heads: 2, ffn: 8, patch: 16 },
    queryLayers: 1,
    fusion: { mode: 'ctr', attention: 'joint', queries: 2, layers: 2, heads: 2, width: 8, ffn: 0, dropout: 0 },
    lora: { mode: 'none', rank: 2, alpha: 4, onRefresh: 'reset' },
    tuneLayers: 'all',
    cacheTokens: null,
    encoderLora: null,
  },
  sqdc: { weight: 0, warmupSteps: 0, scale: 50, columns: 'positives', maskSameItem: false },
  cic: { mode: 'ctr', weight: 0, temperature: 0.1, negatives: 16 },
  historyLen: 8,
  embeddingDim: 8,
  itemIdDropout: 0,
  features: null,
  rankerOptions: { mlp: [16], dropout: 0.1, crossLayers: 2, attentionMlp: [8] },
  seed: 5,
};

/** Options of the tiny model, changed where `changes` says so. */
export function tinyOptions(changes: Deep<Em3Options> = {}): Em3Options {
  const { content = {}, ...rest } = changes;
  const merged = { ...defaults, ...rest } as Em3Options;
  return {
    ...merged,
    sqdc: { ...defaults.sqdc, ...changes.sqdc },
    cic: { ...defaults.cic, ...changes.cic },
    rankerOptions: { ...defaults.rankerOptions, ...changes.rankerOptions },
    content: {
      ...defaults.content,
      ...(content as object),
      text: { ...defaults.content.text, ...content.text },
      image: { ...defaults.content.image, ...content.image },
      fusion: { ...defaults.content.fusion, ...content.fusion },
      lora: { ...defaults.content.lora, ...content.lora },
    },
  };
}

export function tinyEm3(data: Dataset, changes: Deep<Em3Options> = {}): Em3 {
  return new Em3(data.schema, tinyOptions(changes));
}

/** The first `count` training batches. */
export async function batches(data: Dataset, count: number, batchSize = 24): Promise<Batch[]> {
  const found: Batch[] = [];
  for await (const batch of data.loader({ part: 'train', batchSize, seed: 9 })) {
    found.push(batch);
    if (found.length === count) break;
  }
  return found;
}

export interface Rates {
  readonly dense: number;
  readonly encoder: number;
}

/** Steps by hand, as the trainer makes them. */
export class Steps implements Disposable {
  readonly optimizer: Optimizer;
  step = 0;

  constructor(
    readonly model: RecommenderModel,
    { dense, encoder }: Rates = { dense: 0.01, encoder: 0.01 },
  ) {
    const groups = model.groups();
    this.optimizer = new Optimizer([
      { name: 'dense', params: groups.dense, algorithm: 'adamw', learningRate: dense },
      { name: 'sparse', params: groups.sparse, algorithm: 'rowwise_adam', learningRate: dense },
      { name: 'encoder', params: groups.encoder, algorithm: 'adamw', learningRate: encoder },
      { name: 'encoderSparse', params: groups.encoderSparse, algorithm: 'rowwise_adam', learningRate: encoder },
      { name: 'lora', params: groups.lora, algorithm: 'adamw', learningRate: dense },
    ]);
  }

  /** One step; returns the bytes of its loss. `inspect` sees graph and gradients before the optimizer does. */
  async take(batch: Batch, inspect: (graph: StepGraph) => void = () => undefined): Promise<string> {
    const step = ++this.step;
    const loss = randomScope({ seed: 1, step }, () =>
      tidy(() => {
        const graph = this.model.graph(batch, { training: true, step, stage: 'ranker' });
        backward(graph.loss);
        inspect(graph);
        this.optimizer.step();
        this.optimizer.zeroGrad();
        this.model.commit(step, this.optimizer.clipFactor);
        return graph.loss;
      }),
    );
    const bytes = (await bytesOf(loss)).toString('hex');
    loss.dispose();
    this.model.settle?.(step, (await this.optimizer.clipFactor.item()) > 0);
    return bytes;
  }

  async takeAll(list: readonly Batch[]): Promise<string[]> {
    const losses: string[] = [];
    for (const batch of list) losses.push(await this.take(batch));
    return losses;
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
  }
}

/** Encodes every item of the catalogue into the model's own table. */
export async function fillTable(model: RecommenderModel, data: Dataset): Promise<void> {
  const every = Int32Array.from({ length: data.items.ids.length }, (_, i) => i);
  await encodeItems(model, data, 'table', every, 0);
}

/** The bytes of some tensors by name, as hexadecimal text. */
export async function bytesByName(
  tensors: ReadonlyMap<string, Parameters<typeof bytesOf>[0]>,
): Promise<Record<string, string>> {
  const entries = await Promise.all(
    [...tensors].map(async ([name, x]) => [name, (await bytesOf(x)).toString('hex')] as const),
  );
  return Object.fromEntries(entries);
}
