/** What the memory bank tells about its reads: hit rate, ages, cosines of fresh and held rows; by popularity too. */
import { ArgumentError } from '../errors.js';
import { alias, type Tensor } from '../tensor.js';
import { keep } from '../tidy.js';

/** Of the keys of one read. Ages in steps, of the rows found; NaN where none was. */
export interface AgeStats {
  readonly keys: number;
  readonly found: number;
  /** found / keys, NaN without keys. */
  readonly hitRate: number;
  readonly mean: number;
  readonly p50: number;
  readonly p99: number;
  /** The same by popularity decile, where deciles were given. */
  readonly deciles: readonly Omit<AgeStats, 'deciles'>[] | null;
}

/** Of the rows of one stage that the bank held already; NaN where there were none. */
export interface StalenessStats {
  readonly rows: number;
  /** Mean cosine of fresh and held rows. */
  readonly cosine: number;
  readonly deciles: readonly Omit<StalenessStats, 'deciles'>[] | null;
}

/** The entry below which a share q of the sorted values lies. */
function quantile(sorted: Float64Array, q: number): number {
  return sorted[Math.ceil(q * sorted.length) - 1] ?? Number.NaN;
}

function mean(values: Float64Array): number {
  return values.reduce((sum, x) => sum + x, 0) / values.length;
}

function agesOf(all: Float64Array): Omit<AgeStats, 'deciles'> {
  const found = all.filter((age) => age >= 0).sort();
  return {
    keys: all.length,
    found: found.length,
    hitRate: found.length / all.length,
    mean: mean(found),
    p50: quantile(found, 0.5),
    p99: quantile(found, 0.99),
  };
}

/** Ages of a read, kept on the device until someone asks; with cosines for a measured stage. */
export class AgeRecord implements Disposable {
  readonly #age: Tensor;
  readonly #cosine: Tensor | null;
  readonly #deciles: Uint8Array | null;

  constructor(age: Tensor, cosine: Tensor | null, deciles: Uint8Array | undefined) {
    if (deciles !== undefined && (deciles.length !== age.size || deciles.some((decile) => decile > 9)))
      throw new ArgumentError(
        `MemoryBank: expected deciles of 0 to 9 for ${age.size} keys but received ${deciles.length} values up to ${Math.max(0, ...deciles)}`,
        { op: 'MemoryBank', argument: 'deciles' },
      );
    // handles of its own: the caller's end with its scope
    this.#age = keep(alias(age));
    this.#cosine = cosine && keep(alias(cosine));
    this.#deciles = deciles ?? null;
  }

  async ages(): Promise<AgeStats> {
    const ages = Float64Array.from((await this.#age.data()) as Int32Array);
    return { ...agesOf(ages), deciles: this.#byDecile((of) => agesOf(ages.filter((_, i) => of(i)))) };
  }

  async staleness(): Promise<StalenessStats> {
    const ages = (await this.#age.data()) as Int32Array;
    const cosines = Float64Array.from((await this.#cosine!.data()) as Float32Array);
    const over = (of: (i: number) => boolean) => {
      const held = cosines.filter((_, i) => ages[i]! >= 0 && of(i));
      return { rows: held.length, cosine: mean(held) };
    };
    return { ...over(() => true), deciles: this.#byDecile(over) };
  }

  #byDecile<T>(statsOf: (of: (i: number) => boolean) => T): T[] | null {
    const deciles = this.#deciles;
    if (deciles === null) return null;
    return Array.from({ length: 10 }, (_, decile) => statsOf((i) => deciles[i] === decile));
  }

  dispose(): void {
    this.#age.dispose();
    this.#cosine?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
