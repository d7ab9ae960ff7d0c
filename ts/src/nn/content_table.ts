/**
 * The last encoded vector of every item, by item row: history content without running an encoder. It keeps the protocol of the
 * memory bank (models.md 5.1): stage, read with join, commit when the step is accepted, discard otherwise.
 */
import { detach, noGrad } from '../autograd.js';
import { cast } from '../ops/cast.js';
import { commitContentTable, readContentTable, type StagedRows } from '../ops/content_table.js';
import type { Tensor } from '../tensor.js';
import { type Initializer, Module } from './module.js';

export class ContentTable extends Module {
  /** (items, width). */
  readonly rows: Tensor;
  /** (items) int32: step of the last write, -1 = never. */
  readonly steps: Tensor;
  /** (1) int32: rows that were zero or not finite and therefore not written. */
  readonly refused: Tensor;
  #staged: StagedRows | null = null;

  constructor(
    init: Initializer,
    readonly items: number,
    readonly width: number,
    rows: Tensor = init.buffer('rows', [items, width], 0),
  ) {
    super();
    this.rows = rows;
    this.steps = init.integers('steps', [items], -1);
    this.refused = init.integers('refused', [1], 0);
  }

  /** Vectors (U, width) of `keys` (U, ascending item rows) encoded in this step; later reads of the step see them, the table does not yet. */
  stage(keys: Int32Array, vectors: Tensor): void {
    const wide = vectors.dtype === 'bfloat16' ? cast(vectors, 'float32') : vectors; // rows are float32
    this.#staged = { keys: this.place(keys), vectors: detach(wide) };
  }

  /** Rows (T, width) and ages (T) of `keys` (T), staged rows first. Age -1: never encoded, the row is zero. No gradient. */
  read(keys: Int32Array, now: number): { rows: Tensor; age: Tensor } {
    const { out, age } = noGrad(() =>
      readContentTable(this.rows, this.steps, this.place(keys), { staged: this.#staged, now }),
    );
    return { rows: out, age };
  }

  /** Makes the staged rows permanent, unless `factor` (1) is 0: then the step was skipped and leaves no trace. */
  commit(now: number, factor: Tensor | null = null): void {
    if (this.#staged !== null) commitContentTable(this.rows, this.steps, this.refused, this.#staged, { factor, now });
    this.#staged = null;
  }

  /** Forgets the staged rows. */
  discard(): void {
    this.#staged = null;
  }
}
