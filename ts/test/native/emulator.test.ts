/** The CUDA emulator itself: right kernels pass and every planted fault is caught, in every order of threads. */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';

const checkout = fileURLToPath(new URL('../../..', import.meta.url));
const build = join(checkout, process.env['GALAGO_BUILD'] ?? 'build');
const program = join(build, 'Release/galago_emulator_test');
const sanitized = build.endsWith('sanitize');
const orders = ['forward', 'backward', 'shuffled'] as const;

/** What the device says of a planted fault. */
const faults: Record<string, RegExp> = {
  'write past the end':
    /shared memory after values \(128 bytes\) was overwritten; in .*write_past_the_end_kernel\(float\*\), block \(0, 0, 0\)/,
  'write before the start': /shared memory before values was overwritten/,
  'write past dynamic memory': /shared memory after dynamic shared memory \(128 bytes\)/,
  'too much static memory': /values: 49156 bytes of static shared memory, more than 49152/,
  'no dynamic memory': /the launch asks for none/,
  'too much dynamic memory': /232449 bytes of shared memory, expected at most 232448/,
  'too many threads': /cudaGetLastError.*a block of \(1025, 1, 1\) threads, expected 1 to 1024/,
  'too many blocks': /a grid of \(1, 65536, 1\) blocks/,
  'different barriers':
    /comes to __syncthreads \(faults.cu:\d+\) while 32 threads wait at __syncthreads \(faults.cu:\d+\)/,
  'return before the barrier':
    /thread returns while \d+ threads wait for it at __syncthreads|1 threads have returned without passing/,
  deadlock: /deadlock.* waiting: 16 for __syncthreads \(faults.cu:\d+\), 16 for __shfl_xor_sync/,
  'spin for ever': /1 threads poll memory that no other thread writes/,
  'missing from its mask': /lane 31 is missing from its own mask 0x7fffffff; in .*, thread \(31, 0, 0\)/,
  'mask names a returned lane': /thread returns while lanes wait for it|names lanes 0x00000020, which have returned/,
  'returns while others wait': /thread returns while lanes wait for it|names lanes 0x00000020, which have returned/,
  'masks differ': /mask 0x7fffffff.* mask 0xffffffff|mask 0xffffffff.* mask 0x7fffffff/,
  'instructions differ': /other lanes of mask 0xffffffff are in __(any|shfl)_sync/,
  'reads outside the mask': /lane 0 reads lane 16, which is not in the mask 0x0000ffff/,
  'active mask': /__activemask/,
  'partial warp': /names lanes 0xffff0000, which have returned or do not exist/,
  'misaligned row': /cudaErrorMisalignedAddress.*ldmatrix of 16 bytes/,
  'row outside shared memory': /not within an object in shared memory/,
  'misaligned pack': /cudaErrorMisalignedAddress.*load_pack of 16 bytes/,
  'misaligned hinted load': /cudaErrorMisalignedAddress.*__ldcs of 16 bytes/,
  'null pointer': /cudaErrorIllegalAddress.*in .*null_pointer_kernel/,
  'stack overflow': /cudaErrorIllegalAddress.*the stack of the thread overflows/,
  'tile read before it came': /deadlock.* 1 for mbarrier|more arrivals at an mbarrier than the 1 it expects/,
  'stage reused too early': /more arrivals at an mbarrier than the 1 it expects/,
  'division by zero': /cudaErrorLaunchFailure.*an integer is divided by zero/,
  'copy from a misaligned address': /cudaErrorMisalignedAddress.*cp\.async from global memory of 16 bytes/,
};
/** Faults that show as a wrong result (NaN, or an old value): in every order, and in at least one. */
const wrongAlways = [
  'read past the end',
  'read uninitialised',
  'read of another block',
  'copy read before its wait',
  'ring read one group too early',
  'copy over what is still read',
  'product not waited for',
  'staging reused too early',
];
const wrongSometimes = ['missing barrier', 'missing warp barrier', 'reused too early', 'two streams, not ordered'];

const results = new Map<string, Map<string, string>>();

/** Why the tests do not run here, or null. */
function missing(): string | null {
  if (!existsSync(join(build, 'CMakeCache.txt'))) return `${build} is not configured (npm run build)`;
  try {
    execFileSync('cmake', ['--version'], { stdio: 'ignore' });
    return null;
  } catch {
    return 'cmake is not here';
  }
}
const skipped = missing();
if (skipped !== null) console.warn(`emulator: skipped, ${skipped}`);

describe.skipIf(skipped !== null)('CUDA emulator', () => {
  beforeAll(async () => {
    const run = promisify(execFile); // vitest wants to be answered while the compiler works
    await run('cmake', ['--build', build, '--target', 'galago_emulator_test', '--parallel', '2']);
    // The sanitizers end the process at faults that they see themselves.
    const groups = sanitized ? ['sound', 'runtime'] : [];
    for (const order of orders) {
      const text = execFileSync(program, groups, {
        encoding: 'utf8',
        env: { ...process.env, GALAGO_EMU_ORDER: order },
      });
      const lines = text.trimEnd().split('\n');
      results.set(
        order,
        new Map(lines.map((line): [string, string] => [line.split('\t')[0] ?? '', line.split('\t')[1] ?? ''])),
      );
    }
  }, 600_000);

  const planted = [...Object.keys(faults), ...wrongAlways, ...wrongSometimes];

  describe.each(orders)('%s', (order) => {
    const result = (name: string): string | undefined => results.get(order)?.get(name);

    it('passes kernels and streams that are right', () => {
      const sound = [...(results.get(order) ?? [])].filter(([name]) => !planted.includes(name));
      expect(sound.length).toBeGreaterThanOrEqual(27);
      expect(sound.filter(([, outcome]) => outcome !== 'right')).toEqual([]);
    });

    it.skipIf(sanitized).each(Object.keys(faults))('catches: %s', (name) => {
      expect(result(name)).toMatch(faults[name] ?? /./);
    });

    it.skipIf(sanitized).each(wrongAlways)('shows: %s', (name) => {
      expect(result(name)).toBe('wrong');
    });
  });

  it.skipIf(sanitized).each(wrongSometimes)('some order shows: %s', (name) => {
    expect(orders.map((order) => results.get(order)?.get(name))).toContain('wrong');
  });
});
