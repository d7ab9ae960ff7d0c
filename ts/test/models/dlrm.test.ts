import { describe, expect, it } from 'vitest';
import { Dlrm, defaultDlrm, dotInteractions, pairPlaces } from '../../src/models/dlrm.js';
import type { RankerOptions, RankerSpec } from '../../src/models/ranker.js';
import { Initializer, type Module } from '../../src/nn/module.js';
import { normals } from '../../src/random.js';
import { tensor } from '../../src/tensor.js';
import { valuesOf, worstDifference } from '../values.js';

const init = new Initializer(17, 'float64');
const count = (module: Module): number => [...module.parameters().values()].reduce((total, x) => total + x.size, 0);
const options: RankerOptions = { mlp: [6], dropout: 0, crossLayers: 1, attentionMlp: [4] };

describe('dotInteractions', () => {
  it.each([2, 5])('equals the double loop over %i fields', async (F) => {
    const [B, D] = [3, 4];
    const host = normals(B * F * D, 1, 1);
    const expected: number[] = [];
    for (let b = 0; b < B; b++)
      for (let i = 1; i < F; i++)
        for (let j = 0; j < i; j++) {
          let dot = 0;
          for (let d = 0; d < D; d++) dot += host[(b * F + i) * D + d]! * host[(b * F + j) * D + d]!;
          expected.push(dot);
        }
    const out = dotInteractions(tensor(host, [B, F, D]), tensor(pairPlaces(F)));
    expect(out.shape).toEqual([B, (F * (F - 1)) / 2]);
    expect(worstDifference(await valuesOf(out), expected)).toBeLessThan(1e-13);
  });
});

describe('Dlrm', () => {
  /** Criteo: 13 numbers, 26 id features of width 16. */
  const criteo: RankerSpec = {
    vectors: new Map([['numeric', 13], ...Array.from({ length: 26 }, (_, i) => [`c${i}`, 16] as const)]),
    histories: [],
    ids: new Map(Array.from({ length: 26 }, (_, i) => [`c${i}`, 10] as const)),
    floats: ['numeric'],
  };

  it('counts the dense parameters of the published run: 13-512-256-64-16 below, 367-512-256-1 above', () => {
    using ranker = new Dlrm(init, criteo, options);
    const bottom = 14 * 512 + 513 * 256 + 257 * 64 + 65 * 16;
    const top = (16 + (27 * 26) / 2 + 1) * 512 + 513 * 256 + 257;
    expect(count(ranker.bottom!)).toBe(bottom);
    expect(count(ranker.top)).toBe(top);
    expect(count(ranker)).toBe(475_985);
  });

  it('without products is an MLP over all fields', () => {
    using ranker = new Dlrm(init, criteo, { ...options, dlrm: { ...defaultDlrm, interaction: 'concat' } });
    expect(ranker.top.layers[0]!.inFeatures).toBe(16 + 26 * 16);
    expect(ranker.project.size).toBe(0);
  });

  it('projects fields of another width, and needs neither numbers nor ids', async () => {
    const vectors = new Map([
      ['content', 6],
      ['query', 4],
    ]);
    using ranker = new Dlrm(init, { vectors, histories: [], ids: new Map() }, options);
    expect([...ranker.project.keys()]).toEqual(['query']);
    expect(ranker.bottom).toBeNull();
    expect(ranker.top.layers[0]!.inFeatures).toBe(1);
    const inputs = new Map([...vectors].map(([name, w], i) => [name, tensor(normals(2 * w, 1, i), [2, w])]));
    const logits = ranker.forward({ vectors: inputs, histories: [], ids: new Map() }, { training: false });
    expect((await valuesOf(logits)).every(Number.isFinite)).toBe(true);
  });
});
