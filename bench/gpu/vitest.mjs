// Stands in for vitest where there is no room for it: what the tests of ops, losses and the CUDA runtime use of describe, it and the
// hooks, one after another in one process. Matchers are vitest's own (@vitest/expect).
import { ASYMMETRIC_MATCHERS_OBJECT, GLOBAL_EXPECT, JestAsymmetricMatchers, JestChaiExpect, JestExtend, setState } from '@vitest/expect';
import * as chai from 'chai';
import { format } from 'node:util';

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);
export const expect = Object.assign((value, message) => chai.expect(value, message), chai.expect, globalThis[ASYMMETRIC_MATCHERS_OBJECT]);
Object.defineProperty(globalThis, GLOBAL_EXPECT, { value: expect, writable: true, configurable: true });
setState({ assertionCalls: 0 }, expect);

const suite = (title, parent) => ({ title, parent, skipped: parent?.skipped ?? false, beforeAll: [], afterAll: [], beforeEach: [], afterEach: [], children: [] });
const root = suite('', null);
let open = root;
const pending = [];

/** `%s` and `%j` from the front, `$name` and `$name.part` from an object of the row. */
function titleOf(template, row) {
  const fields = row[0] !== null && typeof row[0] === 'object' ? row[0] : {};
  const named = template.replace(/\$([A-Za-z_][\w.]*)/g, (text, path) => {
    const value = path.split('.').reduce((object, key) => object?.[key], fields);
    return value === undefined ? text : format('%s', value);
  });
  const places = named.match(/%[sdijfo]/g)?.length ?? 0;
  return places === 0 ? named : format(named, ...row.slice(0, places));
}
const rowsOf = (table) => table.map((row) => (Array.isArray(row) ? row : [row]));

function describeOne(title, body, skipped = false) {
  const one = suite(title, open);
  one.skipped ||= skipped;
  open.children.push(one);
  open = one;
  try {
    const result = body();
    if (result instanceof Promise) pending.push(result);
  } finally {
    open = one.parent;
  }
}
export const describe = Object.assign((title, ...rest) => describeOne(title, rest.find((x) => typeof x === 'function')), {
  each: (table) => (title, body) => {
    for (const row of rowsOf(table)) describeOne(titleOf(title, row), () => body(...row));
  },
  skipIf: (condition) => (title, body) => describeOne(title, body, Boolean(condition)),
  runIf: (condition) => (title, body) => describeOne(title, body, !condition),
  skip: (title, body) => describeOne(title, body, true),
});

/** it(title, run), it(title, options, run), it(title, run, milliseconds) */
function itOne(title, rest, row = [], skipped = false) {
  const run = rest.find((x) => typeof x === 'function');
  const limit = rest.find((x) => typeof x === 'number') ?? rest.find((x) => x?.timeout)?.timeout;
  open.children.push({ title, run: () => run?.(...row), limit, skipped: skipped || open.skipped || run === undefined });
}
export const it = Object.assign((title, ...rest) => itOne(title, rest), {
  each: (table) => (title, ...rest) => {
    for (const row of rowsOf(table)) itOne(titleOf(title, row), rest, row);
  },
  skipIf: (condition) => (title, ...rest) => itOne(title, rest, [], Boolean(condition)),
  runIf: (condition) => (title, ...rest) => itOne(title, rest, [], !condition),
  skip: (title, ...rest) => itOne(title, rest, [], true),
  todo: (title) => itOne(title, [], [], true),
});
export const test = it;
export const beforeAll = (hook) => void open.beforeAll.push(hook);
export const afterAll = (hook) => void open.afterAll.push(hook);
export const beforeEach = (hook) => void open.beforeEach.push(hook);
export const afterEach = (hook) => void open.afterEach.push(hook);

function within(limit, run) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`more than ${limit} ms`)), limit);
  });
  return Promise.race([Promise.resolve().then(run), late]).finally(() => clearTimeout(timer));
}

/** Runs what was described since the file was imported; resolves to its counts. Says what failed. */
export async function runAll({ limit = 300_000 } = {}) {
  await Promise.all(pending);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const failed = (path, error) => {
    counts.failed++;
    console.log(`FAIL ${path}\n  ${String(error?.stack ?? error).split('\n').slice(0, 6).join('\n  ')}`);
  };
  const lineage = (one) => (one === null ? [] : [...lineage(one.parent), one]);
  async function runSuite(one, path) {
    try {
      for (const hook of one.beforeAll) await within(limit, hook);
      for (const child of one.children) {
        const name = path === '' ? child.title : `${path} > ${child.title}`;
        if (child.children) await runSuite(child, name);
        else if (child.skipped) counts.skipped++;
        else {
          const suites = lineage(one);
          try {
            for (const hook of suites.flatMap((x) => x.beforeEach)) await within(limit, hook);
            await within(Math.max(child.limit ?? 0, limit), child.run); // limits are meant for a machine of one user
            counts.passed++;
          } catch (error) {
            failed(name, error);
          }
          for (const hook of suites.reverse().flatMap((x) => x.afterEach)) await within(limit, hook);
        }
      }
      for (const hook of one.afterAll) await within(limit, hook);
    } catch (error) {
      failed(`${path} (hook)`, error);
    }
  }
  await runSuite(root, '');
  return counts;
}
