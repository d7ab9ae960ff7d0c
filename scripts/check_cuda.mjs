// npm run check:cuda [-- --update]: the gates of the CUDA kernels that need no GPU. Compiles native/cuda for the daily targets and compares
// what ptxas says of every kernel with native/cuda/resources.tsv:
//
//   - spills: none, unless the table allows some and says why;
//   - registers: at most 8 more than in the table; a kernel that is not in the table, or no longer compiled, is a difference too;
//   - static shared memory: as in the table;
//   - "Potential Performance Loss" (wgmma serialised, setmaxnreg ignored) is a failure: ptxas itself only mentions it.
//
// And: inline assembly in the headers listed below alone, a definition for every row of native/table.inl, and of the module its size,
// its libraries and the versions of the symbols it needs. `--update` writes the table anew and keeps its allowances.
// `--reports <folder> --table <file>`: only the comparison, of reports that exist already (for tests).
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options } = parseArgs({
  options: {
    update: { type: 'boolean', default: false },
    reports: { type: 'string' },
    table: { type: 'string', default: join(root, 'native/cuda/resources.tsv') },
  },
});

/** Registers by which a kernel may grow unnoticed. */
const registerSlack = 8;
const largestModule = 10 * 2 ** 20;
const newestSymbols = { GLIBC: [2, 34, 0], GLIBCXX: [3, 4, 29] };
const assemblyHeaders = ['mma.cuh', 'async_copy.cuh', 'exp2.cuh', 'tma.cuh', 'wgmma.cuh', 'wgmma_instructions.cuh'];
const columns = ['file', 'target', 'kernel', 'registers', 'spill', 'shared', 'allowed_spill', 'reason'];

const faults = [];

// ---- what ptxas said

/** Demangled names, in order; one call for all of them. Spaces after commas and template brackets are left out. */
function demangled(names) {
  if (names.length === 0) return [];
  const text = execFileSync('c++filt', [], { input: `${names.join('\n')}\n`, encoding: 'utf8', maxBuffer: 1 << 28 });
  const trimmed = text.trimEnd().split('\n');
  return trimmed.map((name) => name.replaceAll('galago::cuda::', '').replaceAll('galago::', '').replace(/^void /, ''));
}

/** Every kernel in the report of one file, by target. */
function kernelsOf(report, file) {
  const kernels = [];
  let open = null;
  for (const line of report.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line);
    if (entry) {
      open = { file, target: entry[2], name: entry[1], registers: -1, spill: 0, shared: 0 };
      kernels.push(open);
    }
    if (open === null) continue;
    const spills = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    // functions that were not inlined have lines of their own, and belong to the entry before them
    if (spills) open.spill = Math.max(open.spill, Number(spills[1]), Number(spills[2]));
    const used = /Used (\d+) registers/.exec(line);
    if (used) {
      open.registers = Number(used[1]);
      open.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
    }
  }
  for (const { name, registers } of kernels)
    if (registers < 0) throw new Error(`${file}: ptxas says nothing of the registers of ${name}`);
  return kernels;
}

/** Lines that ptxas only mentions, and that cost speed without a word at run time. */
function lossesOf(report) {
  return report.split('\n').filter((line) => /Potential Performance Loss|\bC75(08|10|11|12|14)\b/.test(line));
}

// ---- the table

const keyOf = ({ file, target, kernel }) => `${file}\t${target}\t${kernel}`;

function readTable(path) {
  const rows = new Map();
  let compiler = null;
  if (!existsSync(path)) return { rows, compiler };
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    if (line.startsWith('#')) compiler ??= /^# nvcc ([^\s:]+)/.exec(line)?.[1] ?? null;
    if (line === '' || line.startsWith('#') || line.startsWith('file\t')) continue;
    const cells = line.split('\t');
    const row = Object.fromEntries(columns.map((column, i) => [column, cells[i] ?? '']));
    for (const column of ['registers', 'spill', 'shared', 'allowed_spill']) row[column] = Number(row[column] || 0);
    if (row.allowed_spill > 0 && row.reason === '')
      faults.push(`${row.file}: ${row.kernel} may spill ${row.allowed_spill} bytes, but the table gives no reason`);
    rows.set(keyOf(row), row);
  }
  return { rows, compiler };
}

