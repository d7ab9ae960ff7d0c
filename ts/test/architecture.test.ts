import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { contractSections, importFaults, importsOf, opFaults } from './architecture_rules.js';

const checkout = fileURLToPath(new URL('../..', import.meta.url));

describe('this checkout', () => {
  it('imports along the arrow only', () => {
    expect(importFaults(checkout)).toEqual([]);
  });

  it('has every file of every op', () => {
    expect(opFaults(checkout)).toEqual([]);
  });
});

/** A small sound tree: one op, one file per folder. */
const sound: Readonly<Record<string, string>> = {
  'native/kernels.inl':
    '// ---- fill: out = value\nvoid fill(Tensor& out);\n\n// ---- x: out = f(x)\nvoid x_forward(const Tensor& x, Tensor& out);\n',
  'native/table.inl':
    '#define KERNEL(function, names) bind(function)\n  KERNEL(fill, "out");\n  KERNEL(x_forward, "x out");\n',
  'native/cpu/x.cpp': 'void x_forward(const Tensor& x, Tensor& out) {}\n',
  'bench/x.bench.ts': '',
  'ts/test/ops/x.test.ts': '',
  'ts/src/errors.ts': '',
  'ts/src/native.ts': "import './errors.js';",
  'ts/src/tensor.ts': "import { native } from './native.js';\nimport type { Scope } from './tidy.js';",
  'ts/src/tidy.ts': '',
  'ts/src/autograd.ts': "import { Tensor } from './tensor.js';",
  'ts/src/ops/x.ts': "import { defineOp } from '../autograd.js';\nimport { native } from '../native.js';",
  'ts/src/nn/linear.ts': "import { x } from '../ops/x.js';",
  'ts/src/losses/bce.ts': "import { x } from '../ops/x.js';",
  'ts/src/io/npy.ts': "import { readFileSync } from 'node:fs';",
  'ts/src/data/table.ts': "import '../io/npy.js';\nimport '../errors.js';",
  'ts/src/models/em3.ts': "import '../nn/linear.js';\nimport '../losses/bce.js';\nimport '../data/table.js';",
  'ts/src/train/trainer.ts': "import '../models/em3.js';",
  'ts/src/cli/main.ts': "import '../train/trainer.js';\nimport './progress.js';",
  'ts/src/cli/progress.ts': '',
  'ts/src/index.ts': "export { x } from './ops/x.js';\nexport * from './train/trainer.js';",
};

describe('a planted fault', () => {
  let root = '';
  const write = (file: string, text: string): void => {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  };
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'galago-architecture-'));
    for (const [file, text] of Object.entries(sound)) write(file, text);
  });
  afterEach(() => rmSync(root, { recursive: true }));

  it('is not found in a sound tree', () => {
    expect([...importFaults(root), ...opFaults(root)]).toEqual([]);
  });

  it.each([
    [
      'ts/src/tensor.ts',
      "import { defineOp } from './autograd.js';",
      /tensor\.ts imports \.\/autograd\.js: imports run/,
    ],
    [
      'ts/src/ops/x.ts',
      "import type { Linear } from '../nn/linear.js';",
      /ops.x\.ts imports \.\.\/nn\/linear\.js: imports run/,
    ],
    ['ts/src/ops/x.ts', "export * from '../nn/linear.js';", /imports run/],
    ['ts/src/nn/linear.ts', "const late = await import('../models/em3.js');", /imports run/],
    [
      'ts/src/nn/linear.ts',
      "import {\n  bce,\n} from '../losses/bce.js';",
      /only models, train, serve and cli import losses/,
    ],
    ['ts/src/nn/linear.ts', "import '../data/table.js';", /only models, train, serve and cli import data/],
    ['ts/src/models/em3.ts', "import '../train/trainer.js';", /imports run/],
    ['ts/src/losses/bce.ts', "import '../nn/linear.js';", /losses stands below nn/],
    ['ts/src/data/table.ts', "import '../ops/x.js';", /data stands below ops/],
    ['ts/src/io/npy.ts', "import '../data/table.js';", /io stands beside data/],
    ['ts/src/train/trainer.ts', "import '../index.js';", /nothing imports the public index/],
    ['ts/src/train/trainer.ts', "import '../../test/harness.js';", /outside ts.src/],
    [
      'ts/src/index.ts',
      "export * from './ops/x.js';\nexport * from './cli/main.js';",
      /does not hold the command line/,
    ],
    ['ts/src/stuff.ts', '', /stuff has no place in the import order/],
    ['ts/src/data/helpers.ts', '', /helpers\.ts says nothing about its content/],
  ])('is found in %s: %s', (file, text, message) => {
    write(file, text);
    expect(importFaults(root)).toEqual([expect.stringMatching(message)]);
  });

  it.each([
    ['native/cpu/x.cpp', 'x: no native/cpu/x.cpp'],
    ['ts/test/ops/x.test.ts', 'x: no ts/test/ops/x.test.ts'],
    ['ts/src/index.ts', 'x: not exported by ts/src/index.ts'],
  ])('is found when %s is missing', (file, fault) => {
    rmSync(join(root, file));
    expect(opFaults(root)).toEqual([fault]);
  });

  it('is found when contract, table, definition or bench lack a line', () => {
    write('native/table.inl', '  KERNEL(fill, "out");\n  // KERNEL(x_forward, "x out");\n');
    write('native/cpu/x.cpp', 'void y_forward() {}');
    write('bench/x.bench.ts', '');
    rmSync(join(root, 'bench/x.bench.ts'));
    write('bench/y.bench.ts', '// Covers: z, w\n');
    expect(opFaults(root)).toEqual([
      'x_forward: no row in native/table.inl',
      'x: native/cpu/x.cpp does not define x_forward',
      'x: no bench/x.bench.ts, and no bench that says "Covers: x"',
    ]);
    write('bench/y.bench.ts', '// Covers: z, x\n');
    expect(opFaults(root)).toHaveLength(2);
    write('native/kernels.inl', '// ---- fill\nvoid fill(Tensor& out);\n// ---- x\n');
    expect(opFaults(root)).toEqual(['x: no contract in a section "// ---- x" of native/kernels.inl']);
    write('native/table.inl', '  KERNEL(fill, "out");\n  KERNEL(gone, "out");\n');
    expect(opFaults(root)).toContain('gone: a row in native/table.inl but no line in native/kernels.inl');
  });
});

describe('parsing', () => {
  it('finds imports in every form, and none in comments', () => {
    const source =
      "import a from './a.js';\nimport type { B } from \"./b.js\";\nexport * from './c.js';\nimport './d.js';\nawait import('./e.js');\n// import './f.js';\n/* from './g.js' */\n";
    expect(importsOf(source).sort()).toEqual(['./a.js', './b.js', './c.js', './d.js', './e.js']);
  });

  it('reads sections of the contract, declarations over several lines too', () => {
    const sections = contractSections(
      '// ---- a: text\nvoid a_forward(const Tensor& x,\n               Tensor& out);\nvoid a_backward(Tensor& dx);\n// ---- b\n',
    );
    expect([...sections]).toEqual([
      ['a', ['a_forward', 'a_backward']],
      ['b', []],
    ]);
  });
});
