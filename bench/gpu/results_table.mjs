// node results_table.mjs <folder>: one table of what bench/gpu.sh wrote there: every case with our time, the fastest peer, floor and share.
// Of repeated lines of one case and implementation the fastest median counts, ours and theirs alike.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = process.argv[2];
const linesOf = (file) => {
  const path = join(folder, file);
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n').filter((line) => line.startsWith('{'));
  return lines.map((line) => JSON.parse(line)).filter((line) => 'us_median' in line);
};
const short = (x) => (x === null || x === undefined ? '-' : x >= 100 ? x.toFixed(0) : x.toPrecision(3));
const row = (cells) => console.log(`| ${cells.join(' | ')} |`);

const ceilings = linesOf('ceilings.jsonl');
if (ceilings.length > 0) {
  console.log(`Ceilings, ${ceilings[0].device}, ${ceilings[0].impl}`);
  for (const { case: name, per_second: rate, unit, us_median: us } of ceilings)
    console.log(`  ${name}: ${rate >= 1e12 ? `${(rate / 1e12).toFixed(2)} T` : rate >= 1e9 ? `${(rate / 1e9).toFixed(2)} G` : `${short(rate)} `}${unit}/s, ${short(us)} us`);
}

const cases = new Map();
for (const line of [...linesOf('step.jsonl'), ...linesOf('bench.jsonl')]) {
  const key = [line.op, line.pass, line.case, line.dtype].join(' ');
  const impls = cases.get(key) ?? new Map();
  const before = impls.get(line.impl);
  if (before === undefined || line.us_median < before.us_median) impls.set(line.impl, line);
  cases.set(key, impls);
}
if (cases.size > 0) {
  const all = [...cases.values()].flatMap((impls) => [...impls.values()]);
  console.log(`Times in us, medians; ours on ${all.find(({ impl }) => impl === 'galago')?.device}, peers on ${all.find(({ impl }) => impl !== 'galago')?.device}`);
  row(['op', 'case', 'pass', 'dtype', 'ours', 'fastest peer', 'its time', 'ratio', 'floor', 'share', 'peak MB, ours and its']);
  row(['---', '---', '---', '---', '---:', '---', '---:', '---:', '---:', '---:', '---:']);
  for (const impls of cases.values()) {
    const ours = impls.get('galago');
    const [peer] = [...impls.values()].filter(({ impl }) => impl !== 'galago').sort((a, b) => a.us_median - b.us_median);
    const { op, case: name, pass, dtype, floor_us: floor } = ours ?? peer;
    const ratio = ours && peer ? peer.us_median / ours.us_median : null;
    const share = ours && floor ? `${((100 * floor) / ours.us_median).toFixed(0)} %` : '-';
    const memory = `${short(ours?.peak_mb)} / ${short(peer?.peak_mb)}`;
    row([op, name, pass, dtype, short(ours?.us_median), peer?.variant ?? '-', short(peer?.us_median), short(ratio), short(floor), share, memory]);
  }
}
