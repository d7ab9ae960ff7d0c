import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError } from '../../src/errors.js';
import {
  type ConfigInput,
  configDigest,
  learningRates,
  parseConfigText,
  resolveConfig,
} from '../../src/train/config.js';
import { editDistance, knownPaths } from '../../src/train/config_keys.js';
import { configJsonSchema } from '../../src/train/config_schema.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galago-config-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

/** The error of a call, which must be a ConfigError with exit code 78; `folder/` is cut from its message. */
function refusal(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).exitCode).toBe(78);
    return (error as ConfigError).message.replaceAll(`${folder}/`, '');
  }
  throw new Error('expected a ConfigError');
}

const fromText = (text: string, overrides: string[] = []) =>
  resolveConfig({ files: [file('a.yaml', text)], overrides });

describe('layers', () => {
  it('fills in every default', () => {
    const { config, originOf } = resolveConfig({});
    expect(config.train.epochs).toBe(5);
    expect(config.model.fusion.queries).toBe(4);
    expect(config.device).toBe('auto');
    expect(learningRates(config.train)).toEqual({ dense: 1e-3, sparse: 1e-3, encoder: 3e-4, lora: 1e-3 });
    expect(originOf('train.epochs')).toBe('default');
  });

  it('takes command line over --set over later file over earlier file over defaults, and keeps each origin', () => {
    const a = file('one.yaml', 'train:\n  epochs: 1\n  prefetch: 3\n  seed: 1\n  keep_last: 9\ndata: { path: x }\n');
    const b = file('two.json', '{"train": {\n "epochs": 2,\n "seed": 2, "prefetch": 4}}');
    const { config, originOf } = resolveConfig({
      datasetDefaults: { train: { keep_last: 5, eval_batch_size: 64 } },
      files: [a, b],
      set: ['{"train":{"epochs":3,"seed":4}}'],
      overrides: ['train.epochs=5'],
    });
    expect(config.train).toMatchObject({ epochs: 5, seed: 4, prefetch: 4, keep_last: 9, eval_batch_size: 64 });
    expect(originOf('train.epochs')).toBe('command line');
    expect(originOf('train.prefetch')).toBe(`${b}:3`);
    expect(originOf('train.keep_last')).toBe(`${a}:5`);
    expect(originOf('train.eval_batch_size')).toBe('defaults of the data set');
    expect(originOf('train.unit')).toBe('default');
  });

  it('merges maps by key and replaces lists', () => {
    const a = file('a.yaml', 'model: { mlp: [8, 4, 2], fusion: { queries: 3 } }');
    const b = file('b.yaml', 'model: { mlp: [16], fusion: { layers: 5 } }');
    const { config } = resolveConfig({ files: [a, b] });
    expect(config.model.mlp).toEqual([16]);
    expect(config.model.fusion).toMatchObject({ queries: 3, layers: 5 });
  });

  it('replaces a choice whole', () => {
    const { config } = fromText('data: { shop: {} }\neval: { split: { RS: [8, 1, 1] } }');
    expect(config.eval.split).toEqual({ RS: [8, 1, 1] });
  });

  it('brings the defaults of the shop only where the shop is used', () => {
    const { config, originOf } = fromText('data: { shop: { seed: 3 } }\ntrain: { epochs: 2 }');
    expect(config.data.shop).toEqual({
      seed: 3,
      items: 2000,
      users: 1000,
      sessions: 24000,
      documents: 'short',
      histories: 'short',
    });
    expect(config.train).toMatchObject({ epochs: 2, unit: 'session', train_batch_size: 128, last_epoch_factor: 0.3 });
    expect(config.model.sqdc).toMatchObject({ weight: 0.1, scale: 50 });
    expect(originOf('model.sqdc.weight')).toBe('defaults of the shop');
    expect(resolveConfig({}).config.model.sqdc.weight).toBe(0);
  });

  it('accepts a TypeScript object and leaves undefined members out', () => {
    const { config } = resolveConfig({ object: { train: { epochs: 9, seed: undefined } } });
    expect(config.train).toMatchObject({ epochs: 9, seed: 7 });
  });
});

