/** Compiles the loader's worker from the sources as they are, so that tests need no build and never run an old one. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';

const SOURCE = resolve(dirname(fileURLToPath(import.meta.url)), '../../src');

/** Writes `data/loader_worker.js`, `data/loader.js` and what they import to a temporary folder. */
export function buildWorker(): { url: URL; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'galago-worker-'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
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
  compile(join(SOURCE, 'data/loader_worker.ts'));
  compile(join(SOURCE, 'data/loader.ts'));
  return {
    url: pathToFileURL(join(folder, 'data/loader_worker.js')),
    remove: () => rmSync(folder, { recursive: true }),
  };
}
