/** Configurations of RecBole, MMRec and FuxiCTR as ours: what has a counterpart is written, everything else is listed with the reason. */
import { dirname, join, relative } from 'node:path';
import { ConfigError } from '../errors.js';
import type { ConfigInput } from './config.js';
import { type ConfigMap, isConfigMap } from './config_source.js';
import { Keys, type Unmatched } from './import_keys.js';

export interface Imported {
  readonly config: ConfigInput;
  readonly unmatched: readonly Unmatched[];
}

/** A map without keys that are undefined. */
function given<T extends object>(map: T): T {
  return Object.fromEntries(Object.entries(map).filter(([, value]) => value !== undefined)) as T;
}

const RANKING: Readonly<Record<string, string>> = { recall: 'Recall', ndcg: 'NDCG', mrr: 'MRR', hit: 'HR', hr: 'HR' };
const CLICKS: Readonly<Record<string, string>> = { auc: 'AUC', gauc: 'gAUC', avgauc: 'avgAUC', logloss: 'logloss' };

/** Our name of `Recall@20` or `AUC`, null where there is none. */
function metricName(name: string): string | null {
  const [, stem = '', k] = /^([a-z]+)(@\d+)?$/i.exec(name) ?? [];
  if (k === undefined) return CLICKS[stem.toLowerCase()] ?? null;
  const known = RANKING[stem.toLowerCase()];
  return known === undefined ? null : known + k;
}

/** Metrics of `metrics` and `topk`, with the one that chooses among them. */
function metricsOf(
  keys: Keys,
  ranks: boolean,
  chooses: string | undefined,
): Pick<ConfigInput, 'eval'>['eval'] & object {
  const cuts = keys.numbers('topk') ?? [];
  const metrics = new Set<string>();
  for (const name of keys.words('metrics')) {
    const stem = name.toLowerCase();
    if (stem in CLICKS && !ranks) metrics.add(CLICKS[stem]!);
    else if (stem in RANKING && ranks) for (const k of cuts) metrics.add(`${RANKING[stem]}@${k}`);
    else keys.miss('metrics', name, `no such metric ${ranks ? 'of a full ranking' : 'of labeled rows'}`);
  }
  if (chooses !== undefined) metrics.add(chooses);
  return metrics.size === 0 ? {} : { metrics: [...metrics] };
}

/** What chooses the best epoch: what `key` says, else `otherwise`, the default of the tool. Undefined: ours. */
function validMetric(keys: Keys, key: string, ranks: boolean, otherwise?: string): string | undefined {
  const name = keys.text(key);
  const ours = name === undefined ? undefined : (metricName(name) ?? undefined);
  if (name !== undefined && (ours === undefined || ours.includes('@') !== ranks)) {
    keys.miss(key, name, 'no such metric: the default chooses');
    return otherwise;
  }
  return ours ?? otherwise;
}

/** Epochs, batches, rates and stopping as RecBole and MMRec call them. */
function training(keys: Keys, valid: string | undefined): ConfigInput['train'] {
  const learner = keys.text('learner');
  if (learner !== undefined && learner !== 'adam') keys.miss('learner', learner, 'trained with adamw');
  return given({
    epochs: keys.number('epochs'),
    train_batch_size: keys.number('train_batch_size'),
    eval_batch_size: keys.number('eval_batch_size'),
    learning_rate: keys.number('learning_rate'),
    weight_decay: keys.number('weight_decay'),
    seed: keys.number('seed'),
    early_stop_patience: keys.number('stopping_step'),
    eval_every_epochs: keys.number('eval_step'),
    valid_metric: valid,
  });
}

const RANKERS: Readonly<Record<string, 'fm' | 'dnn' | 'dcnv2' | 'din' | 'dlrm' | 'mmoe' | 'sim'>> = {
  fm: 'fm',
  dnn: 'dnn',
  dcnv2: 'dcnv2',
  din: 'din',
  dlrm: 'dlrm',
  mmoe: 'mmoe',
  sim: 'sim',
};

function rankerOf(keys: Keys): 'fm' | 'dnn' | 'dcnv2' | 'din' | 'dlrm' | 'mmoe' | 'sim' | undefined {
  const name = keys.text('model');
  const known = name === undefined ? undefined : RANKERS[name.toLowerCase()];
  if (name !== undefined && known === undefined)
    keys.miss('model', name, `no such ranker: ${Object.keys(RANKERS).join(', ')} are; the default is kept`);
  return known;
}

const IGNORED = [
  'gpu_id',
  'use_gpu',
  'checkpoint_dir',
  'show_progress',
  'log_wandb',
  'state',
  'nproc',
  'worker',
  'device',
];

