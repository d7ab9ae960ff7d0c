import { z } from 'zod';

/**
 * The one schema of a configuration: YAML, JSON and TypeScript objects alike, snake_case keys. Descriptions that end in
 * `[default]` mark numbers and choices that are ours: no paper states them.
 */

const count = (least = 0) => z.int().min(least);
const rate = z.number().min(0);
const share = z.number().min(0).max(1);

/** Says that a value's default is our choice and not one of the papers'. */
const ours = (text: string) => `${text} [default]`;

// ---- data

const data = z.strictObject({
  path: z
    .string()
    .nullable()
    .default(null)
    .describe(
      'a Parquet, CSV or JSONL file, a folder of them, a RecBole atomic folder, or folder/stem where it holds several stems',
    ),
  interactions: z
    .string()
    .nullable()
    .default(null)
    .describe(
      'file or folder of the interactions, relative to path; null: interactions, events or inter, else all files',
    ),
  items: z
    .string()
    .nullable()
    .default(null)
    .describe('file or folder of the item table, relative to path (of a file: to its folder); null: items or item'),
  users: z
    .string()
    .nullable()
    .default(null)
    .describe('file or folder of the user table, relative to path (of a file: to its folder); null: users or user'),
  parts: z
    .strictObject({
      train: z.string().describe('file or folder of the train part, relative to path'),
      valid: z.string().describe('of the valid part'),
      test: z.string().optional().describe('of the test part'),
    })
    .nullable()
    .default(null)
    .describe('interactions that come split, as FuxiCTR has them: a file per part, taken as they are'),
  dtypes: z
    .array(
      z.strictObject({
        column: z.string().describe('name of the column'),
        dtype: z.enum(['token', 'token_seq', 'float', 'int64', 'uint64']).describe('what its fields are read as'),
      }),
    )
    .default([])
    .describe('kinds of text columns; without one the fields of CSV and JSONL decide, and an atomic token is a string'),
  field_separator: z.string().min(1).optional().describe('atomic files: between fields; without it a tab'),
  seq_separator: z
    .string()
    .min(1)
    .optional()
    .describe('atomic files: between members of a sequence; without it a space'),
  benchmark_filename: z
    .array(z.string().min(1))
    .min(1)
    .max(3)
    .optional()
    .describe(
      'atomic files that come split: the parts, whose files are <stem>.<part>.inter, in the order train, valid, test',
    ),
  shop: z
    .strictObject({
      seed: count().default(1).describe('seed of the generator'),
      items: count(20).default(2000).describe('number of items'),
      users: count(1).default(1000).describe('number of users'),
      sessions: count(100).default(24000).describe('number of sessions of six rows each'),
      documents: z
        .enum(['short', 'long'])
        .default('short')
        .describe('long: fields title, ocr, asr and cover of up to 31, 124, 12 and 12 words'),
      histories: z
        .enum(['short', 'long'])
        .default('short')
        .describe('long: 40 users, with histories of up to 1,000 clicks'),
    })
    .nullable()
    .default(null)
    .describe('the generated shop instead of files'),
  user_id: z.string().default('user_id').describe('column of the user'),
  item_id: z.string().default('item_id').describe('column of the item'),
  time: z.string().nullable().default('timestamp').describe('column of the event time; null: row order is time order'),
  query_id: z.string().nullable().default(null).describe('column of the query; each query text is encoded once'),
  session: z.string().nullable().default(null).describe('column of the request: group of QAUC and of the SQDC mask'),
  label: z
    .strictObject({
      column: z.string().nullable().default('label').describe('column of the label; null: every row is a positive'),
      at_least: z
        .number()
        .nullable()
        .default(null)
        .describe('label = 1 where the column is at least this; null: the column is 0 or 1'),
    })
    .prefault({})
    .describe('the main label'),
  more_labels: z
    .array(
      z.strictObject({
        column: z.string().describe('column of the label'),
        at_least: z.number().nullable().default(null).describe('as in label'),
        name: z
          .string()
          .min(1)
          .nullable()
          .default(null)
          .describe('what metrics and scores call it, for a second label of one column; null: as the column'),
      }),
    )
    .default([])
    .describe('labels that ranker mmoe learns beside the main one'),
  image_root: z
    .string()
    .nullable()
    .default(null)
    .describe(
      'pictures: a folder of files, a tar or a folder of tars, or an LMDB, told apart by content; null: `images` in the data folder',
    ),
  cold_items: z
    .string()
    .nullable()
    .default(null)
    .describe(
      'file with one item id per line, relative to the data folder: all events of these items are held out of training, whatever the split',
    ),
  history_parts: z
    .enum(['train', 'earlier', 'past'])
    .nullable()
    .default(null)
    .describe('rule L2; null: train for RO and CS, earlier for LS, TS and TO'),
  history_ties: z.enum(['strict', 'order']).default('strict').describe('rule L1: what happens to events of equal time'),
  history_where: z.enum(['positives', 'all']).default('positives').describe('rule L3: which events a history holds'),
  allow_duplicates: z.boolean().default(false).describe('rule L10: equal (user, item, time) in two parts'),
  engine: z
    .enum(['auto', 'own', 'duckdb'])
    .default('auto')
    .describe('who decodes Parquet; duckdb needs @duckdb/node-api; auto: duckdb for row groups above 512 MiB a column'),
  on_bad_row: z
    .enum(['fail', 'skip', 'skip_row_group'])
    .default('fail')
    .describe('policy for rows that do not parse; skip_row_group: also for row groups of Parquet that cannot be read'),
  max_bad_fraction: share.default(0.01).describe(ours('with skip: largest share of bad rows')),
  max_memory: count(1).nullable().default(null).describe('bytes the columns may take; null: no check'),
});

