/** The ranking losses of one step. */
import { bceWithLogits } from '../ops/bce_with_logits.js';
import { add, scaleBy } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';

/**
 * Binary cross-entropy of each task's logits (B) with its labels (B) by name, the main task first. `loss`: the main one plus `weight`
 * times each other; `parts`: `bce`, and `bce.<name>` of the others. `names`: of all labels; `labels` is asked for those that have logits.
 */
export function taskLosses(
  taskLogits: readonly Tensor[],
  { names, labels, weight }: { names: readonly string[]; labels: (name: string) => Tensor; weight: number },
): { loss: Tensor; parts: Record<string, Tensor>; logits: Tensor } {
  const logits = taskLogits[0]!;
  const main = bceWithLogits(logits, labels(names[0]!));
  const parts: Record<string, Tensor> = { bce: main };
  let loss = main;
  taskLogits.slice(1).forEach((more, i) => {
    const name = names[i + 1]!;
    const part = bceWithLogits(more, labels(name));
    parts[`bce.${name}`] = part;
    loss = add(loss, scaleBy(part, weight));
  });
  return { loss, parts, logits };
}
