import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { addon } from '../../src/native.js';
import { embedding } from '../../src/ops/embedding.js';
import { embeddingBag } from '../../src/ops/embedding_bag.js';
import { type Algorithm, Optimizer, type ParameterGroup } from '../../src/optim/optimizer.js';
import { normals } from '../../src/random.js';
import { RowSparseGrad } from '../../src/row_sparse_grad.js';
import { assign, device, type HostArray, Tensor, tensor } from '../../src/tensor.js';
import { keep, tidy } from '../../src/tidy.js';
import { expectClose } from '../harness.js';

interface Golden {
  adamw: {
    clip: number | null;
    shapes: number[][];
    start: number[][];
    grads: number[][][];
    norms: number[];
    after: number[][][];
  }[];
  sparseAdam: { shape: number[]; start: number[]; indices: number[][]; values: number[][]; after: number[][] };
}

const golden = JSON.parse(readFileSync(new URL('../golden/optimizer.json', import.meta.url), 'utf8')) as Golden;
const likeGolden = { beta1: 0.8, beta2: 0.99, eps: 1e-6, learningRate: 0.02 };

/** Group with one table. */
function tableGroup(table: Tensor, algorithm: Algorithm, options: Partial<ParameterGroup> = {}): ParameterGroup {
  return { name: 'sparse', params: new Map([['table', table]]), algorithm, learningRate: 0.02, ...options };
}

function setRows(table: Tensor, indices: ArrayLike<number>, values: Float64Array | Float32Array): void {
  const D = table.shape[1]!;
  table.grad = new RowSparseGrad(table.shape, [
    {
      indices: keep(tensor(Int32Array.from(indices))),
      values: keep(tensor(values, [values.length / D, D])),
      source: null,
      weights: null,
    },
  ]);
}

async function bytes(tensors: Iterable<Tensor>): Promise<string> {
  const parts: string[] = [];
  for (const x of tensors) {
    const data = await x.data();
    parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex'));
  }
  return parts.join('|');
}

beforeAll(() => addon.testPoison(true));
afterAll(() => addon.testPoison(false));

describe('AdamW against PyTorch', () => {
  it.each(golden.adamw.map((run) => [run.clip, run] as const))('clip %s, ten steps', async (clip, run) => {
    const params = run.start.map((values, i) => parameter(tensor(Float64Array.from(values), run.shapes[i]!)));
    const named = new Map(params.map((param, i) => [`p${i}`, param]));
    using optimizer = new Optimizer(
      [{ name: 'dense', params: named, algorithm: 'adamw', weightDecay: 0.1, ...likeGolden }],
      clip === null ? {} : { clipNorm: clip },
    );
    for (let step = 0; step < 10; step++) {
      params.forEach((param, i) => {
        param.grad = keep(tensor(Float64Array.from(run.grads[step]![i]!), param.shape));
      });
      optimizer.step();
      optimizer.zeroGrad();
      if (clip !== null) expect(await optimizer.gradNorm.item()).toBeCloseTo(run.norms[step]!, 12);
      for (const [i, param] of params.entries())
        expectClose((await param.data()) as Float64Array, run.after[step]![i]!, 1e-12, `p${i} after step ${step + 1}`);
    }
    expect(await optimizer.skippedSteps()).toBe(0);
    for (const param of params) param.dispose();
  });
});