/** `galago import recbole`. */
export function importRecbole(values: ConfigMap): Imported {
  const keys = new Keys(values);
  keys.ignore(...IGNORED, 'reproducibility', 'save_dataset', 'save_dataloaders', 'RATING_FIELD');
  const [root, dataset] = [keys.text('data_path'), keys.text('dataset')];
  const threshold = Object.entries(keys.map('threshold') ?? {});
  for (const [column, value] of threshold.slice(1))
    keys.miss(`threshold.${column}`, value, 'one label has a threshold');
  const [first] = threshold;
  const label =
    first === undefined
      ? { column: keys.text('LABEL_FIELD') ?? null }
      : { column: first[0], at_least: Number(first[1]) };
  keys.ignore('LABEL_FIELD');
  const userId = keys.text('USER_ID_FIELD') ?? 'user_id';
  const itemId = keys.text('ITEM_ID_FIELD') ?? 'item_id';
  const maxLen = keys.number('MAX_ITEM_LIST_LENGTH') ?? 50;
  const evalArgs = keys.map('eval_args');
  // RecBole fills in what a map of eval_args leaves out.
  const args = new Keys(evalArgs === null ? {} : { group_by: 'user', mode: 'full', ...evalArgs }, 'eval_args.');
  const mode = args.take('mode');
  const asked = isConfigMap(mode) ? mode['test'] : mode;
  const ranks = asked !== 'labeled' && (asked !== null || keys.list('topk').length > 0);
  const drawn = typeof asked === 'string' && /^(uni|pop)[1-9]\d*$/.test(asked) ? asked : null;
  if (ranks && asked !== null && asked !== 'full' && drawn === null)
    args.miss('mode', mode, 'ranked against all items');
  const sampling = new Keys(keys.map('train_neg_sample_args') ?? {}, 'train_neg_sample_args.');
  const distribution = sampling.take('distribution');
  sampling.refuse('dynamic', 'negatives do not follow the scores');
  sampling.refuse('candidate_num', 'negatives do not follow the scores');
  const [order, groupBy] = [args.text('order'), args.text('group_by')];
  const valid = validMetric(keys, 'valid_metric', ranks, ranks ? 'MRR@10' : undefined);
  const parts = keys.words('benchmark_filename');
  // RecBole splits nothing where the parts have files.
  const splitMap = args.map('split') ?? undefined;
  const split = (parts.length > 0 ? { given: true } : splitMap) as NonNullable<ConfigInput['eval']>['split'];
  const ranker = rankerOf(keys);
  const config: ConfigInput = {
    data: given({
      path: root === undefined && dataset === undefined ? undefined : join(root ?? '', dataset ?? ''),
      user_id: userId,
      item_id: itemId,
      time: keys.text('TIME_FIELD'),
      label,
      field_separator: keys.text('field_separator'),
      seq_separator: keys.text('seq_separator'),
      benchmark_filename: parts.length === 0 ? undefined : parts,
    }),
    feature_cols: [
      { name: userId, type: 'categorical' },
      { name: itemId, type: 'categorical' },
      { name: 'history', type: 'history', of: itemId, share_embedding: itemId, max_len: maxLen },
    ],
    eval: given({
      split,
      order: order === 'RO' || order === 'TO' ? order : undefined,
      group_by: groupBy === 'user' ? 'user' : undefined,
      mode: ranks ? (drawn ?? 'full') : 'labeled',
      repeatable: keys.take('repeatable') === true ? true : undefined,
      ...metricsOf(keys, ranks, valid),
    } as const),
    model: given({
      ranker,
      training: 'id_only',
      embedding_dim: keys.number('embedding_size'),
      mlp: keys.numbers('mlp_hidden_size'),
      dropout: keys.number('dropout_prob'),
    } as const),
    train: {
      ...training(keys, valid),
      ...(distribution === 'uniform' || distribution === 'popularity'
        ? {
            negatives: given({
              kind: distribution,
              n: sampling.number('sample_num') ?? 1,
              alpha: sampling.number('alpha'),
            } as const),
          }
        : {}),
    },
  };
  return finished(config, [...keys.rest(), ...args.rest(), ...sampling.rest()]);
}

