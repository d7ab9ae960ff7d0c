// node run_tests.mjs [--parallel=n] <compiled test files>: runs each in a process of its own, as vitest would, with vitest.mjs in its place.
// The last line says `N passed, N failed, N skipped`; the exit status is 1 where something failed.
import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const words = process.argv.slice(2);
if (words[0] === '--one') {
  await import(pathToFileURL(resolve(words[1])).href);
  const { runAll } = await import('vitest');
  const counts = await runAll();
  console.log(JSON.stringify(counts));
  process.exit(counts.failed > 0 ? 1 : 0);
}
const parallel = Number(words.find((word) => word.startsWith('--parallel='))?.split('=')[1] ?? 1);
const files = words.filter((word) => !word.startsWith('--'));
const total = { passed: 0, failed: 0, skipped: 0 };

function runOne(file) {
  return new Promise((done) => {
    const begun = Date.now();
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), '--one', file], { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += chunk));
    child.on('close', (status, signal) => {
      const lines = text.trimEnd().split('\n');
      const name = file.replace(/.*\/test\//, '');
      const seconds = ((Date.now() - begun) / 1000).toFixed(1);
      let counts = { passed: 0, failed: 1, skipped: 0 };
      try {
        counts = JSON.parse(lines.at(-1));
        lines.pop();
      } catch {
        lines.push(`ended early: status ${status}, signal ${signal}`);
      }
      for (const key of Object.keys(total)) total[key] += counts[key];
      console.log(`${counts.failed > 0 ? 'FAIL' : 'ok  '} ${name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped, ${seconds} s`);
      if (counts.failed > 0) console.log(lines.slice(-60).map((line) => `    ${line}`).join('\n'));
      done();
    });
  });
}
const queue = [...files];
await Promise.all(Array.from({ length: parallel }, async () => {
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) await runOne(file);
}));
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
