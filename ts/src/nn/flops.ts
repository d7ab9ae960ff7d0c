/** What a computation costs: the floating point operations of the ops that it runs, by the module that they belong to. */

import { type Flops, withOpObserver } from '../autograd.js';
import type { Tensor } from '../tensor.js';
import type { Module } from './module.js';

export interface ModuleFlops {
  /** Path of the module, or '' for ops that no module has to do with. */
  readonly module: string;
  /** Trained and frozen numbers; tables of embeddings among them. */
  readonly parameters: number;
  /** Matrix and vector products: a multiplication and an addition are 2. */
  readonly forward: number;
  readonly backward: number;
  /** All other ops, forward and backward: one operation per element of what they return. */
  readonly elementwise: number;
}

interface Entry {
  readonly module: string;
  readonly flops: Flops | null;
  readonly elements: number;
  readonly gradientElements: number;
  ranBackward: boolean;
}

/** The first `depth` names of a parameter's path, without its own name: the module that holds it. */
function moduleOf(path: string, depth: number): string {
  return path.split('.').slice(0, -1).slice(0, depth).join('.');
}

/**
 * Runs `run`, which is synchronous (a forward pass, with its backward or not), and counts its ops. An op belongs to the module whose
 * parameters it reads; one that reads none belongs where its first attributed input comes from. Modules are told apart by the first
 * `depth` names of their paths. Optimizer and stored tables do no products and are not counted. The call waits for the device, because
 * the cost of attention over jagged rows depends on their offsets.
 */
export async function countFlops(
  model: Module,
  run: () => void,
  { depth = 2 }: { depth?: number } = {},
): Promise<ModuleFlops[]> {
  const owner = new WeakMap<Tensor, string>();
  const parameters = new Map<string, number>();
  for (const [path, x] of model.parameters()) {
    const module = moduleOf(path, depth);
    if (!owner.has(x)) parameters.set(module, (parameters.get(module) ?? 0) + x.size);
    owner.set(x, module);
  }
  const own = new Set<Tensor>(model.parameters().values());
  const entries: Entry[] = [];
  withOpObserver(({ inputs, out, needs, flops }) => {
    const read = inputs.find((x) => x !== null && own.has(x)) ?? inputs.find((x) => x !== null && owner.has(x));
    const module = read == null ? '' : owner.get(read)!;
    if (module !== '') owner.set(out, module);
    const gradientElements = inputs.reduce((sum, x, i) => sum + (needs[i] ? (own.has(x!) ? out.size : x!.size) : 0), 0);
    const entry: Entry = { module, flops, elements: out.size, gradientElements, ranBackward: false };
    entries.push(entry);
    return () => {
      entry.ranBackward = true;
    };
  }, run);
  const table = new Map<string, { forward: number; backward: number; elementwise: number }>();
  for (const module of parameters.keys()) table.set(module, { forward: 0, backward: 0, elementwise: 0 });
  for (const { module, flops, elements, gradientElements, ranBackward } of entries) {
    const row = table.get(module) ?? { forward: 0, backward: 0, elementwise: 0 };
    table.set(module, row);
    const [forward, backward] = await Promise.all([flops?.forward ?? 0, flops?.backward ?? 0]);
    row.forward += forward;
    if (ranBackward) row.backward += backward;
    if (flops === null) row.elementwise += elements + (ranBackward ? gradientElements : 0);
  }
  return [...table].map(([module, row]) => ({ module, parameters: parameters.get(module) ?? 0, ...row }));
}
