import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, zeroGrad } from '../../src/autograd.js';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { normals, streamOf } from '../../src/random.js';
import { assign } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { denseGrad } from '../harness.js';
import { valuesOf } from '../values.js';
import { batches, fillTable, tinyData, tinyEm3 } from './tiny_em3.js';

const context = { training: true, step: 1, stage: 'ranker' } as const;
let data: Dataset;
let some: Batch[];
beforeAll(async () => {
  data = await tinyData();
  some = await batches(data, 2, 12);
});
afterAll(() => data[Symbol.asyncDispose]());

/** Histories of items that the batch does not encode: their vectors are values of the table, which have no gradient. */
function withOtherHistory(batch: Batch): Batch {
  const others = [...data.items.ids.keys()].filter((item) => !batch.items.rows.includes(item));
  const lengths = Array.from({ length: batch.size }, (_, b) => b % 4);
  const offsets = Int32Array.of(0, ...lengths.map((_, b) => lengths.slice(0, b + 1).reduce((sum, n) => sum + n, 0)));
  const values = Int32Array.from({ length: offsets.at(-1)! }, (_, t) => others[(7 * t) % others.length]!);
  return { ...batch, history: { values, offsets } };
}

describe('EM3 in float64 has the gradients of finite differences', () => {
  it.each([
    ['fm', 'none'],
    ['dnn', 'lora_block'],
    ['dcnv2', 'shared'],
    ['din', 'lora_cached'],
  ] as const)('%s, %s', async (ranker, mode) => {
    using model = tinyEm3(data, {
      ranker,
      dtype: 'float64',
      content: { lora: { mode } },
      sqdc: { weight: 0.5, scale: 5 },
      cic: { weight: 0.5, temperature: 0.5 },
      rankerOptions: { dropout: 0 },
    });
    await fillTable(model, data);
    for (const [name, x] of model.groups().lora)
      if (name.endsWith('.b'))
        assign(
          x,
          normals(x.size, 1, streamOf(name)).map((v) => v / 4),
        ); // else dA is 0
    const batch = withOtherHistory(some[1]!);
    const loss = async (): Promise<number> => {
      const value = tidy(() => model.graph(batch, context).loss);
      return value.item().finally(() => value.dispose());
    };
    const parameters = model.parameters();
    tidy(() => backward(model.graph(batch, context).loss));
    const modules = new Map<string, number>();
    for (const [name, x] of parameters) {
      const gradient = await denseGrad(x);
      const before = await valuesOf(x);
      // The largest entries: tables are mostly zero.
      const places = [...gradient.keys()].sort((i, j) => Math.abs(gradient[j]!) - Math.abs(gradient[i]!)).slice(0, 2);
      for (const i of places) {
        const at = (shift: number): Promise<number> => {
          assign(
            x,
            before.map((v, j) => (j === i ? v + shift : v)),
          );
          return loss();
        };
        const step = 1e-5;
        const numeric = ((await at(step)) - (await at(-step))) / (2 * step);
        expect(
          Math.abs(gradient[i]! - numeric) <= 1e-8 + 1e-4 * Math.abs(numeric),
          `d${name}[${i}]: ${gradient[i]} by the tape, ${numeric} by differences`,
        ).toBe(true);
        const module = name
          .split('.')
          .slice(0, name.startsWith('content.') ? 2 : 1)
          .join('.');
        modules.set(module, Math.max(modules.get(module) ?? 0, Math.abs(numeric)));
      }
      assign(x, before);
    }
    zeroGrad(parameters.values());
    const adapted = { none: [], shared: [], lora_cached: ['content.update'], lora_block: ['content.snapshot'] }[mode];
    const expected = [
      'features',
      'content.text',
      'content.image',
      'content.query',
      'content.fusion',
      'heads',
      'ranker',
    ];
    expect(new Set(modules.keys())).toEqual(new Set([...expected, ...adapted]));
    for (const [module, largest] of modules) expect([module, largest > 1e-7]).toEqual([module, true]);
  });
});
