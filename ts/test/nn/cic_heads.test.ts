import { expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { cic } from '../../src/losses/cic.js';
import { CicHeads } from '../../src/nn/cic_heads.js';
import { Initializer } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { assign, tensor } from '../../src/tensor.js';

it('CicHeads: two heads of their own; exchanging content and id with their heads leaves the loss as it is', async () => {
  const [content, id] = [tensor(normals(5 * 6, 1, 0), [5, 6]), tensor(normals(5 * 4, 2, 0), [5, 4])];
  using heads = new CicHeads(new Initializer(3, 'float64'), 6, 4, 8);
  using exchanged = new CicHeads(new Initializer(4, 'float64'), 4, 6, 8);
  for (const [to, from] of [
    [exchanged.content, heads.id],
    [exchanged.id, heads.content],
  ] as const) {
    assign(to.weight, await from.weight.data());
    assign(to.bias!, await from.bias!.data());
  }
  for (const mode of ['ctr', 'exact'] as const) {
    const there = heads.forward(content, id);
    const back = exchanged.forward(id, content);
    expect(there.content.shape).toEqual([5, 8]);
    const loss = cic(there.content, there.id, { mode, temperature: 0.1 });
    expect(await cic(back.content, back.id, { mode, temperature: 0.1 }).item()).toBeCloseTo(await loss.item(), 12);
    backward(loss);
  }
  expect([...heads.parameters().keys()]).toEqual(['content.weight', 'content.bias', 'id.weight', 'id.bias']);
  for (const x of heads.parameters().values()) expect(x.grad).not.toBeNull();
});
