/** From the folder of an export to what a predictor scores with. */
import { ArgumentError } from '../errors.js';
import type { DeviceName } from '../tensor.js';
import { exportFiles, readExportTensors } from './export_files.js';
import { EntityTable } from './feature_values.js';
import { GivenVectors } from './given_vectors.js';
import { unpackTexts } from './packed_text.js';
import { openServedModel, type ServedModel } from './served_model.js';
import type { State } from './serving_batch.js';
import { VectorStore } from './vector_store.js';

/** Opens an export for scoring; what is the same bytes in `like` is shared with it. `room`: new items that it takes in. */
export async function openState(
  folder: string,
  { device, room, mapped }: { device: DeviceName | 'auto'; room: number; mapped: boolean },
  like?: ServedModel,
): Promise<State> {
  const served = await openServedModel(folder, { device, uses: ['score'], ...(like === undefined ? {} : { like }) });
  const { signature, model, resolver, place } = served;
  try {
    if (mapped && place.name !== 'cpu')
      throw new ArgumentError(`Predictor: expected device cpu where vectors are mapped but received ${place.name}`, {
        op: 'Predictor.open',
        argument: 'mapped',
      });
    const table = async (source: 'item' | 'user', name: string): Promise<EntityTable> => {
      const tensors = await readExportTensors(folder, signature, name);
      return new EntityTable(source, await unpackTexts('ids', tensors), tensors, resolver);
    };
    const items = await table('item', exportFiles.items);
    const users = await table('user', exportFiles.users);
    const { features, inputs, content } = served.given;
    const tensors = inputs.length === 0 ? null : await readExportTensors(folder, signature, exportFiles.given);
    const given = features
      .filter(({ name }) => inputs.includes(name))
      .map((feature) => new GivenVectors(feature, tensors!, items.size));
    const capacity = items.size + room;
    const vectors =
      model.served === null
        ? null
        : await VectorStore.open(folder, signature, {
            served: model.served,
            place,
            items: capacity,
            given: content,
            mapped,
          });
    return {
      served,
      items,
      users,
      vectors,
      given,
      capacity,
      since: performance.now(),
      hopeless: new Set(),
      requests: 0,
      retired: false,
    };
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/** Releases what a state holds on its device. */
export function release({ served, vectors }: State): void {
  served.model.dispose();
  vectors?.[Symbol.dispose]();
}
