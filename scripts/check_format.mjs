// npm run lint asks this too: native code is laid out as clang-format 14 does it. Other versions differ in details, so without
// exactly that one the check says that it was skipped.
import { execFileSync, spawnSync } from 'node:child_process';

const versions = ['clang-format-14', 'clang-format'].map((name) => {
  const { status, stdout } = spawnSync(name, ['--version'], { encoding: 'utf8' });
  return { name, version: status === 0 ? stdout.trim() : null };
});
const found = versions.find(({ version }) => /version 14\./.test(version ?? ''));
if (found === undefined) {
  console.log(`native format: skipped, clang-format 14 is not here (${versions.at(-1).version ?? 'none found'})`);
  process.exit(0);
}
const files = execFileSync('git', ['ls-files', 'native/*.cpp', 'native/*.h'], { encoding: 'utf8' }).trim().split('\n');
process.exit(spawnSync(found.name, ['--dry-run', '-Werror', ...files], { stdio: 'inherit' }).status ?? 1);
