// node scripts/write_reliability.mjs: writes docs/reliability.md, the rows of the fault table with the tests that carry their number.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const rows = [
  ['F01', 'checkpoint truncated, bit flipped, wrong length: refused, the newest whole one loads'],
  ['F02', 'killed at any instant of a save: the old or the new one loads'],
  ['F03', 'power loss: unsynced data lost or reordered'],
  ['F04', 'disk full, I/O error: the save fails, training goes on'],
  ['F05', 'other format, configuration, vocabulary, data: refused with the whole difference'],
  ['F06', 'two writers in one folder'],
  ['F07', 'every checkpoint bad'],
  ['F08', 'hostile safetensors'],
  ['F09', 'file truncated while it is read'],
  ['F10', 'broken Parquet: cut, flipped bytes, unreadable row groups'],
  ['F11', 'tables: giant row, bad UTF-8, NUL, byte-order mark, CRLF'],
  ['F12', 'schema drift'],
  ['F13', 'image bomb'],
  ['F14', 'truncated or corrupt image'],
  ['F15', 'path that leaves its root'],
  ['F16', 'non-finite features or labels'],
  ['F17', '64-bit ids given as unsafe numbers'],
  ['F18', 'NaN, fractional, null ids'],
  ['F19', '0, negative and extreme ids are ordinary'],
  ['F20', 'ids that share their hash bits'],
  ['F22', 'index out of range'],
  ['F26', 'non-finite loss or gradient: the step is skipped whole'],
  ['F27', 'same bytes from two runs, thread counts, resumed runs'],
  ['F29', 'device out of memory'],
  ['F31', 'a failed kernel poisons its device'],
  ['F33', 'a kernel that never ends'],
  ['F34', 'no GPU, old driver, unsupported GPU, no module'],
  ['F40', 'event loop not blocked'],
  ['F41', 'exit and errors during work'],
  ['F42', 'worker threads, terminated at any moment'],
  ['F43', 'exceptions of callbacks and of native code'],
  ['F44', 'use after release, wrong handle, detached buffer'],
  ['F45', 'leaks'],
  ['F46', 'prototype pollution, hostile configuration'],
  ['F48', 'supply chain: nothing runs at installation, nothing is downloaded'],
  ['F55', 'restart with another number of processes'],
];
const tests = new Map(rows.map(([id]) => [id, []]));
const files = readdirSync(join(root, 'ts/test'), { recursive: true }).filter((file) => file.endsWith('.test.ts')).sort();
for (const file of files) {
  const text = readFileSync(join(root, 'ts/test', file), 'utf8');
  // a title starts with the numbers: 'F17, F18: checkIds'
  for (const [, ids, title] of text.matchAll(/['"`]((?:F\d\d(?:, )?)+)(?: rule %i)?: ([^'`\n]*)['`\n]/g)) {
    for (const id of ids.split(', ')) {
      if (!tests.has(id)) throw new Error(`${file}: a test names ${id}, which is no row of the table`);
      tests.get(id).push(`${title} (\`${file}\`)`);
    }
  }
}
const open = rows.filter(([id]) => tests.get(id).length === 0);
const lines = rows.map(([id, fault]) => `| ${id} | ${fault} | ${tests.get(id).join('<br>').replaceAll('|', '\\|') || '**open**'} |`);
mkdirSync(join(root, 'docs'), { recursive: true });
writeFileSync(
  join(root, 'docs/reliability.md'),
  `# Reliability: faults and the tests that prove what happens

Written by \`node scripts/write_reliability.mjs\` from the names of the tests; \`npx vitest run -t F17\` runs one row. Rows that belong to
parts that do not exist yet (streams, HTTP, many processes) are not listed. CUDA rows run on \`cuda-emu\`: no GPU has run them yet.

${rows.length - open.length} of ${rows.length} rows have tests. Open: ${open.map(([id]) => id).join(', ') || 'none'}.

| row | fault | tests |
| --- | --- | --- |
${lines.join('\n')}
`,
);
