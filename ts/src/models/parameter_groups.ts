/** Which parameters share a learning rate. */
import { Embedding } from '../nn/embedding.js';
import { type Module, modulesOf } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { ParameterGroups } from './model.js';

/** Encoders are what a model keeps under `content`, but for low-rank updates; tables of id, token, position and type vectors have row-sparse gradients. */
export function parameterGroups(model: Module): ParameterGroups {
  const groups = {
    dense: new Map<string, Tensor>(),
    sparse: new Map<string, Tensor>(),
    encoder: new Map<string, Tensor>(),
    encoderSparse: new Map<string, Tensor>(),
    lora: new Map<string, Tensor>(),
  };
  const tables = new Set<Tensor>();
  for (const [, part] of modulesOf(model)) if (part instanceof Embedding) tables.add(part.table);
  for (const [name, x] of model.parameters()) {
    const content = name.startsWith('content.');
    if (/\.(update|lora((Query|Value|Project)[^.]*)?)(\.[^.]+)?\.(a|b)$/.test(name)) groups.lora.set(name, x);
    else if (tables.has(x)) groups[content ? 'encoderSparse' : 'sparse'].set(name, x);
    else groups[content ? 'encoder' : 'dense'].set(name, x);
  }
  return groups;
}
