/**
 * A model as ONNX graphs for other runtimes (data.md, section 12): `ranker.onnx`, `encoder.onnx` and `query_encoder.onnx` where the model has
 * them, the vectors and id rows that feed them, sample requests with the expected scores, and `signature.json` that says what each input is.
 * Scores and vectors of the graphs are compared with ours before the folder appears.
 */

import type { Dataset } from '../data/dataset.js';
import type { Batch } from '../data/loader/batch.js';
import { featuresOf } from '../data/schema.js';
import { OnnxExportError } from '../errors.js';
import { nodeEnv } from '../io/env.js';
import { writeRowIds } from '../io/fbin.js';
import { ONNX_OPSET, type OnnxPort } from '../io/onnx.js';
import { type OnnxRuntime, openOnnxRuntime } from '../io/onnx_runtime.js';
import { packageVersion } from '../io/package_root.js';
import { type HostTensor, hostTensor } from '../io/safetensors.js';
import type { RecommenderModel } from '../models/model.js';
import { tidy } from '../tidy.js';
import { configDigest, type ResolvedConfig } from '../train/config.js';
import { encodeItems } from '../train/evaluate.js';
import { readTensors } from '../train/state.js';
import { type FileSignature, signFile, writeExportFile, writeTensors } from './export_files.js';
import { type FormatContext, noRanker, rowIds } from './export_formats.js';
import { entityTensors } from './export_model.js';
import { type GraphCheck, graphDifference, onnxFiles, PARITY_ROWS, PARITY_TOLERANCE } from './onnx_check.js';
import { encoderGraphs } from './onnx_encoders.js';
import { rankerGraph, readItemVectors, scoresOf, viewOf } from './onnx_ranker.js';
import { type ItemVectors, rankerFeeds, type ViewSource } from './ranker_view.js';

const SAMPLE_ROWS = 8;

export interface OnnxContext extends FormatContext {
  readonly config: ResolvedConfig;
  /** Told of every difference that was measured, or why none was. */
  readonly onNote: (line: string) => void;
  /** Default: `onnxruntime-node` where it is installed. */
  readonly openRuntime?: (() => Promise<OnnxRuntime | null>) | undefined;
}

/** What a comparison found: largest difference of each graph, and the rows of the ranker beyond it where a search or a histogram chose otherwise. */
export type Parity =
  | 'not run'
  | {
      readonly runtime: string;
      readonly rows: number;
      readonly tolerance: number;
      readonly max_difference: Readonly<Record<string, number>>;
      readonly turned_rows: number;
    };

/**
 * Writes the graphs and what belongs to them into `folder`. Throws `OnnxExportError` that names an op without a translation, or a graph whose
 * results differ from ours by more than `PARITY_TOLERANCE`.
 */
export async function writeOnnx(context: OnnxContext): Promise<Parity> {
  const { model, data, step, items, folder, config } = context;
  if (model.rankingVectors !== undefined) {
    const { name } = config.config.model;
    throw new OnnxExportError(noRanker('onnx', name), { key: 'model.name', op: name });
  }
  const weights = await readTensors(model.state());
  try {
    await encodeItems(model, data, 'overlay', items, step);
    const vectors = await readItemVectors(model, data, items, step);
    const source: ViewSource = { model, schema: data.schema, vectors };
    const batch = await parityBatch(data);
    const { ranker: name, similarity } = config.config.model;
    const decides = name === 'sim' || similarity === 'sim_tier';
    const ranker = { ...(await rankerCheck(source, data, step, weights, batch)), decides };
    const checks = [ranker, ...(await encoderGraphs(source, data, weights, { batch, items }))];
    const files: Record<string, FileSignature> = {};
    const metadata = { step: String(step) };
    const encoded = new Map(
      checks.map(({ file, graph }) => [file, graph.encode({ version: packageVersion(), metadata })]),
    );
    const parity = await compare(checks, encoded, context);
    for (const [file, bytes] of encoded) files[file] = await writeExportFile(nodeEnv, folder, file, [bytes]);
    await writeTables(context, vectors, files);
    files[onnxFiles.samples] = await writeTensors(nodeEnv, folder, onnxFiles.samples, samples(ranker), metadata);
    const signature = signatureOf(context, checks, parity, files);
    await writeExportFile(nodeEnv, folder, onnxFiles.signature, [
      Buffer.from(`${JSON.stringify(signature, null, 2)}\n`),
    ]);
    return parity;
  } finally {
    model.dropOverlay();
  }
}

