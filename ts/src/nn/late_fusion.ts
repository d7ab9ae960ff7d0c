import { concat } from '../ops/concat.js';
import { add } from '../ops/elementwise.js';
import { gatherRows } from '../ops/gather_rows.js';
import type { Tensor } from '../tensor.js';
import { Linear } from './linear.js';
import { type Initializer, Module } from './module.js';

/** Vectors (n, width) of one modality, and (n) 1 where an item has it. */
export interface ModalityVectors {
  readonly vectors: Tensor;
  readonly present: Uint8Array;
}

/** A sum of linear layers, one per modality; a learned vector stands for a missing one. */
export class LateFusion extends Module {
  readonly project: Map<string, Linear>;
  /** (1, out) per modality. */
  readonly absent: Map<string, Tensor>;

  constructor(init: Initializer, { widths, out }: { widths: Readonly<Record<string, number>>; out: number }) {
    super();
    const names = Object.keys(widths);
    this.project = new Map(names.map((name) => [name, new Linear(init.at(`project.${name}`), widths[name]!, out)]));
    const std = 1 / Math.sqrt(out);
    this.absent = new Map(names.map((name) => [name, init.normal(`absent.${name}`, [1, out], std)]));
  }

  /** (n, out). */
  forward(modalities: Readonly<Record<string, ModalityVectors>>): Tensor {
    const parts = [...this.project].map(([name, linear]) => {
      const { vectors, present } = modalities[name]!;
      const rows = Int32Array.from(present, (there, i) => (there ? i : present.length));
      return gatherRows(concat([linear.forward(vectors), this.absent.get(name)!], { axis: 0 }), this.place(rows));
    });
    return parts.reduce((sum, part) => add(sum, part));
  }
}