// ---- feature columns

const name = z.string().min(1).describe('column, or name of a derived feature');
const source = z.enum(['inter', 'user', 'item', 'query']).default('inter').describe('table that holds the column');
const embeddingDim = count(1).nullable().default(null).describe('width of the embedding; null: model.embedding_dim');
const minCount = count(1).default(1).describe(ours('ids with fewer training events share one row'));

const featureColumn = z.discriminatedUnion('type', [
  z.strictObject({
    name,
    type: z.literal('categorical'),
    source,
    embedding_dim: embeddingDim,
    min_count: minCount,
    share_embedding: z.string().optional().describe('categorical feature whose table is used'),
  }),
  z.strictObject({
    name,
    type: z.literal('numeric'),
    source,
    transform: z
      .enum(['none', 'log1p', 'standardize'])
      .default('standardize')
      .describe(ours('applied before the model')),
  }),
  z.strictObject({
    name,
    type: z.literal('sequence'),
    source,
    of: z
      .string()
      .optional()
      .describe(
        'categorical feature whose earlier ids the values are, oldest first: rankers read them as a history without times whose target is that feature; without it, the mean of their vectors',
      ),
    splitter: z.string().min(1).default(' ').describe('between two values of a text column'),
    padding: z
      .enum(['post', 'pre'])
      .nullable()
      .default(null)
      .describe(
        'which end a longer sequence keeps: post its first values, pre its last; none is padded; null: post, with of pre',
      ),
    max_len: count(1).nullable().default(null).describe(ours('values kept; null: 8, with of 50')),
    embedding_dim: embeddingDim,
    min_count: minCount,
    share_embedding: z
      .string()
      .nullable()
      .optional()
      .describe('categorical feature whose table is used; with of that feature unless null, which is an own table'),
  }),
  z.strictObject({
    name,
    type: z.literal('history'),
    of: z.string().describe('categorical feature whose earlier values form the history'),
    share_embedding: z
      .string()
      .optional()
      .describe('categorical feature whose table is used; without it, an own table'),
    max_len: count(1).default(50).describe(ours('latest events kept')),
  }),
  z.strictObject({
    name,
    type: z.literal('text'),
    source: z.enum(['item', 'query']).default('item').describe('part of the item text, or the text of the query'),
    max_len: count(1).default(32).describe(ours('tokens kept, from the head')),
  }),
  z.strictObject({
    name,
    type: z.literal('image'),
    source: z.literal('item').default('item').describe('pictures belong to items'),
    size: count(8)
      .nullable()
      .default(null)
      .describe(ours('side in pixels after resizing; null: what the weights of the picture encoder read, else 224')),
  }),
  z.strictObject({
    name,
    type: z.literal('embedding'),
    source: z.literal('item').default('item').describe('given vectors belong to items'),
    file: z.string().describe('.npy file of vectors, relative to the data folder'),
    ids: z
      .string()
      .nullable()
      .default(null)
      .describe('whose rows they are, beside the file; null: ids.npy or ids.txt where there is one, else row = item'),
    freeze_emb: z.boolean().default(true).describe('vectors are not trained; false is refused'),
  }),
  z.strictObject({ name, type: z.literal('meta'), source }),
]);