/** The first rows of valid, or of train where valid is empty. */
async function parityBatch(data: Dataset): Promise<Batch> {
  const part = data.sizes.valid > 0 ? 'valid' : 'train';
  for await (const batch of data.loader({ part, batchSize: PARITY_ROWS, prefetch: 1 })) return batch;
  throw new OnnxExportError('export: --to onnx: expected rows to compare scores on but the data have none', {});
}

async function rankerCheck(
  source: ViewSource,
  data: Dataset,
  step: number,
  weights: ReadonlyMap<string, HostTensor>,
  batch: Batch,
): Promise<GraphCheck> {
  const graph = await rankerGraph(source, data, step, weights);
  const all = rankerFeeds(await viewOf(source, batch));
  const expected = new Map<string, Float32Array>();
  for (const [name, scores] of tidy(() => [...scoresOf(source.model, batch, step)])) {
    expected.set(name, Float32Array.from((await scores.values()) as Float32Array));
    scores.dispose();
  }
  return {
    file: onnxFiles.ranker,
    graph,
    rows: batch.size,
    feeds: new Map(graph.inputs.map(({ name }) => [name, all.get(name)!])),
    expected,
  };
}

async function compare(
  checks: readonly GraphCheck[],
  encoded: ReadonlyMap<string, Uint8Array>,
  { onNote, openRuntime = openOnnxRuntime }: OnnxContext,
): Promise<Parity> {
  const runtime = await openRuntime();
  if (runtime === null) {
    onNote(
      'warning: onnxruntime-node is not installed: the graphs were not compared with our scores (parity: not run)',
    );
    return 'not run';
  }
  const differences: Record<string, number> = {};
  let turnedRows = 0;
  for (const check of checks) {
    const { largest, turned } = await graphDifference(runtime, check, encoded.get(check.file)!);
    differences[check.file] = largest;
    turnedRows += turned;
    const otherwise = turned === 0 ? '' : `, ${turned} more chose otherwise`;
    onNote(`${check.file}: largest difference ${largest.toExponential(1)} on ${check.rows - turned} rows${otherwise}`);
  }
  return {
    runtime: `onnxruntime-node ${runtime.version}`,
    rows: checks[0]!.rows,
    tolerance: PARITY_TOLERANCE,
    max_difference: differences,
    turned_rows: turnedRows,
  };
}

/** Ids, id rows and vectors of items and users, and the vocabularies behind the rows. */
async function writeTables(
  { data, folder, step, model }: OnnxContext,
  vectors: ItemVectors | null,
  files: Record<string, FileSignature>,
): Promise<void> {
  const metadata = { step: String(step) };
  const tables = entityTensors(data, 'item');
  if (vectors !== null) {
    const { width, targets, history, found } = vectors;
    const shape = [data.schema.items, width];
    tables.set('item_vector', hostTensor('F32', shape, targets));
    tables.set('history_vector', hostTensor('F32', shape, history));
    tables.set('found', hostTensor('U8', [data.schema.items], found));
  }
  for (const { name, values, present, dim } of data.columns.itemVectors ?? [])
    if (model.givenInputs?.includes(name) === true)
      tables.set(`given.${name}`, hostTensor('F32', [present.length, dim], Float32Array.from(values)));
  const put = (name: string, tensors: ReadonlyMap<string, HostTensor>): Promise<FileSignature> =>
    writeTensors(nodeEnv, folder, name, tensors, metadata);
  files[onnxFiles.items] = await put(onnxFiles.items, tables);
  files[onnxFiles.users] = await put(onnxFiles.users, entityTensors(data, 'user'));
  const tokenizer = (data.text.item ?? data.text.query)?.tokenizer ?? null;
  const words = tokenizer?.kind === 'words' ? tokenizer : null;
  const text = JSON.stringify({ vocabularies: Object.fromEntries(data.vocabularies), words });
  files[onnxFiles.vocabulary] = await writeExportFile(nodeEnv, folder, onnxFiles.vocabulary, [Buffer.from(text)]);
  const ids = await writeRowIds(folder, rowIds(data.items.ids));
  files[ids] = await signFile(folder, ids);
}

