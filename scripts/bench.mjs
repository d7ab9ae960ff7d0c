// npm run bench -- <name ...> | all [--threads=1] [--rounds=9] [--json]: runs bench/<name>.bench.ts. Without a name: what there is.
// npm run bench -- <name ...> --device=cuda: `galago bench` of these ops.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const available = readdirSync(join(root, 'bench'))
  .filter((file) => file.endsWith('.bench.ts'))
  .map((file) => file.slice(0, -'.bench.ts'.length));
const options = process.argv.slice(2).filter((word) => word.startsWith('--'));
const words = process.argv.slice(2).filter((word) => !word.startsWith('--'));
if (words.length === 0) {
  console.log('npm run bench -- <name ...> | all [--threads=n] [--rounds=n] [--json]\n');
  for (const name of available) {
    // a bench opens with a comment that says what it measures
    const text = readFileSync(join(root, 'bench', `${name}.bench.ts`), 'utf8');
    const comment = /^\/\*\*([\s\S]*?)\*\//.exec(text)?.[1] ?? '';
    const lines = comment.split('\n').map((line) => line.replace(/^\s*\*?\s?/, '').trim());
    const said = lines.filter((line) => line !== '' && !line.startsWith('Covers:'));
    console.log(`  ${name.padEnd(16)} ${said.join(`\n${' '.repeat(19)}`)}\n`);
  }
  process.exit(0);
}
if (options.some((option) => option.startsWith('--device='))) {
  const ops = words.filter((word) => word !== 'all').map((word) => word.replace(/_(\w)/g, (_, letter) => letter.toUpperCase()));
  const command = [join(root, 'dist/cli/main.js'), 'bench', ...ops, ...options];
  process.exit(spawnSync(process.execPath, command, { stdio: 'inherit' }).status ?? 1);
}
const names = words.includes('all') ? available : words;
for (const name of names) {
  if (!available.includes(name)) {
    console.error(`bench: no bench/${name}.bench.ts; there are ${available.join(', ')}`);
    process.exit(64);
  }
}
// TypeScript as it stands: vite-node comes with vitest
const viteNode = join(dirname(createRequire(import.meta.url).resolve('vite-node/package.json')), 'vite-node.mjs');
const config = ['--config', join(root, 'bench', 'vite.config.ts')];
for (const name of names) {
  const program = join(root, 'bench', `${name}.bench.ts`);
  const { status } = spawnSync(process.execPath, ['--expose-gc', viteNode, ...config, program, ...options], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
