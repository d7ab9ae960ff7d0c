/** Where the generated shop draws impressions from: launched items, by popularity. Definition: models.md, section 12. */

/** Items that may be drawn, ascending by id, with cumulative popularity. */
export class Pool {
  private readonly items: number[] = [];
  private cumulative: number[] = [];
  private stale = false;

  constructor(private readonly weights: Float64Array) {}

  add(item: number): void {
    this.items.push(item);
    this.stale = true;
  }

  /** The first item whose cumulative weight exceeds floor(u * total); -1 from an empty pool. */
  pick(u: number): number {
    if (this.stale) this.accumulate();
    const target = Math.floor(u * (this.cumulative.at(-1) ?? 0));
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.cumulative[middle]! > target) high = middle;
      else low = middle + 1;
    }
    return this.items[low] ?? -1;
  }

  private accumulate(): void {
    this.items.sort((a, b) => a - b);
    let total = 0;
    this.cumulative = this.items.map((item) => (total += this.weights[item]!));
    this.stale = false;
  }
}

/** Pools of one kind of item: one per category, and one over all of them. */
export class Pools {
  private readonly byCategory: Pool[];
  readonly all: Pool;

  constructor(categories: number, weights: Float64Array) {
    this.byCategory = Array.from({ length: categories }, () => new Pool(weights));
    this.all = new Pool(weights);
  }

  add(item: number, category: number): void {
    this.byCategory[category]!.add(item);
    this.all.add(item);
  }

  of(category: number): Pool {
    return this.byCategory[category]!;
  }
}
