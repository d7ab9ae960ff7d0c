import { createHash } from 'node:crypto';
import { Document, isPair, isScalar, isSeq, visit } from 'yaml';
import type { z } from 'zod';
import { ConfigError } from '../errors.js';
import { alternatives, checkKeys, displayPath, type SchemaNode, schemaAt, unknownKey } from './config_keys.js';
import {
  type Config,
  type ConfigInput,
  configSchema,
  longDocumentDefaults,
  longHistoryDefaults,
  releaseDefaults,
  shopDefaults,
} from './config_schema.js';
import {
  type ConfigMap,
  type ConfigSource,
  type ConfigValue,
  configFromObject,
  emptyMap,
  isConfigMap,
  joinPath,
  parseConfigText,
  readConfigFile,
  refuseForbiddenKey,
} from './config_source.js';
import { publishedDefaults } from './published_encoders.js';

export {
  type Config,
  type ConfigInput,
  configJsonSchema,
  type FeatureColumn,
  type SplitRule,
} from './config_schema.js';
export { parseConfigText, readConfigFile } from './config_source.js';

const commandLine = 'command line';

/** What a configuration is put together from, weakest first. */
export interface ConfigRequest {
  /** Values that the data set brings with it. */
  readonly datasetDefaults?: ConfigInput;
  /** YAML or JSON files; a later one wins. */
  readonly files?: readonly string[];
  /** A configuration given in TypeScript; above the files. */
  readonly object?: ConfigInput;
  /** JSON objects of `--set`; above the files. */
  readonly set?: readonly string[];
  /** `train.epochs=2`, without dashes; above everything. */
  readonly overrides?: readonly string[];
}

/** A complete configuration and where each value came from. */
export interface ResolvedConfig {
  readonly config: Config;
  /** `a.yaml:12`, `command line`, `defaults of the shop`, or `default`. Path with dots, list positions as numbers. */
  originOf(path: string): string;
  /** Text of `resolved_config.yaml`: every value with its origin as a comment. It loads as a configuration again. */
  toYaml(): string;
}

/**
 * Resolves a configuration: command line over `--set` over object over later file over earlier file over data-set defaults over the
 * defaults of the schema. Maps merge by key, lists and choices (`eval.split`) replace. Errors: `ConfigError`, naming key, place,
 * what was expected and what came.
 */
export function resolveConfig(request: ConfigRequest): ResolvedConfig {
  const given: ConfigSource[] = [
    ...(request.files ?? []).map(readConfigFile),
    ...(request.object ? [configFromObject(request.object, 'object')] : []),
    ...(request.set ?? []).map(parseSet),
    ...(request.overrides ?? []).map(parseOverride),
  ];
  const usesShop = given.some(({ values }) => isConfigMap(values.data) && isConfigMap(values.data.shop));
  /** As the source that counts most says it. */
  const isLong = (key: 'documents' | 'histories'): boolean =>
    given.map(({ values }) => valueAt(values, `data.shop.${key}`)).findLast((value) => value !== undefined) === 'long';
  const said = (key: string): ConfigValue | undefined =>
    given.map(({ values }) => valueAt(values, key)).findLast((value) => value !== undefined);
  const name = said('model.name');
  const isRelease = name === 'freedom' || name === 'em3_release';
  const defaults: ConfigSource[] = [
    ...(isRelease ? [configFromObject(releaseDefaults, `defaults of ${name}`)] : []),
    ...(usesShop ? [configFromObject(shopDefaults, 'defaults of the shop')] : []),
    ...(isLong('documents') ? [configFromObject(longDocumentDefaults, 'defaults of long documents')] : []),
    ...(isLong('histories') ? [configFromObject(longHistoryDefaults, 'defaults of long histories')] : []),
    ...(request.datasetDefaults ? [configFromObject(request.datasetDefaults, 'defaults of the data set')] : []),
    ...weightsDefaults(said),
  ];

  const values = emptyMap();
  const origins = new Map<string, string>();
  for (const source of [...defaults, ...given]) {
    checkKeys(source);
    mergeInto(values, source.values, '', source.origins, origins);
  }
  const originOf = (path: string): string => origins.get(path) ?? 'default';
  /** Where to look for a wrong value: its own place, or that of the map or list around it. */
  const placeOf = (path: string): string => {
    for (let place = path; place !== ''; place = place.slice(0, Math.max(0, place.lastIndexOf('.')))) {
      const origin = origins.get(place);
      if (origin !== undefined) return origin;
    }
    return 'default';
  };

  const parsed = configSchema.safeParse(values);
  if (!parsed.success) throw wrongValue(parsed.error.issues[0]!, values, placeOf);
  checkReferences(parsed.data, placeOf);
  return { config: parsed.data, originOf, toYaml: () => annotatedYaml(parsed.data, originOf) };
}

