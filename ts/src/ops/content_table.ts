/** Reading and writing a table of the last encoded vector per item. No gradient passes through it. */
import { native } from '../native.js';
import { shapes } from '../shape.js';
import { empty, type Tensor } from '../tensor.js';

const checkRead = shapes('readContentTable', {
  rows: 'V D:wide',
  steps: 'V:int32',
  keys: 'T:int32',
  stagedKeys: 'U:int32?',
  staged: 'U D:wide?',
});
const checkCommit = shapes('commitContentTable', {
  rows: 'V D:wide',
  steps: 'V:int32',
  refused: '1:int32',
  stagedKeys: 'U:int32',
  staged: 'U D:wide',
  factor: '1:float64?',
});

/** Rows written in this step: `keys` (U) int32 ascending item rows, `vectors` (U, D). */
export interface StagedRows {
  readonly keys: Tensor;
  readonly vectors: Tensor;
}

/**
 * Vectors of `keys` (T) int32: the staged one where there is one, else the table's, else zero. Returns `out` (T, D) and `age` (T)
 * int32: steps since the row was written, 0 if staged in this step, -1 if there is none. rows (V, D), steps (V) int32.
 */
export function readContentTable(
  rows: Tensor,
  steps: Tensor,
  keys: Tensor,
  { staged = null, now }: { staged?: StagedRows | null; now: number },
): { out: Tensor; age: Tensor } {
  const { T, D } = checkRead({ rows, steps, keys, stagedKeys: staged?.keys, staged: staged?.vectors });
  const out = empty([T, D], rows);
  const age = empty([T], steps);
  native.content_table_read(
    rows.handle,
    steps.handle,
    keys.handle,
    staged?.keys.handle ?? null,
    staged?.vectors.handle ?? null,
    out.handle,
    age.handle,
    now,
  );
  return { out, age };
}

/** Writes staged rows into `rows` and `now` into `steps`; nothing at all where `factor` (1) float64, the optimizer's clip factor, is NaN or 0. Zero or non-finite rows are refused and counted. */
export function commitContentTable(
  rows: Tensor,
  steps: Tensor,
  refused: Tensor,
  staged: StagedRows,
  { factor = null, now }: { factor?: Tensor | null; now: number },
): void {
  checkCommit({ rows, steps, refused, stagedKeys: staged.keys, staged: staged.vectors, factor });
  native.content_table_commit(
    rows.handle,
    steps.handle,
    refused.handle,
    staged.keys.handle,
    staged.vectors.handle,
    factor?.handle ?? null,
    now,
  );
}
