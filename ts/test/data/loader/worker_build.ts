/** Compiles entries of worker threads from the sources as they are, so that tests need no build and never run an old one. */

import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';

const SOURCE = resolve(dirname(fileURLToPath(import.meta.url)), '../../../src');

/** Writes `data/loader/loader_worker.js`, `data/loader/loader.js` (or others) and what they import to a temporary folder; `url` is the first of them. */
export function buildWorker(entries = ['data/loader/loader_worker.ts', 'data/loader/loader.ts']): {
  url: URL;
  remove(): void;
} {
  const folder = mkdtempSync(join(tmpdir(), 'galago-worker-'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  symlinkSync(realpathSync(join(SOURCE, '../../node_modules')), join(folder, 'node_modules'));
  const done = new Set<string>();
  const compile = (file: string): void => {
    if (done.has(file)) return;
    done.add(file);
    const { outputText } = ts.transpileModule(readFileSync(file, 'utf8'), {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022, verbatimModuleSyntax: true },
    });
    const out = join(folder, relative(SOURCE, file)).replace(/\.ts$/, '.js');
    mkdirSync(dirname(out), { recursive: true });
    writeFileSync(out, outputText);
    for (const [, path] of outputText.matchAll(/from '(\.[^']+)\.js'/g)) compile(resolve(dirname(file), `${path}.ts`));
  };
  for (const entry of entries) compile(join(SOURCE, entry));
  return {
    url: pathToFileURL(join(folder, entries[0]!.replace(/\.ts$/, '.js'))),
    remove: () => rmSync(folder, { recursive: true }),
  };
}