/** A configuration whose low-rank updates of the encoders are `lora`, as `origin` says. */
export function withEncoderLora(
  { config, originOf: before }: ResolvedConfig,
  lora: NonNullable<Config['model']['encoder']['lora']>,
  origin: string,
): ResolvedConfig {
  const encoder = { ...config.model.encoder, lora };
  const changed = { ...config, model: { ...config.model, encoder } };
  const originOf = (path: string): string => (path.startsWith('model.encoder.lora') ? origin : before(path));
  return { config: changed, originOf, toYaml: () => annotatedYaml(changed, originOf) };
}

/** Hexadecimal SHA-256 of a configuration, independent of the order of keys. */
export function configDigest(config: Config): string {
  const sorted = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(sorted);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([key, member]) => [key, sorted(member)]),
    );
  };
  // a run may go on elsewhere, with other threads, memory and caches
  const train = { ...config.train, loader_workers: undefined, prefetch_bytes: undefined };
  const text = { ...config.text, cache_dir: undefined };
  return createHash('sha256')
    .update(JSON.stringify(sorted({ ...config, train, text, device: undefined })))
    .digest('hex');
}

/** Learning rate of each parameter group, where the configuration may give one number for all. */
export function learningRates({
  learning_rate: rate,
}: Config['train']): Record<'dense' | 'sparse' | 'encoder' | 'lora', number> {
  return typeof rate === 'number' ? { dense: rate, sparse: rate, encoder: rate, lora: rate } : rate;
}

// ---- layers

/** What folders of published encoders say about texts and pictures. */
function weightsDefaults(said: (key: string) => ConfigValue | undefined): ConfigSource[] {
  const path = (key: string): string | null => {
    const value = said(key);
    return typeof value === 'string' ? value : null;
  };
  const weights = path('model.encoder.weights');
  const imageWeights = path('model.encoder.image.weights');
  if (weights === null && imageWeights === null) return [];
  const modalities = said('model.modalities');
  const read = Array.isArray(modalities) ? modalities.map(String) : ['text', 'image'];
  const object = publishedDefaults({ weights, imageWeights, modalities: read });
  return [configFromObject(object, 'defaults of the encoder weights')];
}

/** `--set '{"train":{"epochs":2}}'`. */
function parseSet(text: string): ConfigSource {
  try {
    JSON.parse(text);
  } catch (error) {
    throw new ConfigError(`config: --set expects a JSON object but received ${text}`, {}, { cause: error });
  }
  return relabel(parseConfigText(text, '--set'), commandLine);
}

/** `train.epochs=2`. A list takes commas (`model.mlp=256,128`) or JSON; a text stays text even if it looks like a number. */
function parseOverride(text: string): ConfigSource {
  const equals = text.indexOf('=');
  if (equals < 1) throw new ConfigError(`config: expected --key=value but received --${text}`, { key: text });
  const path = text.slice(0, equals);
  const keys = path.split('.');
  for (const key of keys) refuseForbiddenKey(key, commandLine);
  const schema = schemaAt(path);
  if (!schema) throw unknownKey(path, commandLine);
  if (keys.some((key) => /^\d+$/.test(key))) {
    throw new ConfigError(
      `config: ${displayPath(path)} (${commandLine}): lists are replaced whole, expected the list itself`,
      { key: path },
    );
  }

  const values = emptyMap();
  let map: ConfigMap = values;
  for (const key of keys.slice(0, -1)) map = map[key] = emptyMap();
  map[keys.at(-1)!] = overrideValue(schema, text.slice(equals + 1), path);
  return relabel(configFromObject(values, commandLine), commandLine);
}

