/** An export, opened: the model with only the weights it may use, vocabularies and text pipelines. */
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { parse } from 'yaml';
import { Vocabulary, type VocabularyJson } from '../data/ids.js';
import { type EmbeddingFeature, featuresOf, type Schema } from '../data/schema.js';
import { type TextField, type TextLayout, type TextPipeline, textPipeline } from '../data/text/text.js';
import { loadTokenizer } from '../data/text/tokenizer.js';
import { wordVocabularyFromJson } from '../data/text/word_vocabulary.js';
import { type TensorList, tensorDifferences } from '../io/safetensors.js';
import type { RecommenderModel, StateUse } from '../models/model.js';
import { assign, type DeviceControl, type DeviceName, device } from '../tensor.js';
import { buildModel } from '../train/build_model.js';
import { type Config, type ConfigInput, resolveConfig } from '../train/config.js';
import type { Precision } from '../train/evaluate.js';
import { fromHost, storedDtype } from '../train/state.js';
import {
  checkCopiedFiles,
  exportFiles,
  mismatch,
  readExportFile,
  readExportJson,
  readExportTensors,
  readSignature,
  type Signature,
  signatureId,
} from './export_files.js';
import { FeatureResolver } from './feature_values.js';

interface ServedText {
  readonly fields: readonly TextField[];
  readonly positions: 'global' | 'per_field';
  readonly layout?: TextLayout;
  /** Of tokenizer and layout. */
  readonly digest: string;
}

/** Content of `serving.json`. */
export interface ServingFile {
  readonly schema: Schema;
  /** Items of a request's history that are used, the latest. */
  readonly historyLen: number;
  /** What an absent number becomes, by feature. */
  readonly fills: Readonly<Record<string, number>>;
  readonly text: { readonly item: ServedText | null; readonly query: ServedText | null };
  /** Whether items have texts, and the size of their pictures. */
  readonly itemText: boolean;
  readonly itemImage: number | null;
  /** Whether requests have a query text. */
  readonly queries: boolean;
}

export interface ServedModel {
  readonly folder: string;
  readonly signature: Signature;
  /** SHA-256 over the signature. */
  readonly id: string;
  readonly model: RecommenderModel;
  readonly place: DeviceControl;
  readonly precision: Precision;
  readonly config: Config;
  readonly serving: ServingFile;
  readonly resolver: FeatureResolver;
  readonly given: {
    /** Features of given vectors. */
    readonly features: readonly EmbeddingFeature[];
    /** Names of those that the ranker reads as they are, and of those that are content. */
    readonly inputs: readonly string[];
    readonly content: readonly string[];
  };
  readonly text: { readonly item: TextPipeline | null; readonly query: TextPipeline | null };
}

/** What one export shares with the next where their bytes are the same. */
type Shared = Pick<ServedModel, 'signature' | 'resolver' | 'text'>;

/**
 * Opens an export with the weights of these uses; every other tensor of the model is released, so that nothing can read it. Throws
 * `ExportMismatchError` for files that are missing, altered or of another export, `DeviceUnavailableError`.
 */