const text = z.strictObject({
  tokenizer: z
    .string()
    .default('word')
    .describe(
      '`word` (vocabulary of the train part) or the path of a tokenizer.json, a vocab.txt or their folder; with model.encoder.weights that folder',
    ),
  min_count: count(1).default(2).describe(ours('word tokenizer: words seen less often become unknown')),
  max_words: count(1).default(30_000).describe(ours('word tokenizer: the most frequent words kept')),
  positions: z.enum(['global', 'per_field']).default('global').describe(ours('where positions start again')),
  cache_dir: z
    .string()
    .nullable()
    .default(null)
    .describe('folder of tokenised texts, so that a second load of the same data tokenises nothing; null: none'),
});

const image = z.strictObject({
  fit: z
    .enum(['cover', 'contain', 'fill'])
    .default('cover')
    .describe('how a picture meets its square; with weights of a picture encoder as they say'),
  on_bad_image: z.enum(['mask', 'skip', 'fail']).default('mask').describe('policy for pictures that cannot be read'),
  max_bad_fraction: share.default(0.01).describe('largest share of bad pictures, once 100 were tried'),
  max_decode_bytes: count(1)
    .default(256 * 1024 * 1024)
    .describe('memory one decode may take, by estimate from the header'),
  augment: z
    .strictObject({
      min_area: z
        .number()
        .gt(0)
        .max(1)
        .default(0.6)
        .describe(ours('smallest share of a stored picture that is shown, stretched to the size')),
      flip: share.default(0.5).describe('probability of a mirror image'),
    })
    .nullable()
    .default(null)
    .describe(
      'training steps see a random part of a picture stored 1.15 times as large, everything else sees its middle; null: as it is',
    ),
  cache: z
    .strictObject({
      memory: count()
        .nullable()
        .default(4 * 1024 ** 3)
        .describe(
          ours('bytes of pixels in memory; where all pictures need more, they are read when needed; null: all stay'),
        ),
      disk: count()
        .nullable()
        .default(64 * 1024 ** 3)
        .describe(ours('bytes of files below dir, those not used for longest go; null: no limit')),
      dir: z.string().nullable().default(null).describe('folder of resized pixels, kept between runs; null: none'),
    })
    .prefault({})
    .describe('where resized pixels are kept'),
});

// ---- evaluation

const ratios = z.array(rate).length(3);
const time = z.union([z.number(), z.strictObject({ quantile: share })]);

const evaluation = z.strictObject({
  split: z
    .union([
      z.strictObject({ RS: ratios.describe('shares of train, valid and test') }),
      z.strictObject({ LS: z.literal('valid_and_test').describe('last event test, last but one valid') }),
      z.strictObject({
        TS: z.strictObject({
          valid_from: time.describe('first time of valid'),
          test_from: time.describe('first time of test'),
        }),
      }),
      z.strictObject({
        CS: z.union([
          z.strictObject({
            test: share.describe('share of items whose events are all test'),
            valid: share.describe('share of items whose events are all valid'),
          }),
          z.strictObject({
            file: z.string().describe('list of test items, one id per line, relative to the data folder'),
          }),
        ]),
      }),
      z.strictObject({ given: z.literal(true).describe('the data bring their own parts') }),
    ])
    .default({ RS: [0.8, 0.1, 0.1] })
    .meta({ exclusive: true })
    .describe('random, leave-last, time, cold or given split'),
  order: z.enum(['RO', 'TO']).default('RO').describe('order of RS and CS: random or by time'),
  ties: z.enum(['time', 'row']).default('time').describe('order TO: whether events of one time stay in one part'),
  group_by: z.enum(['none', 'user']).default('none').describe('RS per user'),
  mode: z
    .string()
    .regex(/^(full|labeled|(uni|pop)[1-9]\d*)$/, 'expected full, labeled, uniN or popN')
    .default('labeled')
    .describe('candidates: rows as they are, all items, or N drawn ones'),
  metrics: z
    .array(
      z
        .string()
        .regex(
          /^(AUC|gAUC|avgAUC|QAUC|logloss|(Recall|HR|NDCG|MRR)@[1-9]\d*)$/,
          'expected AUC, gAUC, avgAUC, QAUC, logloss, or Recall, HR, NDCG, MRR with @K',
        ),
    )
    .min(1)
    .default(['AUC', 'gAUC', 'logloss'])
    .describe('metrics of every evaluation'),
  repeatable: z.boolean().default(false).describe('ranking: items met earlier stay candidates'),
  masked: z
    .enum(['earlier', 'train'])
    .default('earlier')
    .describe('ranking: parts whose items of the user are no candidates; train is what MMRec masks, on test too'),
  known_users: z.boolean().default(false).describe('ranking: leaves out users without a train event, counted'),
});

// ---- model