describe('row-sparse algorithms', () => {
  it('lazy_adam against SparseAdam of PyTorch, ten steps with repeats', async () => {
    const { shape, start, indices, values, after } = golden.sparseAdam;
    const table = parameter(tensor(Float64Array.from(start), shape));
    using optimizer = new Optimizer([tableGroup(table, 'lazy_adam', likeGolden)]);
    for (let step = 0; step < 10; step++) {
      setRows(table, indices[step]!, Float64Array.from(values[step]!));
      optimizer.step();
      optimizer.zeroGrad();
      expectClose((await table.data()) as Float64Array, after[step]!, 1e-12, `table after step ${step + 1}`);
    }
    table.dispose();
  });

  const V = 9;
  const D = 5;
  /** The definition, row by row: m per element, v per row. */
  function reference(algorithm: Algorithm, steps: readonly (readonly [number[], Float64Array])[], decay: number) {
    const table = normals(V * D, 1, 1);
    const m = new Float64Array(V * D);
    const v = new Float64Array(V);
    steps.forEach(([indices, values], step) => {
      const grad = new Float64Array(V * D);
      indices.forEach((row, i) => {
        for (let d = 0; row >= 0 && d < D; d++) grad[row * D + d] = grad[row * D + d]! + values[i * D + d]!;
      });
      for (const row of new Set(indices.filter((index) => index >= 0))) {
        const g = grad.subarray(row * D, (row + 1) * D);
        const square = g.reduce((sum, x) => sum + x * x, 0) / D;
        v[row] = algorithm === 'rowwise_adam' ? 0.999 * v[row]! + 0.001 * square : v[row]! + square;
        for (let d = 0; d < D; d++) {
          const k = row * D + d;
          m[k] = 0.9 * m[k]! + 0.1 * g[d]!;
          const update =
            algorithm === 'rowwise_adam'
              ? m[k]! / (1 - 0.9 ** (step + 1)) / (Math.sqrt(v[row]! / (1 - 0.999 ** (step + 1))) + 1e-8)
              : g[d]! / (Math.sqrt(v[row]!) + 1e-8);
          table[k] = table[k]! * (1 - 0.02 * decay) - 0.02 * update;
        }
      }
    });
    return { table, v };
  }

  it.each(['rowwise_adam', 'rowwise_adagrad'] as const)('%s against its definition', async (algorithm) => {
    const steps = [[3, 3, -1, 0, 8, 3], [], [0], [-1, -2], [5, 5, 5, 5]].map(
      (indices, i) => [indices, normals(indices.length * D, 2, i)] as const,
    );
    const expected = reference(algorithm, steps, 0.3);
    for (const dtype of ['float64', 'float32'] as const) {
      const start = normals(V * D, 1, 1);
      const cast = (x: Float64Array) => (dtype === 'float64' ? x : Float32Array.from(x));
      const table = parameter(tensor(cast(start), [V, D]));
      using optimizer = new Optimizer([tableGroup(table, algorithm, { weightDecay: 0.3 })]);
      for (const [indices, values] of steps) {
        setRows(table, indices, cast(values));
        optimizer.step();
        optimizer.zeroGrad();
      }
      const tolerance = dtype === 'float64' ? 1e-13 : 1e-6;
      expectClose((await table.data()) as Float64Array, expected.table, tolerance, `${dtype} table`);
      expectClose(
        (await optimizer.state().get('table.v')!.data()) as Float64Array,
        expected.v,
        tolerance,
        `${dtype} v`,
      );
      table.dispose();
    }
  });

  it('F27: a run of 100,000 equal indices is exact, and equal bits come from one thread', async () => {
    const n = 100_000;
    const run = async () => {
      const table = parameter(tensor(new Float32Array(12), [4, 3]));
      using optimizer = new Optimizer([tableGroup(table, 'rowwise_adagrad', { learningRate: 1 })]);
      setRows(
        table,
        new Int32Array(n).fill(2),
        Float32Array.from({ length: 3 * n }, (_, i) => 1 + (i % 3)),
      );
      optimizer.step();
      optimizer.zeroGrad();
      expect(await optimizer.gradNorm.item()).toBeCloseTo(n * Math.sqrt(14), 3);
      const values = (await table.data()) as Float32Array;
      table.dispose();
      return values;
    };
    const values = await run();
    const root = Math.sqrt(14 / 3);
    expectClose(values, [0, 0, 0, 0, 0, 0, -1 / root, -2 / root, -3 / root, 0, 0, 0], 1e-6, 'table');
    const { threads } = addon.info();
    addon.setThreads(1);
    const again = await run().finally(() => addon.setThreads(threads));
    expect(again).toEqual(values);
  });

  it('pieces of embedding and embeddingBag meet: equal to their dense sum', async () => {
    const table = parameter(tensor(normals(6 * 4, 1, 1), [6, 4]));
    using optimizer = new Optimizer([tableGroup(table, 'rowwise_adagrad', { learningRate: 0.5 })]);
    const before = Float64Array.from((await table.data()) as Float64Array);
    const dout = normals(3 * 4, 1, 2);
    const dbag = normals(2 * 4, 1, 3);
    tidy(() => {
      backward(embedding(table, tensor(Int32Array.of(4, -1, 4))), tensor(dout, [3, 4]));
      const offsets = tensor(Int32Array.of(0, 2, 3));
      const weights = tensor(Float64Array.of(2, 3, 5));
      backward(embeddingBag(table, tensor(Int32Array.of(4, 1, 1)), { offsets, weights }), tensor(dbag, [2, 4]));
    });
    optimizer.step();
    optimizer.zeroGrad();
    const after = (await table.data()) as Float64Array;
    const rows = {
      1: Array.from({ length: 4 }, (_, d) => 3 * dbag[d]! + 5 * dbag[4 + d]!),
      4: Array.from({ length: 4 }, (_, d) => dout[d]! + dout[8 + d]! + 2 * dbag[d]!),
    };
    const expected = before.slice();
    for (const [row, grad] of Object.entries(rows)) {
      const root = Math.sqrt(grad.reduce((sum, x) => sum + x * x, 0) / 4);
      grad.forEach((x, d) => {
        const k = Number(row) * 4 + d;
        expected[k] = expected[k]! - (0.5 * x) / (root + 1e-8);
      });
    }
    expectClose(after, expected, 1e-13, 'table');
    table.dispose();
  });
});

