/** Small generated data in MMRec's format: users like items near them in a plane that the vectors show. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Dataset } from '../../src/data/dataset.js';
import { type LoadOptions, loadDataset } from '../../src/data/load_dataset.js';
import { encodeNpy } from '../../src/io/npy.js';
import { uniforms } from '../../src/random.js';

export interface TopKSizes {
  readonly users: number;
  readonly items: number;
  readonly events: number;
}

/**
 * Writes `<folder name>.inter`, `image_feat.npy` (6 wide) and `text_feat.npy` (4 wide). User u and item i sit at angles; a click is drawn
 * near the user. Of ten clicks of a user the eighth, counted from 0, is valid, the ninth test; pairs may come twice within train.
 */
export function writeTopKData(folder: string, { users, items, events }: TopKSizes): void {
  const angle = uniforms(users + items, 1, 1).map((u) => 2 * Math.PI * u);
  const near = (i: number): number[] => [Math.cos(angle[users + i]!), Math.sin(angle[users + i]!)];
  const noise = uniforms(items * 10, 1, 2);
  const vectors = (width: number, first: number): Uint8Array =>
    encodeNpy({
      dtype: 'float32',
      shape: [items, width],
      data: Float32Array.from({ length: items * width }, (_, at) => {
        const [i, d] = [Math.floor(at / width), at % width];
        return (near(i)[d] ?? 0) + 0.3 * (noise[i * 10 + first + d]! - 0.5);
      }),
    });
  const byDistance = Array.from({ length: users }, (_, u) =>
    Array.from({ length: items }, (_, i) => i).sort(
      (a, b) => Math.cos(angle[users + b]! - angle[u]!) - Math.cos(angle[users + a]! - angle[u]!) || a - b,
    ),
  );
  const draws = uniforms(events, 1, 3);
  const met = new Map<string, number>();
  const lines: string[] = [];
  for (let e = 0; e < events; e++) {
    const u = e % users;
    const item = byDistance[u]![Math.floor(items * draws[e]! ** 2.5)]!;
    const turn = Math.floor(e / users) % 10;
    const part = turn === 8 ? 1 : turn === 9 ? 2 : 0;
    const before = met.get(`${u} ${item}`);
    if (before !== undefined && (before !== 0 || part !== 0)) continue;
    met.set(`${u} ${item}`, part);
    lines.push(`${u}\t${item}\t5.0\t${e}\t${part}`);
  }
  const name = folder.split('/').at(-1)!;
  writeFileSync(join(folder, `${name}.inter`), `userID\titemID\trating\ttimestamp\tx_label\n${lines.join('\n')}\n`);
  writeFileSync(join(folder, 'image_feat.npy'), vectors(6, 0));
  writeFileSync(join(folder, 'text_feat.npy'), vectors(4, 6));
}

export async function topKData(folder: string, sizes: TopKSizes, options: LoadOptions = {}): Promise<Dataset> {
  writeTopKData(folder, sizes);
  return loadDataset(folder, { workers: 0, negatives: { kind: 'uniform', n: 1 }, vectorsInBatches: false, ...options });
}