const encoder = z.strictObject({
  width: count(1).default(128).describe(ours('width of the text encoder and of the content vectors')),
  layers: count(1).default(4).describe('layers of the item text encoder'),
  query_layers: count(1).default(2).describe('layers of the query text encoder'),
  heads: count(1).default(4).describe(ours('heads')),
  ffn: count(1).default(512).describe(ours('hidden width of the feed-forward blocks')),
  dropout: share.default(0).describe(ours('dropout')),
  image: z
    .strictObject({
      width: count(1).default(32).describe(ours('width of the picture encoder')),
      layers: count(1).default(1).describe(ours('layers')),
      heads: count(1).default(4).describe(ours('heads')),
      ffn: count(1).default(64).describe(ours('hidden width of the feed-forward blocks')),
      patch: count(1).default(8).describe(ours('side of a patch in pixels')),
      weights: z
        .string()
        .nullable()
        .default(null)
        .describe(
          'Hugging Face folder of a ViT, CLIP or SigLIP picture encoder, whose sizes then count; null: that of encoder.weights, if it has one, else random',
        ),
    })
    .prefault({})
    .describe('picture encoder over patches'),
  tune_layers: z
    .union([count(), z.literal('all')])
    .nullable()
    .default(null)
    .describe(ours('last k blocks that train; a pretrained backbone wants 0 to 2; null: 0 beside lora, else all')),
  lora: z
    .strictObject({
      rank: count(1).default(8).describe(ours('r')),
      alpha: rate.default(16).describe(ours('the update is scaled by alpha / r')),
      targets: z
        .union([z.array(z.string().min(1)).min(1), z.string().min(1)])
        .nullable()
        .default(null)
        .describe(
          ours(
            'linear layers of the item encoders: names or their ends, all-linear, or a pattern of whole names; null: queries and values of attention',
          ),
        ),
      dropout: share.default(0).describe(ours('of the input of A')),
    })
    .nullable()
    .default(null)
    .describe('low-rank updates of the item encoders, which are frozen otherwise; null: none, or those of adapter'),
  cache_dir: z
    .string()
    .nullable()
    .default(null)
    .describe(
      'folder where what frozen item encoders give of every item is kept for this run and later ones; null: none',
    ),
  cache_dtype: z.enum(['bfloat16', 'float32']).default('bfloat16').describe('what the cached features are rounded to'),
  cache_tokens: count(1)
    .nullable()
    .default(null)
    .describe(
      ours('em3: tokens that the patches of a picture are mean-pooled to, a square number; null: one per patch'),
    ),
  cache_max_bytes: count(1)
    .default(8 * 2 ** 30)
    .describe(ours('most bytes that the cached features may take, in memory and on disk')),
  adapter: z
    .string()
    .nullable()
    .default(null)
    .describe('PEFT folder where low-rank updates start, or a folder of such folders text and image'),
  weights: z
    .string()
    .nullable()
    .default(null)
    .describe(
      'Hugging Face folder of a BERT, RoBERTa, CLIP or SigLIP encoder of item texts, whose sizes and tokenizer then count; null: random',
    ),
});

const fusion = z.strictObject({
  mode: z.enum(['exact', 'ctr']).default('ctr').describe('FusionQFormer as published, or for any number of tokens'),
  attention: z
    .enum(['joint', 'cross'])
    .default('joint')
    .describe(ours('ctr: queries and tokens together, or queries onto tokens')),
  queries: count(1).default(4).describe(ours('trainable queries')),
  layers: count(1).default(2).describe(ours('layers')),
  heads: count(1).default(8).describe(ours('heads')),
  width: count(1).default(128).describe(ours('width')),
  ffn: count().default(0).describe(ours('hidden width of the feed-forward block; 0: none')),
  dropout: share.default(0.1).describe(ours('hidden dropout')),
});

const lora = z.strictObject({
  mode: z
    .enum(['none', 'lora_block', 'lora_cached', 'shared'])
    .default('lora_cached')
    .describe(ours('what adapts on the history side')),
  rank: count(1).default(8).describe(ours('r')),
  alpha: rate.default(16).describe(ours('the update is scaled by alpha / r')),
  refresh_steps: count(1).nullable().default(null).describe(ours('steps between snapshots; null: one epoch')),
  on_refresh: z.enum(['reset', 'keep']).default('reset').describe(ours('what a snapshot does to A and B')),
});

const cic = z.strictObject({
  mode: z.enum(['exact', 'ctr']).default('ctr').describe('content-ID contrast over the catalogue, or over the batch'),
  weight: rate
    .nullable()
    .default(null)
    .describe('weight in the loss; 0 runs no kernel; null: 1e-3 for em3, 0 for lemur'),
  temperature: z.number().positive().default(0.1).describe('divides the similarities'),
  negatives: count(1).default(16).describe('exact: draws per item, with replacement'),
});

