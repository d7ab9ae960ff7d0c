// npm run bench -- [name ...] [--threads=1] [--rounds=9]: runs bench/<name>.bench.ts, all of them without a name.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const available = readdirSync(join(root, 'bench'))
  .filter((file) => file.endsWith('.bench.ts'))
  .map((file) => file.slice(0, -'.bench.ts'.length));
const options = process.argv.slice(2).filter((word) => word.startsWith('--'));
const names = process.argv.slice(2).filter((word) => !word.startsWith('--'));
for (const name of names) {
  if (!available.includes(name)) {
    console.error(`bench: no bench/${name}.bench.ts; there are ${available.join(', ')}`);
    process.exit(64);
  }
}
// TypeScript as it stands: vite-node comes with vitest
const viteNode = join(dirname(createRequire(import.meta.url).resolve('vite-node/package.json')), 'vite-node.mjs');
for (const name of names.length > 0 ? names : available) {
  const { status } = spawnSync(process.execPath, [viteNode, join(root, 'bench', `${name}.bench.ts`), ...options], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