/** `galago import mmrec`. */
export function importMmrec(values: ConfigMap): Imported {
  const keys = new Keys(values);
  keys.ignore(...IGNORED, 'is_multimodal_model', 'save_recommended_topk', 'recommend_topk', 'hyper_parameters');
  keys.ignore(
    'inter_file_name',
    'user_graph_dict_file',
    'NEG_PREFIX',
    'use_neg_sampling',
    'req_training',
    'field_separator',
  );
  const [root, dataset] = [keys.text('data_path') ?? 'data/', keys.text('dataset')];
  const label = keys.text('inter_splitting_label');
  if (label !== undefined && label !== 'x_label')
    keys.miss('inter_splitting_label', label, 'parts are read from x_label');
  const name = keys.text('model');
  const isRelease = /^em3/i.test(name ?? '');
  if (name !== undefined && !isRelease && name.toUpperCase() !== 'FREEDOM')
    keys.miss('model', name, 'no such model: freedom is written instead');
  const userId = keys.text('USER_ID_FIELD') ?? 'userID';
  const itemId = keys.text('ITEM_ID_FIELD') ?? 'itemID';
  const vectors = [
    ['image', keys.text('vision_feature_file')],
    ['text', keys.text('text_feature_file')],
  ].filter((pair): pair is [string, string] => pair[1] !== undefined);
  const width = keys.number('embedding_size');
  const dropout = keys.number('dropout');
  const imageWeight = keys.number('mm_image_weight') ?? 0.1;
  const valid = validMetric(keys, 'valid_metric', true, 'Recall@20');
  const modalities = vectors.map(([modality]) => modality);
  const weights: Record<string, number> = { image: imageWeight, text: 1 - imageWeight };
  const config: ConfigInput = {
    data: given({
      path: dataset === undefined ? undefined : join(root, dataset),
      user_id: userId,
      item_id: itemId,
      time: keys.text('TIME_FIELD'),
      label: { column: null },
      allow_duplicates: true,
    }),
    feature_cols: [
      { name: userId, type: 'categorical' },
      { name: itemId, type: 'categorical' },
      ...vectors.map(([modality, file]) => ({ name: modality, type: 'embedding', file }) as const),
    ],
    eval: given({
      split: { given: true } as const,
      mode: 'full',
      known_users: keys.take('filter_out_cod_start_users') !== false,
      ...metricsOf(keys, true, valid),
    }),
    model: {
      name: isRelease ? 'em3_release' : 'freedom',
      modalities,
      ...(isRelease && width !== undefined ? { fusion: { width } } : {}),
      freedom: given({
        width,
        layers: keys.number('n_ui_layers'),
        neighbours: keys.number('knn_k'),
        modality_weights: modalities.length === 1 ? [1] : modalities.map((modality) => weights[modality]!),
        keep_edges: dropout === undefined ? undefined : Number((1 - dropout).toFixed(12)),
        modality_loss: keys.number('reg_weight'),
      }),
    },
    train: training(keys, valid),
  };
  return finished(config, keys.rest());
}

