// node copy_packages.mjs <folder>: copies the packages that the compiled library and its tests need, with all that they depend on.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const target = process.argv[2];
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
/** What a package needs at run time only: no types, sources, maps, documentation, nor binaries for other machines. */
const unwanted = /(\.d\.[cm]?ts|\.map|\.md|\.flow)$|\/\.bin(\/|$)/;
const wanted = [...Object.keys(manifest.dependencies), '@vitest/expect', 'fast-check'];
const seen = new Set();
function copy(name, from) {
  // as Node looks for it: beside the package that asks, then further out
  let folder = from;
  while (!existsSync(join(folder, 'node_modules', name, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder);
  const source = join(folder, 'node_modules', name);
  if (!existsSync(source) || seen.has(source)) return;
  seen.add(source);
  const place = source.slice(source.indexOf('node_modules') + 'node_modules/'.length);
  const inside = (path) => path.slice(source.length);
  cpSync(source, join(target, place), {
    recursive: true,
    dereference: true,
    filter: (path) => !unwanted.test(inside(path)) && !inside(path).startsWith('/node_modules'),
  });
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8'));
  for (const next of [...Object.keys(dependencies), ...Object.keys(optionalDependencies)])
    if (!next.startsWith('@types/')) copy(next, source);
}
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
for (const name of wanted) copy(name, root);
// the stand-in for vitest
mkdirSync(join(target, 'vitest'));
cpSync(join(root, 'bench/gpu/vitest.mjs'), join(target, 'vitest/index.mjs'));
cpSync(join(root, 'bench/gpu/vitest.json'), join(target, 'vitest/package.json'));