const sqdc = z.strictObject({
  weight: rate.default(0).describe(ours('lambda, weight in the loss; 0 runs no kernel. 0.1 where queries exist')),
  warmup_steps: count()
    .default(0)
    .describe(ours('steps over which the weight grows from 0: the ranking gradient shapes the encoder first')),
  scale: z.number().positive().default(50).describe('multiplies the similarities'),
  columns: z.enum(['positives', 'all']).default('positives').describe('which rows are candidates'),
  mask_same_item: z.boolean().default(false).describe(ours('leave out columns of the anchor item')),
  session_mask: z
    .boolean()
    .default(true)
    .describe('lemur: rows of one session are no negatives of each other; false is for comparisons'),
});

const percent = z.number().min(0).max(100);

const bank = z.strictObject({
  p: percent.default(20).describe('percent of the items of a step that are encoded; unseen ones always are'),
  q: percent.default(20).describe('percent of the items of a step that are encoded with gradient'),
  warmup_steps: count()
    .default(0)
    .describe(ours('steps at the beginning that encode every item with gradient: while the encoder changes fast')),
  popular_at: count(1)
    .nullable()
    .default(null)
    .describe(ours('items with more training rows than this are encoded less, by popular_at / rows; null: all alike')),
  q_scale: z
    .enum(['none', 'inverse'])
    .default('none')
    .describe(ours('inverse: the gradient of the items that pass one is divided by how likely that was')),
  max_age: count(1)
    .nullable()
    .default(null)
    .describe(ours('steps after which a stored target is encoded again; null: never')),
  capacity: count(1)
    .nullable()
    .default(null)
    .describe(ours('rows that the bank has room for; null: one and a quarter of the items')),
  dtype: z.enum(['float32', 'bfloat16']).default('float32').describe(ours('of the stored rows')),
  history_grad: z
    .enum(['none', 'joined'])
    .default('none')
    .describe(ours('whether history rows that the step has encoded pass gradient to the encoder')),
  dedup: z.boolean().default(true).describe('items that stand in several rows of a batch are encoded once'),
  evaluation: z
    .enum(['frozen', 'fresh'])
    .default('frozen')
    .describe(ours('evaluations read the bank as training left it and encode what is missing, or encode everything')),
});

const sequences = z.strictObject({
  short: count().default(50).describe('clicks of the short sequence; 0: none'),
  long: count().default(1000).describe('clicks of the long sequence; 0: none'),
  to_ranker: z
    .enum(['none', 'short', 'long'])
    .default('none')
    .describe(ours('whose rows the ranker sees too, as a history beside those of ids')),
});

const decoder = z.strictObject({
  layers: count(1).default(2).describe(ours('layers')),
  queries: count(1).default(1).describe(ours('query tokens')),
  heads: count(1).default(4).describe(ours('heads')),
  ffn: count(1)
    .nullable()
    .default(null)
    .describe(ours('hidden width of the feed-forward block; null: 4 encoder.width')),
  paper_literal: z
    .boolean()
    .default(false)
    .describe(ours('no scale, no projections, no residual, no norm: as printed')),
  positions: z.boolean().default(true).describe(ours('a learned vector per position is added to the rows')),
  time_gaps: z
    .boolean()
    .default(false)
    .describe(ours('a learned vector of the time since each click is added to the rows')),
});

const rankmixer = z.strictObject({
  tokens: count(1).default(8).describe(ours('T; published: 16')),
  width: count(1).default(128).describe(ours('W, a multiple of tokens; published: 768')),
  layers: count().default(2).describe('blocks'),
  expansion: count(1).default(2).describe(ours('hidden width of the per-token blocks over W')),
  sequence: z
    .enum(['pooled', 'longer'])
    .default('pooled')
    .describe(ours('id histories: attention of the target, or LONGER')),
  groups: z
    .array(z.array(z.string().min(1)).min(1))
    .min(1)
    .nullable()
    .default(null)
    .describe(ours('names of the inputs of each token; null: pieces of equal width, in the order of the features')),
});

const dlrm = z.strictObject({
  bottom_mlp: z.array(count(1)).default([512, 256, 64]).describe('hidden widths over the numbers'),
  top_mlp: z.array(count(1)).default([512, 256]).describe('hidden widths over the products'),
  interaction: z
    .enum(['dot', 'concat'])
    .default('dot')
    .describe('products of pairs of fields, or fields side by side (DLRM-MLP)'),
  width: count(1).nullable().default(null).describe(ours('width of the fields; null: that of the widest id vector')),
});

