import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

/** Imports run from larger to smaller ranks (architecture.md, section 1). */
const ranks: Readonly<Record<string, number>> = {
  errors: 0,
  native: 1,
  native_kernels: 1,
  bfloat16: 1,
  choose_device: 2,
  device_watch: 2,
  tensor: 2,
  shape: 2,
  tidy: 2,
  row_sparse_grad: 2,
  autograd: 3,
  random: 3,
  ops: 4,
  nn: 5,
  models: 6,
  train: 7,
  serve: 8,
  cli: 9,
  index: 9,
};

/** Folders beside the chain: the highest rank each may import, and which of the others. Only models, train, serve and cli import them. */
const sides: Readonly<Record<string, { highest: number; others: readonly string[] }>> = {
  optim: { highest: 3, others: [] },
  losses: { highest: 4, others: [] },
  metrics: { highest: 3, others: [] },
  data: { highest: 3, others: ['io'] },
  io: { highest: 3, others: [] },
};
const lowestReaderOfSides = 6;

/** Names that a person has to open to learn what is inside. */
const emptyNames = /^(utils?|helpers?|common|misc)$/;

/** Ops that call no kernel of their own, with the reason. */
const withoutKernel: Readonly<Record<string, string>> = {
  reshape: 'shares the storage of its input',
  autocast: 'casts the inputs of other ops',
  sparse_matmul: 'is embedding_bag by row, and by column for the gradient',
};

function filesBelow(folder: string, ending: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith(ending))
    .map((file) => join(folder, file))
    .sort();
}

function read(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

/** Paths that a source file imports, re-exports or loads on demand. */
export function importsOf(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
  const patterns = [
    /\bfrom\s*(['"])([^'"\n]+)\1/g,
    /\bimport\s*(['"])([^'"\n]+)\1/g,
    /\bimport\s*\(\s*(['"])([^'"\n]+)\1/g,
  ];
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map((match) => match[2] ?? ''));
}

/** First part of a path below ts/src without its ending: the folder, or the name of a file at the top. */
function unitOf(path: string): string {
  return (path.split(/[\\/]/)[0] ?? '').replace(/\.(ts|js)$/, '');
}

function faultOfImport(from: string, to: string): string | null {
  if (from === to || to === 'errors') return null;
  if (to === 'index') return 'nothing imports the public index';
  const [fromSide, toSide] = [sides[from], sides[to]];
  const [fromRank, toRank] = [ranks[from], ranks[to]];
  if (fromSide) {
    if (toSide) return fromSide.others.includes(to) ? null : `${from} stands beside ${to}, not on it`;
    return toRank !== undefined && toRank <= fromSide.highest ? null : `${from} stands below ${to}`;
  }
  if (fromRank === undefined) return null;
  if (toSide) return fromRank >= lowestReaderOfSides ? null : `only models, train, serve and cli import ${to}`;
  if (from === 'index') return to === 'cli' ? 'the public index does not hold the command line' : null;
  return toRank !== undefined && toRank <= fromRank
    ? null
    : `imports run cli, serve, train, models, nn, ops, autograd, tensor, native`;
}

/** Imports against the arrow, files without a place in it and names that say nothing, one line each. */
export function importFaults(root: string): string[] {
  const sources = join(root, 'ts', 'src');
  return filesBelow(sources, '.ts').flatMap((path) => {
    const shown = relative(root, path);
    const unit = unitOf(relative(sources, path));
    const faults: string[] = [];
    if (ranks[unit] === undefined && !sides[unit]) faults.push(`${shown}: ${unit} has no place in the import order`);
    for (const part of relative(sources, path).split(/[\\/]/)) {
      if (emptyNames.test(part.replace(/\.ts$/, ''))) faults.push(`${shown}: ${part} says nothing about its content`);
    }
    for (const target of importsOf(readFileSync(path, 'utf8'))) {
      if (!target.startsWith('.')) continue;
      const to = relative(sources, resolve(dirname(path), target));
      if (to.startsWith('..')) {
        if (!to.endsWith('package.json')) faults.push(`${shown} imports ${target}: outside ts/src`);
        continue;
      }
      const fault = faultOfImport(unit, unitOf(to));
      if (fault !== null) faults.push(`${shown} imports ${target}: ${fault}`);
    }
    return faults;
  });
}

/** The functions that the contract declares, by section (`// ---- activation: ...`). */
export function contractSections(contract: string): Map<string, string[]> {
  const sections = new Map<string, string[]>();
  let functions: string[] = [];
  for (const line of contract.split('\n')) {
    const section = /^\/\/ ---- (\w+)/.exec(line)?.[1];
    if (section !== undefined) {
      functions = sections.get(section) ?? [];
      sections.set(section, functions);
      continue;
    }
    const name = /^[\w:<>]+\s+(\w+)\(/.exec(line)?.[1];
    if (name !== undefined) functions.push(name);
  }
  return sections;
}

/** Ops that lack one of their files or lines, and a contract and a table that differ; one line each. */
export function opFaults(root: string): string[] {
  const faults: string[] = [];
  const sections = contractSections(read(join(root, 'native', 'kernels.inl')));
  const table = read(join(root, 'native', 'table.inl'));
  const rows = new Set([...table.matchAll(/^\s*KERNEL\((\w+),/gm)].map((match) => match[1] ?? ''));
  const declared = new Set([...sections.values()].flat());
  for (const name of declared) if (!rows.has(name)) faults.push(`${name}: no row in native/table.inl`);
  for (const name of rows)
    if (!declared.has(name)) faults.push(`${name}: a row in native/table.inl but no line in native/kernels.inl`);

  const index = read(join(root, 'ts', 'src', 'index.ts'));
  const benches = filesBelow(join(root, 'bench'), '.bench.ts');
  const covered = new Set(
    benches.flatMap((path) => {
      const lists = [...read(path).matchAll(/\bCovers: ([\w, ]+)/g)].map((match) => match[1] ?? '');
      return lists.flatMap((list) => list.split(',').map((name) => name.trim()));
    }),
  );
  for (const path of filesBelow(join(root, 'ts', 'src', 'ops'), '.ts')) {
    const op = relative(join(root, 'ts', 'src', 'ops'), path).replace(/\.ts$/, '');
    if (!existsSync(join(root, 'ts', 'test', 'ops', `${op}.test.ts`)))
      faults.push(`${op}: no ts/test/ops/${op}.test.ts`);
    if (!index.includes(`'./ops/${op}.js'`)) faults.push(`${op}: not exported by ts/src/index.ts`);
    if (op in withoutKernel) continue;
    const functions = sections.get(op) ?? [];
    if (functions.length === 0) faults.push(`${op}: no contract in a section "// ---- ${op}" of native/kernels.inl`);
    const source = read(join(root, 'native', 'cpu', `${op}.cpp`));
    if (source === '') faults.push(`${op}: no native/cpu/${op}.cpp`);
    else {
      for (const name of functions) {
        if (!new RegExp(`\\b${name}\\s*\\(`).test(source))
          faults.push(`${op}: native/cpu/${op}.cpp does not define ${name}`);
      }
    }
    // the rule holds from the first bench on
    if (benches.length > 0 && !covered.has(op) && !existsSync(join(root, 'bench', `${op}.bench.ts`))) {
      faults.push(`${op}: no bench/${op}.bench.ts, and no bench that says "Covers: ${op}"`);
    }
  }
  return faults;
}
