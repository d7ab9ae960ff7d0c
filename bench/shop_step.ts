/** The training step of the demo, for benches: the generated shop, its preset, a few real batches and the step that the trainer takes. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { backward, noGrad } from '../ts/src/autograd.js';
import type { Batch } from '../ts/src/data/loader/batch.js';
import type { RecommenderModel } from '../ts/src/models/model.js';
import { Optimizer } from '../ts/src/optim/optimizer.js';
import { randomScope } from '../ts/src/random.js';
import type { DeviceName, Tensor } from '../ts/src/tensor.js';
import { tidy } from '../ts/src/tidy.js';
import { buildModel, trainSettings } from '../ts/src/train/build_model.js';
import { type Config, type ConfigInput, resolveConfig } from '../ts/src/train/config.js';
import { inPrecision, type Precision } from '../ts/src/train/evaluate.js';
import { runData } from '../ts/src/train/run.js';

/** The configuration of the demo (end_to_end, text and picture), with `changes` on top. */
export function shopConfig(changes: ConfigInput = {}): Config {
  const { data, ...others } = changes;
  return resolveConfig({ object: { data: { shop: {}, ...data }, ...others } }).config;
}

export class ShopStep {
  readonly #optimizer: Optimizer;
  readonly #precision: Precision;
  #step: number;

  constructor(
    readonly config: Config,
    readonly model: RecommenderModel,
    readonly batches: readonly Batch[],
    step = 0,
  ) {
    this.#step = step;
    const { learningRates: rate, weightDecay, sparseAlgorithm, clipNorm, precision } = trainSettings(config);
    this.#precision = precision;
    const { dense, sparse, encoder, encoderSparse } = model.groups();
    const adamw = { algorithm: 'adamw', weightDecay } as const;
    const rows = { algorithm: sparseAlgorithm } as const;
    this.#optimizer = new Optimizer(
      [
        { name: 'dense', params: dense, learningRate: rate.dense, ...adamw },
        { name: 'sparse', params: sparse, learningRate: rate.sparse, ...rows },
        { name: 'encoder', params: encoder, learningRate: rate.encoder, ...adamw },
        { name: 'encoder_sparse', params: encoderSparse, learningRate: rate.encoder, ...rows },
      ],
      clipNorm === null ? {} : { clipNorm },
    );
  }

  /**
   * The model on `count` batches of the train part, `warmUp` steps into training, so that histories have content. On the CPU, unless
   * `changes` name another device.
   */
  static open(changes: ConfigInput = {}, batches: { count?: number; warmUp?: number } = {}): Promise<ShopStep> {
    return ShopStep.of(shopConfig(changes), batches);
  }

  /** The same for a whole configuration. */
  static async of(config: Config, { count = 16, warmUp = 120 } = {}): Promise<ShopStep> {
    await using data = await runData(config);
    const model = buildModel(config, data.schema);
    model.prepare?.(data.items);
    if (config.device !== 'auto') await model.moveTo(config.device as DeviceName);
    const { batchSize, unit, seed } = trainSettings(config);
    const batches: Batch[] = [];
    for await (const batch of data.loader({ part: 'train', epoch: 0, batchSize, unit, seed }))
      if (batches.push(batch) >= warmUp + count) break;
    const warm = new ShopStep(config, model, batches.slice(0, -count));
    for (let i = 0; i < batches.length - count; i++) {
      const loss = warm.run();
      await loss.item();
      loss.dispose();
    }
    warm.#optimizer.dispose();
    return new ShopStep(config, model, batches.slice(-count), batches.length - count);
  }

  /** Queues the next step: forward, loss, backward, clipping, optimizer, content table. */
  run(batch = this.batches[this.#step % this.batches.length]!): Tensor {
    this.#step++;
    return randomScope({ seed: 7, step: this.#step }, () =>
      tidy(() => {
        const context = { training: true, step: this.#step, stage: 'ranker' } as const;
        const { loss } = inPrecision(this.#precision, () => this.model.graph(batch, context));
        backward(loss);
        this.#optimizer.step();
        this.#optimizer.zeroGrad();
        this.model.commit(this.#step, this.#optimizer.clipFactor);
        this.model.settle?.(this.#step, true); // the trainer learns it two steps later; nothing here is ever skipped
        return loss;
      }),
    );
  }

  /** Loss of the first batch without dropout, nothing updated. */
  async check(): Promise<number> {
    const loss = tidy(() =>
      noGrad(() => this.model.graph(this.batches[0]!, { training: false, step: this.#step + 1, stage: 'ranker' }).loss),
    );
    const value = await loss.item();
    loss.dispose();
    return value;
  }

  /** Weights and batches for another program: `arrays.bin` and, by name, dtype, shape and place of each array in `arrays.json`. */
  async write(folder: string): Promise<void> {
    const arrays = new Map<string, { data: ArrayBufferView; shape: readonly number[] }>();
    for (const [name, x] of this.model.state()) arrays.set(`state/${name}`, { data: await x.data(), shape: x.shape });
    this.batches.forEach((batch, i) => {
      const put = (value: unknown, path: string): void => {
        if (ArrayBuffer.isView(value)) arrays.set(path, { data: value, shape: [(value as Uint8Array).length] });
        else if (value !== null && typeof value === 'object')
          for (const [key, inner] of Object.entries(value)) put(inner, `${path}/${key}`);
      };
      put(batch, `batch/${i}`);
    });
    let offset = 0;
    const index: Record<string, unknown> = {};
    const bytes: Uint8Array[] = [];
    for (const [name, { data, shape }] of arrays) {
      const dtype = data.constructor.name.replace('Array', '').toLowerCase();
      index[name] = { dtype, shape, offset };
      bytes.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      offset += data.byteLength;
    }
    writeFileSync(join(folder, 'arrays.bin'), Buffer.concat(bytes));
    const { model, train } = this.config;
    writeFileSync(
      join(folder, 'arrays.json'),
      JSON.stringify({ arrays: index, batches: this.batches.length, model, train }),
    );
  }
}
