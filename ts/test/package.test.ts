/** What is shipped: contents of the package, what the addon asks of a system, and what must never be in the checkout. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { sharedData } from './shared_data.js';

const checkout = fileURLToPath(new URL('../..', import.meta.url));
const run = (command: string, ...words: string[]): string =>
  execFileSync(command, words, {
    cwd: checkout,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
const found = (command: string): boolean => {
  try {
    run(command, '--version');
    return true;
  } catch {
    return false;
  }
};

const manifest = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>;
  dependencies: Record<string, string>;
};
const addon = join(checkout, process.env['GALAGO_BUILD'] ?? 'build', 'Release/galago.node');

describe('F48: the package', () => {
  it('runs nothing when it is installed', () => {
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare', 'prepublish'])
      expect(manifest.scripts, name).not.toHaveProperty(name);
    expect(existsSync(join(checkout, 'binding.gyp'))).toBe(false); // npm would compile it
  });

  it('has dependencies by version from the registry only', () => {
    for (const [name, range] of Object.entries(manifest.dependencies))
      expect(range, name).toMatch(/^\^?\d+\.\d+\.\d+$/);
    const lock = readFileSync(join(checkout, 'package-lock.json'), 'utf8');
    expect(lock).not.toMatch(/"resolved":|https?:\/\/[^"]*registry/);
    expect(lock).toContain('"integrity": "sha512-');
  });

  it('holds sources and the compiled library, no tests and no data', () => {
    const [{ files }] = JSON.parse(run('npm', 'pack', '--dry-run', '--json', '--ignore-scripts')) as [
      { files: { path: string }[] },
    ];
    const paths = files.map(({ path }) => path);
    expect(paths).toEqual(expect.arrayContaining(['CMakeLists.txt', 'LICENSE', 'native/kernels.inl', 'package.json']));
    const allowed =
      /^(dist|native|examples)\/|^(CMakeLists\.txt|CMakePresets\.json|LICENSE|README\.md|CHANGELOG\.md|package\.json)$/;
    expect(paths.filter((path) => !allowed.test(path))).toEqual([]);
    expect(paths.filter((path) => /test|golden/.test(path))).toEqual([]);
    if (existsSync(join(checkout, 'dist'))) expect(paths).toContain('dist/index.js');
  });
});

const elf =
  process.platform === 'linux' && found('readelf') && existsSync(addon) && process.env['GALAGO_BUILD'] === undefined;

describe.skipIf(!elf)('F48: the addon', () => {
  it('needs no newer system than glibc 2.34 with the C++ library of GCC 11', () => {
    const newest = { GLIBC: [2, 34, 0], GLIBCXX: [3, 4, 29] } as const;
    for (const [, library, version] of run('readelf', '-VW', addon).matchAll(/Name: (GLIBC|GLIBCXX)_([\d.]+)/g)) {
      const limit = newest[library as keyof typeof newest];
      const parts = version!.split('.').map(Number);
      const order = limit.map((most, i) => (parts[i] ?? 0) - most).find((difference) => difference !== 0) ?? 0;
      expect(order, `${library}_${version}`).toBeLessThanOrEqual(0);
    }
  });

  it('links to the C and C++ libraries only, and is never unloaded', () => {
    const dynamic = run('readelf', '-dW', addon);
    const needed = [...dynamic.matchAll(/\(NEEDED\).*\[(.*?)\]/g)].map(([, name]) => name!);
    const allowed = /^(libstdc\+\+|libm|libgcc_s|libc|libpthread|ld-linux-[\w-]+)\.so\.\d+$/;
    expect(needed.filter((name) => !allowed.test(name))).toEqual([]);
    expect(dynamic).toMatch(/NODELETE/);
    expect(dynamic).not.toMatch(/RUNPATH|RPATH/);
  });

  // On x64, where every float32 loop exists for three instruction sets; float64 and the bindings are compiled for size.
  it.skipIf(process.arch !== 'x64')('is at most 1 MiB', () => {
    expect(statSync(addon).size).toBeLessThanOrEqual(1_048_576);
  });
});

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

const shared = sharedData();

describe.skipIf(shared === null || !existsSync(join(checkout, '.git')))('data that are only lent', () => {
  it('are not in the checkout', () => {
    const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
    const tracked = run('git', 'ls-files', '-z')
      .split('\0')
      .filter((path) => path !== '' && existsSync(join(checkout, path)));
    const bySize = new Map<number, string[]>();
    for (const path of tracked) {
      const { size } = statSync(join(checkout, path));
      if (size > 0) bySize.set(size, [...(bySize.get(size) ?? []), path]);
    }
    const copies: string[] = [];
    for (const lent of filesUnder(shared!)) {
      const candidates = bySize.get(statSync(lent).size) ?? [];
      if (candidates.length === 0) continue;
      const value = digest(lent);
      copies.push(...candidates.filter((path) => digest(join(checkout, path)) === value));
    }
    expect(copies).toEqual([]);
  });
});
