import { readFileSync } from 'node:fs';
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseAllDocuments, visit } from 'yaml';
import { ConfigError } from '../errors.js';

/** A configuration as written: only null, booleans, numbers, strings, lists and maps without a prototype. */
export type ConfigValue = null | boolean | number | string | ConfigValue[] | ConfigMap;
export interface ConfigMap {
  [key: string]: ConfigValue;
}

/** One layer of values. `origins`: path (`train.epochs`, `feature_cols.0.name`) to the place it was written, `a.yaml:12`. */
export interface ConfigSource {
  readonly values: ConfigMap;
  readonly origins: ReadonlyMap<string, string>;
}

const forbiddenKeys = new Set(['__proto__', 'constructor', 'prototype']);

/** `a` + `b` as `a.b`; the root is the empty path. */
export function joinPath(parent: string, key: string | number): string {
  return parent === '' ? String(key) : `${parent}.${key}`;
}

export function isConfigMap(value: unknown): value is ConfigMap {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A map without a prototype: no key can reach `Object.prototype`. */
export function emptyMap(): ConfigMap {
  return Object.create(null) as ConfigMap;
}

export function refuseForbiddenKey(key: string, where: string): void {
  if (forbiddenKeys.has(key))
    throw new ConfigError(`config: key ${key} is not allowed (${where})`, { key, file: where });
}

/** Reads a YAML or JSON file. Errors: `ConfigError` with `file:line`. */
export function readConfigFile(file: string): ConfigSource {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError(`config: cannot read ${file}: ${reason}`, { file }, { cause: error });
  }
  return parseConfigText(text, file);
}

/**
 * Parses YAML 1.2 core (and so JSON). Refused with `file:line`: duplicate keys, anchors, aliases, tags, directives, several
 * documents, keys that are no strings, and unquoted integers beyond 2^53, which a number cannot hold.
 */
export function parseConfigText(text: string, file: string): ConfigSource {
  const lines = new LineCounter();
  const at = (node: { range?: readonly number[] | null } | null | undefined): string =>
    `${file}:${lines.linePos(node?.range?.[0] ?? 0).line}`;
  const fail = (what: string, where: string): never => {
    throw new ConfigError(`config: ${what} (${where})`, { file, line: Number(where.slice(file.length + 1)) });
  };

  const documents = parseAllDocuments(text, {
    version: '1.2',
    schema: 'core',
    uniqueKeys: true,
    intAsBigInt: true,
    merge: false,
    prettyErrors: false,
    lineCounter: lines,
  });
  const origins = new Map<string, string>();
  if (!Array.isArray(documents) || documents.length === 0) return { values: emptyMap(), origins };
  const [document, second] = documents;
  if (second) fail('expected one YAML document but found several', at(second));
  if (!document) return { values: emptyMap(), origins };
  const problem = document.errors[0] ?? document.warnings[0];
  if (problem) {
    const what = problem.code === 'DUPLICATE_KEY' ? 'duplicate key' : problem.message;
    fail(what, `${file}:${lines.linePos(problem.pos[0]).line}`);
  }
  if (/^%/m.test(text.slice(0, document.contents?.range?.[0] ?? 0)))
    fail('YAML directives are not allowed', `${file}:1`);
  visit(document, {
    Node(_key, node) {
      if (isAlias(node) || node.anchor !== undefined) fail('YAML anchors and aliases are not allowed', at(node));
      if (node.tag !== undefined) fail(`YAML tag ${node.tag} is not allowed`, at(node));
    },
  });

  const convert = (node: Node | null, path: string): ConfigValue => {
    if (node !== null) origins.set(path, at(node));
    if (isMap(node)) {
      const map = emptyMap();
      for (const pair of node.items) {
        const keyNode = pair.key as Node | null;
        const key = isScalar(keyNode) && typeof keyNode.value === 'string' ? keyNode.value : null;
        if (key === null) return fail('expected a string as key', at(keyNode ?? node));
        refuseForbiddenKey(key, at(keyNode));
        const child = joinPath(path, key);
        map[key] = convert(pair.value as Node | null, child);
        origins.set(child, at(keyNode));
      }
      return map;
    }
    if (isSeq(node)) return node.items.map((item, index) => convert(item as Node | null, joinPath(path, index)));
    const value: unknown = isScalar(node) ? node.value : null;
    if (typeof value === 'bigint') {
      if (value > 2n ** 53n || value < -(2n ** 53n)) {
        return fail(`integer ${value} at ${path} is beyond 2^53; quote it to keep all its digits`, at(node));
      }
      return Number(value);
    }
    if (value === null || typeof value === 'boolean' || typeof value === 'number' || typeof value === 'string')
      return value;
    return fail(`unexpected value at ${path}`, at(node));
  };

  const values = convert(document.contents as Node | null, '');
  if (values === null) return { values: emptyMap(), origins };
  if (!isConfigMap(values)) return fail('expected a map at the top', at(document.contents as Node));
  return { values, origins };
}

/** A layer given as a TypeScript object, for example the defaults of a data set. `undefined` members are left out. */
export function configFromObject(object: object, origin: string): ConfigSource {
  const origins = new Map<string, string>();
  const convert = (value: unknown, path: string): ConfigValue => {
    origins.set(path, origin);
    if (Array.isArray(value)) return value.map((item, index) => convert(item, joinPath(path, index)));
    if (value === null || typeof value === 'boolean' || typeof value === 'number' || typeof value === 'string')
      return value;
    if (typeof value !== 'object') {
      throw new ConfigError(`config: ${path || 'value'} must be plain data but received ${typeof value} (${origin})`, {
        key: path,
      });
    }
    const map = emptyMap();
    for (const key of Object.getOwnPropertyNames(value)) {
      refuseForbiddenKey(key, origin);
      const member: unknown = (value as Record<string, unknown>)[key];
      if (member !== undefined) map[key] = convert(member, joinPath(path, key));
    }
    return map;
  };
  const values = convert(object, '');
  if (!isConfigMap(values)) throw new ConfigError(`config: expected a map at the top (${origin})`);
  return { values, origins };
}
