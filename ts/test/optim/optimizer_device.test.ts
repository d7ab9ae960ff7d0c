/** The optimizer's kernels on other devices: near the CPU, equal bits for any grid and any order of parameters, skipped steps. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parameter } from '../../src/autograd.js';
import { addon } from '../../src/native.js';
import { type Algorithm, Optimizer, type ParameterGroup } from '../../src/optim/optimizer.js';
import { reduceRows } from '../../src/optim/row_sparse.js';
import { normals } from '../../src/random.js';
import { RowSparseGrad } from '../../src/row_sparse_grad.js';
import { type DeviceName, device, type HostArray, type Tensor, tensor } from '../../src/tensor.js';
import { keep, tidy } from '../../src/tidy.js';
import { expectClose } from '../harness.js';
import { testDevices } from '../test_devices.js';

const devices = testDevices.filter((name) => name !== 'cpu');

/** Packs of columns, single columns, and more than a warp reads at once. */
const tables: readonly [Algorithm, number, number][] = [
  ['rowwise_adam', 60, 8],
  ['rowwise_adagrad', 40, 7],
  ['lazy_adam', 30, 132],
];
/** More than one chunk, a chunk and one, less than a pack, nothing. */
const dense: readonly [string, number][] = [
  ['large', 40_003],
  ['chunk', 16_385],
  ['small', 3],
  ['empty', 0],
];

const floats = (count: number, seed: number, stream: number): Float32Array =>
  Float32Array.from(normals(count, seed, stream));

/** Lookups of a table as two pieces: rows in order, and bags with a source and a weight; one row takes most, some are padding. */
function gradientOf(name: DeviceName, V: number, D: number, k: number): RowSparseGrad {
  const on = { device: name };
  const rows = Int32Array.from({ length: 900 }, (_, i) =>
    i % 3 === 0 ? 7 : i % 50 === 1 ? -1 : (i * i * k) % (V + 2),
  );
  const bags = Int32Array.from({ length: 40 }, (_, i) => (i * k) % V);
  const source = Int32Array.from({ length: 40 }, (_, i) => (i % 8) - 1);
  return new RowSparseGrad(
    [V, D],
    [
      {
        indices: keep(tensor(rows, [900], on)),
        values: keep(tensor(floats(900 * D, k, V), [900, D], on)),
        source: null,
        weights: null,
      },
      {
        indices: keep(tensor(bags, [40], on)),
        values: keep(tensor(floats(7 * D, k, V + 1), [7, D], on)),
        source: keep(tensor(source, [40], on)),
        weights: keep(tensor(floats(40, k, V + 2), [40], on)),
      },
    ],
  );
}

interface Result {
  readonly values: Map<string, HostArray>;
  readonly norms: readonly number[];
  readonly skipped: number;
}

/** Parameters and state after three steps, the second one spoiled by a NaN if asked for. */
async function train(name: DeviceName, { reverse = false, spoil = false } = {}): Promise<Result> {
  const on = { device: name };
  const params = new Map<string, Tensor>();
  dense.forEach(([key, size], i) => params.set(key, parameter(tensor(floats(size, 1, i), [size], on))));
  tables.forEach(([key, V, D], i) => params.set(key, parameter(tensor(floats(V * D, 2, i), [V, D], on))));
  const pick = (keys: readonly string[]): Map<string, Tensor> =>
    new Map((reverse ? keys.toReversed() : keys).map((key) => [key, params.get(key)!]));
  const groups: ParameterGroup[] = [
    {
      name: 'dense',
      params: pick(dense.map(([key]) => key)),
      algorithm: 'adamw',
      learningRate: 0.01,
      weightDecay: 0.1,
    },
    ...tables.map(
      ([algorithm]): ParameterGroup => ({
        name: algorithm,
        params: pick([algorithm]),
        algorithm,
        learningRate: 0.05,
        weightDecay: algorithm === 'lazy_adam' ? 0 : 0.01,
      }),
    ),
  ];
  const optimizer = new Optimizer(reverse ? groups.toReversed() : groups, { clipNorm: 5 });
  const norms: number[] = [];
  for (let k = 1; k <= 3; k++) {
    for (const [i, [key, size]] of dense.entries()) {
      const values = floats(size, 10 + k, i);
      if (spoil && k === 2 && key === 'large') values[size - 1] = Number.NaN;
      params.get(key)!.grad = keep(tensor(values, [size], on));
    }
    for (const [key, V, D] of tables) params.get(key)!.grad = gradientOf(name, V, D, k);
    optimizer.step();
    optimizer.zeroGrad();
    norms.push(await optimizer.gradNorm.item());
  }
  const values = new Map<string, HostArray>();
  for (const [key, x] of [...params, ...optimizer.state()]) values.set(key, await x.data());
  const skipped = await optimizer.skippedSteps();
  optimizer.dispose();
  for (const param of params.values()) param.dispose();
  return { values, norms, skipped };
}

