/** From a configuration to a model and the settings of its training. */
import type { DrawnCandidates } from '../data/drawn_candidates.js';
import type { Schema } from '../data/schema.js';
import { ConfigError } from '../errors.js';
import { Em3, type Em3Options } from '../models/em3.js';
import { Freedom, type FreedomData, type FreedomOptions } from '../models/freedom.js';
import { Lemur, type LemurOptions } from '../models/lemur.js';
import type { RecommenderModel } from '../models/model.js';
import type { RankerOptions } from '../models/ranker.js';
import type { DeviceName } from '../tensor.js';
import { type Config, learningRates } from './config.js';
import { encoderSources, fillFromFolders, weightsKeys } from './published_encoders.js';
import type { TrainSettings } from './train_settings.js';

/** Options of all rankers. */
export function rankerOptions(model: Config['model']): RankerOptions {
  const { rankmixer, dlrm, longer, sim, mmoe } = model;
  const { gap_dim: gapDim, ...longerRest } = longer;
  return {
    mlp: model.mlp,
    dropout: model.dropout,
    crossLayers: model.cross_layers,
    attentionMlp: model.attention_mlp,
    rankMixer: rankmixer,
    dlrm: {
      bottomMlp: dlrm.bottom_mlp,
      topMlp: dlrm.top_mlp,
      interaction: dlrm.interaction,
      width: dlrm.width,
    },
    longer: { ...longerRest, gapDim },
    sim: { search: sim.search, hardFeature: sim.hard_feature, topK: sim.top_k, timeGaps: sim.time_gaps },
    mmoe: {
      experts: mmoe.experts,
      expertMlp: mmoe.expert_mlp,
      towerMlp: mmoe.tower_mlp,
      taskWeight: mmoe.task_weight,
    },
  };
}

/** Blocks that train: where nothing is said all of them, or none where low-rank updates train instead. */
function tuneLayers({ tune_layers: layers, lora }: Config['model']['encoder']): number | 'all' {
  return layers ?? (lora === null ? 'all' : 0);
}

/** Options of the `em3` preset. */
export function em3Options({ model, train }: Pick<Config, 'model' | 'train'>, device?: DeviceName): Em3Options {
  const { encoder, fusion, lora, cic, sqdc } = model;
  return {
    ranker: model.ranker,
    training: model.training,
    queryEncoder: model.query_encoder,
    twoStageEpochs: model.two_stage_epochs,
    content: {
      modalities: model.modalities,
      text: {
        width: encoder.width,
        layers: encoder.layers,
        heads: encoder.heads,
        ffn: encoder.ffn,
        dropout: encoder.dropout,
      },
      image: ownImage(encoder),
      queryLayers: encoder.query_layers,
      fusion,
      lora: { mode: lora.mode, rank: lora.rank, alpha: lora.alpha, onRefresh: lora.on_refresh },
      tuneLayers: tuneLayers(encoder),
      cacheTokens: encoder.cache_tokens,
      encoderLora: encoder.lora,
      ...publishedOptions(model),
    },
    sqdc: {
      weight: sqdc.weight,
      warmupSteps: sqdc.warmup_steps,
      scale: sqdc.scale,
      columns: sqdc.columns,
      maskSameItem: sqdc.mask_same_item,
    },
    cic: { ...cic, weight: cic.weight ?? 1e-3 },
    historyLen: model.history_len,
    embeddingDim: model.embedding_dim,
    itemIdDropout: model.item_id_dropout,
    features: model.features,
    rankerOptions: rankerOptions(model),
    seed: train.seed,
    ...(device === undefined ? {} : { device }),
  };
}

/** Options of the `lemur` preset. */
export function lemurOptions({ model, train }: Pick<Config, 'model' | 'train'>, device?: DeviceName): LemurOptions {
  const { encoder, bank, decoder, sqdc, cic } = model;
  return {
    ranker: model.ranker,
    training: model.training,
    queryEncoder: model.query_encoder,
    twoStageEpochs: model.two_stage_epochs,
    content: {
      modalities: model.modalities.map((modality) => {
        if (modality === 'text' || modality === 'image') return modality;
        throw new ConfigError(`model.modalities: expected text or image for lemur but received ${modality}`, {
          key: 'model.modalities',
        });
      }),
      width: encoder.width,
      layers: encoder.layers,
      queryLayers: encoder.query_layers,
      heads: encoder.heads,
      ffn: encoder.ffn,
      dropout: encoder.dropout,
      image: ownImage(encoder),
      tuneLayers: tuneLayers(encoder),
      encoderLora: encoder.lora,
      ...publishedOptions(model),
      bank: {
        p: bank.p,
        q: bank.q,
        warmupSteps: bank.warmup_steps,
        popularAt: bank.popular_at,
        qScale: bank.q_scale,
        maxAge: bank.max_age,
        capacity: bank.capacity,
        dtype: bank.dtype,
        historyGrad: bank.history_grad,
        dedup: bank.dedup,
        evaluation: bank.evaluation,
      },
    },
    sequences: {
      short: model.sequences.short,
      long: model.sequences.long,
      toRanker: model.sequences.to_ranker,
    },
    decoder: {
      layers: decoder.layers,
      queries: decoder.queries,
      heads: decoder.heads,
      ffn: decoder.ffn ?? 4 * encoder.width,
      paperLiteral: decoder.paper_literal,
      positions: decoder.positions,
      timeGaps: decoder.time_gaps,
    },
    similarity: model.similarity,
    sqdc: {
      weight: sqdc.weight,
      warmupSteps: sqdc.warmup_steps,
      scale: sqdc.scale,
      columns: sqdc.columns,
      maskSameItem: sqdc.mask_same_item,
      sessionMask: sqdc.session_mask,
    },
    cic: { ...cic, weight: cic.weight ?? 0 },
    embeddingDim: model.embedding_dim,
    itemIdDropout: model.item_id_dropout,
    features: model.features,
    rankerOptions: rankerOptions(model),
    seed: train.seed,
    ...(device === undefined ? {} : { device }),
  };
}