function writeTable(path, kernels, old, compiler) {
  const lines = kernels.map((kernel) => {
    const { allowed_spill = 0, reason = '' } = old.get(keyOf(kernel)) ?? {};
    return columns.map((column) => ({ ...kernel, allowed_spill: allowed_spill || '', reason })[column]).join('\t');
  });
  const head = [
    `# nvcc ${compiler}: what ptxas says of every kernel, in bytes; written by \`npm run check:cuda -- --update\`.`,
    '# `allowed_spill` and `reason` are written by hand, and kept.',
    columns.join('\t'),
  ];
  writeFileSync(path, `${[...head, ...lines.sort()].join('\n')}\n`);
}

function compare(kernels, { rows, compiler: before }, compiler) {
  const sameCompiler = before === compiler;
  if (!sameCompiler && rows.size > 0)
    console.log(`cuda: the table is of nvcc ${before}, this is ${compiler}: registers and shared memory are not compared`);
  const seen = new Set();
  for (const kernel of kernels) {
    const row = rows.get(keyOf(kernel));
    const where = `${kernel.file} (${kernel.target}): ${kernel.kernel}`;
    seen.add(keyOf(kernel));
    const allowed = row?.allowed_spill ?? 0;
    if (kernel.spill > allowed) faults.push(`${where} spills ${kernel.spill} bytes, ${allowed} are allowed`);
    if (!row) {
      faults.push(`${where} is not in the table`);
      continue;
    }
    if (!sameCompiler) continue;
    if (kernel.registers > row.registers + registerSlack)
      faults.push(`${where} uses ${kernel.registers} registers, the table says ${row.registers}`);
    if (kernel.shared !== row.shared)
      faults.push(`${where} uses ${kernel.shared} bytes of static shared memory, the table says ${row.shared}`);
  }
  for (const [key, { file, target, kernel }] of rows)
    if (!seen.has(key)) faults.push(`${file} (${target}): ${kernel} is in the table, but not compiled any more`);
}

// ---- sources and module

