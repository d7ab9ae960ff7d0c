import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import { stepFlops } from '../../src/train/step_flops.js';
import { bytesByName, tinyData, tinyEm3 } from '../models/tiny_em3.js';
import { sampled, tinyLemur } from '../models/tiny_lemur.js';

let data: Dataset;
beforeAll(async () => {
  data = await tinyData();
});
afterAll(() => data[Symbol.asyncDispose]());

const settings = { batchSize: 32, unit: 'row', seed: 1 } as const;

describe('stepFlops', () => {
  it('counts a step of EM3 by module', async () => {
    using model = tinyEm3(data, { sqdc: { weight: 0.1 } });
    const trained = new Map(model.parameters());
    const before = await bytesByName(trained);
    const cost = await stepFlops(model, data, settings);
    expect(await bytesByName(trained)).toEqual(before);
    expect(cost.rows).toBe(32);
    const names = cost.modules.map(({ module }) => module);
    for (const name of ['content.text', 'content.image', 'content.query', 'content.fusion'])
      expect(names).toContain(name);
    const parameters = cost.modules.reduce((sum, row) => sum + row.parameters, 0);
    expect(parameters).toBe([...trained.values()].reduce((sum, x) => sum + x.size, 0));
    const image = cost.modules.find(({ module }) => module === 'content.image')!;
    // One block of width 6 over 4 patches and its feed-forward of 8, and the patches themselves: 768 numbers to 6 each.
    const perItem = 2 * 4 * (768 * 6 + 4 * 36 + 2 * 6 * 8) + 4 * 16 * 6;
    expect(image.forward).toBe(cost.items * perItem);
    expect(cost.backward).toBeGreaterThan(1.5 * cost.forward);
  });

  it('costs less where the encoder gets no gradient, and least without content', async () => {
    const total = async (training: 'end_to_end' | 'frozen' | 'id_only') => {
      using model = tinyEm3(data, { training });
      const { forward, backward } = await stepFlops(model, data, settings);
      return forward + backward;
    };
    const [live, frozen, ids] = [await total('end_to_end'), await total('frozen'), await total('id_only')];
    expect(live).toBeGreaterThan(frozen);
    expect(frozen).toBeGreaterThan(ids);
    expect(ids).toBeGreaterThan(0);
  });

  it('counts less of the encoder of LEMUR where the bank has the items', async () => {
    const encoder = async (p: number) => {
      using model = tinyLemur(data, sampled(p));
      const { modules } = await stepFlops(model, data, settings);
      const rows = modules.filter(({ module }) => module.startsWith('content.document'));
      return rows.reduce((sum, row) => sum + row.forward + row.backward, 0);
    };
    const [all, some] = [await encoder(100), await encoder(20)];
    expect(some).toBeGreaterThan(0);
    expect(some).toBeLessThan(0.6 * all);
  });

  it('counts the same step the same', async () => {
    const count = async () => {
      using model = tinyEm3(data);
      return await stepFlops(model, data, settings);
    };
    expect(await count()).toEqual(await count());
  });
});