function overrideValue(schema: SchemaNode, text: string, path: string): ConfigValue {
  const options = alternatives(schema);
  if (/^\s*[{[]/.test(text)) return plainValue(text, path);
  const list = options.find((option) => option.type === 'array');
  if (list)
    return text === '' ? [] : text.split(',').map((part) => scalarValue(alternatives(list.items ?? {}), part, path));
  return scalarValue(options, text, path);
}

function scalarValue(options: SchemaNode[], text: string, path: string): ConfigValue {
  const types = options.map((option) => option.type ?? typeof option.const);
  if (text === 'null' && types.includes('null')) return null;
  const onlyText = types.every((type) => type === 'string' || type === 'null');
  return onlyText ? text : plainValue(text, path);
}

/** Text read by the rules of YAML. */
function plainValue(text: string, path: string): ConfigValue {
  try {
    return parseConfigText(`value: ${text}`, commandLine).values.value ?? null;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError(
      `config: ${path} (${commandLine}): cannot read ${text}: ${reason}`,
      { key: path },
      { cause: error },
    );
  }
}

function relabel(source: ConfigSource, origin: string): ConfigSource {
  return { values: source.values, origins: new Map([...source.origins.keys()].map((path) => [path, origin])) };
}

function mergeInto(
  target: ConfigMap,
  layer: ConfigMap,
  path: string,
  from: ReadonlyMap<string, string>,
  origins: Map<string, string>,
): void {
  for (const [key, value] of Object.entries(layer)) {
    const child = joinPath(path, key);
    const old = target[key];
    const merges = isConfigMap(value) && isConfigMap(old) && schemaAt(child)?.exclusive !== true;
    if (!merges) {
      for (const known of [...origins.keys()]) if (known.startsWith(`${child}.`)) origins.delete(known);
      target[key] = isConfigMap(value) ? emptyMap() : value;
    }
    const origin = from.get(child);
    if (origin !== undefined) origins.set(child, origin);
    const merged = target[key];
    if (isConfigMap(value) && isConfigMap(merged)) mergeInto(merged, value, child, from, origins);
    if (Array.isArray(value)) {
      for (const [inner, place] of from) if (inner.startsWith(`${child}.`)) origins.set(inner, place);
    }
  }
}

// ---- errors

function valueAt(values: ConfigValue, path: string): ConfigValue | undefined {
  let value: ConfigValue | undefined = values;
  for (const key of path === '' ? [] : path.split('.')) {
    if (Array.isArray(value)) value = value[Number(key)];
    else value = isConfigMap(value) ? value[key] : undefined;
  }
  return value;
}

function describe(value: ConfigValue | undefined): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (isConfigMap(value)) return `a map with ${Object.keys(value).join(', ') || 'no keys'}`;
  return typeof value === 'string' ? `text '${value}'` : value === null ? 'null' : `${typeof value} ${value}`;
}

/** What a schema accepts, in words. */
function expectation(node: SchemaNode | null): string {
  const words = alternatives(node ?? {}).map((option) => {
    if (option.const !== undefined) return String(option.const);
    if (option.enum) return option.enum.join(', ');
    if (option.properties) return `a map of ${Object.keys(option.properties).join(', ')}`;
    if (option.type === 'array') return 'a list';
    return option.type ?? 'a value';
  });
  return [...new Set(words)].join(' or ');
}

/** Turns zod's first issue into our sentence; in a union, the issue that lies deepest is the one meant. */
function wrongValue(issue: z.core.$ZodIssue, values: ConfigMap, placeOf: (path: string) => string): ConfigError {
  const path: PropertyKey[] = [...issue.path];
  let deepest: z.core.$ZodIssue = issue;
  while (deepest.code === 'invalid_union') {
    const written = valueAt(values, path.map(String).join('.'));
    const [inner] = deepest.errors
      .flat()
      .filter((candidate) => isConfigMap(written) && String(candidate.path[0]) in written)
      .sort((a, b) => b.path.length - a.path.length);
    if (!inner) break;
    path.push(...inner.path);
    deepest = inner;
  }
  const key = path.map(String).join('.');
  const value = valueAt(values, key);
  const schema = schemaAt(key);
  // limits and patterns speak for themselves; a wrong type or choice is told from the schema
  const limit = ['too_small', 'too_big', 'invalid_format', 'not_multiple_of'].includes(deepest.code);
  const expected = limit ? deepest.message.replace(/^(Too (small|big): )?expected /, '') : expectation(schema);
  const origin = placeOf(key);
  const match = /^(.*):(\d+)$/.exec(origin);
  const place = origin === 'default' ? '' : ` (${origin})`;
  return new ConfigError(`config: ${displayPath(key)}${place}: expected ${expected} but received ${describe(value)}`, {
    key: displayPath(key),
    file: match?.[1] ?? origin,
    line: match ? Number(match[2]) : null,
    expected,
  });
}

/** Rules that hold between values. */
function checkReferences(config: Config, placeOf: (path: string) => string): void {
  const fail = (path: string, what: string): never => {
    const origin = placeOf(path);
    throw new ConfigError(`config: ${displayPath(path)}${origin === 'default' ? '' : ` (${origin})`}: ${what}`, {
      key: displayPath(path),
    });
  };
  if (config.data.path !== null && config.data.shop !== null) {
    fail('data.path', 'expected either data.path or data.shop but received both');
  }
  const categorical = new Set(config.feature_cols.filter(({ type }) => type === 'categorical').map(({ name }) => name));
  const names = new Set<string>();
  config.feature_cols.forEach((column, index) => {
    const path = `feature_cols.${index}`;
    if (names.has(column.name)) fail(`${path}.name`, `expected each feature once but ${column.name} comes again`);
    names.add(column.name);
    for (const key of ['of', 'share_embedding'] as const) {
      const target = key in column ? (column as Partial<Record<typeof key, string | null>>)[key] : null;
      if (target != null && !categorical.has(target)) {
        fail(`${path}.${key}`, `expected a categorical feature but received '${target}'`);
      }
    }
    const labels = [config.data.label, ...config.data.more_labels];
    if (labels.some((label) => label.column === column.name) && column.type !== 'meta') {
      fail(`${path}.name`, `expected a feature but ${column.name} is the label (rule L3)`);
    }
  });
  const { decoder, encoder, fusion } = config.model;
  const divides = (width: number, heads: number, path: string): void => {
    if (width % heads !== 0) fail(path, `expected a divisor of the width ${width} but received ${heads}`);
  };
  divides(encoder.width, encoder.heads, 'model.encoder.heads');
  divides(encoder.image.width, encoder.image.heads, 'model.encoder.image.heads');
  divides(fusion.width, fusion.heads, 'model.fusion.heads');
  if (config.model.name === 'lemur') divides(encoder.width, decoder.heads, 'model.decoder.heads');
  if (encoder.cache_dir !== null && config.image.augment !== null && config.model.training !== 'frozen')
    fail('model.encoder.cache_dir', 'expected null with image.augment: what is cached of a picture does not change');
  if (encoder.cache_tokens !== null) {
    const cells = Math.round(Math.sqrt(encoder.cache_tokens));
    if (cells * cells !== encoder.cache_tokens)
      fail('model.encoder.cache_tokens', `expected a square number but received ${encoder.cache_tokens}`);
    if (config.model.name === 'lemur' || fusion.mode === 'exact')
      fail(
        'model.encoder.cache_tokens',
        'expected null where patches are not tokens: with model.name lemur, or model.fusion.mode exact',
      );
  }
  const { ranker, rankmixer, longer } = config.model;
  if (ranker === 'rankmixer' && rankmixer.groups === null) {
    divides(rankmixer.width, rankmixer.tokens, 'model.rankmixer.tokens');
  }
  if (ranker === 'longer' || (ranker === 'rankmixer' && rankmixer.sequence === 'longer')) {
    divides(longer.width, longer.heads, 'model.longer.heads');
    divides(longer.width, longer.merge, 'model.longer.merge');
  }
  if (encoder.weights !== null && config.model.modalities.includes('text') && config.text.positions === 'per_field') {
    fail('text.positions', 'expected global with model.encoder.weights, which were trained so, but received per_field');
  }
  const more = config.data.more_labels.map(({ column, name }) => name ?? column);
  more.forEach((name, i) => {
    const path = `data.more_labels.${i}.${config.data.more_labels[i]!.name === null ? 'column' : 'name'}`;
    if (name === config.data.label.column || more.indexOf(name) < i)
      fail(path, `expected a label of its own, or a name for it, but ${name} is one already`);
    if (/(^|\.)(all|warm|cold)$/.test(name))
      fail(path, `expected a name that no slice of metrics has but received ${name}`);
    if (names.has(name) && path.endsWith('name'))
      fail(path, `expected a name that no feature has but received ${name}`);
  });
  if (more.length > 0 && config.data.label.column === null)
    fail('data.more_labels', 'expected a column of the main label (data.label.column) beside others but received null');
  if (more.length > 0 && ranker !== 'mmoe') {
    fail('data.more_labels', `expected model.ranker mmoe, which learns several labels, but received ${ranker}`);
  }
  if (config.train.order === 'time') {
    if (config.model.training === 'two_stage')
      fail('train.order', 'expected shuffled with model.training two_stage, whose first stage makes passes of its own');
    if (['uniform', 'popularity'].includes(config.train.negatives.kind))
      fail('train.order', 'expected shuffled with sampled negatives: windows are scored on their rows as they are');
  }
  const { mode, metrics } = config.eval;
  const ranked = metrics.filter((metric) => metric.includes('@'));
  if (mode === 'labeled' && ranked.length > 0)
    fail('eval.metrics', `expected ${ranked.join(', ')} with eval.mode full, which ranks items, but received labeled`);
  if (mode !== 'labeled' && ranked.length === 0)
    fail('eval.metrics', `expected Recall, HR, NDCG or MRR with @K for eval.mode ${mode} but received none`);
  if (config.model.name === 'freedom' || config.model.name === 'em3_release') {
    const { modalities, freedom, fusion } = config.model;
    if (modalities.length !== freedom.modality_weights.length)
      fail(
        'model.freedom.modality_weights',
        `expected one for each of ${modalities.length} modalities but received ${freedom.modality_weights.length}`,
      );
    divides(freedom.width, fusion.heads, 'model.fusion.heads');
    if (!['uniform', 'popularity'].includes(config.train.negatives.kind))
      fail('train.negatives.kind', `expected uniform or popularity but received '${config.train.negatives.kind}'`);
  }
  if (!config.eval.metrics.includes(config.train.valid_metric)) {
    fail(
      'train.valid_metric',
      `expected one of eval.metrics (${config.eval.metrics.join(', ')}) but received '${config.train.valid_metric}'`,
    );
  }
}

// ---- resolved_config.yaml

function annotatedYaml(config: Config, originOf: (path: string) => string): string {
  const document = new Document(config, { version: '1.2', aliasDuplicateObjects: false });
  visit(document, {
    // a list came as a whole: one comment above it
    Seq: () => visit.SKIP,
    Pair(_key, { key, value }, ancestors) {
      if (!isScalar(key)) return;
      const keys = ancestors.flatMap((node) => (isPair(node) && isScalar(node.key) ? [String(node.key.value)] : []));
      const origin = ` ${originOf([...keys, String(key.value)].join('.'))}`;
      if (isScalar(value)) value.comment = origin;
      else if (isSeq(value)) key.commentBefore = origin;
    },
  });
  return document.toString({ lineWidth: 0 });
}
