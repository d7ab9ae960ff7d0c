// npm run test:sanitize -- [--device cuda-emu] [test files]: builds the addon and the CUDA emulator with address and undefined-behaviour
// sanitizers into build-sanitize/ and runs the tests of the engine and of the ops with them; with a device, only the ops there.
// Any report ends the process that caused it, so its test fails.
import { execFileSync, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const run = (command, words, env = {}) => {
  const { status } = spawnSync(command, words, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) process.exit(status ?? 1);
};
const words = process.argv.slice(2);
const device = words[0] === '--device' ? words[1] : 'cpu';
const files = words.slice(device === 'cpu' ? 0 : 2);
if (device !== 'cpu' && device !== 'cuda-emu') throw new Error(`test:sanitize: expected --device cuda-emu but received ${device}`);
run('cmake', ['--preset', 'sanitize']);
run('cmake', ['--build', '--preset', 'sanitize', '--parallel', '2', '--target', 'galago', 'galago_cuda_emu']);

// Node itself is not instrumented, so the runtime has to be there before it starts. V8 keeps memory until the end on purpose: no
// leak report; the tests count live bytes themselves. aligned_alloc of more than there is must return null, as without the sanitizer.
const compiler = process.env.CXX ?? 'c++';
const libraries = ['libasan.so', 'libubsan.so'].map((name) =>
  execFileSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
);
const standard = device === 'cpu' ? ['ts/test/engine', 'ts/test/native', 'ts/test/ops', 'ts/test/autograd.test.ts'] : ['ts/test/ops'];
const tests = files.length > 0 ? files : standard;
run(process.execPath, [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--testTimeout=600000', ...tests], {
  ...(device === 'cpu' ? {} : { GALAGO_TEST_DEVICE: device }),
  GALAGO_BUILD: 'build-sanitize',
  LD_PRELOAD: libraries.join(' '),
  ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1:abort_on_error=1',
  UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
});