function expectSame(actual: Result, expected: Result, what: string): void {
  expect(actual.norms, `${what}: norms`).toEqual(expected.norms);
  for (const [key, values] of expected.values) expect(actual.values.get(key), `${what}: ${key}`).toEqual(values);
}

beforeAll(() => addon.testPoison(true));
afterAll(() => addon.testPoison(false));

describe.skipIf(devices.length === 0).each(devices.length === 0 ? (['cuda-emu'] as const) : devices)('%s', (name) => {
  it('three steps of every algorithm come near the CPU', async () => {
    const [actual, expected] = [await train(name), await train('cpu')];
    expectClose(actual.norms, expected.norms, 1e-6, 'norms');
    for (const [key, values] of expected.values)
      expectClose(actual.values.get(key) as Float32Array, values as Float32Array, 1e-5, key);
  });

  it('a grid of one or three blocks and the order of parameters change no bit, and no bytes stay behind', async () => {
    await device(name).synchronize();
    const { live } = device(name).memory();
    const first = await train(name);
    for (const blocks of [1, 3]) {
      addon.testGridLimit(blocks);
      expectSame(await train(name).finally(() => addon.testGridLimit(0)), first, `grid of ${blocks}`);
    }
    expectSame(await train(name, { reverse: true }), first, 'reversed');
    await device(name).synchronize();
    expect(device(name).memory().live).toBe(live);
  });

  it('a NaN skips one step whole', async () => {
    const actual = await train(name, { spoil: true });
    const expected = await train('cpu', { spoil: true });
    expect(actual.skipped).toBe(1);
    expect(actual.norms[1]).toBeNaN();
    expect(actual.values.get('small.step')).toEqual(Int32Array.of(2));
    expect(actual.values.get('rowwise_adam.step')).toEqual(Int32Array.of(2));
    for (const [key, values] of expected.values)
      expectClose(actual.values.get(key) as Float32Array, values as Float32Array, 1e-5, key);
  });

  it('touched rows are ascending, -1 behind their count', async () => {
    const { rows, sums, count } = tidy(() => {
      const table = tensor(new Float32Array(60 * 4), [60, 4], { device: name });
      const indices = Int32Array.from({ length: 1000 }, (_, i) => [5, 59, 0, -1, 60][i % 5]!);
      const values = Float32Array.from({ length: 4000 }, (_, i) => (i % 4) + 1);
      const piece = {
        indices: tensor(indices, [1000], { device: name }),
        values: tensor(values, [1000, 4], { device: name }),
        source: null,
        weights: null,
      };
      return reduceRows(table, new RowSparseGrad([60, 4], [piece]));
    });
    expect(await count.item()).toBe(3);
    expect([...((await rows.data()) as Int32Array)]).toEqual([0, 5, 59, ...Array.from({ length: 57 }, () => -1)]);
    expect([...((await sums.data()) as Float32Array).slice(0, 12)]).toEqual(
      [0, 1, 2].flatMap(() => [200, 400, 600, 800]),
    );
    for (const x of [rows, sums, count]) x.dispose();
  });
});
