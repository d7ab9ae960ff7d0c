/**
 * Opening interactions at real size: a Parquet file with int64 ids of 1,000,000 users and 200,000 items (DuckDB writes it to a temporary
 * folder) is read, its ids are numbered, times ranked, events split, histories indexed and checked for leaks. Prints seconds, the peak
 * of resident memory and how late timers came meanwhile; beside it pandas reading and numbering the same file, where it is installed.
 *
 *   npm run bench -- data_loading [--rows=20000000] [--read (also alone)] [--file=<written before>] [--python=python3]
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadDataset } from '../ts/src/data/load_dataset.js';
import { listDataFiles } from '../ts/src/data/tables/data_files.js';
import { readTable } from '../ts/src/data/tables/read_table.js';
import { longest, percentile99, watchTimers } from './lateness.js';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '20000000' },
    file: { type: 'string' },
    read: { type: 'boolean', default: false },
    python: { type: 'string', default: 'python3' },
    json: { type: 'boolean', default: false },
  },
  strict: false,
});
const rows = Number(values.rows);

/** In a process of its own, so that the peak below is ours. Ids are scattered over 63 bits, times over a year. */
function write(path: string): void {
  const sql = `COPY (SELECT (hash(hash(i) % 1000000) >> 1)::BIGINT AS user_id, (hash((hash(i + 7) % 200000) + 5) >> 1)::BIGINT AS item_id,
    (1700000000 + hash(i + 3) % 31536000)::BIGINT AS timestamp, (hash(i + 1) % 5 = 0)::INT AS label FROM range(${rows}) t(i))
    TO '${path}' (FORMAT parquet, COMPRESSION zstd)`;
  const program = `const { DuckDBInstance } = require('@duckdb/node-api');
    DuckDBInstance.create(':memory:', { threads: '2' }).then((i) => i.connect()).then((c) => c.run(${JSON.stringify(sql)})).then(() => process.exit(0))`;
  const { status, stderr } = spawnSync(process.execPath, ['-e', program], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`expected DuckDB to write ${path}: ${stderr}`);
}

const folder = mkdtempSync(join(tmpdir(), 'galago-data-loading-'));
const peak = (): string => `${(process.resourceUsage().maxRSS / 1024 ** 2).toFixed(2)} GiB`;
/** Seconds of the clock and of all processors since `start`: on a machine that others use too the second one counts. */
const started = (): (() => string) => {
  const [clock, cpu] = [performance.now(), process.cpuUsage()];
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return `${((performance.now() - clock) / 1000).toFixed(1)} s (${((user + system) / 1e6).toFixed(1)} s of processors)`;
  };
};
try {
  const path = typeof values.file === 'string' ? values.file : join(folder, 'interactions.parquet');
  if (values.file === undefined) write(path);
  console.log(`${rows} rows, ${(statSync(path).size / 1024 ** 2).toFixed(0)} MiB of Parquet (zstd)`);

  if (values.read === true) {
    const seconds = started();
    const read = (await readTable(await listDataFiles(path))).rows;
    console.log(`read ${read} rows: ${seconds()}, peak ${peak()}`);
  }

  const seconds = started();
  const watch = watchTimers();
  await using data = await loadDataset(path, {
    split: { kind: 'RS', ratios: [0.8, 0.1, 0.1], order: 'TO' },
    allowDuplicates: true,
  });
  const used = seconds();
  watch.stop();
  const { late, own } = watch.take();
  console.log(
    `opened and indexed: ${used}, peak ${peak()}; ${data.userIds.length} users, ${data.items.ids.length} items, parts ${Object.values(data.sizes).join(' / ')}`,
  );

  console.log(
    `timers meanwhile: late by ${percentile99(late)} ms at p99, ${longest(late)} at most; without waits for a core ${percentile99(own)} and ${longest(own)} (goals 10 and 50)`,
  );

  const python = spawnSync(
    String(values.python),
    [
      '-c',
      `import time, resource, sys, pandas as pd
t = time.time(); d = pd.read_parquet(sys.argv[1]); d['u'] = pd.factorize(d.user_id)[0]; d['i'] = pd.factorize(d.item_id)[0]
d = d.sort_values(['u', 'timestamp'], kind='stable')
r = resource.getrusage(resource.RUSAGE_SELF)
print(f'{time.time() - t:.1f} s ({r.ru_utime + r.ru_stime:.1f} s of processors, imports included), peak {r.ru_maxrss / 2**20:.2f} GiB')`,
      path,
    ],
    { encoding: 'utf8' },
  );
  console.log(`pandas (read, factorize, sort): ${python.status === 0 ? python.stdout.trim() : 'not installed'}`);
} finally {
  rmSync(folder, { recursive: true });
}
