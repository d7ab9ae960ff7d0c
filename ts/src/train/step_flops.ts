/** The floating point operations of one training step, by module: what LEMUR's cost table counts. */
import { backward, zeroGrad } from '../autograd.js';
import type { Dataset } from '../data/dataset.js';
import { DataError } from '../errors.js';
import type { RecommenderModel } from '../models/model.js';
import { countFlops, type ModuleFlops } from '../nn/flops.js';
import { randomScope } from '../random.js';
import { tidy } from '../tidy.js';
import { encodeItems } from './evaluate.js';
import type { TrainSettings } from './train_settings.js';

export interface StepFlops {
  readonly modules: readonly ModuleFlops[];
  /** Rows of the batch, and different items among their targets. */
  readonly rows: number;
  readonly items: number;
  /** Sums over the modules: matrix and vector products. */
  readonly forward: number;
  readonly backward: number;
  readonly elementwise: number;
}

/**
 * Counts the first training step of the ranker: a real forward and backward of its first batch, without the optimizer; weights stay, the
 * model may keep what was staged. The items of the batch are encoded into the model's store first, as they would be after some
 * training, so that sampled encoding shows its cost. Throws `DataError` for an empty train part.
 */
export async function stepFlops(
  model: RecommenderModel,
  data: Dataset,
  { batchSize, unit, seed }: Pick<TrainSettings, 'batchSize' | 'unit' | 'seed'>,
): Promise<StepFlops> {
  model.prepare?.(data.items);
  const step = 3; // the choice of a step counts on stored vectors that are two steps old
  await model.ready?.();
  for await (const batch of data.loader({ part: 'train', epoch: 0, batchSize, unit, prefetch: 1, seed })) {
    if (model.encodesItems) {
      const met = new Set([...batch.items.rows, ...(batch.history?.values ?? [])]);
      await encodeItems(model, data, 'table', Int32Array.from(met).sort(), step - 2);
    }
    const modules = await countFlops(model, () =>
      randomScope({ seed, step }, () =>
        tidy(() => {
          backward(model.graph(batch, { training: true, step, stage: 'ranker' }).loss);
          zeroGrad(model.parameters().values());
          model.commit(step, null);
        }),
      ),
    );
    const total = (of: 'forward' | 'backward' | 'elementwise') => modules.reduce((sum, row) => sum + row[of], 0);
    return {
      modules,
      rows: batch.size,
      items: batch.items.rows.length,
      forward: total('forward'),
      backward: total('backward'),
      elementwise: total('elementwise'),
    };
  }
  throw new DataError('DATA_SCHEMA', 'stepFlops: expected a train part with rows but it is empty', {});
}