const longer = z.strictObject({
  width: count(1).default(64).describe(ours('width of a merged token')),
  heads: count(1).default(4).describe(ours('heads')),
  merge: count(1).default(2).describe(ours('neighbouring events that become one token')),
  latest: count(1).default(20).describe(ours('latest tokens that ask beside the global ones')),
  layers: count(1).default(2).describe('layers'),
  ffn: count(1).default(128).describe(ours('hidden width of the feed-forward blocks')),
  positions: count(1).default(200).describe(ours('positions told apart')),
  gap_dim: count().default(8).describe(ours('width of the vector of the time gap; 0: none')),
});

const sim = z.strictObject({
  search: z
    .enum(['hard', 'soft', 'content'])
    .default('soft')
    .describe(ours('same category, inner product, or cosine of content vectors')),
  hard_feature: z
    .string()
    .nullable()
    .default(null)
    .describe(
      ours('hard: history or sequence feature that is the category; null: the last one of the histories of events'),
    ),
  top_k: count(1).default(50).describe('events that are read'),
  time_gaps: z.boolean().default(true).describe('adds a vector of the time gap'),
});

const mmoe = z.strictObject({
  experts: count(1).default(4).describe(ours('experts; 1: a shared bottom')),
  expert_mlp: z.array(count(1)).min(1).default([128]).describe(ours('widths of an expert')),
  tower_mlp: z.array(count(1)).default([64]).describe(ours('hidden widths of a tower')),
  task_weight: rate.default(1).describe(ours('weight in the loss of each of data.more_labels')),
});

const freedom = z.strictObject({
  width: count(1).default(64).describe('width of ids, content vectors and their projections'),
  layers: count().default(2).describe('layers over the graph of users and items'),
  neighbours: count(1).default(10).describe('nearest items by cosine, the item itself among them'),
  modality_weights: z
    .array(rate)
    .min(1)
    .default([0.1, 0.9])
    .describe('share of each of model.modalities in the item graph'),
  keep_edges: share.default(0.2).describe('share of the edges of users and items that an epoch trains on'),
  modality_loss: rate
    .default(1e-3)
    .describe('freedom: weight of the terms that compare projected vectors with the user; em3_release has none'),
});

const model = z.strictObject({
  name: z
    .enum(['em3', 'lemur', 'freedom', 'em3_release'])
    .default('em3')
    .describe('preset; freedom and em3_release rank by dot products over graphs and need given vectors'),
  ranker: z
    .enum(['fm', 'dnn', 'dcnv2', 'din', 'rankmixer', 'dlrm', 'longer', 'sim', 'mmoe'])
    .default('din')
    .describe(ours('ranking model')),
  training: z
    .enum(['id_only', 'frozen', 'two_stage', 'stop_gradient', 'end_to_end'])
    .default('end_to_end')
    .describe('where content comes from and which gradients reach the encoders'),
  query_encoder: z
    .enum(['alike', 'live'])
    .default('alike')
    .describe(ours('modes that cut the item encoder off: the query encoder is cut off alike, or stays trained')),
  two_stage_epochs: count(1).default(4).describe(ours('two_stage: epochs of the first stage')),
  modalities: z
    .array(z.string().min(1))
    .min(1)
    .default(['text', 'image'])
    .describe('content that is read: text, image, and em3: features of given vectors by name'),
  encoder: encoder.prefault({}).describe('content encoders'),
  fusion: fusion.prefault({}).describe('FusionQFormer'),
  lora: lora.prefault({}).describe('low-rank adaptation over the content history'),
  cic: cic.prefault({}).describe('content-ID contrastive loss'),
  sqdc: sqdc.prefault({}).describe('query-to-document contrastive loss'),
  history_len: count().default(50).describe('em3: clicks the content history holds; 0: none'),
  bank: bank.prefault({}).describe('lemur: memory bank of document vectors, and which documents a step encodes'),
  sequences: sequences.prefault({}).describe('lemur: content histories, each with a decoder of its own'),
  decoder: decoder.prefault({}).describe('lemur: cross-attention from the other features onto a history'),
  similarity: z
    .enum(['cosines', 'sim_tier', 'none'])
    .default('cosines')
    .describe('lemur: how target and history are compared: cosines and a sorted copy, or a histogram'),
  features: z
    .array(z.string().min(1))
    .nullable()
    .default(null)
    .describe('features whose ids and numbers the ranker sees; null: all of feature_cols'),
  embedding_dim: count(1).default(32).describe(ours('width of id embeddings that state none')),
  item_id_dropout: share
    .default(0)
    .describe(ours('share of training rows whose item id is replaced by the unknown one: for items that come later')),
  mlp: z.array(count(1)).min(1).default([256, 128]).describe(ours('hidden widths of the ranker')),
  cross_layers: count(1).default(3).describe(ours('dcnv2: cross layers')),
  attention_mlp: z
    .array(count(1))
    .min(1)
    .default([64, 32])
    .describe(ours('din, sim: hidden widths of the attention unit')),
  freedom: freedom.prefault({}).describe('freedom, em3_release'),
  rankmixer: rankmixer.prefault({}).describe('ranker rankmixer'),
  dlrm: dlrm.prefault({}).describe('ranker dlrm'),
  longer: longer.prefault({}).describe('ranker longer'),
  sim: sim.prefault({}).describe('ranker sim'),
  mmoe: mmoe.prefault({}).describe('ranker mmoe'),
  dropout: share.default(0.1).describe(ours('dropout of the ranker')),
});