describe('command line values', () => {
  const override = (...overrides: string[]) => resolveConfig({ overrides }).config;

  it('reads numbers, lists, null, booleans and texts by the schema', () => {
    const config = override(
      'train.learning_rate=1e-3',
      'model.mlp=32,16',
      'eval.metrics=AUC,gAUC',
      'train.clip_norm=null',
      'data.allow_duplicates=true',
      'data.user_id=123',
      'model.encoder.tune_layers=all',
      'eval.split={"RS": [1, 1, 2]}',
      'model.modalities=text',
    );
    expect(config.train).toMatchObject({ learning_rate: 1e-3, clip_norm: null });
    expect(config.model).toMatchObject({ mlp: [32, 16], modalities: ['text'] });
    expect(config.model.encoder.tune_layers).toBe('all');
    expect(config.eval.metrics).toEqual(['AUC', 'gAUC']);
    expect(config.data).toMatchObject({ allow_duplicates: true, user_id: '123' });
    expect(config.eval.split).toEqual({ RS: [1, 1, 2] });
  });

  it('sets one learning rate group and leaves the others at their defaults', () => {
    expect(learningRates(override('train.learning_rate.encoder=5e-5').train)).toEqual({
      dense: 1e-3,
      sparse: 1e-3,
      encoder: 5e-5,
      lora: 1e-3,
    });
  });

  it.each([
    ['train.learningrate=1', 'config: unknown key train.learningrate (command line); nearest is train.learning_rate'],
    ['epochs=1', 'config: unknown key epochs (command line); nearest is train.epochs'],
    ['train.epochs', 'config: expected --key=value but received --train.epochs'],
    ['train.epochs=two', "config: train.epochs (command line): expected integer but received text 'two'"],
    ['train.epochs=1.5', 'config: train.epochs (command line): expected integer but received number 1.5'],
    ['train.__proto__.x=1', 'config: key __proto__ is not allowed (command line)'],
    [
      'feature_cols.0.name=x',
      'config: feature_cols[0].name (command line): lists are replaced whole, expected the list itself',
    ],
  ])('refuses %s', (text, message) => {
    expect(refusal(() => override(text))).toBe(message);
  });

  it('refuses an integer beyond 2^53 and a --set that is no JSON object', () => {
    expect(refusal(() => override('train.seed=9007199254740993'))).toMatch(/integer 9007199254740993 .* beyond 2\^53/);
    expect(refusal(() => resolveConfig({ set: ['{train'] }))).toBe(
      'config: --set expects a JSON object but received {train',
    );
    expect(refusal(() => resolveConfig({ set: ['[1]'] }))).toMatch(/expected a map at the top/);
    expect(refusal(() => resolveConfig({ set: ['{"train":{"epoch":1}}'] }))).toBe(
      'config: unknown key train.epoch (command line); nearest is train.epochs',
    );
  });
});