/** A dense and a sparse parameter per algorithm, with gradients from counters. */
function mixed(order: 'forward' | 'reverse' = 'forward') {
  const dense: [string, Tensor][] = [
    ['a', parameter(tensor(Float32Array.from(normals(40_000, 1, 1)), [200, 200]))],
    ['b', parameter(tensor(Float32Array.from(normals(17, 1, 2))))],
    ['c', parameter(tensor(Float32Array.from(normals(30_001, 1, 3))))],
  ];
  const algorithms = ['rowwise_adam', 'rowwise_adagrad', 'lazy_adam'] as const;
  const tables = algorithms.map((name, i) => parameter(tensor(Float32Array.from(normals(50 * 7, 1, 4 + i)), [50, 7])));
  if (order === 'reverse') dense.reverse();
  const groups: ParameterGroup[] = [
    { name: 'dense', params: new Map(dense), algorithm: 'adamw', learningRate: 0.01, weightDecay: 0.1 },
    ...algorithms.map((algorithm, i) => ({
      name: algorithm,
      params: new Map([[algorithm, tables[i]!]]),
      algorithm,
      learningRate: 0.1,
    })),
  ];
  if (order === 'reverse') groups.reverse();
  const optimizer = new Optimizer(groups, { clipNorm: 1 });
  const params = new Map([...dense, ...algorithms.map((name, i) => [name, tables[i]!] as const)]);
  const names = [...params.keys()].sort();
  const ordered = names.map((name) => params.get(name)!);
  return {
    optimizer,
    params,
    step(k: number, spoil?: string) {
      for (const [name, param] of params) {
        const seed = 10 + names.indexOf(name);
        const table = algorithms.findIndex((algorithm) => algorithm === name) >= 0;
        const values = Float32Array.from(normals(table ? 20 * 7 : param.size, seed, k));
        if (name === spoil) values[values.length - 1] = k % 2 ? Number.NaN : Number.POSITIVE_INFINITY;
        if (table)
          setRows(
            param,
            Array.from({ length: 20 }, (_, i) => (i * i * k + seed) % 50),
            values,
          );
        else param.grad = keep(tensor(values, param.shape));
      }
      optimizer.step({ learningRateFactor: 1 / k });
      optimizer.zeroGrad();
    },
    digest: () => bytes([...ordered, ...new Map([...optimizer.state()].sort()).values()]),
    weights: () => bytes(ordered),
    dispose() {
      optimizer.dispose();
      for (const param of params.values()) param.dispose();
    },
  };
}