/** The first rows that were compared, as inputs of the ranker by name, and their scores. */
function samples({ feeds, expected, rows }: GraphCheck): Map<string, HostTensor> {
  const count = Math.min(SAMPLE_ROWS, rows);
  const found = new Map<string, HostTensor>();
  for (const [name, { dtype, shape, data }] of feeds) {
    const part = data.subarray(0, (data.length / rows) * count);
    const bytes = new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
    const stored = ({ float32: 'F32', float64: 'F64', int32: 'I32', int64: 'I64', uint8: 'U8', bool: 'BOOL' } as const)[
      dtype
    ];
    found.set(name, { dtype: stored, shape: shape.with(0, count), data: bytes });
  }
  for (const [name, scores] of expected)
    found.set(`expected.${name}`, hostTensor('F32', [count], scores.slice(0, count)));
  return found;
}

/** What an input is, by its name, for a reader of the signature. */
function meaning(model: RecommenderModel, data: Dataset, { name }: OnnxPort): string {
  const numbers = data.schema.features.filter(({ type }) => type === 'numeric').map((feature) => feature.name);
  const column = name.split('.').at(-1)!;
  if (name === 'item_vector') return `row of ${name} in ${onnxFiles.items} of the item that is scored`;
  if (model.givenInputs?.includes(name) === true)
    return `row of given.${name} in ${onnxFiles.items} of the item that is scored`;
  if (name === 'query_vector') return `output of ${onnxFiles.queryEncoder}`;
  if (name === 'flags') return `1 where the item has: ${(model.served?.modalities ?? []).join(', ')}`;
  if (name === 'numeric') return `numbers as trained: ${numbers.join(', ')}`;
  if (column === 'present') return 'places of a row that hold an entry: the first ones, oldest first';
  if (column === 'found') return `places whose item has a vector (found in ${onnxFiles.items})`;
  if (column === 'vectors') return `rows of history_vector in ${onnxFiles.items}`;
  if (column === 'gap_buckets') return 'floor(log2(1 + time from entry to target)), at most 31';
  return `rows of vocabulary ${column} in ${onnxFiles.vocabulary}`;
}

/** The same of an input of an encoder. */
function contentMeaning({ text, schema }: Dataset, { name, shape }: OnnxPort): string {
  if (featuresOf(schema, 'embedding').some((feature) => feature.name === name))
    return `given vector ${name} of the item`;
  const end = name.lastIndexOf('.');
  switch (name.slice(end + 1)) {
    case 'tokens': {
      const words = (text.item ?? text.query)?.tokenizer.kind === 'words';
      return words
        ? `places of words in words of ${onnxFiles.vocabulary}, plus 4; 0 pad, 1 unknown, 2 start, 3 separator`
        : 'token ids of text.tokenizer';
    }
    case 'types':
      return 'number of the field that a token is of';
    case 'positions':
      return 'place of a token in its text (or field: text.positions)';
    case 'pixels':
      return 'red, green and blue, from 0 to 255';
    default:
      return shape.length === 1
        ? `1 where the item has: ${name.slice(0, end)}`
        : 'places of a text that hold a token: the first ones';
  }
}

function signatureOf(
  { config, data, model, step }: OnnxContext,
  checks: readonly GraphCheck[],
  parity: Parity,
  files: Record<string, FileSignature>,
): object {
  const graphs = checks.map(({ file, graph }) => [
    file,
    {
      inputs: graph.inputs.map((port) => ({
        ...port,
        is: file === onnxFiles.ranker ? meaning(model, data, port) : contentMeaning(data, port),
      })),
      outputs: graph.outputs,
    },
  ]);
  return {
    format: 'galago-onnx-1',
    step,
    model: config.config.model.name,
    ranker: config.config.model.ranker,
    versions: { galago: packageVersion(), opset: ONNX_OPSET },
    digests: { config: configDigest(config.config), data: data.digest, split: data.splitManifest.parts.train },
    graphs: Object.fromEntries(graphs),
    parity,
    files,
  };
}