describe('files', () => {
  it.each([
    [
      'train:\n  epochs: 1\n  learningrate: 2\n',
      'config: unknown key train.learningrate (a.yaml:3); nearest is train.learning_rate',
    ],
    ['trian: {}\n', 'config: unknown key trian (a.yaml:1); nearest is train'],
    ['train: { batch_size: 2 }', 'config: unknown key train.batch_size (a.yaml:1); nearest is train.train_batch_size'],
    ['train:\n  lr: 2\n', 'config: unknown key train.lr (a.yaml:2); nearest is train.learning_rate'],
    ['stopping_step: 2\n', 'config: unknown key stopping_step (a.yaml:1); nearest is train.early_stop_patience'],
    [
      'feature_cols:\n  - { name: a, type: text, maxlen: 3 }\n',
      'config: unknown key feature_cols[0].maxlen (a.yaml:2); nearest is feature_cols[].max_len',
    ],
    [
      'feature_cols:\n  - { name: a, type: image, max_len: 3 }\n',
      'config: unknown key feature_cols[0].max_len (a.yaml:2); nearest is feature_cols[].max_len',
    ],
    ['train:\n  epochs: five\n', "config: train.epochs (a.yaml:2): expected integer but received text 'five'"],
    ['train:\n  epochs: 0\n', 'config: train.epochs (a.yaml:2): expected number to be >=1 but received number 0'],
    ['train:\n  epochs: .nan\n', 'config: train.epochs (a.yaml:2): expected integer but received number NaN'],
    [
      'model:\n  training: endtoend\n',
      "config: model.training (a.yaml:2): expected id_only, frozen, two_stage, stop_gradient, end_to_end but received text 'endtoend'",
    ],
    [
      'train:\n  learning_rate: fast\n',
      "config: train.learning_rate (a.yaml:2): expected number or a map of dense, sparse, encoder, lora but received text 'fast'",
    ],
    [
      'train:\n  learning_rate:\n    dense: fast\n',
      "config: train.learning_rate.dense (a.yaml:3): expected number but received text 'fast'",
    ],
    ['model:\n  mlp: 3\n', 'config: model.mlp (a.yaml:2): expected a list but received number 3'],
    ['model: [1]\n', /^config: model \(a\.yaml:1\): expected a map of name, .* but received a list of 1$/],
    [
      'eval: { metrics: [Accuracy] }\n',
      /^config: eval\.metrics\[0\] \(a\.yaml:1\): expected AUC, gAUC.* but received text 'Accuracy'$/,
    ],
    [
      'feature_cols:\n  - { type: text }\n',
      'config: feature_cols[0].name (a.yaml:2): expected string but received nothing',
    ],
    [
      'feature_cols:\n  - { name: x, type: txt }\n',
      /^config: feature_cols\[0\]\.type \(a\.yaml:2\): expected categorical or numeric .*'txt'$/,
    ],
    [
      'eval: { split: {} }',
      /^config: eval\.split \(a\.yaml:1\): expected a map of RS or .* but received a map with no keys$/,
    ],
    ['train: { seed: 1 }\ntrain: { seed: 2 }\n', 'config: duplicate key (a.yaml:2)'],
    ['train: &x { seed: 1 }\n', 'config: YAML anchors and aliases are not allowed (a.yaml:1)'],
    ['train:\n  seed: !!int 1\n', 'config: YAML tag tag:yaml.org,2002:int is not allowed (a.yaml:2)'],
    ['%YAML 1.2\n---\ntrain: {}\n', 'config: YAML directives are not allowed (a.yaml:1)'],
    ['train: {}\n---\ntrain: {}\n', /expected one YAML document/],
    [
      'data:\n  user_id: 9007199254740993\n',
      /integer 9007199254740993 at data\.user_id is beyond 2\^53; quote it .* \(a\.yaml:2\)/,
    ],
    ['__proto__: { polluted: 1 }\n', 'config: key __proto__ is not allowed (a.yaml:1)'],
    ['data:\n  constructor: 1\n', 'config: key constructor is not allowed (a.yaml:2)'],
    ['data:\n  toString: 1\n', /^config: unknown key data\.toString \(a\.yaml:2\)/],
    ['1: 2\n', 'config: expected a string as key (a.yaml:1)'],
    ['- 1\n', 'config: expected a map at the top (a.yaml:1)'],
    ['train: {\n', /\(a\.yaml:\d\)$/],
  ])('refuses %j', (text, message) => {
    const said = refusal(() => fromText(text));
    if (typeof message === 'string') expect(said).toBe(message);
    else expect(said).toMatch(message);
  });

  it('gives file and line as fields', () => {
    const path = file('fields.yaml', 'train:\n  epoch: 1\n');
    expect(() => resolveConfig({ files: [path] })).toThrow(
      expect.objectContaining({ fields: { key: 'train.epoch', nearest: 'train.epochs', file: path, line: 2 } }),
    );
  });

  it('F46: leaves Object.prototype alone', () => {
    const before = Object.getOwnPropertyNames(Object.prototype);
    refusal(() => fromText('{"__proto__": {"polluted": 1}}'));
    refusal(() => resolveConfig({ object: JSON.parse('{"train": {"__proto__": {"polluted": 1}}}') }));
    expect(Object.getOwnPropertyNames(Object.prototype)).toEqual(before);
  });

  it('names a file that is not there', () => {
    expect(refusal(() => resolveConfig({ files: [join(folder, 'none.yaml')] }))).toMatch(
      /^config: cannot read none\.yaml: ENOENT/,
    );
  });

  it('reads the core schema: no yes, no octal, a quoted integer is text, an empty file is empty', () => {
    expect(parseConfigText('a: yes\nb: 010\nc: "9007199254740993"\nd: 9007199254740992\ne: ~', 'x').values).toEqual(
      Object.assign(Object.create(null), { a: 'yes', b: 10, c: '9007199254740993', d: 2 ** 53, e: null }),
    );
    expect(Object.keys(parseConfigText('# nothing\n', 'x').values)).toEqual([]);
  });
});