describe('warm-up', () => {
  it('is a learning rate that grows linearly, of its group alone', async () => {
    const train = async (warmupSteps: number, factors: readonly number[]): Promise<Float32Array> => {
      const param = keep(tensor(Float32Array.of(1, -2, 3)));
      param.requiresGrad = true;
      const group = { name: 'a', params: new Map([['a', param]]), algorithm: 'adamw', learningRate: 0.1 } as const;
      const optimizer = new Optimizer([{ ...group, warmupSteps }]);
      for (const [i, learningRateFactor] of factors.entries()) {
        param.grad = keep(tensor(Float32Array.of(0.5, i, -1)));
        optimizer.step({ learningRateFactor, step: i + 1 });
        optimizer.zeroGrad();
      }
      const values = (await param.data()) as Float32Array;
      optimizer.dispose();
      param.dispose();
      return values;
    };
    expect(await train(4, [1, 1, 1, 1, 1, 0.5])).toEqual(await train(0, [0.25, 0.5, 0.75, 1, 1, 0.5]));
    expect(await train(4, [1])).not.toEqual(await train(0, [1]));
  });
});

describe('steps', () => {
  it('F26: a loss that is not finite leaves every byte unchanged, a finite one changes nothing', async () => {
    for (const [loss, skips] of [
      [Number.NaN, 1],
      [Number.POSITIVE_INFINITY, 1],
      [2.5, 0],
    ] as const) {
      const param = keep(tensor(Float32Array.of(1, -2, 3)));
      const plain = keep(tensor(Float32Array.of(1, -2, 3)));
      const make = (of: Tensor): Optimizer =>
        new Optimizer([{ name: 'a', params: new Map([['a', of]]), algorithm: 'adamw', learningRate: 0.1 }]);
      const [optimizer, other] = [make(param), make(plain)];
      const before = await bytes([param]);
      for (const of of [param, plain]) of.grad = keep(tensor(Float32Array.of(0.5, 2, -1)));
      optimizer.step({ loss: tensor(Float32Array.of(loss), []) });
      other.step();
      expect(await optimizer.skippedSteps()).toBe(skips);
      expect(await bytes([param])).toEqual(skips === 1 ? before : await bytes([plain]));
      for (const x of [optimizer, other, param, plain]) x.dispose();
    }
  });

  it.each(['a', 'b', 'c', 'rowwise_adam', 'rowwise_adagrad', 'lazy_adam'])(
    'F26: a gradient of %s that is not finite leaves every byte unchanged',
    async (name) => {
      const run = mixed();
      const clean = mixed();
      run.step(1);
      clean.step(1);
      const before = await run.weights();
      const stateBefore = await bytes(
        [...run.optimizer.state()].filter(([key]) => key !== 'skipped_steps').map(([, x]) => x),
      );
      run.step(2, name);
      run.step(3, name);
      expect(await run.weights()).toBe(before);
      expect(await bytes([...run.optimizer.state()].filter(([key]) => key !== 'skipped_steps').map(([, x]) => x))).toBe(
        stateBefore,
      );
      expect(await run.optimizer.skippedSteps()).toBe(2);
      expect(Number.isFinite(await run.optimizer.gradNorm.item())).toBe(false);
      expect(await run.optimizer.clipFactor.item()).toBeNaN();
      run.step(4);
      clean.step(4);
      expect(await run.weights()).toBe(await clean.weights());
      run.dispose();
      clean.dispose();
    },
  );

  it('the order of groups and parameters changes no bit', async () => {
    const forward = mixed('forward');
    const reverse = mixed('reverse');
    for (let k = 1; k <= 3; k++) {
      forward.step(k);
      reverse.step(k);
    }
    expect(await reverse.digest()).toBe(await forward.digest());
    expect(await reverse.optimizer.gradNorm.item()).toBe(await forward.optimizer.gradNorm.item());
    forward.dispose();
    reverse.dispose();
  });

  it('F27: a resumed optimizer continues with the same bytes', async () => {
    const whole = mixed();
    for (let k = 1; k <= 4; k++) whole.step(k);
    const first = mixed();
    first.step(1);
    first.step(2);
    const state = new Map<string, HostArray>();
    for (const [name, x] of first.optimizer.state()) state.set(name, await x.data());
    const second = mixed();
    for (const [name, param] of second.params) assign(param, await first.params.get(name)!.data());
    second.optimizer.load(state);
    second.step(3);
    second.step(4);
    expect(await second.digest()).toBe(await whole.digest());

    expect(() => second.optimizer.load(new Map([...state].slice(1)))).toThrow(/a\.m is missing/);
    expect(() => second.optimizer.load(new Map([...state, ['z.m', new Float32Array(1)]]))).toThrow(/z\.m is unknown/);
    expect(() => second.optimizer.load(new Map([...state, ['b.v', new Float32Array(1)]]))).toThrow(
      /b\.v has 1 values, expected 17/,
    );
    for (const run of [whole, first, second]) run.dispose();
  });

  it('leaves parameters without a gradient alone, counts steps by parameter, and holds no memory', async () => {
    await device('cpu').synchronize();
    const live = device('cpu').memory().live;
    const run = mixed();
    run.step(1);
    await device('cpu').synchronize();
    const held = device('cpu').memory().live;
    const before = await run.digest();
    run.optimizer.step();
    expect(await run.digest()).toBe(before);
    expect(await run.optimizer.gradNorm.item()).toBe(0);
    run.params.get('b')!.grad = keep(tensor(new Float32Array(17).fill(1)));
    run.optimizer.step();
    run.optimizer.zeroGrad();
    expect(await run.optimizer.state().get('b.step')!.item()).toBe(2);
    expect(await run.optimizer.state().get('a.step')!.item()).toBe(1);
    await device('cpu').synchronize();
    expect(device('cpu').memory().live).toBe(held);
    run.dispose();
    await device('cpu').synchronize();
    expect(device('cpu').memory().live).toBe(live);
  });
});