export async function openServedModel(
  folder: string,
  { device: name, uses, like }: { device: DeviceName | 'auto'; uses: readonly StateUse[]; like?: Shared },
): Promise<ServedModel> {
  const place = device(name);
  const signature = await readSignature(folder);
  await checkCopiedFiles(folder, signature);
  const serving = (await readExportJson(folder, signature, exportFiles.serving)) as ServingFile;
  const { config } = resolveConfig({
    object: withArchitectures(
      parse(Buffer.from(await readExportFile(folder, signature, exportFiles.config)).toString('utf8')) as ConfigInput,
      folder,
    ),
  });
  const weights = await readExportTensors(folder, signature, exportFiles.model);
  if (uses.includes('encode') && exportFiles.encoder in signature.files)
    for (const [tensor, value] of await readExportTensors(folder, signature, exportFiles.encoder))
      weights.set(tensor, value);
  const { text, vocabularies } = await readTexts(folder, signature, serving, config, like);
  // The model's own table of items is not used: predictors bring theirs.
  const model = buildModel(config, { ...serving.schema, items: 1 }, place.name);
  try {
    const state = model.state();
    const wanted = new Map([...state].filter(([name]) => uses.includes(model.served?.use(name) ?? 'score')));
    const expected: TensorList = new Map(
      [...wanted].map(([name, { dtype, shape }]) => [name, { dtype: storedDtype(dtype), shape }]),
    );
    const diff = tensorDifferences(weights, expected);
    if (diff.length > 0) throw mismatch(folder, diff, exportFiles.model);
    for (const [name, { data }] of fromHost(weights)) {
      assign(state.get(name)!, data);
      await turn();
    }
    for (const [name, tensor] of state) if (!wanted.has(name)) tensor.dispose();
    await place.synchronize();
  } catch (error) {
    model.dispose();
    throw error;
  }
  const features = featuresOf(serving.schema, 'embedding');
  const among = (names: readonly string[]): string[] =>
    features.flatMap(({ name }) => (names.includes(name) ? [name] : []));
  return {
    folder,
    signature,
    id: signatureId(signature),
    model,
    place,
    precision: config.train.precision === 'bf16' && place.name !== 'cpu' ? 'bf16' : 'float32',
    config,
    serving,
    resolver: new FeatureResolver(serving.schema, vocabularies, serving.fills),
    given: {
      features,
      inputs: among(model.givenInputs ?? []),
      content: among(model.served?.modalities ?? []),
    },
    text,
  };
}

/** A configuration whose published encoders are described by the export, wherever their folders are now. */
function withArchitectures(config: ConfigInput, folder: string): ConfigInput {
  const encoder = config.model?.encoder;
  if (encoder?.weights == null && encoder?.image?.weights == null) return config;
  const moved = (weights: string | null | undefined, name: string) => (weights == null ? null : join(folder, name));
  const image = { ...encoder.image, weights: moved(encoder.image?.weights, exportFiles.pictureConfig) };
  return {
    ...config,
    model: {
      ...config.model,
      encoder: { ...encoder, weights: moved(encoder.weights, exportFiles.encoderConfig), image },
    },
  };
}

/** Vocabularies and text pipelines; those of `like` where the files are the same bytes. */
async function readTexts(
  folder: string,
  signature: Signature,
  serving: ServingFile,
  config: Config,
  like: Shared | undefined,
): Promise<{ text: ServedModel['text']; vocabularies: ReadonlyMap<string, Vocabulary> }> {
  const same = (name: string): boolean => like?.signature.files[name]?.sha256 === signature.files[name]?.sha256;
  if (like !== undefined && same(exportFiles.vocabulary) && same(exportFiles.serving) && same(exportFiles.config))
    return { text: like.text, vocabularies: like.resolver.vocabularies };
  const { vocabularies: saved, words } = (await readExportJson(folder, signature, exportFiles.vocabulary)) as {
    vocabularies: Record<string, VocabularyJson>;
    words: unknown;
  };
  const vocabularies = new Map<string, Vocabulary>();
  for (const [name, json] of Object.entries(saved)) {
    vocabularies.set(name, Vocabulary.fromJSON(name, json));
    await turn();
  }
  const pipelines: { item: TextPipeline | null; query: TextPipeline | null } = { item: null, query: null };
  const layouts = serving.text;
  if (layouts.item !== null || layouts.query !== null) {
    const tokenizer =
      words === null
        ? await loadTokenizer(join(folder, exportFiles.tokenizer))
        : wordVocabularyFromJson(words, join(folder, exportFiles.vocabulary));
    for (const source of ['item', 'query'] as const) {
      const layout = layouts[source];
      if (layout === null) continue;
      const pipeline = textPipeline({
        tokenizer,
        fields: layout.fields,
        positions: layout.positions,
        layout: layout.layout,
      });
      if (pipeline.digest !== layout.digest)
        throw mismatch(
          folder,
          [`${exportFiles.tokenizer}: expected digest ${layout.digest} but received ${pipeline.digest}`],
          exportFiles.tokenizer,
        );
      pipelines[source] = pipeline;
    }
  }
  return { text: pipelines, vocabularies };
}
