// The public API. One line per module, in the order of the import arrow.

export { backward, defineOp, detach, noGrad, parameter, zeroGrad } from './autograd.js';
export { buildDataset, type DataSource, type DatasetOptions, type LabelSpec } from './data/build_dataset.js';
export type { Dataset, ItemTable, SplitManifest, TestPart } from './data/dataset.js';
export type { FeatureSpec } from './data/features.js';
export type { AugmentOptions } from './data/images/image_augment.js';
export { decodeImage } from './data/images/image_decoder.js';
export type { ImageReader } from './data/images/image_reader.js';
export { openImageRoot } from './data/images/image_root.js';
export type { ImageSource } from './data/images/image_source.js';
export {
  type DecodedImages,
  type DecodeImagesOptions,
  decodeImages,
  type ImageCacheOptions,
} from './data/images/images.js';
export {
  datasetFromShop,
  LONG_SHOP_FEATURES,
  type LoadOptions,
  loadDataset,
  SHOP_FEATURES,
} from './data/load_dataset.js';
// data and files
export type { Batch, ImageBatch, ItemBatch, Jagged, QueryBatch, TokenBatch, VectorBatch } from './data/loader/batch.js';
export { Loader, type LoaderOptions } from './data/loader/loader.js';
export { type Feature, featureNamed, featuresOf, type Schema } from './data/schema.js';
export { generateShop, knownScores, type Shop, type ShopOptions } from './data/shop/shop.js';
export { type Split, type SplitRule, splitEvents } from './data/split.js';
export { type TextLayout, type TextPipeline, type TextPipelineOptions, textPipeline } from './data/text/text.js';
export { loadTokenizer, type TextTokenizer } from './data/text/tokenizer.js';
export { buildWordVocabulary, type WordVocabulary, wordVocabularyFromJson } from './data/text/word_vocabulary.js';
export * from './errors.js';
export {
  type RowIds,
  type RowIdsOptions,
  readFbin,
  readRowIds,
  type VectorRows,
  writeFbin,
  writeRowIds,
} from './io/fbin.js';
export { type NpyArray, npyToFloat32, readNpy, writeNpy } from './io/npy.js';
export { type PeftAdapter, type PeftLayer, readPeft, writePeft } from './io/peft.js';
// losses
export { bpr } from './losses/bpr.js';
export { type CicOptions, cic } from './losses/cic.js';
export { type SqdcOptions, sqdc } from './losses/sqdc.js';
// metrics
export { auc } from './metrics/auc.js';
export { metricDefinitions } from './metrics/definitions.js';
export { evaluateSlices, type SliceMetrics } from './metrics/slices.js';
// models
export type { TrainingMode } from './models/content_ranker.js';
export type { DlrmOptions } from './models/dlrm.js';
export { defaultEm3Options, Em3, type Em3Options, em3 } from './models/em3.js';
export {
  type EncoderAdapters,
  type EncoderName,
  loadEncoderAdapters,
  readEncoderAdapters,
  saveEncoderAdapters,
} from './models/encoder_adapters.js';
export {
  defaultFreedomOptions,
  em3Release,
  em3ReleaseOptions,
  Freedom,
  type FreedomOptions,
  freedom,
} from './models/freedom.js';
export { defaultLemurOptions, Lemur, type LemurOptions, lemur } from './models/lemur.js';
export type { LongerOptions } from './models/longer.js';
export type { MmoeOptions } from './models/mmoe.js';
export type { ParameterGroups, RecommenderModel, StepContext, StepGraph } from './models/model.js';
export {
  fillEncoders,
  openPretrained,
  type PretrainedEncoders,
  type PretrainedWeights,
  readPretrained,
  savePretrained,
} from './models/pretrained.js';
export { huggingFaceModule } from './models/pretrained_names.js';
export type { RankMixerOptions } from './models/rank_mixer.js';
export { type HistoryInput, Ranker, type RankerInput, type RankerOptions, type RankerSpec } from './models/ranker.js';
export type { SimOptions } from './models/sim.js';
// modules
export { DocumentEncoder, type DocumentEncoderOptions, type Documents } from './nn/document_encoder.js';
export { Embedding } from './nn/embedding.js';
export { countFlops, type ModuleFlops } from './nn/flops.js';
export { FusionQFormer } from './nn/fusion_q_former.js';
export { HistoryDecoder, type HistoryDecoderOptions } from './nn/history_decoder.js';
export { ImageEncoder } from './nn/image_encoder.js';
export { LayerNorm } from './nn/layer_norm.js';
export { Linear, Mlp } from './nn/linear.js';
export {
  injectLora,
  type LoraAdapterOptions,
  type LoraAdapters,
  type LoraTargets,
} from './nn/lora_adapters.js';
export { LoraLinear } from './nn/lora_linear.js';
export {
  type BankKeys,
  type BankRows,
  MemoryBank,
  type MemoryBankOptions,
  type MemoryBankSnapshot,
  type MemoryBankStats,
  type ReadOptions as MemoryBankReadOptions,
  type StageOptions as MemoryBankStageOptions,
} from './nn/memory_bank.js';
export { type ForwardContext, Initializer, Module } from './nn/module.js';
export { PerTokenLinear, RankMixerBlock, tokenMixing } from './nn/per_token.js';
export { PretrainedImageEncoder, type PretrainedImageOptions } from './nn/pretrained_image_encoder.js';
export { PretrainedTextEncoder, type PretrainedTextOptions } from './nn/pretrained_text_encoder.js';
export { type ComparedHistory, historyCosines, SimTier, tierCounts } from './nn/sim_tier.js';
export { TextEncoder } from './nn/text_encoder.js';
// ops
export { activation, gelu, geluTanh, quickGelu, relu, sigmoid, silu, tanh } from './ops/activation.js';
export { autocast } from './ops/autocast.js';
export { type BatchNormOptions, batchNorm } from './ops/batch_norm.js';
export { bceWithLogits } from './ops/bce_with_logits.js';
export { type CastDtype, cast } from './ops/cast.js';
export { concat, slice, stack } from './ops/concat.js';
export { commitContentTable, readContentTable, type StagedRows } from './ops/content_table.js';
export { cosineSimilarity } from './ops/cosine_similarity.js';
export { type CrossAttentionOptions, crossAttention } from './ops/cross_attention.js';
export { type DiceOptions, dice } from './ops/dice.js';
export { dropout } from './ops/dropout.js';
export { abs, add, affine, div, exp, log, mul, reciprocal, scaleBy, sqrt, square, sub } from './ops/elementwise.js';
export { embedding } from './ops/embedding.js';
export { type EmbeddingBagOptions, embeddingBag } from './ops/embedding_bag.js';
export { gatherRows } from './ops/gather_rows.js';
export { type InfoNceOptions, infoNce } from './ops/info_nce.js';
export { layerNorm } from './ops/layer_norm.js';
export { linear } from './ops/linear.js';
export { loraLinear } from './ops/lora_linear.js';
export { matmul } from './ops/matmul.js';
export {
  type BankDtype,
  type BankState,
  bucketWidth,
  emptyMemoryBank,
  gatherMemoryBank,
  joinMemoryBank,
  lookupMemoryBank,
  type StagedBankRows,
  stageMemoryBank,
  type UpsertOptions,
  upsertMemoryBank,
} from './ops/memory_bank.js';
export { normalize } from './ops/normalize.js';
export { padJagged } from './ops/pad_jagged.js';
export { patchEmbedding } from './ops/patch_embedding.js';
export { prelu } from './ops/prelu.js';
export { mean, sum } from './ops/reduce.js';
export { rmsNorm } from './ops/rms_norm.js';
export { segmentSoftmax } from './ops/segment_softmax.js';
export { type SegmentSumOptions, segmentSum } from './ops/segment_sum.js';
export { softmax } from './ops/softmax.js';
export { sortDescending } from './ops/sort_descending.js';
export { type SparseEntries, type SparseMatrix, sparseMatmul, sparseMatrix } from './ops/sparse_matmul.js';
export { topK } from './ops/top_k.js';
export { reshape, transpose } from './ops/transpose.js';
export { unique } from './ops/unique.js';
// optimizers
export {
  type Algorithm,
  Optimizer,
  type OptimizerOptions,
  type ParameterGroup,
} from './optim/optimizer.js';
export { randomScope } from './random.js';
export { RowSparseGrad } from './row_sparse_grad.js';
// serving
export type { ExportFormat } from './serve/export_formats.js';
export { type ExportedModel, type ExportModelOptions, exportModel } from './serve/export_model.js';
export { type ExportedRun, type ExportRunOptions, exportRun } from './serve/export_run.js';
export type { Fields, FieldValue, IdValue } from './serve/feature_values.js';
export { type EncodedItems, ItemEncoder, type NewItem } from './serve/item_encoder.js';
export {
  Predictor,
  type PredictorOptions,
  type PredictorStats,
  type PredictRequest,
} from './serve/predictor.js';
export type { Prediction } from './serve/serving_batch.js';
export {
  type DeviceControl,
  type DeviceName,
  type DType,
  device,
  empty,
  full,
  type HostArray,
  type Shape,
  Tensor,
  tensor,
  zeros,
} from './tensor.js';
export { keep, tidy } from './tidy.js';
// training
export { type ResolvedConfig, resolveConfig } from './train/config.js';
export { type Predictions, type Slices } from './train/evaluate.js';
export { type CachedFeatureCounts, type CachedFeatureOptions, useCachedFeatures } from './train/frozen_features.js';
export { type PretrainResult, pretrainRun } from './train/pretrain.js';
export { layoutFor } from './train/published_encoders.js';
export { type ReportContent, writeReport } from './train/report.js';
export { type RunResult, type TrainRunOptions, trainRun } from './train/run.js';
export { openRunFolder, type RunFolder } from './train/run_folder.js';
export { type StepFlops, stepFlops } from './train/step_flops.js';
export type { TrainEvent } from './train/train_events.js';
export { defaultSettings, type TrainSettings } from './train/train_settings.js';
export { Trainer, type TrainerOptions } from './train/trainer.js';