describe('rules between values', () => {
  it.each([
    ['data: { path: a, shop: {} }', /data\.path .* expected either data\.path or data\.shop/],
    [
      'feature_cols: [{ name: a, type: meta }, { name: a, type: meta }]',
      /feature_cols\[1\]\.name .* expected each feature once/,
    ],
    [
      'feature_cols: [{ name: h, type: history, of: item }]',
      /feature_cols\[0\]\.of .* expected a categorical feature but received 'item'/,
    ],
    ['feature_cols: [{ name: label, type: numeric }]', /label is the label \(rule L3\)/],
    [
      'model: { fusion: { width: 30 } }',
      /model\.fusion\.heads \(a\.yaml:1\): expected a divisor of the width 30 but received 8/,
    ],
    [
      'model: { ranker: rankmixer, rankmixer: { width: 100 } }',
      /model\.rankmixer\.tokens .*expected a divisor of the width 100 but received 8/,
    ],
    [
      'model: { ranker: rankmixer, rankmixer: { sequence: longer }, longer: { merge: 3 } }',
      /model\.longer\.merge .*expected a divisor of the width 64 but received 3/,
    ],
    [
      'model: { encoder: { cache_tokens: 8 } }',
      /model\.encoder\.cache_tokens .*expected a square number but received 8/,
    ],
    ['model: { name: lemur, encoder: { cache_tokens: 4 } }', /model\.encoder\.cache_tokens .*expected null where/],
    [
      '{ model: { encoder: { cache_dir: x } }, image: { augment: {} } }',
      /cache_dir .*expected null with image\.augment/,
    ],
    ['model: { ranker: longer, longer: { heads: 5 } }', /model\.longer\.heads .*the width 64 but received 5/],
    [
      'data: { more_labels: [{ column: buy }] }',
      /data\.more_labels .*expected model\.ranker mmoe, which learns several labels, but received din/,
    ],
    [
      '{ data: { more_labels: [{ column: buy }, { column: buy }] }, model: { ranker: mmoe } }',
      /data\.more_labels\[1\]\.column .*expected a label of its own, or a name for it, but buy is one already/,
    ],
    [
      '{ data: { label: { column: rating, at_least: 4 }, more_labels: [{ column: rating, at_least: 5, name: rating }] }, model: { ranker: mmoe } }',
      /data\.more_labels\[0\]\.name .*expected a label of its own, or a name for it, but rating is one already/,
    ],
    [
      '{ data: { label: { column: null }, more_labels: [{ column: buy }] }, model: { ranker: mmoe } }',
      /data\.more_labels .*expected a column of the main label .* received null/,
    ],
    [
      '{ data: { more_labels: [{ column: buy, name: a }] }, feature_cols: [{ name: a, type: numeric }], model: { ranker: mmoe } }',
      /data\.more_labels\[0\]\.name .*expected a name that no feature has but received a/,
    ],
    [
      '{ data: { more_labels: [{ column: cold }] }, model: { ranker: mmoe } }',
      /data\.more_labels\[0\]\.column .*expected a name that no slice of metrics has but received cold/,
    ],
    ['train: { valid_metric: QAUC }', /train\.valid_metric .* expected one of eval\.metrics/],
  ])('refuses %s', (text, message) => {
    expect(refusal(() => fromText(text))).toMatch(message);
  });

  it('asks nothing of rankers that are not chosen', () => {
    expect(
      fromText('model: { ranker: din, longer: { merge: 3 }, rankmixer: { width: 100 } }').config.model.ranker,
    ).toBe('din');
    const grouped = 'model: { ranker: rankmixer, rankmixer: { width: 100, groups: [[a], [b]] } }';
    expect(fromText(grouped).config.model.rankmixer.groups).toEqual([['a'], ['b']]);
    expect(
      fromText('data: { more_labels: [{ column: buy }] }\nmodel: { ranker: mmoe }').config.data.more_labels,
    ).toEqual([{ column: 'buy', at_least: null, name: null }]);
  });

  it('accepts the example of the documents', () => {
    const { config } = fromText(`
data: { path: data/shop, user_id: user_id, item_id: item_id, time: timestamp, label: { column: rating, at_least: 4 } }
feature_cols:
  - { name: user_id, type: categorical, embedding_dim: 32 }
  - { name: item_id, type: categorical, embedding_dim: 32, min_count: 2 }
  - { name: genres,  type: sequence,  source: item, splitter: " ", max_len: 8 }
  - { name: history, type: history,   of: item_id, share_embedding: item_id, max_len: 50 }
  - { name: title,   type: text,      source: item, max_len: 32 }
  - { name: image,   type: image,     source: item, size: 224 }
  - { name: vectors, type: embedding, source: item, file: image_feat.npy, freeze_emb: true }
eval: { split: { RS: [0.8, 0.1, 0.1] }, order: RO, mode: full, metrics: [AUC, gAUC, logloss, Recall@20] }
train: { epochs: 5, train_batch_size: 512, learning_rate: 0.001, precision: fp32, seed: 7 }
`);
    expect(config.feature_cols.map(({ type }) => type)).toEqual([
      'categorical',
      'categorical',
      'sequence',
      'history',
      'text',
      'image',
      'embedding',
    ]);
    expect(learningRates(config.train).lora).toBe(0.001);
  });
});

