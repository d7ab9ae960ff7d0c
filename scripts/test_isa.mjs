// npm run test:isa -- [test files]: runs the tests of the ops with every smaller instruction set of this processor, one after the other.
// Without files, those of the kernels that have code of their own for each: matmul, linear and its family, attention, infoNce.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const ladder = ['portable', 'avx2', 'avx512'];
const environment = { ...process.env };
delete environment.GALAGO_CPU_ISA;
delete environment.GALAGO_TEST_REPORT;
const probe = "console.log(require('./build/Release/galago.node').info().isa)";
const best = spawnSync(process.execPath, ['-e', probe], { cwd: root, encoding: 'utf8', env: environment }).stdout.trim();
if (!ladder.includes(best)) {
  console.error('test:isa: the addon did not load; npm run build compiles it');
  process.exit(1);
}
const kernels = ['matmul', 'linear', 'lora_linear', 'patch_embedding', 'cross_attention', 'info_nce', 'softmax'];
const files = process.argv.length > 2 ? process.argv.slice(2) : kernels.map((name) => `ts/test/ops/${name}.test.ts`);
const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
for (const isa of ladder.slice(0, ladder.indexOf(best))) {
  console.log(`test:isa: ${isa} (this processor has ${best})`);
  const { status } = spawnSync(process.execPath, [vitest, 'run', ...files], {
    cwd: root,
    stdio: 'inherit',
    env: { ...environment, GALAGO_CPU_ISA: isa },
  });
  if (status !== 0) process.exit(status ?? 1);
}