/** `galago import fuxictr`: `expid` of the model file names its data set. */
export function importFuxictr(datasets: ConfigMap, models: ConfigMap, expid: string): Imported {
  const experiment = models[expid];
  if (!isConfigMap(experiment))
    throw new ConfigError(
      `import: expected one of the experiments ${Object.keys(models).join(', ')} but received ${expid}`,
      {
        key: 'expid',
      },
    );
  const base = isConfigMap(models['Base']) ? models['Base'] : {};
  const keys = new Keys({ ...base, ...experiment });
  keys.ignore(
    ...IGNORED,
    'model_root',
    'num_workers',
    'verbose',
    'pickle_feature_encoder',
    'save_best_only',
    'debug_mode',
  );
  keys.ignore('model_id', 'task', 'loss', 'shuffle', 'monitor_mode', 'version', 'gpu', 'embedding_initializer');
  const [id = ''] = keys.words('dataset_id');
  const dataset = datasets[id];
  if (!isConfigMap(dataset))
    throw new ConfigError(
      `import: expected dataset_id of ${expid} to be one of ${Object.keys(datasets).join(', ')} but received ${id || 'none'}`,
      {
        key: 'dataset_id',
      },
    );
  const data = new Keys(dataset, `${id}.`);
  data.ignore('data_root', 'dataset_id');
  const format = data.text('data_format');
  if (format !== undefined && format !== 'csv' && format !== 'parquet')
    data.miss('data_format', format, 'csv and parquet are read: export the data to one of them');
  const files = ['train_data', 'valid_data', 'test_data'].map((key) => data.text(key));
  const folder = files[0] === undefined ? null : dirname(files[0]);
  const below = (file: string | undefined): string | undefined =>
    file === undefined || folder === null ? undefined : relative(folder, file);
  if (files[1] !== undefined && files[1] === files[2])
    data.miss('valid_data', files[1], 'the same file as test_data: every number is selected on test');
  const group = keys.text('group_id');
  const columns = data.list('feature_cols').filter(isConfigMap);
  const minCount = data.number('min_categr_count') ?? 1;
  const pairs = dinPairs(keys);
  const features = withTargets(
    columns.flatMap((column) => fuxictrFeatures(column, data, minCount)),
    pairs,
    keys,
  );
  const names = features.map(({ name }) => name);
  const target = pairs.map(([, name]) => name).find((name) => names.includes(name));
  const idOf = (kind: 'user' | 'item'): string => {
    const found =
      [`${kind}_id`, `${kind}id`, kind].find((name) => names.includes(name)) ?? (kind === 'user' ? group : target);
    if (found === undefined)
      data.miss(
        'feature_cols',
        null,
        `no column looks like the ${kind} id: set data.${kind}_id, which every data set needs`,
      );
    return found ?? `${kind}_id`;
  };
  const [label = 'label', ...more] = data.words(
    'label_col',
    data.list('label_col').map((entry) => (isConfigMap(entry) ? (entry['name'] ?? null) : entry)),
  );
  const valid = fuxictrMonitor(keys);
  const mlp = ['dnn_hidden_units', 'hidden_units', 'parallel_dnn_hidden_units', 'stacked_dnn_hidden_units']
    .map((key) => keys.numbers(key))
    .find((units) => units !== undefined);
  for (const key of ['embedding_regularizer', 'net_regularizer'])
    keys.refuse(key, 'an L2 term over whole tables is not added');
  keys.refuse('batch_norm', 'rankers have no batch norm');
  for (const key of ['dnn_activations', 'hidden_activations'])
    keys.expect(key, 'relu', 'the MLPs of rankers have relu');
  keys.expect('attention_hidden_activations', 'dice', 'the attention unit has Dice');
  keys.refuse('attention_output_activation', 'the attention unit ends with a linear layer');
  keys.refuse('attention_dropout', 'the attention unit has no dropout');
  keys.refuse('din_use_softmax', 'attention weights are raw, as in the paper');
  const optimizer = keys.text('optimizer');
  if (optimizer !== undefined && optimizer !== 'adam') keys.miss('optimizer', optimizer, 'trained with adamw');
  const ranker = rankerOf(keys);
  if (ranker !== 'mmoe') for (const name of more) data.miss('label_col', name, 'one label is learnt: the first');
  const metrics = keys.words('metrics').flatMap((name) => metricName(name) ?? []);
  const config: ConfigInput = {
    data: given({
      path: folder ?? undefined,
      parts:
        files[0] === undefined || files[1] === undefined
          ? undefined
          : given({ train: below(files[0])!, valid: below(files[1])!, test: below(files[2]) }),
      items: below(data.text('item_info')),
      users: below(data.text('user_info')),
      user_id: idOf('user'),
      item_id: idOf('item'),
      time: null,
      dtypes: columns.flatMap(fuxictrKinds),
      label: { column: label },
      more_labels: ranker === 'mmoe' && more.length > 0 ? more.map((column) => ({ column })) : undefined,
      allow_duplicates: files[1] === files[2] ? true : undefined,
    }),
    feature_cols: features,
    eval: given({
      split: { given: true } as const,
      metrics: metrics.length === 0 ? undefined : [...new Set([...metrics, ...(valid === undefined ? [] : [valid])])],
    }),
    model: given({
      ranker,
      training: 'id_only',
      embedding_dim: keys.number('embedding_dim'),
      mlp,
      attention_mlp: keys.numbers('attention_hidden_units'),
      cross_layers: keys.number('num_cross_layers'),
      dropout: keys.number('net_dropout'),
    } as const),
    train: given({
      epochs: keys.number('epochs'),
      train_batch_size: keys.number('batch_size'),
      learning_rate: keys.number('learning_rate'),
      weight_decay: 0,
      seed: keys.number('seed'),
      early_stop_patience: keys.number('early_stop_patience'),
      valid_metric: valid,
    }),
  };
  return finished(config, [...data.rest(), ...keys.rest()]);
}

type FeatureColumns = NonNullable<ConfigInput['feature_cols']>;

/** What the fields of its columns are read as: text where they say so, whatever they look like. */
function fuxictrKinds({ name, dtype, active }: ConfigMap): { column: string; dtype: 'token' | 'float' }[] {
  const kind = dtype === 'str' ? 'token' : dtype === 'float' ? 'float' : null;
  if (kind === null || active === false) return [];
  const names = (Array.isArray(name) ? name : [name]).filter((column) => typeof column === 'string');
  return names.map((column) => ({ column, dtype: kind }));
}

