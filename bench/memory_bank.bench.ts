/**
 * A bank of 1.25 M slots with 1 M rows of 128 float32: gather of 1 M rows by key beside the same rows by position (goal: 0.7 of its
 * speed), upsert of 1 M known rows in random order (goal: 5 M rows/s on two cores) and of a step's 2,048, look-ups alone.
 * Covers: memory_bank
 */
import { gatherRows } from '../ts/src/ops/gather_rows.js';
import {
  bucketWidth,
  emptyMemoryBank,
  gatherMemoryBank,
  lookupMemoryBank,
  stageMemoryBank,
  upsertMemoryBank,
} from '../ts/src/ops/memory_bank.js';
import { uniforms } from '../ts/src/random.js';
import { type Tensor, tensor, zeros } from '../ts/src/tensor.js';
import { keep, tidy } from '../ts/src/tidy.js';
import { type BenchCase, bench } from './measure.js';

const N = 2 ** 20;
const D = 128;
const buckets = Math.ceil((N * 1.2) / bucketWidth);
const key = (i: number) => BigInt(i) * 1_000_003n; // ids of no pattern that the hash could like
const order = Float64Array.from(uniforms(N, 1, 1));
const shuffled = Uint32Array.from({ length: N }, (_, i) => i).sort((a, b) => order[a]! - order[b]!);

const int64s = (keys: readonly bigint[]) => tensor(BigInt64Array.from(keys));
const state = emptyMemoryBank({ buckets, width: D });
const wanted = int64s(Array.from(shuffled, key));
const ascending = int64s(Array.from({ length: N }, (_, i) => key(i)));
const rows = zeros([N, D]);
{
  const values = new Float32Array(N * D).map((_, i) => (i % 1000) + 1);
  tidy(() => {
    keep(rows);
    for (let start = 0; start < N; start += 2 ** 14) {
      const part = tensor(values.subarray(start * D, (start + 2 ** 14) * D), [2 ** 14, D]);
      const keys = int64s(Array.from({ length: 2 ** 14 }, (_, i) => key(start + i)));
      upsertMemoryBank(state, stageMemoryBank(keys, part), { now: 1 });
    }
  });
}
const filled = tensor(new Float32Array(N * D).fill(1), [N, D]);
const [inserted = 0n, , evicted = 0n, dropped = 0n] = (await state.counters.data()) as BigInt64Array;
console.log(
  JSON.stringify({ op: 'memory_bank', case: 'load 0.83', inserted: Number(inserted), lost: Number(evicted + dropped) }),
);
const { slot } = lookupMemoryBank(state, wanted, { now: 2 });
const few = 2048;
const fewKeys = int64s(Array.from(shuffled.subarray(0, few), key));
const fewRows = tensor(new Float32Array(few * D).fill(2), [few, D]);
let now = 2;

const upsert = (keys: Tensor, values: Tensor) => () => {
  tidy(() => {
    now++;
    upsertMemoryBank(state, stageMemoryBank(keys, values), { now });
  });
};
const one = (name: string, pass: string, bytes: number, run: () => void, calls = 1): BenchCase => ({
  op: 'memory_bank',
  pass,
  case: name,
  dtype: 'float32',
  bytes,
  flops: 0,
  calls,
  run,
});

await bench([
  one('1Mx128_by_key', 'gather', N * (8 * D + 72), () => {
    tidy(() => {
      gatherMemoryBank(state, wanted, { now });
    });
  }),
  one('1Mx128_by_position', 'gather_rows', N * 8 * D, () => {
    tidy(() => {
      gatherRows(state.rows, slot);
    });
  }),
  one('1M', 'lookup', N * 72, () => {
    tidy(() => {
      lookupMemoryBank(state, wanted, { now });
    });
  }),
  one('1Mx128_random_order', 'upsert', N * (12 * D + 72), upsert(wanted, filled)),
  one('1Mx128_ascending', 'upsert', N * (12 * D + 72), upsert(ascending, filled)),
  one('2048x128', 'upsert', few * (12 * D + 72), upsert(fewKeys, fewRows), 200),
]);
