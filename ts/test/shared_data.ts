import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Path below `shared/data`, which lies beside the checkout (or a level up, for a worktree); null where it is absent. */
export function sharedData(...parts: string[]): string | null {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (let level = 0; level < 6; level++) {
    const path = join(directory, 'shared', 'data', ...parts);
    if (existsSync(path)) return path;
    directory = dirname(directory);
  }
  return null;
}
