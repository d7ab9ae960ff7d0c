/** What models read from a batch beside its features. */
import type { Batch } from '../data/loader/batch.js';
import { featuresOf, type Schema } from '../data/schema.js';
import { uniforms } from '../random.js';
import type { RankerSpec } from './ranker.js';

/**
 * A share of the rows with the unknown id (row 0) of a feature, drawn by (seed, step, row), so that the ranker learns to score from
 * content the items that no training row shows. The batch itself where there is nothing to draw.
 */
export function withoutSomeIds(
  batch: Batch,
  step: number,
  { feature, share, seed, stream }: { feature: string | null; share: number; seed: number; stream: number },
): Batch {
  const ids = feature === null ? undefined : batch.categorical[feature];
  if (share === 0 || feature === null || ids === undefined) return batch;
  const draws = uniforms(batch.size, seed, (stream + step) >>> 0);
  const kept = ids.map((row, b) => (draws[b]! < share ? 0 : row));
  return { ...batch, categorical: { ...batch.categorical, [feature]: kept } };
}

/** Names of the given vectors that a ranker with these inputs reads as they are. */
export function givenInputs(schema: Schema, { vectors }: RankerSpec): string[] {
  return featuresOf(schema, 'embedding').flatMap(({ name }) => (vectors.has(name) ? [name] : []));
}

/** (B, modalities) 1 where the item of a row has a text, a picture, or a given vector of that name, else 0. */
export function presence({ size, items }: Batch, modalities: readonly string[]): Float32Array {
  const { index, text, image, vectors } = items;
  const values = new Float32Array(size * modalities.length);
  index.forEach((item, b) => {
    modalities.forEach((modality, m) => {
      const given = vectors?.[modality];
      const there =
        given !== undefined
          ? given.present[item] === 1
          : modality === 'text'
            ? text !== null && text.offsets[item + 1]! > text.offsets[item]!
            : image?.present[item] === 1;
      values[b * modalities.length + m] = there ? 1 : 0;
    });
  });
  return values;
}
