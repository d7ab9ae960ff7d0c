import { expect, it } from 'vitest';
import { backward, parameter } from '../../src/autograd.js';
import { bceWithLogits } from '../../src/ops/bce_with_logits.js';
import { embedding } from '../../src/ops/embedding.js';
import { embeddingBag } from '../../src/ops/embedding_bag.js';
import { linear } from '../../src/ops/linear.js';
import { reshape } from '../../src/ops/transpose.js';
import { Optimizer } from '../../src/optim/optimizer.js';
import { normals } from '../../src/random.js';
import { device, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';

const cpu = device('cpu');

/** A table by rows, a table by bags and two linear layers; the batch is new in every step. */
function createModel() {
  const width = 8;
  const random = (shape: number[], stream: number) =>
    parameter(tensor(Float32Array.from(normals(shape[0]! * (shape[1] ?? 1), 1, stream)), shape));
  const tables = new Map([
    ['items', random([100, width], 1)],
    ['tags', random([50, width], 2)],
  ]);
  const dense = new Map([
    ['w1', random([width, width], 3)],
    ['b1', random([width], 4)],
    ['w2', random([1, width], 5)],
  ]);
  const optimizer = new Optimizer(
    [
      { name: 'dense', params: dense, algorithm: 'adamw', learningRate: 1e-2 },
      { name: 'sparse', params: tables, algorithm: 'rowwise_adam', learningRate: 1e-2 },
    ],
    { clipNorm: 1 },
  );
  const step = (k: number, batch: number) =>
    tidy(() => {
      const items = tensor(Int32Array.from({ length: batch }, (_, i) => (i * 7 + k) % 100));
      const tags = tensor(Int32Array.from({ length: 2 * batch }, (_, i) => (i * 3 + k) % 50));
      const offsets = tensor(Int32Array.from({ length: batch + 1 }, (_, i) => 2 * i));
      const labels = tensor(Float32Array.from({ length: batch }, (_, i) => (i + k) % 2));
      for (const x of [embedding(tables.get('items')!, items), embeddingBag(tables.get('tags')!, tags, { offsets })]) {
        const hidden = linear(x, dense.get('w1')!, dense.get('b1')!, { activation: 'gelu' });
        backward(bceWithLogits(reshape(linear(hidden, dense.get('w2')!), [batch]), labels));
      }
      optimizer.step();
      optimizer.zeroGrad();
    });
  const dispose = () => {
    optimizer.dispose();
    for (const x of [...tables.values(), ...dense.values()]) x.dispose();
  };
  return { step, dispose, optimizer };
}

it('F45: 2,000 steps hold the same bytes to the byte, and take none from the system after the first ones', async () => {
  await cpu.synchronize();
  const before = cpu.memory();
  const model = createModel();
  for (let k = 0; k < 4; k++) {
    model.step(k, 16);
    await cpu.synchronize();
  }
  const { live, tensors } = cpu.memory();
  for (let k = 0; k < 2000; k++) {
    model.step(k, 16);
    if (k % 2 === 1) await cpu.synchronize();
    if (k % 200 === 199)
      expect({ ...cpu.memory(), reserved: 0, peak: 0, allocations: 0 }).toEqual({
        live,
        tensors,
        reserved: 0,
        peak: 0,
        allocations: 0,
      });
  }
  const warm = cpu.memory();
  for (let k = 0; k < 50; k++) {
    model.step(k, 16);
    await cpu.synchronize();
  }
  expect(cpu.memory().allocations).toBe(warm.allocations);
  expect(await model.optimizer.skippedSteps()).toBe(0);
  model.dispose();
  await cpu.synchronize();
  expect(cpu.memory().live).toBe(before.live);
  expect(cpu.memory().tensors).toBe(before.tensors);
});

it('F45: batches of changing size return to the same bytes', async () => {
  const model = createModel();
  model.step(0, 8);
  await cpu.synchronize();
  const { live } = cpu.memory();
  for (let k = 0; k < 60; k++) {
    model.step(k, 1 + ((k * 13) % 70));
    if (k % 2 === 1) {
      await cpu.synchronize();
      expect(cpu.memory().live).toBe(live);
    }
  }
  model.dispose();
  await cpu.synchronize();
});