describe('what a run keeps', () => {
  it('writes every value with its origin, and the text loads to the same configuration', () => {
    const resolved = fromText(
      'data: { shop: {} }\ntrain:\n  epochs: 3\nmodel: { mlp: [4, 2] }\nfeature_cols: [{ name: u, type: categorical }]',
      ['device=cpu'],
    );
    const text = resolved.toYaml().replaceAll(`${folder}/`, '');
    expect(text).toContain('epochs: 3 # a.yaml:3\n');
    expect(text).toContain('device: cpu # command line\n');
    expect(text).toContain('prefetch: 2 # default\n');
    expect(text).toContain('last_epoch_factor: 0.3 # defaults of the shop\n');
    expect(text).toContain('# a.yaml:4\n  mlp:\n');
    expect(resolveConfig({ files: [file('again.yaml', text)] }).config).toEqual(resolved.config);
  });

  it('has a digest that does not depend on the order of keys', () => {
    const a = fromText('train: { epochs: 3, seed: 4 }').config;
    const b = fromText('train: { seed: 4, epochs: 3 }').config;
    expect(configDigest(a)).toBe(configDigest(b));
    expect(configDigest(a)).toMatch(/^[0-9a-f]{64}$/);
    expect(configDigest(resolveConfig({}).config)).not.toBe(configDigest(a));
  });
});

describe('schema', () => {
  it('knows its paths, and every key has a description', () => {
    const paths = knownPaths();
    expect(paths).toContain('model.encoder.image.patch');
    expect(paths).toContain('feature_cols[].max_len');
    expect(paths).toContain('eval.split.TS.valid_from.quantile');
    const undescribed: string[] = [];
    const walk = (node: unknown, path: string): void => {
      if (typeof node !== 'object' || node === null) return;
      for (const [key, member] of Object.entries(node)) {
        if (key === 'properties') {
          for (const [name, property] of Object.entries(member as Record<string, Record<string, unknown>>)) {
            const fixed = property.const !== undefined || ['TS', 'CS', 'given', 'quantile'].includes(name);
            if (!fixed && typeof property.description !== 'string') undescribed.push(`${path}.${name}`);
            walk(property, `${path}.${name}`);
          }
        } else walk(member, path);
      }
    };
    walk(configJsonSchema(), '');
    expect(undescribed).toEqual([]);
  });

  it('gives a shop with long documents or histories the features and lengths that go with them', () => {
    const resolve = (shop: object, overrides: string[] = []) =>
      resolveConfig({ object: { data: { shop } }, overrides }).config;
    const fields = (config: ReturnType<typeof resolve>) =>
      config.feature_cols.flatMap((column) => (column.type === 'text' ? [`${column.name} ${column.max_len}`] : []));
    expect(fields(resolve({}))).toEqual(['query 8', 'title 8', 'tags 4']);
    const long = resolve({ documents: 'long', histories: 'long' });
    expect(fields(long)).toEqual(['query 8', 'title 31', 'ocr 124', 'asr 12', 'cover 12']);
    expect(long.data.shop).toMatchObject({ users: 40, sessions: 24000 });
    expect(long.model).toMatchObject({ history_len: 1000, sequences: { short: 20, long: 1000 }, ranker: 'dnn' });
    expect(resolve({ histories: 'long', users: 7 }).data.shop?.users).toBe(7);
    expect(resolve({}, ['data.shop.histories=long']).data.shop?.users).toBe(40);
    expect(resolve({ histories: 'long' }, ['data.shop.histories=short']).data.shop?.users).toBe(1000);
  });

  it('streams one stage over the rows as they are', () => {
    const order = (rest: ConfigInput) => () =>
      resolveConfig({ object: { data: { shop: {} }, ...rest, train: { order: 'time', ...rest.train } } });
    expect(order({})().config.train).toMatchObject({ order: 'time', windows: 10 });
    expect(order({ model: { training: 'two_stage' } })).toThrow(
      /train.order.*expected shuffled with model.training two_stage/,
    );
    expect(order({ train: { negatives: { kind: 'uniform' } } })).toThrow(
      /train.order.*expected shuffled with sampled negatives/,
    );
  });

  it('counts edits', () => {
    expect(editDistance('', 'abc')).toBe(3);
    expect(editDistance('kitten', 'sitting')).toBe(3);
    expect(editDistance('same', 'same')).toBe(0);
  });
});