/** Sizes of a picture encoder of our own. */
function ownImage({ image }: Config['model']['encoder']): Em3Options['content']['image'] {
  const { width, layers, heads, ffn, patch } = image;
  return { width, layers, heads, ffn, patch };
}

/** Published encoders that the configuration names. */
function publishedOptions(model: Config['model']): Pick<Em3Options['content'], 'pretrained'> {
  const { text, image } = encoderSources(weightsKeys(model));
  return text === null && image === null ? {} : { pretrained: { text, image } };
}

/** The model of a configuration as training begins: with the weights of the folders that it names. */
export async function initialModel(
  config: Config,
  schema: Schema,
  device?: DeviceName,
  data: FreedomData | null = null,
): Promise<RecommenderModel> {
  const model = buildModel(config, schema, device, data);
  try {
    await fillFromFolders(model, encoderSources(weightsKeys(config.model)));
    return model;
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/** Options of `freedom` and `em3_release`. */
export function freedomOptions({ model, train }: Pick<Config, 'model' | 'train'>, device?: DeviceName): FreedomOptions {
  const { freedom, fusion, cic } = model;
  const { mode, queries, layers, heads, ffn, dropout, attention } = fusion;
  const isRelease = model.name === 'em3_release';
  return {
    modalities: model.modalities,
    modalityWeights: freedom.modality_weights,
    width: freedom.width,
    layers: freedom.layers,
    neighbours: freedom.neighbours,
    keepEdges: freedom.keep_edges,
    modalityLoss: isRelease ? 0 : freedom.modality_loss,
    content: isRelease
      ? {
          fusion: { mode, queries, layers, heads, ffn, dropout, attention },
          cic: { weight: cic.weight ?? 1e-3, temperature: cic.temperature, negatives: cic.negatives },
        }
      : null,
    seed: train.seed,
    ...(device === undefined ? {} : { device }),
  };
}

/**
 * The model of a configuration, on `device` (default cpu). `data`: what freedom and em3_release need besides the schema. Published encoders are 0
 * until their weights or a checkpoint are loaded.
 */
export function buildModel(
  config: Config,
  schema: Schema,
  device?: DeviceName,
  data: FreedomData | null = null,
): RecommenderModel {
  if (config.model.name === 'freedom' || config.model.name === 'em3_release') {
    if (data === null)
      throw new ConfigError(`model.name: expected the data set with ${config.model.name} but received its schema`, {
        key: 'model.name',
      });
    return new Freedom(data, freedomOptions(config, device));
  }
  if (config.model.name === 'lemur') return new Lemur(schema, lemurOptions(config, device));
  return new Em3(schema, em3Options(config, device));
}

/** What `uniN` and `popN` draw; null for `full`. The seed is the data's, not the run's: every run ranks among the same items. */
function drawnCandidates({ mode }: Config['eval']): DrawnCandidates | null {
  const [, kind, n] = /^(uni|pop)(\d+)$/.exec(mode) ?? [];
  return n === undefined ? null : { kind: kind === 'uni' ? 'uniform' : 'popularity', n: Number(n), seed: 0 };
}

export function trainSettings(config: Config): TrainSettings {
  const { train, model } = config;
  return {
    epochs: train.epochs,
    batchSize: train.train_batch_size,
    evalBatchSize: train.eval_batch_size,
    unit: train.unit,
    learningRates: learningRates(train),
    weightDecay: train.weight_decay,
    sparseAlgorithm: ({ adam: 'rowwise_adam', lazy_adam: 'lazy_adam', adagrad: 'rowwise_adagrad' } as const)[
      train.optimizer.sparse
    ],
    encoderWarmupSteps: train.encoder_warmup_steps,
    lastEpochFactor: train.last_epoch_factor,
    order: train.order,
    windows: train.windows,
    clipNorm: train.clip_norm,
    seed: train.seed,
    validMetric: train.valid_metric,
    ranking:
      config.eval.mode !== 'labeled'
        ? {
            drawn: drawnCandidates(config.eval),
            metrics: config.eval.metrics.filter((metric) => metric.includes('@')),
            masked: config.eval.masked,
            repeatable: config.eval.repeatable,
            knownUsers: config.eval.known_users,
          }
        : null,
    earlyStopPatience: train.early_stop_patience,
    evalEveryEpochs: train.eval_every_epochs,
    checkpointEveryMinutes: train.checkpoint_every_minutes,
    keepLast: train.keep_last,
    prefetch: train.prefetch,
    prefetchBytes: train.prefetch_bytes,
    refreshSteps: model.lora.refresh_steps,
    precision: train.precision === 'bf16' ? 'bf16' : 'float32',
  };
}
