import { ConfigError } from '../errors.js';
import { configJsonSchema } from './config_schema.js';
import { type ConfigSource, type ConfigValue, isConfigMap, joinPath } from './config_source.js';

/** The part of JSON Schema that our configuration uses. */
export interface SchemaNode {
  type?: string;
  const?: unknown;
  enum?: unknown[];
  properties?: Record<string, SchemaNode>;
  items?: SchemaNode;
  anyOf?: SchemaNode[];
  oneOf?: SchemaNode[];
  /** A choice by key (`split: {RS: ...}`): a later layer replaces it whole. */
  exclusive?: boolean;
  description?: string;
  default?: unknown;
}

const root = configJsonSchema() as SchemaNode;

/** The alternatives of a schema, unions opened. */
export function alternatives(node: SchemaNode): SchemaNode[] {
  const inner = node.anyOf ?? node.oneOf;
  return inner ? inner.flatMap(alternatives) : [node];
}

/** The map alternatives that a value may be meant as: those whose constants (`type: text`) it does not contradict. */
function mapsFor(node: SchemaNode, value: ConfigValue | undefined): SchemaNode[] {
  const maps = alternatives(node).filter((option) => option.properties);
  if (!isConfigMap(value)) return maps;
  const fitting = maps.filter((option) =>
    Object.entries(option.properties ?? {}).every(
      ([key, property]) => property.const === undefined || value[key] === undefined || value[key] === property.const,
    ),
  );
  return fitting.length > 0 ? fitting : maps;
}

/** The schema at a path, or null where no such key exists. List positions match the element. */
export function schemaAt(path: string): SchemaNode | null {
  let options: SchemaNode[] = [root];
  for (const key of path.split('.')) {
    options = options.flatMap(alternatives).flatMap((option) => {
      if (option.items && /^\d+$/.test(key)) return [option.items];
      const next = option.properties && Object.hasOwn(option.properties, key) ? option.properties[key] : undefined;
      return next ? [next] : [];
    });
    if (options.length === 0) return null;
  }
  const [only] = options;
  return options.length === 1 && only ? only : { anyOf: options };
}

/** Every path a configuration may hold, list elements as `feature_cols[].name`. */
export function knownPaths(node: SchemaNode = root, path = ''): string[] {
  const found = new Set<string>();
  for (const option of alternatives(node)) {
    for (const [key, property] of Object.entries(option.properties ?? {})) {
      const child = joinPath(path, key);
      found.add(child);
      for (const deeper of knownPaths(property, child)) found.add(deeper);
    }
    if (option.items) for (const deeper of knownPaths(option.items, `${path}[]`)) found.add(deeper);
  }
  return [...found];
}

/** Levenshtein distance. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substituted, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** The candidate with the smallest edit distance, the first of equals; null without candidates. */
export function nearest(word: string, candidates: readonly string[], distance = editDistance): string | null {
  let best: string | null = null;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const d = distance(word, candidate);
    if (d < least) [best, least] = [candidate, d];
  }
  return best;
}

/** `feature_cols.2.name` as people write it: `feature_cols[2].name`. */
export function displayPath(path: string): string {
  return path.replace(/\.(\d+)(?=\.|$)/g, '[$1]');
}

/** Words of other toolkits for keys of ours: importers translate them, and here they make the better hint. */
export const synonyms: Readonly<Record<string, string>> = {
  batch_size: 'train_batch_size',
  lr: 'learning_rate',
  dense_optimizer: 'learning_rate',
  sparse_optimizer: 'learning_rate',
  embedding_size: 'embedding_dim',
  min_categr_count: 'min_count',
  max_item_list_length: 'max_len',
  monitor: 'valid_metric',
  stopping_step: 'early_stop_patience',
  eval_args: 'eval',
  enable_amp: 'precision',
  tune_scale: 'tune_layers',
};

/** A right key in the wrong map costs one edit more than the spelling of its last part. */
function pathDistance(a: string, b: string): number {
  const last = (path: string): string => path.slice(path.lastIndexOf('.') + 1);
  return Math.min(editDistance(a, b), 1 + editDistance(last(a), last(b)));
}

export function unknownKey(path: string, where: string): ConfigError {
  const shown = displayPath(path);
  const key = shown
    .toLowerCase()
    .replaceAll('-', '_')
    .replace(/\[\d+\]/g, '[]');
  const dot = key.lastIndexOf('.') + 1;
  const last = key.slice(dot);
  const ours = Object.hasOwn(synonyms, last) ? key.slice(0, dot) + synonyms[last] : key;
  const near = nearest(ours, knownPaths(), pathDistance);
  const match = /^(.*):(\d+)$/.exec(where);
  return new ConfigError(`config: unknown key ${shown} (${where}); nearest is ${near}`, {
    key: shown,
    nearest: near,
    file: match?.[1] ?? where,
    line: match ? Number(match[2]) : null,
  });
}

/** Refuses the first key of a layer that the schema does not know. */
export function checkKeys(source: ConfigSource): void {
  const walk = (node: SchemaNode, value: ConfigValue, path: string): void => {
    if (Array.isArray(value)) {
      const items = alternatives(node).flatMap((option) => (option.items ? [option.items] : []));
      if (items.length > 0) value.forEach((item, index) => walk({ anyOf: items }, item, joinPath(path, index)));
      return;
    }
    if (!isConfigMap(value)) return;
    const maps = mapsFor(node, value);
    if (maps.length === 0) return;
    for (const [key, member] of Object.entries(value)) {
      const child = joinPath(path, key);
      const next = maps.flatMap((map) =>
        map.properties && Object.hasOwn(map.properties, key) ? [map.properties[key]!] : [],
      );
      if (next.length === 0) throw unknownKey(child, source.origins.get(child) ?? 'unknown origin');
      walk({ anyOf: next }, member, child);
    }
  };
  walk(root, source.values, '');
}