/** One entry of `feature_cols`, which may name several columns of one kind. */
function fuxictrFeatures(column: ConfigMap, data: Keys, defaultMinCount: number): FeatureColumns {
  const { name = null } = column;
  const names = data.words('feature_cols', Array.isArray(name) ? name : [name]);
  const keys = new Keys(column, `feature_cols.${names[0]}.`);
  keys.ignore('name', 'dtype', 'na_value', 'fill_na', 'vocab_size');
  if (keys.take('active') === false) return [];
  const type = keys.text('type');
  const table = keys.text('source');
  const source: 'item' | 'user' | undefined = table === 'item' || table === 'user' ? table : undefined;
  const share = keys.text('share_embedding');
  const shared = {
    source,
    embedding_dim: keys.number('embedding_dim'),
    min_count: Math.max(1, keys.number('min_categr_count') ?? defaultMinCount),
    share_embedding: share,
  };
  const features = names.flatMap((name): FeatureColumns => {
    if (type === 'categorical') return [given({ name, type, ...shared } as const)];
    if (type === 'numeric') return [given({ name, type, source } as const)];
    if (type === 'meta') return [given({ name, type, source } as const)];
    if (type === 'sequence')
      return [
        given({
          name,
          type,
          ...shared,
          splitter: keys.text('splitter') ?? '^',
          max_len: keys.number('max_len'),
          padding: keys.text('padding') === 'post' ? 'post' : 'pre',
        } as const),
      ];
    data.miss(`feature_cols.${name}`, type ?? null, 'no such type of a feature: it is left out');
    return [];
  });
  data.unmatched.push(...keys.rest());
  return features;
}

/** Each name of `din_sequence_field` with its entry of `din_target_field`: names, or groups of names. */
function dinPairs(keys: Keys): [sequence: string, target: string][] {
  const groups = (key: string): (string | null)[][] =>
    keys.list(key).map((entry) => (Array.isArray(entry) ? entry : [entry]).map((name) => keys.word(key, name)));
  const [sequences, targets] = [groups('din_sequence_field'), groups('din_target_field')];
  const shared = sequences.filter((group) => group.length > 1);
  if (shared.length > 0)
    keys.miss('din_sequence_field', shared, 'each sequence of a group is a history with an attention of its own');
  const [names, ofs] = [sequences.flat(), targets.flat()];
  for (const name of names.slice(ofs.length))
    keys.miss('din_sequence_field', name, 'no din_target_field belongs to it');
  for (const name of ofs.slice(names.length))
    keys.miss('din_target_field', name, 'no din_sequence_field belongs to it');
  return names.flatMap((name, i) => (name === null || ofs[i] == null ? [] : [[name, ofs[i]]]));
}

/** The features, where the sequences of `pairs` say whose earlier ids they are. */
function withTargets(features: FeatureColumns, pairs: readonly (readonly [string, string])[], keys: Keys) {
  const named = (name: string | null | undefined) => features.find((feature) => feature.name === name);
  const owner = (name: string): string => {
    const feature = named(name);
    return (feature !== undefined && 'share_embedding' in feature ? feature.share_embedding : null) ?? name;
  };
  const targets = new Map<string, string>();
  for (const [name, of] of pairs) {
    const pooled = 'it enters as the mean of its vectors';
    if (named(name)?.type !== 'sequence') keys.miss('din_sequence_field', name, 'no sequence column is called so');
    else if (named(of)?.type !== 'categorical')
      keys.miss('din_target_field', of, `no categorical column is called so: of ${name}, ${pooled}`);
    else if (owner(name) !== name && owner(name) !== owner(of))
      keys.miss('din_sequence_field', name, `its table is not that of ${of}: ${pooled}`);
    else targets.set(name, of);
  }
  return features.map((feature) => {
    const of = targets.get(feature.name);
    if (of === undefined || feature.type !== 'sequence') return feature;
    return { ...feature, of, ...(feature.share_embedding === undefined ? { share_embedding: null } : {}) };
  });
}

/** `monitor: AUC`, or a map of metrics and signs, of which the first chooses. */
function fuxictrMonitor(keys: Keys): string | undefined {
  const monitor = keys.take('monitor');
  if (!isConfigMap(monitor)) return validMetric(keys, 'monitor', false);
  const [first] = Object.keys(monitor);
  keys.miss('monitor', monitor, 'one metric chooses: the first');
  return first === undefined ? undefined : (metricName(first) ?? undefined);
}

function finished(config: ConfigInput, unmatched: readonly Unmatched[]): Imported {
  const sections = Object.entries(config).filter(
    ([, section]) => section !== undefined && Object.keys(section).length > 0,
  );
  return { config: Object.fromEntries(sections), unmatched };
}