describe('refusals', () => {
  const table = () => parameter(tensor(new Float32Array(6), [3, 2]));
  it.each<[string, () => unknown, RegExp]>([
    [
      'a vector as a table',
      () => new Optimizer([tableGroup(parameter(tensor([1, 2])), 'lazy_adam')]),
      /of shape \(V, D\)/,
    ],
    ['a bad rate', () => new Optimizer([tableGroup(table(), 'adamw', { learningRate: -1 })]), /learningRate of group/],
    [
      'a bad beta',
      () => new Optimizer([tableGroup(table(), 'adamw', { beta2: 1 })]),
      /beta2 of group 'sparse' to be in/,
    ],
    [
      'a bad eps',
      () => new Optimizer([tableGroup(table(), 'adamw', { eps: 0 })]),
      /eps of group 'sparse' to be above 0/,
    ],
    [
      'weight decay with lazy_adam',
      () => new Optimizer([tableGroup(table(), 'lazy_adam', { weightDecay: 0.1 })]),
      /weightDecay of group 'sparse' to be 0 for lazy_adam/,
    ],
    ['a bad clip', () => new Optimizer([tableGroup(table(), 'adamw')], { clipNorm: 0 }), /clipNorm to be above 0/],
    [
      'a parameter twice',
      () => new Optimizer([tableGroup(table(), 'adamw'), tableGroup(table(), 'adamw')]),
      /each parameter once but 'table' of group 'sparse' came before/,
    ],
    [
      'a row-sparse gradient for adamw',
      () => {
        const x = table();
        const optimizer = new Optimizer([tableGroup(x, 'adamw')]);
        setRows(x, [1], new Float32Array(2));
        optimizer.step();
      },
      /expected a dense gradient of 'table' for adamw/,
    ],
    [
      'a dense gradient for a table',
      () => {
        const x = table();
        const optimizer = new Optimizer([tableGroup(x, 'rowwise_adam')]);
        x.grad = tensor(new Float32Array(6), [3, 2]);
        optimizer.step();
      },
      /expected a row-sparse gradient of 'table' for rowwise_adam/,
    ],
  ])('%s', (_, run, says) => {
    expect(run).toThrow(says);
  });
});
