/** Which parameters share a learning rate. */
import { Embedding } from '../nn/embedding.js';
import { Module } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { ParameterGroups } from './model.js';

/** Encoders are what a model keeps under `content`; tables of id, token, position and type vectors have row-sparse gradients. */
export function parameterGroups(model: Module): ParameterGroups {
  const groups = {
    dense: new Map<string, Tensor>(),
    sparse: new Map<string, Tensor>(),
    encoder: new Map<string, Tensor>(),
    encoderSparse: new Map<string, Tensor>(),
    lora: new Map<string, Tensor>(),
  };
  const tables = new Set(embeddingTables(model));
  for (const [name, x] of model.parameters()) {
    const content = name.startsWith('content.');
    if (/\.(update|lora(Query|Value|Project)[^.]*)(\.[^.]+)?\.(a|b)$/.test(name)) groups.lora.set(name, x);
    else if (tables.has(x)) groups[content ? 'encoderSparse' : 'sparse'].set(name, x);
    else groups[content ? 'encoder' : 'dense'].set(name, x);
  }
  return groups;
}

function* embeddingTables(module: Module): Generator<Tensor> {
  for (const value of Object.values(module) as unknown[]) yield* tablesOf(value);
}

function* tablesOf(value: unknown): Generator<Tensor> {
  if (value instanceof Embedding) yield value.table;
  else if (value instanceof Module) yield* embeddingTables(value);
  else if (Array.isArray(value)) for (const element of value) yield* tablesOf(element);
  else if (value instanceof Map) for (const element of value.values()) yield* tablesOf(element);
}
