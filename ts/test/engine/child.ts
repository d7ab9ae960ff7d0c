/** Runs scripts in processes of their own, on the sources as they are: for exits, lost devices and worker threads. */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');
const source = join(root, 'ts/src');

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly milliseconds: number;
}

export interface Engine {
  /** Runs `script`, an ES module, beside the compiled engine; `addon`, `tensor`, `device`, `full`, `relu`, `Worker` ... are imported; `variables` join the environment. */
  run(script: string, variables?: Readonly<Record<string, string>>): Promise<Ended>;
  remove(): void;
}

const preamble = `
import { isMainThread, parentPort, threadId, Worker, workerData } from 'node:worker_threads';
import { setTimeout as sleep } from 'node:timers/promises';
const self = new URL(import.meta.url);
const load = async () => ({
  ...(await import('./native.js')), ...(await import('./tensor.js')), ...(await import('./tidy.js')), ...(await import('./autograd.js')),
  ...(await import('./errors.js')), ...(await import('./ops/activation.js')), ...(await import('./ops/reduce.js')),
});
`;

/** The engine and its ops as JavaScript, in a folder of the build from where they find the addon. */
export function compileEngine(): Engine {
  mkdirSync(join(root, 'build'), { recursive: true });
  const folder = mkdtempSync(join(root, 'build', 'engine-test-'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  mkdirSync(join(folder, 'ops'));
  for (const part of ['.', 'ops'])
    for (const file of readdirSync(join(source, part)).filter((name) => name.endsWith('.ts'))) {
      const { outputText } = ts.transpileModule(readFileSync(join(source, part, file), 'utf8'), {
        compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022, verbatimModuleSyntax: true },
      });
      writeFileSync(join(folder, part, file.replace(/\.ts$/, '.js')), outputText);
    }
  let scripts = 0;
  return {
    run: (script, variables = {}) =>
      new Promise((done, fail) => {
        const file = join(folder, `script${scripts++}.js`);
        writeFileSync(file, preamble + script);
        const start = performance.now();
        const child = spawn(process.execPath, [file], { timeout: 60_000, env: { ...process.env, ...variables } });
        let [stdout, stderr] = ['', ''];
        child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
        child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
        child.on('error', fail);
        child.on('close', (code, signal) => {
          done({ code, signal, stdout: stdout.trim(), stderr, milliseconds: performance.now() - start });
        });
      }),
    remove: () => rmSync(folder, { recursive: true }),
  };
}