function checkSources() {
  const folder = join(root, 'native/cuda');
  const sources = readdirSync(folder).filter((file) => /\.cuh?$/.test(file));
  const text = new Map(sources.map((file) => [file, readFileSync(join(folder, file), 'utf8')]));
  const code = (file) => text.get(file).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
  for (const file of sources)
    if (/\b(asm|__asm__)\b/.test(code(file)) && !assemblyHeaders.includes(file))
      faults.push(`native/cuda/${file}: inline assembly belongs into ${assemblyHeaders.join(', ')}`);
  const defined = sources.filter((file) => file.endsWith('.cu')).map(code).join('\n');
  const table = readFileSync(join(root, 'native/table.inl'), 'utf8');
  for (const [, kernel] of table.matchAll(/^KERNEL\((\w+),/gm))
    if (!new RegExp(`^void ${kernel}\\(`, 'm').test(defined)) faults.push(`${kernel}: a row of native/table.inl that no native/cuda/*.cu defines`);
}

function checkModule(path) {
  const { size } = statSync(path);
  console.log(`cuda: galago_cuda.so has ${(size / 2 ** 20).toFixed(2)} MiB of at most ${largestModule / 2 ** 20}`);
  if (size > largestModule) faults.push(`galago_cuda.so has ${size} bytes, ${largestModule} are allowed`);
  const readelf = (...words) => execFileSync('readelf', [...words, path], { encoding: 'utf8', maxBuffer: 1 << 28 });
  const allowed = /^(libstdc\+\+|libm|libgcc_s|libc|libpthread|libdl|librt|ld-linux-[\w-]+)\.so\.\d+$/;
  for (const [, library] of readelf('-dW').matchAll(/\(NEEDED\).*\[(.*?)\]/g))
    if (!allowed.test(library)) faults.push(`galago_cuda.so links to ${library}`);
  for (const [, library, version] of readelf('-VW').matchAll(/Name: (GLIBC|GLIBCXX)_([\d.]+)/g)) {
    const parts = version.split('.').map(Number);
    const newer = newestSymbols[library].map((most, i) => (parts[i] ?? 0) - most).find((difference) => difference !== 0);
    if ((newer ?? 0) > 0) faults.push(`galago_cuda.so needs ${library}_${version}, newer than ${newestSymbols[library].join('.')}`);
  }
}

// ---- the gate

const nvcc = spawnSync('nvcc', ['--version'], { encoding: 'utf8' });
const compiler = /release [\d.]+, V([\d.]+)/.exec(nvcc.stdout ?? '')?.[1] ?? null;
if (options.reports === undefined && (compiler === null || Number.parseInt(compiler, 10) < 13)) {
  console.log(`cuda: skipped, nvcc 13 is not here (${compiler === null ? 'none found' : `nvcc ${compiler}`})`);
  process.exit(0);
}
if (options.reports === undefined) {
  const build = spawnSync('npm', ['run', '--silent', 'build:cuda'], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (build.status !== 0) {
    console.error(`${build.stdout}${build.stderr}\ncuda: native/cuda does not compile`);
    process.exit(1);
  }
}

/** Reports of the files that exist: objects of removed files may still lie in the build. */
function reportsUnder(folder) {
  const sources = options.reports === undefined ? readdirSync(join(root, 'native/cuda')).filter((file) => file.endsWith('.cu')) : null;
  const paths = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ptxas'));
  const reports = new Map(paths.map((path) => [basename(path).replace(/(\.o)?\.ptxas$/, ''), readFileSync(join(folder, path), 'utf8')]));
  if (sources === null) return reports;
  for (const file of sources) if (!reports.has(file)) faults.push(`${file}: no report of ptxas in the build; remove build/native/cuda`);
  return new Map([...reports].filter(([file]) => sources.includes(file)));
}

const reports = reportsUnder(options.reports ?? join(root, 'build/native/cuda'));
const mangled = [...reports].flatMap(([file, report]) => kernelsOf(report, file));
const names = demangled(mangled.map(({ name }) => name));
const kernels = mangled.map((kernel, i) => ({ ...kernel, kernel: names[i] }));
for (const [file, report] of reports) for (const line of lossesOf(report)) faults.push(`${file}: ${line.trim()}`);

const table = readTable(options.table);
const nvccVersion = options.reports === undefined ? compiler : (table.compiler ?? 'unknown');
if (options.update) {
  writeTable(options.table, kernels, table.rows, nvccVersion);
  console.log(`cuda: ${kernels.length} kernels written to ${basename(options.table)}`);
  for (const kernel of kernels.filter(({ spill }) => spill > 0))
    console.log(`cuda: ${kernel.file}: ${kernel.kernel} spills ${kernel.spill} bytes`);
} else compare(kernels, table, nvccVersion);
if (options.reports === undefined) {
  checkSources();
  checkModule(join(root, 'build/Release/galago_cuda.so'));
}
for (const fault of faults) console.error(`cuda: ${fault}`);
if (faults.length > 0) {
  console.error(`cuda: ${faults.length} faults; where the kernels are right, npm run check:cuda -- --update writes the table`);
  process.exit(1);
}
const spilling = kernels.filter(({ spill }) => spill > 0).length;
const most = Math.max(0, ...kernels.map(({ registers }) => registers));
console.log(`cuda: ${kernels.length} kernels of ${reports.size} files, at most ${most} registers, ${spilling} of them spill`);
