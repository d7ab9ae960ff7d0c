import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { resolveConfig } from '../../src/train/config.js';
import { captured, lastJson } from './captured.js';

const root = mkdtempSync(join(tmpdir(), 'galago-import-'));
afterAll(() => rmSync(root, { recursive: true }));

let files = 0;
function yaml(text: string): string {
  const path = join(root, `f${files++}.yaml`);
  writeFileSync(path, text);
  return path;
}

interface Result {
  readonly unmatched: readonly { key: string; reason: string }[];
  readonly out: string | null;
}

/** Imports, loads what was written as a configuration, and gives it with what was told. */
async function imported(...argv: string[]) {
  const out = join(root, `out${files++}.yaml`);
  const { exitCode, stdout, stderr } = await captured(['import', ...argv, '--out', out, '--json']);
  expect(exitCode, stderr).toBe(0);
  const { unmatched } = lastJson(stdout) as Result;
  const text = readFileSync(out, 'utf8');
  for (const { key } of unmatched) {
    expect(stderr).toContain(`no counterpart: ${key}`);
    expect(text).toContain(`# no counterpart: ${key}`);
  }
  return { config: resolveConfig({ files: [out] }).config, told: unmatched.map(({ key }) => key), out };
}

describe('galago import', () => {
  it('recbole: names, split, metrics, sampling', async () => {
    const file = yaml(`
data_path: sets
dataset: tiny
model: FM
USER_ID_FIELD: uid
ITEM_ID_FIELD: iid
TIME_FIELD: when
load_col: { inter: [uid, iid, when] }
MAX_ITEM_LIST_LENGTH: 20
epochs: 30
train_batch_size: 256
learning_rate: 0.002
stopping_step: 4
embedding_size: 24
eval_args: { split: { RS: [0.7, 0.1, 0.2] }, order: TO, group_by: user, mode: full }
metrics: [Recall, NDCG, Hit, Precision]
topk: [10, 20]
valid_metric: NDCG@10
train_neg_sample_args: { distribution: popularity, sample_num: 2 }
`);
    const { config, told } = await imported('recbole', file);
    expect(config.data).toMatchObject({ path: 'sets/tiny', user_id: 'uid', item_id: 'iid', time: 'when' });
    expect(config.data.label.column).toBeNull();
    expect(config.feature_cols[2]).toMatchObject({ type: 'history', of: 'iid', max_len: 20 });
    expect(config.eval).toMatchObject({
      split: { RS: [0.7, 0.1, 0.2] },
      order: 'TO',
      group_by: 'user',
      mode: 'full',
      metrics: ['Recall@10', 'Recall@20', 'NDCG@10', 'NDCG@20', 'HR@10', 'HR@20'],
    });
    expect(config.model).toMatchObject({ ranker: 'fm', training: 'id_only', embedding_dim: 24 });
    expect(config.train).toMatchObject({
      epochs: 30,
      train_batch_size: 256,
      learning_rate: 0.002,
      early_stop_patience: 4,
      valid_metric: 'NDCG@10',
      negatives: { kind: 'popularity', n: 2 },
    });
    expect(told).toEqual(['metrics', 'load_col']);
  });

  it('recbole: labels by threshold, drawn candidates', async () => {
    const { config, told } = await imported(
      'recbole',
      yaml('threshold: { rating: 4 }\nmetrics: [AUC, LogLoss]\nvalid_metric: AUC\neval_args: { mode: labeled }\n'),
    );
    expect(config.data.label).toEqual({ column: 'rating', at_least: 4 });
    expect(config.eval).toMatchObject({ mode: 'labeled', metrics: ['AUC', 'logloss'] });
    expect(told).toEqual([]);
    const drawn = await imported(
      'recbole',
      yaml('metrics: [MRR]\ntopk: [5]\nvalid_metric: MRR@5\neval_args: { mode: uni100 }\nmodel: BPR\n'),
    );
    expect(drawn.config.eval.mode).toBe('uni100');
    expect(drawn.told).toEqual(['model']);
  });

  it('recbole: what is not said has its default, the metric that chooses too', async () => {
    const { config } = await imported(
      'recbole',
      yaml('metrics: [Recall, NDCG]\ntopk: [10]\neval_args: { mode: full }\n'),
    );
    expect(config.train.valid_metric).toBe('MRR@10');
    expect(config.eval.metrics).toEqual(['Recall@10', 'NDCG@10', 'MRR@10']);
  });

  it('recbole: keys that a map of eval_args leaves out have the defaults of RecBole', async () => {
    const args = async (text: string) => (await imported('recbole', yaml(`eval_args: ${text}\n`))).config.eval;
    expect(await args('{ split: { RS: [8, 1, 1] } }')).toMatchObject({ group_by: 'user', mode: 'full' });
    expect(await args('{ group_by: null, mode: labeled }')).toMatchObject({ group_by: 'none', mode: 'labeled' });
  });

  it('recbole: separators and files of the parts', async () => {
    const { config, told } = await imported(
      'recbole',
      yaml(
        'field_separator: ","\nseq_separator: "|"\nbenchmark_filename: [train, valid, test]\neval_args: { split: { RS: [8, 1, 1] } }\n',
      ),
    );
    expect(config.data).toMatchObject({ field_separator: ',', seq_separator: '|' });
    expect(config.data.benchmark_filename).toEqual(['train', 'valid', 'test']);
    expect(config.eval.split).toEqual({ given: true });
    expect(told).toEqual([]);
  });

  it('recbole: every key of the sampling is written or told', async () => {
    const { config, told } = await imported(
      'recbole',
      yaml('train_neg_sample_args: { distribution: popularity, sample_num: 2, alpha: 0.5, dynamic: true }\n'),
    );
    expect(config.train.negatives).toMatchObject({ kind: 'popularity', n: 2, alpha: 0.5 });
    expect(told).toEqual(['train_neg_sample_args.dynamic']);
  });

  it('fuxictr: labels beside the first are learnt by mmoe and told elsewhere', async () => {
    const dataset = yaml(`
d: { feature_cols: [{ name: [user_id, item_id], type: categorical }], label_col: [{ name: clk }, { name: buy }] }
`);
    const of = async (model: string) => {
      const file = yaml(`m: { model: ${model}, dataset_id: d }\n`);
      const { config, told } = await imported('fuxictr', dataset, file, '--expid', 'm');
      return [config.data.more_labels.map(({ column }) => column), told];
    };
    expect(await of('MMoE')).toEqual([['buy'], []]);
    expect(await of('DNN')).toEqual([[], ['d.label_col']]);
  });

  it('tells names that are maps or nothing, and takes the others', async () => {
    const dataset = yaml(`
d:
  label_col: clk
  feature_cols:
    - { name: [user_id, { a: 1 }], type: categorical, dtype: str }
    - { type: categorical }
    - { name: item_id, type: categorical }
    - { name: [h, g], type: sequence, share_embedding: item_id }
`);
    const model = yaml(`
A:
  { model: DIN, dataset_id: d, metrics: [AUC, { a: 1 }], dnn_activations: { a: 1 },
    din_sequence_field: [{ a: 1 }, g], din_target_field: [item_id, item_id] }
`);
    const { config, told } = await imported('fuxictr', dataset, model, '--expid', 'A');
    expect(config.data.label.column).toBe('clk');
    expect(config.feature_cols.map(({ name }) => name)).toEqual(['user_id', 'item_id', 'h', 'g']);
    expect(config.feature_cols.map((column) => 'of' in column && column.of)).toEqual([false, false, false, 'item_id']);
    expect(told.toSorted()).toEqual([
      'd.feature_cols',
      'd.feature_cols',
      'din_sequence_field',
      'dnn_activations',
      'metrics',
    ]);
    const recbole = await imported('recbole', yaml('metrics: [{ a: 1 }]\nbenchmark_filename: [train, { a: 1 }]\n'));
    expect(recbole.told).toEqual(['benchmark_filename', 'metrics']);
  });

  it('mmrec: several files, lists of settings, the feature files', async () => {
    const overall = yaml(`
seed: [999]
data_path: 'data/'
inter_splitting_label: x_label
filter_out_cod_start_users: True
embedding_size: 64
epochs: 1000
stopping_step: 20
train_batch_size: 2048
learning_rate: 0.001
metrics: [Recall, NDCG, MAP]
topk: [10, 20]
valid_metric: Recall@20
USER_ID_FIELD: user_id:token
`);
    const own = yaml(`
dataset: toys
model: FREEDOM
USER_ID_FIELD: userID
ITEM_ID_FIELD: itemID
TIME_FIELD: timestamp
vision_feature_file: image_feat.npy
text_feature_file: text_feat.npy
dropout: [0.8, 0.9]
knn_k: 8
mm_image_weight: 0.25
lambda_coeff: 0.9
`);
    const { config, told } = await imported('mmrec', overall, own);
    expect(config.data).toMatchObject({ path: 'data/toys', user_id: 'userID', item_id: 'itemID' });
    expect(config.feature_cols.slice(2)).toMatchObject([
      { name: 'image', type: 'embedding', file: 'image_feat.npy' },
      { name: 'text', type: 'embedding', file: 'text_feat.npy' },
    ]);
    expect(config.model).toMatchObject({
      name: 'freedom',
      freedom: { width: 64, neighbours: 8, keep_edges: 0.2, modality_weights: [0.25, 0.75] },
    });
    expect(config.eval).toMatchObject({ mode: 'full', masked: 'train', known_users: true });
    expect(config.eval.metrics).toEqual(['Recall@10', 'Recall@20', 'NDCG@10', 'NDCG@20']);
    expect(config.train).toMatchObject({ seed: 999, early_stop_patience: 20, negatives: { kind: 'uniform', n: 1 } });
    expect(told).toEqual(['dropout', 'metrics', 'lambda_coeff']);
  });

  it('fuxictr: the data set of an experiment, its columns and parts', async () => {
    const dataset = yaml(`
shop_x1:
  data_root: ../data
  data_format: csv
  train_data: ../data/shop/train.csv
  valid_data: ../data/shop/test.csv
  test_data: ../data/shop/test.csv
  item_info: ../data/shop/item_info.csv
  min_categr_count: 2
  feature_cols:
    - { name: [user_id, item_id], active: True, dtype: str, type: categorical }
    - { name: hour, active: True, dtype: float, type: numeric, preprocess: log }
    - { name: seen, active: True, dtype: str, type: sequence, splitter: ^, max_len: 100, padding: pre, share_embedding: item_id }
    - { name: brand, active: True, dtype: str, type: categorical, source: item, min_categr_count: 1 }
    - { name: old, active: False, dtype: str, type: categorical }
  label_col: { name: clk, dtype: float }
`);
    const model = yaml(`
Base: { model_root: ./checkpoints/, num_workers: 3, early_stop_patience: 2, feature_specs: null }
DIN_1:
  model: DIN
  dataset_id: shop_x1
  metrics: [gAUC, AUC, logloss]
  optimizer: adam
  learning_rate: 5.e-4
  embedding_regularizer: 0.005
  net_regularizer: 0
  batch_size: 1024
  embedding_dim: 64
  dnn_hidden_units: [1024, 512]
  attention_hidden_units: [512, 256]
  din_sequence_field: [seen]
  din_target_field: [item_id]
  net_dropout: 0.1
  batch_norm: True
  epochs: 100
  seed: 2022
  monitor: { gAUC: 1, AUC: 1 }
  group_id: user_id
`);
    const { config, told } = await imported('fuxictr', dataset, model, '--expid', 'DIN_1');
    expect(config.data).toMatchObject({
      path: '../data/shop',
      parts: { train: 'train.csv', valid: 'test.csv', test: 'test.csv' },
      items: 'item_info.csv',
      user_id: 'user_id',
      item_id: 'item_id',
      label: { column: 'clk' },
      allow_duplicates: true,
    });
    expect(config.data.dtypes.map(({ column, dtype }) => `${column} ${dtype}`)).toEqual([
      'user_id token',
      'item_id token',
      'hour float',
      'seen token',
      'brand token',
    ]);
    expect(config.feature_cols).toMatchObject([
      { name: 'user_id', type: 'categorical', min_count: 2 },
      { name: 'item_id', type: 'categorical', min_count: 2 },
      { name: 'hour', type: 'numeric' },
      {
        ...{ name: 'seen', type: 'sequence', of: 'item_id', share_embedding: 'item_id' },
        ...{ splitter: '^', max_len: 100, padding: 'pre' },
      },
      { name: 'brand', type: 'categorical', source: 'item', min_count: 1 },
    ]);
    expect(config.model).toMatchObject({
      ranker: 'din',
      mlp: [1024, 512],
      attention_mlp: [512, 256],
      embedding_dim: 64,
    });
    expect(config.train).toMatchObject({
      learning_rate: 5e-4,
      train_batch_size: 1024,
      valid_metric: 'gAUC',
      weight_decay: 0,
    });
    expect(told.sort()).toEqual(
      ['shop_x1.valid_data', 'feature_cols.hour.preprocess', 'monitor', 'embedding_regularizer', 'batch_norm'].sort(),
    );
  });

  describe('fuxictr: histories of din', () => {
    const dataset = yaml(`
d:
  feature_cols:
    - { name: [user, ad, cate], type: categorical }
    - { name: ad_his, type: sequence, share_embedding: ad }
    - { name: cate_his, type: sequence, share_embedding: cate }
    - { name: own, type: sequence }
    - { name: tags, type: sequence }
  label_col: { name: clk }
`);
    const of = async (keys: string) => {
      const model = yaml(`m: { model: DIN, dataset_id: d, ${keys} }\n`);
      const { config, told } = await imported('fuxictr', dataset, model, '--expid', 'm');
      const columns = config.feature_cols.flatMap((column) =>
        column.type === 'sequence' && column.of !== undefined
          ? [[column.name, column.of, column.share_embedding] as const]
          : [],
      );
      return { ids: [config.data.user_id, config.data.item_id], columns, told };
    };
    const both = [
      ['ad_his', 'ad', 'ad'],
      ['cate_his', 'cate', 'cate'],
    ];

    it('are the sequences of din_sequence_field, their target the item id', async () => {
      expect(await of('din_sequence_field: ad_his, din_target_field: ad')).toEqual({
        ids: ['user', 'ad'],
        columns: both.slice(0, 1),
        told: [],
      });
      const lists = await of('din_sequence_field: [ad_his, cate_his], din_target_field: [ad, cate]');
      expect(lists).toEqual({ ids: ['user', 'ad'], columns: both, told: [] });
      const own = await of('din_sequence_field: [own], din_target_field: [cate]');
      expect(own).toEqual({ ids: ['user', 'cate'], columns: [['own', 'cate', null]], told: [] });
    });

    it('of a group stand alone, and it is told', async () => {
      const groups = await of('din_sequence_field: [[ad_his, cate_his], own], din_target_field: [[ad, cate], ad]');
      expect(groups.columns).toEqual([...both, ['own', 'ad', null]]);
      expect(groups.told).toEqual(['din_sequence_field']);
    });

    it('are told where there is no such column, no target, or another table', async () => {
      const { columns, told } = await of(
        'din_sequence_field: [none, cate_his, tags, own], din_target_field: [ad, ad, tags]',
      );
      expect(columns).toEqual([]);
      expect(told.sort()).toEqual([...Array<string>(3).fill('din_sequence_field'), 'din_target_field']);
    });

    it('settings of its networks that ours have anyway are not told, others are', async () => {
      const pairs = 'din_sequence_field: [ad_his], din_target_field: [ad]';
      const ours = 'dnn_activations: [ReLU, relu], attention_hidden_activations: Dice, attention_dropout: 0';
      expect((await of(`${pairs}, ${ours}, attention_output_activation: null, din_use_softmax: False`)).told).toEqual(
        [],
      );
      const others = 'dnn_activations: Dice, attention_hidden_activations: ReLU, attention_dropout: 0.1';
      expect((await of(`${pairs}, ${others}, din_use_softmax: True`)).told).toEqual([
        'dnn_activations',
        'attention_hidden_activations',
        'attention_dropout',
        'din_use_softmax',
      ]);
    });
  });

  it('refuses what it cannot read, and a file that is there', async () => {
    const file = yaml('epochs: 1\n');
    const fails = async (...argv: string[]): Promise<string> => {
      const { exitCode, stderr } = await captured(['import', ...argv]);
      expect(exitCode).not.toBe(0);
      return stderr;
    };
    expect(await fails('other', file)).toContain('expected recbole, fuxictr or mmrec');
    expect(await fails('fuxictr', file, file)).toContain('--expid');
    expect(await fails('fuxictr', file, file, '--expid', 'x')).toContain('expected one of the experiments epochs');
    expect(await fails('recbole', join(root, 'none.yaml'))).toContain('cannot read');
    expect(await fails('recbole', file, '--out', file)).toContain('EEXIST');
    const { stdout } = await captured(['import', 'recbole', file]);
    expect(stdout).toContain('feature_cols:');
  });
});