// ---- training

const learningRates = z.strictObject({
  dense: rate.default(1e-3).describe(ours('ranker and heads')),
  sparse: rate.default(1e-3).describe(ours('embedding tables')),
  encoder: rate.default(3e-4).describe(ours('content encoders; pretrained ones want 1e-5 to 5e-5')),
  lora: rate.default(1e-3).describe(ours('low-rank updates')),
});

const train = z.strictObject({
  from: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      'run whose encoders training begins with, of galago pretrain for example; two_stage has one stage left then',
    ),
  epochs: count(1).default(5).describe(ours('passes over the train part')),
  train_batch_size: count(1).default(512).describe(ours('units per training batch')),
  eval_batch_size: count(1).default(4096).describe(ours('rows per evaluation batch')),
  unit: z
    .enum(['row', 'session'])
    .default('row')
    .describe(ours('what a training batch counts: rows, or whole sessions')),
  learning_rate: z.union([rate, learningRates]).prefault({}).describe('one number, or one per group'),
  encoder_warmup_steps: count()
    .default(0)
    .describe(ours("steps over which the encoders' learning rate grows linearly from 0")),
  weight_decay: rate.default(0.01).describe(ours('of AdamW, dense parameters')),
  optimizer: z
    .strictObject({
      dense: z.enum(['adamw']).default('adamw').describe(ours('dense parameters')),
      sparse: z
        .enum(['adam', 'lazy_adam', 'adagrad'])
        .default('adam')
        .describe(ours('embedding tables: row-wise Adam, lazy Adam (parity), or row-wise Adagrad')),
    })
    .prefault({})
    .describe('optimizers'),
  order: z
    .enum(['shuffled', 'time'])
    .default('shuffled')
    .describe(
      'time: one pass over the train part in time order, each window scored before it is trained on; no epochs then',
    ),
  windows: count(1).default(10).describe(ours('order time: windows of about equally many units')),
  last_epoch_factor: z
    .number()
    .positive()
    .default(1)
    .describe(ours('learning rates of the last epoch are multiplied by this')),
  clip_norm: z
    .number()
    .positive()
    .nullable()
    .default(10)
    .describe(ours('global norm of the gradients; null: no clipping')),
  precision: z
    .enum(['float32', 'fp32', 'bf16'])
    .default('float32')
    .describe('activations; bf16 (mixed precision) needs cuda; fp32 is float32'),
  seed: count().default(7).describe(ours('seed of everything random')),
  valid_metric: z.string().default('AUC').describe(ours('metric of valid that chooses the best checkpoint')),
  early_stop_patience: count(1)
    .nullable()
    .default(null)
    .describe(ours('evaluations without a better valid metric; null: never stop early')),
  eval_every_epochs: count(1).default(1).describe(ours('epochs between evaluations of valid')),
  checkpoint_every_minutes: z
    .number()
    .positive()
    .nullable()
    .default(10)
    .describe(ours('besides one per evaluation; null: none')),
  keep_last: count(2).default(3).describe(ours('checkpoints kept beside the best')),
  negatives: z
    .strictObject({
      kind: z
        .enum(['none', 'uniform', 'popularity', 'in_batch'])
        .default('none')
        .describe('where negatives come from; none: the rows as they are'),
      n: count(1).default(1).describe(ours('negatives per positive')),
      alpha: rate.default(1).describe(ours('popularity: exponent of the train count')),
    })
    .prefault({})
    .describe('sampled negatives'),
  prefetch: count(1).default(2).describe('batches prepared ahead'),
  prefetch_bytes: count(1)
    .default(256 * 1024 * 1024)
    .describe(ours('bytes that batches prepared ahead may take together; one is prepared whatever it takes')),
  loader_workers: count()
    .default(1)
    .describe(ours('threads that prepare batches; 0: the main thread. Batches are the same whatever their number')),
});

