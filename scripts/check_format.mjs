// npm run lint asks this too: native code is laid out as clang-format 14 does it. Other versions differ in details, so without
// exactly that one the check says that it was skipped.
import { execFileSync, spawnSync } from 'node:child_process';

const { status, stdout } = spawnSync('clang-format', ['--version'], { encoding: 'utf8' });
if (status !== 0 || !/version 14\./.test(stdout)) {
  console.log(`native format: skipped, clang-format 14 is not here (${status === 0 ? stdout.trim() : 'none found'})`);
  process.exit(0);
}
const files = execFileSync('git', ['ls-files', 'native/*.cpp', 'native/*.h'], { encoding: 'utf8' }).trim().split('\n');
process.exit(spawnSync('clang-format', ['--dry-run', '-Werror', ...files], { stdio: 'inherit' }).status ?? 1);