export const configSchema = z.strictObject({
  data: data.prefault({}).describe('where the data are and what their columns mean'),
  feature_cols: z.array(featureColumn).default([]).describe('features of the model, in order'),
  text: text.prefault({}).describe('tokens of text features'),
  image: image.prefault({}).describe('decoding of image features'),
  eval: evaluation.prefault({}).describe('split and metrics'),
  model: model.prefault({}).describe('the model'),
  train: train.prefault({}).describe('the training run'),
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d+)?|cuda-emu)$/, 'expected auto, cpu, cuda or cuda:N')
    .default('auto')
    .describe('where kernels run; auto takes CUDA where it works, else the CPU'),
});

/** A complete configuration: every default filled in. */
export type Config = z.output<typeof configSchema>;
/** What a user may write: every key optional. */
export type ConfigInput = z.input<typeof configSchema>;
export type FeatureColumn = Config['feature_cols'][number];
export type SplitRule = Config['eval']['split'];

/** JSON Schema (draft 2020-12) of what a user may write: for editors, documents and the key checks of the loader. */
export function configJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(configSchema, { io: 'input' });
}

/** What `model.name` freedom and em3_release bring: models.md, sections 7 and 13; below data-set defaults and files. */
export const releaseDefaults: ConfigInput = {
  eval: {
    mode: 'full',
    metrics: ['Recall@10', 'Recall@20', 'NDCG@10', 'NDCG@20'],
    masked: 'train',
    known_users: true,
  },
  model: {
    modalities: ['image', 'text'],
    fusion: { mode: 'exact', queries: 1, layers: 1, heads: 4, width: 64, dropout: 0.5 },
    lora: { mode: 'none' },
    cic: { mode: 'exact', weight: 1e-3, temperature: 0.5, negatives: 16 },
    history_len: 0,
  },
  train: {
    epochs: 1000,
    train_batch_size: 2048,
    learning_rate: 1e-3,
    weight_decay: 0,
    clip_norm: null,
    valid_metric: 'Recall@20',
    early_stop_patience: 20,
    negatives: { kind: 'uniform', n: 1 },
  },
};

/** Values that the generated shop brings with it (models.md, section 12); below files, above the model's defaults. */
export const shopDefaults: ConfigInput = {
  data: { session: 'session_id', query_id: 'query_id', label: { column: 'click' }, history_parts: 'past' },
  feature_cols: [
    { name: 'user_id', type: 'categorical', embedding_dim: 32 },
    { name: 'item_id', type: 'categorical', embedding_dim: 32 },
    { name: 'query_id', type: 'categorical', source: 'query', embedding_dim: 16 },
    { name: 'history', type: 'history', of: 'item_id', share_embedding: 'item_id', max_len: 20 },
    { name: 'query', type: 'text', source: 'query', max_len: 8 },
    { name: 'title', type: 'text', source: 'item', max_len: 8 },
    { name: 'tags', type: 'text', source: 'item', max_len: 4 },
    { name: 'picture', type: 'image', source: 'item', size: 32 },
  ],
  eval: { split: { given: true }, metrics: ['AUC', 'gAUC', 'QAUC', 'logloss'] },
  model: {
    encoder: { width: 32, layers: 1, query_layers: 1, heads: 4, ffn: 64 },
    fusion: { queries: 2, layers: 1, heads: 4, width: 32, ffn: 64, dropout: 0 },
    ranker: 'dnn',
    query_encoder: 'live',
    lora: { mode: 'none' },
    cic: { weight: 0 },
    sqdc: { weight: 0.1, warmup_steps: 423 }, // three epochs: with the full weight from the start pictures are learned two epochs later
    history_len: 20,
    sequences: { short: 20, long: 0 },
    decoder: { layers: 1 },
  },
  train: { epochs: 8, train_batch_size: 128, unit: 'session', learning_rate: 2e-3, last_epoch_factor: 0.3 },
};

/** Defaults of a shop with `documents: long`: its four fields are the text of an item. */
export const longDocumentDefaults: ConfigInput = {
  feature_cols: [
    ...shopDefaults.feature_cols!.filter(({ name }) => name !== 'title' && name !== 'tags'),
    { name: 'title', type: 'text', source: 'item', max_len: 31 },
    { name: 'ocr', type: 'text', source: 'item', max_len: 124 },
    { name: 'asr', type: 'text', source: 'item', max_len: 12 },
    { name: 'cover', type: 'text', source: 'item', max_len: 12 },
  ],
};

/** Defaults of a shop with `histories: long`. */
export const longHistoryDefaults: ConfigInput = {
  data: { shop: { users: 40 } },
  model: { history_len: 1000, sequences: { long: 1000 } },
};
